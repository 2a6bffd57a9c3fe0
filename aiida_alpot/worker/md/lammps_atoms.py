"""Atoms of a LAMMPS instance in order of their IDs, and what is given back to them; on one MPI rank or several."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from aiida_alpot.worker.frames.frame import Frame
from aiida_alpot.worker.md.ending import RunError
from aiida_alpot.worker.md.orientation import restore

DEVIATION = 'd_deviation'
"""Name by which LAMMPS' dumps and computes have the force deviation of each atom, eV/A."""
_ATOMS_FIX, _MARK = 'alpot_atoms', 'd_alpot_mark'
_VIRIAL_ORDER = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))


@dataclass(frozen=True, eq=False)
class Snapshot:
    """The structure at a step, in LAMMPS' orientation and in order of the atoms' IDs.

    :param numbers: atomic numbers, shape (N,).
    :param positions: shape (N, 3), A.
    :param cell: shape (3, 3), A.
    :param low: lower corner of the box, shape (3,), A.
    :param pbc: shape (3,).
    :param types: of LAMMPS, shape (N,).
    :param time: of the run, ps.
    """

    step: int
    numbers: np.ndarray
    positions: np.ndarray
    cell: np.ndarray
    low: np.ndarray
    pbc: np.ndarray
    types: np.ndarray
    time: float

    def frame(self, rotation: np.ndarray, original: np.ndarray, **fields: Any) -> Frame:
        """The structure in the orientation of the start frame, see :func:`.orientation.restore`.

        :param fields: of the frame: lineage, origin, metadata.
        """
        positions, cell = restore(self.positions, self.cell, self.low, self.pbc, rotation, original)
        return Frame(self.numbers, positions, cell, self.pbc, **fields)


