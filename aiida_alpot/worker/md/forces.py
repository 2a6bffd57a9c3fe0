"""The callback of ``fix external``: the committee gives forces to LAMMPS, and is watched on the way."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from ase.data import atomic_numbers

from aiida_alpot.worker.md.bias import Bias
from aiida_alpot.worker.md.configuration import DriverConfiguration
from aiida_alpot.worker.md.ending import RunError
from aiida_alpot.worker.md.full_steps import FullSteps
from aiida_alpot.worker.md.grade import GradeOfFrames, with_row
from aiida_alpot.worker.md.lammps_atoms import LammpsAtoms, Snapshot
from aiida_alpot.worker.md.monitor import GO_ON, Decision, Monitor, Observation, Seen, observe
from aiida_alpot.worker.md.recorder import Recorder
from aiida_alpot.worker.md.trajectory import Trajectory
from aiida_alpot.worker.potentials import Committee, Predictions

N_VALUES = 6
_OK, _TERMINATE, _FAILURE = 0, 1, 2


class CommitteeForces:
    """Serves one ``fix external pf/callback`` of a LAMMPS instance.

    ``f_ID[1]``, ``[2]`` and ``[3]`` of the fix are the largest and the mean force deviation (eV/A) and the energy
    deviation (eV/atom), ``[4]`` the expected force error (eV/A), ``[5]`` the extrapolation grade and ``[6]`` the bias
    energy (eV) of the last step at which all members were evaluated; nan until then, and where there is none.
    ``d_deviation`` is the force deviation of each atom, eV/A.

    :param trajectory: where frames and rows go; on MPI ranks other than the first nothing is written.
    :param grade: the extrapolation grade of frames.
    :ivar failure: why the run has to end, or ``None``; an exception that left the callback would be lost in LAMMPS.
    :ivar decision: the last one that keeps the run from going on, or ``None``.
    :ivar terminate: set it to let the run end after the current step.
    :ivar is_tried: set where LAMMPS may evaluate a step more than once before it accepts it, as in a minimisation or
        with Monte Carlo moves: the committee then looks at a step when the next one begins.
    :ivar can_rewind: set where the command that runs can be taken up again.
    """

    def __init__(
        self,
        lammps: Any,
        fix_id: str,
        committee: Committee,
        configuration: DriverConfiguration,
        trajectory: Trajectory,
        grade: GradeOfFrames | None = None,
    ) -> None:
        self._lammps = lammps
        self._fix_id = fix_id
        self._committee = committee
        self._follower = committee.follow()
        self._configuration = configuration
        self._trajectory = trajectory
        self._grade = grade
        self._calibration = configuration.bounds.fitted if configuration.bounds else None
        self._bias = Bias(configuration.bias) if configuration.bias is not None else None
        self._tried: Snapshot | None = None
        self._recorder: Recorder | None = None
        self.failure: RunError | None = None
        self.decision: Decision | None = None
        self.terminate = False
        self.is_tried = False
        self.can_rewind = False
        self.first_step = int(lammps.extract_global('ntimestep'))
        self.last_step = self.first_step
        self.n_evaluations = 0
        self.n_committee_evaluations = 0
        self.monitor = Monitor(configuration.bounds, configuration.committee_every)

    def attach(self) -> None:
        """Register with LAMMPS; afterwards the script may go on.

        :raises RunError: where several MPI ranks cannot be right.
        """
        numbers = np.array([0] + [atomic_numbers[symbol] for symbol in self._configuration.elements])
        self.atoms = LammpsAtoms(self._lammps, self._fix_id, numbers)
        if self.atoms.n_ranks > 1 and self._configuration.device != 'cpu':
            raise RunError(
                'lammps_error',
                f'alpot-md runs on {self.atoms.n_ranks} MPI ranks, each of which evaluates the whole structure, and a '
                'GPU does not repeat its last digits, so that they would part: start it on one rank',
            )
        self._lammps.set_fix_external_callback(self._fix_id, self._callback, None)
        self._lammps.fix_external_set_vector_length(self._fix_id, N_VALUES)
        self.atoms.set_vector([np.nan] * N_VALUES)  # not yet known; LAMMPS leaves the memory as it finds it
        states = FullSteps.at(self._lammps, self._configuration.committee_every, self._configuration.sample_every)
        trajectory = self._trajectory if self.atoms.rank == 0 else None
        self._recorder = Recorder(self._configuration, self.monitor, states, trajectory, self.first_step)

    @property
    def bias_state(self) -> dict[str, float | None] | None:
        """With which a bias goes on in a later run; ``None`` without a bias."""
        return None if self._bias is None else self._bias.state()

    @property
    def is_attached(self) -> bool:
        """Whether the run got so far that there is something to write."""
        return self._recorder is not None

    @property
    def recorder(self) -> Recorder:
        """What writes frames and rows; there is one after :meth:`attach`."""
        assert self._recorder is not None
        return self._recorder

    def finish(self) -> None:
        """Look at what is left when a command of the script has ended; nothing of it waits any longer."""
        try:
            self._look_back(-1)
            self.recorder.settle()
        except RunError as failure:
            self.failure = self.failure or failure
        except Exception as error:  # noqa: BLE001 -- whatever it is, what was sampled is to be written
            self.failure = self.failure or RunError('potential_error', _failed(self.last_step, error))

    def resume(self) -> None:
        """Forget why the run did not go on."""
        self.decision = None

    def _callback(
        self, _: Any, step: int, n_local: int, tags: np.ndarray, positions: np.ndarray, forces: np.ndarray
    ) -> None:
        step, state = int(step), _OK
        try:
            if self.failure is None:
                state = self.atoms.agree(_TERMINATE if self.terminate else _OK, n_local, step)
                self._evaluate(step, n_local, tags, positions, forces)
        except RunError as failure:
            self.failure = failure
        except BaseException as error:  # noqa: BLE001 -- ctypes swallows what leaves here, and the run would go on
            self.failure = RunError('potential_error', _failed(step, error))
        self._stop_where_needed(step, n_local, state, forces)

    def _stop_where_needed(self, step: int, n_local: int, state: int, forces: np.ndarray) -> None:
        """Let the run end after this step where any rank has a reason to."""
        all_know = self.atoms.n_ranks == 1 or (self.failure is not None and self.failure.reason == 'lost_atoms')
        if not all_know:
            worst = self.atoms.agree(_OK if self.failure is None else _FAILURE, n_local, step)
            if worst == _FAILURE and self.failure is None:
                self.failure = RunError('potential_error', f'another MPI rank failed at step {step}: see its message')
        if self.failure is not None:
            forces[:] = 0.0
        self.terminate = self.terminate or state == _TERMINATE
        if self.failure is not None or state == _TERMINATE or self.decision is not None:
            self._lammps.force_timeout()

    def _evaluate(self, step: int, n_local: int, tags: np.ndarray, positions: np.ndarray, forces: np.ndarray) -> None:
        self._look_back(step)
        self.recorder.settle()
        snapshot = self.atoms.read(step, tags, positions)
        self._check(snapshot, n_local)
        watched = self._is_watched(step)
        looks = watched and not self.is_tried
        driving = self._configuration.driving_member
        everybody = looks or self._bias is not None
        predictions, grade = self._ask(snapshot, everybody, looks)
        observation = self._observe(predictions, driving if everybody else 0, grade)
        observation = self._give(snapshot, predictions, observation, everybody, forces)
        self.n_evaluations += 1
        self.last_step = step
        if looks:
            self._look(Seen(snapshot, observation), n_local)
        elif watched:
            self._tried = snapshot

    def _is_watched(self, step: int) -> bool:
        every, sample = self._configuration.committee_every, self._configuration.sample_every
        return step % every == 0 or (step % sample == 0 and step > self.recorder.noted)

    def _ask(self, snapshot: Snapshot, everybody: bool, with_grade: bool) -> tuple[Predictions, float]:
        """What members say, and the extrapolation grade."""
        driving = self._configuration.driving_member
        structure = (snapshot.numbers, snapshot.positions, snapshot.cell, snapshot.pbc)
        if not everybody:
            return self._follower.evaluate(*structure, [driving]), np.nan
        members = list(range(self._committee.n_members))
        with_virial = members if self._bias is not None else [driving]
        if self._grade is None or not with_grade:
            return self._follower.evaluate(*structure, members, with_virial), np.nan
        graded, grade = self._grade.evaluate(snapshot.frame(np.eye(3), snapshot.cell))
        members.remove(self._grade.member)
        if not members:
            return graded, grade
        others = self._follower.evaluate(*structure, members, with_virial)
        return with_row(others, self._grade.member, graded), grade

    def _observe(self, predictions: Predictions, row: int, grade: float) -> Observation:
        return observe(predictions, row, self._calibration, self._configuration.origin, grade=grade)

    def _check(self, snapshot: Snapshot, n_local: int) -> None:
        """Refuse to go on from a state that is not physical."""
        step = snapshot.step
        if not np.isfinite(snapshot.positions).all():
            raise RunError('not_finite', f'positions are no longer finite at step {step}: reduce the time step')
        bound = self._configuration.max_temperature
        if bound is not None:
            temperature = self.atoms.temperature(n_local)
            if not temperature <= bound:
                raise RunError(
                    'temperature',
                    f'the temperature reached {temperature:.0f} K at step {step}, above the bound of {bound:.0f} K: '
                    'the potential is out of its depth here, or the time step is too long',
                )

    def _give(
        self,
        snapshot: Snapshot,
        predictions: Predictions,
        observation: Observation,
        everybody: bool,
        target: np.ndarray,
    ) -> Observation:
        """Energy, forces and virial of the driving member to LAMMPS, with the bias where there is one."""
        row = self._configuration.driving_member if everybody else 0
        virial = None if predictions.virial is None else predictions.virial[row, 0]
        atomic = None if predictions.atomic_energies is None else predictions.atomic_energies[row]
        energy, forces = float(predictions.energy[row, 0]), predictions.forces[row]
        if not (np.isfinite(energy) and np.isfinite(forces).all()):
            raise RunError(
                'not_finite', f'the energy or the forces are not finite at step {snapshot.step}: two atoms may have met'
            )
        if self._bias is not None:
            biased = self._bias.apply(predictions, row, observation.expected_force_error)
            energy, forces, virial, atomic = biased.energy, biased.forces, biased.virial, biased.atomic_energies
            observation = replace(observation, bias_energy=biased.bias_energy)
        self.atoms.give(energy, forces, virial, atomic, target)
        return observation

    def _look(self, seen: Seen, n_local: int | None) -> None:
        """Let LAMMPS know what the committee says, and write it down.

        :param n_local: atoms of this rank; ``None`` where the atoms have moved on since.
        """
        self.n_committee_evaluations += 1
        self.atoms.set_vector(seen.observation.vector)
        if n_local is not None and seen.observation.force_deviation is not None:
            self.atoms.give_deviations(seen.observation.force_deviation, n_local)
        decision = self.recorder.look(seen, self.can_rewind)
        if decision.action != GO_ON:
            self.decision = decision

    def _look_back(self, step: int) -> None:
        """Look at the step before, which LAMMPS has now accepted as it was evaluated last.

        :param step: that begins; the one before is another.
        """
        snapshot = self._tried
        if snapshot is None or snapshot.step == step:
            return
        self._tried = None
        predictions, grade = self._ask(snapshot, everybody=True, with_grade=True)
        driving = self._configuration.driving_member
        self._look(Seen(snapshot, self._observe(predictions, driving, grade)), None)


def _failed(step: int, error: BaseException) -> str:
    return f'the potential failed at step {step}: {type(error).__name__}: {error}'
