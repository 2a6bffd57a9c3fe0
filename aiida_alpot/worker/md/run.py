"""One execution of a script, from the first command to the files that tell about it."""

from __future__ import annotations

import json
import math
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aiida_alpot.worker.md.configuration import DriverConfiguration
from aiida_alpot.worker.md.ending import EXIT_CODES, RunError
from aiida_alpot.worker.md.forces import CommitteeForces
from aiida_alpot.worker.md.grade import GradeOfFrames
from aiida_alpot.worker.md.monitor import REWIND
from aiida_alpot.worker.md.rewind import rewind
from aiida_alpot.worker.md.script import RunCommand, Timer, external_fix, thermostat, tries_states
from aiida_alpot.worker.md.trajectory import Trajectory
from aiida_alpot.worker.potentials import Committee

FRAMES_FOLDER, WATCH_FILE, SUMMARY_FILE = 'frames', 'watch.h5', 'md.json'
_TOLD_BY_LOG = {'walltime': 'Wall time limit', 'halted': 'Fix halt condition'}


class Run:
    """Executes the commands of a script in a LAMMPS instance with the committee inside.

    :param log: LAMMPS' log file, which tells why a run ended before its end.
    :param grade: extrapolation grade of frames.
    """

    def __init__(
        self,
        lammps: Any,
        commands: Sequence[str],
        committee: Committee,
        configuration: DriverConfiguration,
        log: Path,
        grade: GradeOfFrames | None = None,
    ) -> None:
        self._lammps = lammps
        self._commands = commands
        self._committee = committee
        self._configuration = configuration
        self._log = log
        self._grade = grade
        self._trajectory = Trajectory(Path(FRAMES_FOLDER), Path(WATCH_FILE))
        self._timer = Timer()
        self._fixes: dict[str, str] = {}
        self._forces: CommitteeForces | None = None
        self._seconds = 0.0

    def execute(self) -> dict[str, Any]:
        """Execute the script and write what came out.

        :return: the content of ``md.json``.
        """
        before = {number: signal.signal(number, self._terminate) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            self._execute_commands()
            failure = self._forces.failure if self._forces else None
        except RunError as error:
            failure = error
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        if self._forces is not None and self._forces.is_attached:
            self._forces.finish()
            self._forces.recorder.close()
        reason, message = (failure.reason, str(failure)) if failure else self._reason()
        summary = self._summary(reason, message)
        if self._lammps.extract_setting('world_rank') == 0:
            Path(SUMMARY_FILE).write_text(json.dumps(summary, indent=2) + '\n')
        self._lammps.close()
        return summary

    def end_mpi(self) -> None:
        """End MPI, after which no other run can begin in this process."""
        self._lammps.finalize()

    def _execute_commands(self) -> None:
        tries = tries_states(self._commands)
        for command in self._commands:
            word = command.split()[0]
            if word == 'quit':  # LAMMPS would end the process here, before the last frames are written
                return
            self._timer.note(command, time.monotonic())
            fix_id = external_fix(command)
            if self._forces is not None and word in ('run', 'minimize'):
                self._forces.is_tried = tries or word == 'minimize'
                self._go(command)
            else:
                self._command(command)
                self._note_fix(command)
            if fix_id is not None:
                self._forces = CommitteeForces(
                    self._lammps, fix_id, self._committee, self._configuration, self._trajectory, self._grade
                )
                self._forces.attach()
            if self._forces is not None and self._forces.failure is not None:
                return  # no restart file of a state that is not right

    def _note_fix(self, command: str) -> None:
        """Remember thermostats and barostats, which a rewind defines anew."""
        words = command.split()
        name = thermostat(command)
        if name is not None:
            self._fixes[name] = command
        elif words[0] in ('fix', 'unfix') and len(words) > 1:
            self._fixes.pop(words[1], None)

    def _go(self, command: str) -> None:
        """Execute a ``run`` or ``minimize``, and whatever it takes to come to its end after rewinds."""
        assert self._forces is not None
        start = time.perf_counter()
        go_on = RunCommand.of(command, int(self._lammps.extract_global('ntimestep')))
        self._forces.can_rewind = go_on is not None
        self._command(command)
        self._forces.finish()
        while go_on is not None and self._rewinds():
            self._rewind()
            self._command(go_on.rest)
            self._forces.finish()
        self._seconds += time.perf_counter() - start

    def _rewinds(self) -> bool:
        forces = self._forces
        assert forces is not None
        decision = forces.decision
        return decision is not None and decision.action == REWIND and not (forces.failure or forces.terminate)

    def _rewind(self) -> None:
        forces = self._forces
        assert forces is not None and forces.monitor.last_safe is not None
        safe = forces.monitor.last_safe
        if not safe.state[0] > 0.0:
            raise RunError('lammps_error', f'the temperature at step {safe.snapshot.step} is not known: cannot rewind')
        seed = self._configuration.seed
        self._command(self._timer.again(time.monotonic()))
        try:
            rewind(self._lammps, safe.snapshot, safe.state[0], seed, forces.monitor.n_rewinds, self._fixes.values())
        except Exception as error:  # the library raises nothing more specific
            raise RunError('lammps_error', f'the rewind to step {safe.snapshot.step} failed: {error}') from error
        forces.resume()

    def _command(self, command: str) -> None:
        try:
            self._lammps.command(command)
        except Exception as error:  # the library raises nothing more specific
            if self._forces is not None and self._forces.failure is not None:
                return  # what LAMMPS says now only follows from it
            text = str(error)
            reason = 'lost_atoms' if 'Lost atoms' in text else 'lammps_error'
            raise RunError(reason, f'LAMMPS stopped: {text.strip()}') from error

    def _terminate(self, *_: Any) -> None:
        if self._forces is None:
            sys.exit(EXIT_CODES['terminated'])
        self._forces.terminate = True

    def _reason(self) -> tuple[str, str]:
        """Why a run without a failure ended."""
        assert self._forces is not None  # check_commands has seen the fix
        wanted, done = self._configuration.n_steps, self._forces.last_step
        if self._forces.failure is not None:
            return self._forces.failure.reason, str(self._forces.failure)
        if self._forces.terminate:
            return 'terminated', f'a signal ended the run at step {done}'
        if self._forces.decision is not None:
            return 'halted', f'the run was halted: {self._forces.decision.reason}'
        if wanted is not None and done >= wanted:
            return 'completed', f'the run reached step {done}'
        text = self._log.read_text(errors='replace') if self._log.is_file() else ''
        for reason, phrase in _TOLD_BY_LOG.items():
            if phrase in text:
                return reason, f'the run ended at step {done} before its end: {phrase}'
        if wanted is not None:
            return 'lammps_error', f'the script ended at step {done}, but `n_steps` in driver.json is {wanted}'
        return 'completed', f'the script ended at step {done}'

    def _summary(self, reason: str, message: str) -> dict[str, Any]:
        forces = self._forces
        first, last = (forces.first_step, forces.last_step) if forces else (0, 0)
        highest = forces.recorder.highest if forces and forces.is_attached else {}
        return {
            'completed': reason == 'completed',
            'reason': reason,
            'message': message,
            'exit_code': EXIT_CODES[reason],
            'n_steps': self._configuration.n_steps,
            'first_step': first,
            'last_step': last,
            'n_steps_done': last - first,
            'n_frames': self._trajectory.n_frames,
            'n_junk': forces.monitor.n_junk if forces else 0,
            'n_rewinds': forces.monitor.n_rewinds if forces else 0,
            'shards': [str(path) for path in self._trajectory.shards],
            'n_members': self._committee.n_members,
            'n_evaluations': forces.n_evaluations if forces else 0,
            'n_committee_evaluations': forces.n_committee_evaluations if forces else 0,
            **{f'highest_{name}': value if math.isfinite(value) else None for name, value in highest.items()},
            'bias': forces.bias_state if forces else None,
            'seconds': self._seconds,
            'seconds_per_step': self._seconds / (last - first) if last > first else None,
            'lammps_version': self._lammps.version(),
        }
