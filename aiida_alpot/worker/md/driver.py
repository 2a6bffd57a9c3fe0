"""``alpot-md -in FILE``: LAMMPS, driven by a committee of potentials.

The script is executed as LAMMPS would execute it, command by command, save that commands which jump in the file are
refused. When it defines its ``fix ID all external pf/callback 1 1``, the committee named in ``driver.json`` takes it
over. Whatever happens then, the frames sampled so far are written, and ``md.json`` says why the run ended:

===================  =========  ====================================================================
reason               exit code  meaning
===================  =========  ====================================================================
``completed``        0          all steps were done
``walltime``         0          LAMMPS' own timer ended the run before that
``halted``           0          a ``fix halt`` of the script ended the run before that
``terminated``       15         a signal (SIGTERM, SIGINT) ended the run after a full step
``potential_error``  20         the evaluation of the potential raised an exception
``not_finite``       21         positions, energy or forces were not finite
``temperature``      22         the temperature exceeded its bound
``lost_atoms``       23         LAMMPS lost atoms
``lammps_error``     24         LAMMPS stopped with another error
===================  =========  ====================================================================

Bad input (exit code 2) is refused before anything runs, with a sentence on the standard error and no ``md.json``.
"""

from __future__ import annotations

import argparse
import json
import math
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aiida_alpot.worker.frames.shard import write_shard
from aiida_alpot.worker.md.configuration import DriverConfiguration
from aiida_alpot.worker.md.forces import CommitteeForces, RunError
from aiida_alpot.worker.md.lammps_library import open_lammps
from aiida_alpot.worker.potentials import Committee, load_committee

EXIT_CODES = {
    'completed': 0,
    'walltime': 0,
    'halted': 0,
    'terminated': 15,
    'potential_error': 20,
    'not_finite': 21,
    'temperature': 22,
    'lost_atoms': 23,
    'lammps_error': 24,
}
FRAMES_FOLDER, DEVIATIONS_FILE, SUMMARY_FILE = 'frames', 'deviations.npz', 'md.json'
_TOLD_BY_LOG = {'walltime': 'Wall time limit', 'halted': 'Fix halt condition'}


def main(argv: Sequence[str] | None = None) -> int:
    """The console program; what it does not know of the command line goes to LAMMPS.

    :return: exit code.
    """
    parser = argparse.ArgumentParser(prog='alpot-md', description=__doc__.split('\n\n')[0], allow_abbrev=False)
    parser.add_argument(
        '-in', '-i', dest='script', required=True, type=Path, metavar='FILE', help="LAMMPS' input script"
    )
    parser.add_argument('-driver', type=Path, default=Path('driver.json'), metavar='FILE', help='default: driver.json')
    parser.add_argument('-log', type=Path, default=Path('log.lammps'), metavar='FILE', help='default: log.lammps')
    arguments, rest = parser.parse_known_args(argv)
    try:
        configuration = DriverConfiguration.read(arguments.driver)
        commands = list(script_commands(arguments.script.read_text()))
        check_commands(commands)
        committee = load_committee(configuration.committee, device=configuration.device, dtype=configuration.dtype)
        check_elements(configuration, committee)
        lammps = open_lammps(['-log', str(arguments.log), *rest])
    except (OSError, ValueError, RuntimeError) as error:
        print(f'alpot-md: {error}', file=sys.stderr)
        return 2
    summary = Run(lammps, commands, committee, configuration, arguments.log).execute()
    if summary['exit_code']:
        print(f'alpot-md: {summary["message"]}', file=sys.stderr)
    return int(summary['exit_code'])


def script_commands(text: str) -> Iterator[str]:
    """LAMMPS' commands in a script, without empty lines and comments; ``&`` and triple quotes continue a line."""
    command = ''
    for line in text.splitlines():
        command += line.rstrip()
        if command.count('"""') % 2:
            command += '\n'
        elif command.endswith('&'):
            command = command[:-1] + ' '
        else:
            if command.strip() and not command.lstrip().startswith('#'):
                yield command
            command = ''
    if command.strip():
        raise ValueError('the LAMMPS script ends within a command: a line ends in "&", or triple quotes are not closed')


def external_fix(command: str) -> str | None:
    """ID of the fix that the committee serves, if the command defines it."""
    words = command.split()
    return words[1] if len(words) > 4 and words[0] == 'fix' and words[3:5] == ['external', 'pf/callback'] else None


def check_commands(commands: Sequence[str]) -> None:
    """Refuse scripts that cannot be executed here as they are meant."""
    if any(command.split()[0] == 'jump' for command in commands):
        raise ValueError(
            'the LAMMPS script uses `jump`, which alpot-md cannot follow: write the loop out, or use several runs'
        )
    n_fixes = sum(external_fix(command) is not None for command in commands)
    if n_fixes != 1:
        raise ValueError(
            f'the LAMMPS script defines {n_fixes} fixes of style `external pf/callback`, expected exactly one: '
            'add `fix alpot all external pf/callback 1 1` after the atoms are defined'
        )


def check_elements(configuration: DriverConfiguration, committee: Committee) -> None:
    """Refuse types that the potentials do not know."""
    unknown = [symbol for symbol in configuration.elements if symbol not in committee.elements]
    if unknown:
        raise ValueError(
            f'`elements` in driver.json lists {", ".join(unknown)}, but the committee knows '
            f'{", ".join(committee.elements)} only: correct the list, or name another committee'
        )


