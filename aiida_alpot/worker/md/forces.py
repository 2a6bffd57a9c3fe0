"""The callback of ``fix external``: the committee gives forces to LAMMPS, and frames are kept on the way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from ase.data import atomic_numbers

from aiida_alpot.worker.acquisition.signals.committee import deviations
from aiida_alpot.worker.frames.frame import Frame
from aiida_alpot.worker.md.configuration import DriverConfiguration
from aiida_alpot.worker.md.orientation import restore
from aiida_alpot.worker.potentials import Committee, Predictions

_VIRIAL_ORDER = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))
_SAMPLES_FIX = 'alpot_samples'
THERMODYNAMICS_FILE = 'thermodynamics.dat'


class RunError(Exception):
    """The run must stop: a reason that programs read, and a sentence for people."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, eq=False)
class Sample:
    """A kept frame, in the orientation of the start frame, and what the committee says about it.

    :param potential_energy: of the driving member, eV.
    :param energy_deviation: eV/atom.
    :param max_force_deviation: eV/A.
    :param mean_force_deviation: eV/A; all three nan where the committee has one member.
    """

    frame: Frame
    step: int
    potential_energy: float
    energy_deviation: float
    max_force_deviation: float
    mean_force_deviation: float


class CommitteeForces:
    """Serves one ``fix external pf/callback`` of a LAMMPS instance on one MPI rank.

    ``f_ID[1]``, ``[2]`` and ``[3]`` of the fix are the largest and the mean force deviation (eV/A) and the energy
    deviation (eV/atom) of the last step at which all members were evaluated.

    :ivar failure: why the run has to end, or ``None``; an exception that left the callback would be lost in LAMMPS.
    :ivar samples: the frames kept so far.
    :ivar terminate: set it to let the run end after the current step.
    """

    def __init__(self, lammps: Any, fix_id: str, committee: Committee, configuration: DriverConfiguration) -> None:
        self._lammps = lammps
        self._fix_id = fix_id
        self._committee = committee
        self._configuration = configuration
        self._numbers_of_type = np.array([0] + [atomic_numbers[symbol] for symbol in configuration.elements])
        self._n_atoms = int(lammps.get_natoms())
        self.failure: RunError | None = None
        self.samples: list[Sample] = []
        self.terminate = False
        self.first_step = int(lammps.extract_global('ntimestep'))
        self.last_step = self.first_step
        self.n_evaluations = 0
        self.n_committee_evaluations = 0

    def attach(self) -> None:
        """Register with LAMMPS; afterwards the script may go on."""
        every = self._configuration.sample_every
        self._lammps.set_fix_external_callback(self._fix_id, self._callback, None)
        self._lammps.fix_external_set_vector_length(self._fix_id, 3)
        for index in (1, 2, 3):  # not yet known; LAMMPS leaves the memory as it finds it
            self._lammps.fix_external_set_vector(self._fix_id, index, np.nan)
        # The callback sees velocities at half steps: LAMMPS itself notes temperature and pressure at the full ones.
        # It does so in a file, as `fix vector` loses its values when LAMMPS writes a restart file.
        self._lammps.command(
            f'fix {_SAMPLES_FIX} all ave/time {every} 1 {every} c_thermo_temp c_thermo_press '
            f'format " %.15g" file {THERMODYNAMICS_FILE}'
        )

    def thermodynamics(self) -> dict[int, tuple[float, float]]:
        """Temperature (K) and pressure (GPa) by step, at the multiples of the sampling interval that were done."""
        rows = np.loadtxt(THERMODYNAMICS_FILE, ndmin=2)
        return {int(step): (float(temperature), float(pressure) * 1e-4) for step, temperature, pressure in rows}

    def _callback(
        self, _: Any, step: int, __: int, tags: np.ndarray, positions: np.ndarray, forces: np.ndarray
    ) -> None:
        try:
            if self.failure is None:
                self._evaluate(int(step), tags, positions, forces)
                if not self.terminate:
                    return
        except RunError as failure:
            self.failure = failure
        except BaseException as error:  # noqa: BLE001 -- ctypes swallows what leaves here, and the run would go on
            self.failure = RunError(
                'potential_error', f'the potential failed at step {step}: {type(error).__name__}: {error}'
            )
        if self.failure is not None:
            forces[:] = 0.0
        self._lammps.force_timeout()

    def _evaluate(self, step: int, tags: np.ndarray, positions: np.ndarray, forces: np.ndarray) -> None:
        if len(tags) != self._n_atoms:
            raise RunError(
                'lost_atoms', f'{self._n_atoms - len(tags)} of {self._n_atoms} atoms were lost at step {step}'
            )
        order = np.argsort(tags)
        types = self._lammps.numpy.extract_atom('type')[: len(tags)]
        self._check(step, positions, types)
        frame, low = self._frame(positions[order], self._numbers_of_type[types][order])
        every, driving = self._configuration.sample_every, self._configuration.driving_member
        is_new = step > max([self.first_step, *(sample.step for sample in self.samples[-1:])])
        to_keep = is_new and step % every == 0
        everybody = to_keep or step % self._configuration.committee_every == 0
        predictions = self._committee.evaluate([frame], None if everybody else [driving])
        row = driving if everybody else 0
        self._give(step, predictions, row, order, forces)
        self.n_evaluations += 1
        self.last_step = step
        if everybody:
            values = self._deviations(predictions)
            if to_keep or (is_new and self._is_unknown(values[0])):
                self._keep(step, frame, low, float(predictions.energy[row, 0]), values)

    def _is_unknown(self, max_deviation: float) -> bool:
        """Whether the committee deviates so much that the script ends the run here: this frame is the one to learn."""
        bound = self._configuration.max_deviation
        return bound is not None and max_deviation > bound

    def _check(self, step: int, positions: np.ndarray, types: np.ndarray) -> None:
        """Refuse to go on from a state that is not physical."""
        if not np.isfinite(positions).all():
            raise RunError('not_finite', f'positions are no longer finite at step {step}: reduce the time step')
        bound = self._configuration.max_temperature
        if bound is not None:
            temperature = self._temperature(types)
            if not temperature <= bound:
                raise RunError(
                    'temperature',
                    f'the temperature reached {temperature:.0f} K at step {step}, above the bound of {bound:.0f} K: '
                    'the potential is out of its depth here, or the time step is too long',
                )

    def _temperature(self, types: np.ndarray) -> float:
        """Kinetic temperature of the velocities at the half step, K."""
        constants = {name: self._lammps.extract_global(name) for name in ('mvv2e', 'boltz')}
        velocities = self._lammps.numpy.extract_atom('v')[: len(types)]
        masses = np.asarray(self._lammps.numpy.extract_atom('mass')).reshape(-1)[types]
        twice_kinetic = constants['mvv2e'] * float(masses @ np.square(velocities).sum(axis=1))
        return twice_kinetic / (3.0 * max(self._n_atoms - 1, 1) * constants['boltz'])

    def _frame(self, positions: np.ndarray, numbers: np.ndarray) -> tuple[Frame, np.ndarray]:
        """The current structure in LAMMPS' orientation, in order of the atoms' IDs, and the lower corner of the box."""
        low, high, xy, yz, xz, periodic, _ = self._lammps.extract_box()
        lengths = np.subtract(high, low)
        cell = np.array([[lengths[0], 0, 0], [xy, lengths[1], 0], [xz, yz, lengths[2]]])
        return Frame(numbers, positions, cell, np.array(periodic, dtype=bool)), np.array(low)

    def _give(self, step: int, predictions: Predictions, row: int, order: np.ndarray, forces: np.ndarray) -> None:
        """Energy, forces and virial of one member to LAMMPS."""
        energy, member_forces = float(predictions.energy[row, 0]), predictions.forces[row]
        if not (np.isfinite(energy) and np.isfinite(member_forces).all()):
            raise RunError(
                'not_finite', f'the energy or the forces are not finite at step {step}: two atoms may have met'
            )
        forces[order] = member_forces
        self._lammps.fix_external_set_energy_global(self._fix_id, energy)
        if predictions.virial is not None and np.isfinite(predictions.virial[row, 0]).all():
            virial = [float(predictions.virial[row, 0][index]) for index in _VIRIAL_ORDER]
            self._lammps.fix_external_set_virial_global(self._fix_id, virial)
        if predictions.atomic_energies is not None:
            energies = np.empty(len(order))
            energies[order] = predictions.atomic_energies[row]
            self._lammps.fix_external_set_energy_peratom(self._fix_id, energies.tolist())

    def _deviations(self, predictions: Predictions) -> tuple[float, float, float]:
        """Largest and mean force deviation, eV/A, and energy deviation, eV/atom; LAMMPS gets them too."""
        self.n_committee_evaluations += 1
        if len(predictions.energy) < 2:
            return (np.nan, np.nan, np.nan)
        found = deviations(predictions)
        values = (float(found.max_force[0]), float(found.mean_force[0]), float(found.energy[0]))
        for index, value in enumerate(values, start=1):
            self._lammps.fix_external_set_vector(self._fix_id, index, value)
        return values

    def _keep(
        self, step: int, frame: Frame, low: np.ndarray, energy: float, values: tuple[float, float, float]
    ) -> None:
        configuration = self._configuration
        positions, cell = restore(
            frame.positions, frame.cell, low, frame.pbc, np.array(configuration.rotation), np.array(configuration.cell)
        )
        kept = Frame(
            frame.numbers, positions, cell, frame.pbc, lineage=configuration.lineage, origin=configuration.origin
        )
        self.samples.append(
            Sample(
                kept,
                step,
                energy,
                max_force_deviation=values[0],
                mean_force_deviation=values[1],
                energy_deviation=values[2],
            )
        )