class LammpsAtoms:
    """Reads atoms and gives forces for one ``fix external``.

    On several MPI ranks each rank gets all atoms, by their IDs, and gives back the forces of its own; energy and virial
    are those of the whole, which LAMMPS divides among the ranks by itself.

    :param fix_id: of the ``fix external``.
    :param numbers_of_type: atomic number of each LAMMPS type, with a leading entry for type 0, shape (n_types + 1,).
    """

    def __init__(self, lammps: Any, fix_id: str, numbers_of_type: np.ndarray) -> None:
        self._lammps = lammps
        self._fix_id = fix_id
        self._numbers_of_type = numbers_of_type
        self._n_atoms = int(lammps.get_natoms())
        self.n_ranks = int(lammps.extract_setting('world_size'))
        self.rank = int(lammps.extract_setting('world_rank'))
        self._order = np.arange(self._n_atoms)
        """Place among all atoms, in order of their IDs, of each atom of this rank."""
        self._types = np.zeros(0, dtype=np.intc)
        # Both whatever the number of ranks: a restart file holds them, and another number of ranks may read it.
        lammps.command(f'fix {_ATOMS_FIX} all property/atom {DEVIATION} {_MARK}')

    def agree(self, state: int, n_local: int, step: int) -> int:
        """The largest state of all ranks; all of them have to ask.

        :param state: not negative.
        :raises RunError: where LAMMPS has lost atoms, on all ranks alike.
        """
        lost = self._n_atoms - n_local
        if self.n_ranks > 1:
            self._own(_MARK, n_local)[:] = 1.0 + state
            marks = np.array(self._lammps.gather(_MARK, 1, 1))
            lost, state = int(np.count_nonzero(marks == 0.0)), int(marks.max()) - 1
        if lost:
            raise RunError('lost_atoms', f'{lost} of {self._n_atoms} atoms were lost at step {step}')
        return state

    def read(self, step: int, tags: np.ndarray, positions: np.ndarray) -> Snapshot:
        """The structure of now; the arrays are copies.

        :param tags: IDs of the atoms of this rank, shape (n,).
        :param positions: of these, shape (n, 3), A.
        """
        if self.n_ranks > 1:
            self._order = tags - 1
            types = np.array(self._lammps.gather_atoms('type', 0, 1))
            everywhere = np.array(self._lammps.gather_atoms('x', 1, 3)).reshape(-1, 3)
        else:
            by_id = np.argsort(tags)
            self._order = np.empty_like(by_id)
            self._order[by_id] = np.arange(len(by_id))
            types = self._lammps.numpy.extract_atom('type').reshape(-1)[: len(tags)][by_id]
            everywhere = positions[by_id]
        self._types = types
        low, high, xy, yz, xz, periodic, _ = self._lammps.extract_box()
        lengths = np.subtract(high, low)
        cell = np.array([[lengths[0], 0.0, 0.0], [xy, lengths[1], 0.0], [xz, yz, lengths[2]]])
        pbc = np.array(periodic, dtype=bool)
        return Snapshot(
            step, self._numbers_of_type[types], everywhere, cell, np.array(low), pbc, types, self._time(step)
        )

    def temperature(self, n_local: int) -> float:
        """Kinetic temperature of the velocities of now, which are at the half step during a run, K."""
        constants = {name: self._lammps.extract_global(name) for name in ('mvv2e', 'boltz')}
        masses = np.asarray(self._lammps.numpy.extract_atom('mass')).reshape(-1)
        if self.n_ranks > 1:
            velocities = np.array(self._lammps.gather_atoms('v', 1, 3)).reshape(-1, 3)
            weights = masses[self._types]
        else:
            velocities = self._lammps.numpy.extract_atom('v')[:n_local]
            weights = masses[self._lammps.numpy.extract_atom('type')[:n_local]]
        twice_kinetic = constants['mvv2e'] * float(weights @ np.square(velocities).sum(axis=1))
        return twice_kinetic / (3.0 * max(self._n_atoms - 1, 1) * constants['boltz'])

    def give(
        self,
        energy: float,
        forces: np.ndarray,
        virial: np.ndarray | None,
        atomic_energies: np.ndarray | None,
        target: np.ndarray,
    ) -> None:
        """Energy, forces and virial of the whole structure to LAMMPS.

        :param energy: eV.
        :param forces: shape (N, 3), eV/A.
        :param virial: shape (3, 3), eV; ``None`` or not finite where it is not known.
        :param atomic_energies: shape (N,), eV.
        :param target: LAMMPS' array of the forces of this rank's atoms, shape (n, 3).
        """
        target[:] = forces[self._order]
        self._lammps.fix_external_set_energy_global(self._fix_id, energy)
        if virial is not None and np.isfinite(virial).all():
            self._lammps.fix_external_set_virial_global(self._fix_id, [float(virial[index]) for index in _VIRIAL_ORDER])
        if atomic_energies is not None:
            own = np.ascontiguousarray(atomic_energies[self._order])
            pointer = own.ctypes.data_as(ctypes.POINTER(ctypes.c_double))
            self._lammps.lib.lammps_fix_external_set_energy_peratom(self._lammps.lmp, self._fix_id.encode(), pointer)

    def give_deviations(self, deviations: np.ndarray, n_local: int) -> None:
        """Force deviation of each atom, shape (N,), eV/A, for dumps: ``d_deviation``."""
        self._own(DEVIATION, n_local)[:] = deviations[self._order]

    def set_vector(self, values: Sequence[float]) -> None:
        """Values of ``f_ID[1]``, ``f_ID[2]``, ..."""
        for index, value in enumerate(values, start=1):
            self._lammps.fix_external_set_vector(self._fix_id, index, value)

    def _own(self, name: str, n_local: int) -> np.ndarray:
        """LAMMPS' array of a property of this rank's atoms, shape (n,)."""
        values: np.ndarray = self._lammps.numpy.extract_atom(name, nelem=n_local, dim=1)
        return values.reshape(-1)[:n_local]

    def _time(self, step: int) -> float:
        """Time that LAMMPS has simulated, ps."""
        at, since = self._lammps.extract_global('atime'), self._lammps.extract_global('atimestep')
        return float(at + (step - since) * self._lammps.extract_global('dt'))