class Run:
    """One execution of a script, from the first command to the files that tell about it."""

    def __init__(
        self, lammps: Any, commands: Sequence[str], committee: Committee, configuration: DriverConfiguration, log: Path
    ) -> None:
        self._lammps = lammps
        self._commands = commands
        self._committee = committee
        self._configuration = configuration
        self._log = log
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
        reason, message = (failure.reason, str(failure)) if failure else self._reason()
        summary = self._write(reason, message)
        self._lammps.close()
        self._lammps.finalize()
        return summary

    def _execute_commands(self) -> None:
        for command in self._commands:
            if command.split()[0] == 'quit':  # LAMMPS would end the process here, before the frames are written
                return
            start = time.perf_counter()
            self._command(command)
            fix_id = external_fix(command)
            if fix_id is not None:
                self._attach(fix_id)
            elif self._forces is not None and command.split()[0] in ('run', 'minimize'):
                self._seconds += time.perf_counter() - start
            if self._forces is not None and self._forces.failure is not None:
                return  # no restart file of a state that is not right

    def _command(self, command: str) -> None:
        try:
            self._lammps.command(command)
        except Exception as error:  # the library raises nothing more specific
            if self._forces is not None and self._forces.failure is not None:
                return  # what LAMMPS says now only follows from it
            text = str(error)
            reason = 'lost_atoms' if 'Lost atoms' in text else 'lammps_error'
            raise RunError(reason, f'LAMMPS stopped: {text.strip()}') from error

    def _attach(self, fix_id: str) -> None:
        if self._lammps.extract_setting('world_size') > 1:
            raise RunError(
                'lammps_error', 'alpot-md runs on one MPI rank: start it without mpirun, and give it threads or a GPU'
            )
        self._forces = CommitteeForces(self._lammps, fix_id, self._committee, self._configuration)
        self._forces.attach()

    def _terminate(self, *_: Any) -> None:
        if self._forces is None:
            sys.exit(EXIT_CODES['terminated'])
        self._forces.terminate = True

    def _reason(self) -> tuple[str, str]:
        """Why a run without a failure ended."""
        assert self._forces is not None  # check_commands has seen the fix
        wanted, done = self._configuration.n_steps, self._forces.last_step
        if self._forces.terminate:
            return 'terminated', f'a signal ended the run at step {done}'
        if wanted is not None and done >= wanted:
            return 'completed', f'the run reached step {done}'
        text = self._log.read_text(errors='replace') if self._log.is_file() else ''
        for reason, phrase in _TOLD_BY_LOG.items():
            if phrase in text:
                return reason, f'the run ended at step {done} before its end: {phrase}'
        if wanted is not None:
            return 'lammps_error', f'the script ended at step {done}, but `n_steps` in driver.json is {wanted}'
        return 'completed', f'the script ended at step {done}'

    def _write(self, reason: str, message: str) -> dict[str, Any]:
        """Write frames, deviations and summary."""
        forces, shard = self._forces, None
        samples = forces.samples if forces else []
        if forces is not None and samples:
            thermo = forces.thermodynamics()
            states = [thermo.get(sample.step, (math.nan, math.nan)) for sample in samples]
            frames = [
                sample.frame.replace(metadata={**self._configuration.metadata, 'step': sample.step, **_present(*state)})
                for sample, state in zip(samples, states, strict=True)
            ]
            shard = write_shard(frames, Path(FRAMES_FOLDER))
            arrays: dict[str, Any] = {
                'frame_id': [frame.frame_id for frame in frames],
                'step': [sample.step for sample in samples],
                'temperature': [temperature for temperature, _ in states],
                'pressure': [pressure for _, pressure in states],
            }
            for name in ('potential_energy', 'energy_deviation', 'max_force_deviation', 'mean_force_deviation'):
                arrays[name] = [getattr(sample, name) for sample in samples]
            np.savez(DEVIATIONS_FILE, **arrays)
        summary = self._summary(reason, message, len(samples), shard)
        Path(SUMMARY_FILE).write_text(json.dumps(summary, indent=2) + '\n')
        return summary

    def _summary(self, reason: str, message: str, n_frames: int, shard: Path | None) -> dict[str, Any]:
        forces = self._forces
        n_done = forces.last_step - forces.first_step if forces else 0
        highest = (
            max((sample.max_force_deviation for sample in forces.samples), default=math.nan) if forces else math.nan
        )
        return {
            'completed': reason == 'completed',
            'reason': reason,
            'message': message,
            'exit_code': EXIT_CODES[reason],
            'n_steps': self._configuration.n_steps,
            'first_step': forces.first_step if forces else 0,
            'last_step': forces.last_step if forces else 0,
            'n_steps_done': n_done,
            'n_frames': n_frames,
            'shard': str(shard) if shard else None,
            'n_members': self._committee.n_members,
            'n_evaluations': forces.n_evaluations if forces else 0,
            'n_committee_evaluations': forces.n_committee_evaluations if forces else 0,
            'highest_max_force_deviation': highest if math.isfinite(highest) else None,
            'seconds': self._seconds,
            'seconds_per_step': self._seconds / n_done if n_done else None,
            'lammps_version': self._lammps.version(),
        }


def _present(temperature: float, pressure: float) -> dict[str, float]:
    """The thermodynamic state as metadata; nothing where LAMMPS has none for the step."""
    return {'temperature': temperature, 'pressure': pressure} if math.isfinite(temperature + pressure) else {}


if __name__ == '__main__':
    sys.exit(main())
