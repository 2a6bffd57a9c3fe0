"""Local relaxation of positions and, along periodic axes, of the cell, by ASE's optimisers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS, FIRE, LBFGS
from ase.stress import voigt_6_to_full_3x3_stress
from ase.units import GPa

from aiida_alpot.worker.explorers.base import EXPLODED, EndedError
from aiida_alpot.worker.explorers.watch import FIXED
from aiida_alpot.worker.frames.frame import Frame
from aiida_alpot.worker.options import boolean, choice, integer, number
from aiida_alpot.worker.potentials.neighbours import complete_cell

OPTIMIZERS = {'bfgs': BFGS, 'lbfgs': LBFGS, 'fire': FIRE}


@dataclass(frozen=True)
class RelaxSettings:
    """How a structure is relaxed.

    :param optimizer: ASE's ``bfgs``, ``lbfgs`` (of less cost for many atoms) or ``fire``.
    :param fmax: converged when no force is larger, eV/A, above 0,
    :param max_stress: and no component of stress + pressure along periodic axes, GPa, above 0.
    :param max_steps: largest number of steps, at least 1.
    :param relax_cell: relax the cell too, along periodic axes only.
    :param pressure: that the cell is relaxed at, GPa; needs ``relax_cell`` and three periodic axes.
    :param max_volume_ratio: bound on the volume over that of the start, and on its inverse, above 1.
    """

    optimizer: str = 'bfgs'
    fmax: float = 0.02
    max_stress: float = 0.1
    max_steps: int = 500
    relax_cell: bool = False
    pressure: float = 0.0
    max_volume_ratio: float = 8.0

    def __post_init__(self) -> None:
        choice('optimizer', self.optimizer, OPTIMIZERS)
        number('fmax', self.fmax, 0.0, exclusive=True)
        number('max_stress', self.max_stress, 0.0, exclusive=True)
        integer('max_steps', self.max_steps, 1)
        boolean('relax_cell', self.relax_cell)
        number('pressure', self.pressure)
        number('max_volume_ratio', self.max_volume_ratio, 1.0, exclusive=True)
        if self.pressure and not self.relax_cell:
            raise ValueError(f'`pressure` is {self.pressure} GPa, but the cell is not relaxed: set `relax_cell`')

    def check_frame(self, frame: Frame) -> None:
        """Refuse what cannot be relaxed so.

        :raises ValueError: for a cell to relax without periodic axes or with fixed atoms, for a pressure on vacuum.
        """
        if not self.relax_cell:
            return
        if not frame.pbc.any():
            raise ValueError('`relax_cell` is set, but no axis is periodic: there is no cell to relax')
        if self.pressure and not frame.pbc.all():
            raise ValueError(
                f'`pressure` is {self.pressure} GPa, but an axis is not periodic: a pressure on vacuum means nothing'
            )
        if FIXED in frame.arrays and np.any(frame.arrays[FIXED]):
            raise ValueError('`relax_cell` is set, but some atoms are fixed: a cell that changes moves all atoms')


@dataclass
class Relaxed:
    """The state of a relaxation.

    :param converged: whether forces, and stress, are below their bounds.
    :param n_steps: steps done.
    """

    converged: bool = False
    n_steps: int = 0


def relax(atoms: Atoms, settings: RelaxSettings) -> Relaxed:
    """Relax a structure in place.

    :raises EndedError: for a volume beyond its bound, and whatever the calculator raises.
    """
    state = Relaxed()
    for state in relaxing(atoms, settings):  # noqa: B007
        pass
    return state


def relaxing(atoms: Atoms, settings: RelaxSettings) -> Iterator[Relaxed]:
    """Relax a structure in place, and stop over at the start and after each step.

    The cell is relaxed by ASE's ``FrechetCellFilter`` in an orientation whose Cartesian axes are those of the periodic
    ones; rows of the cell along the other axes stay as they are, bit by bit, and so do the heights of its points.

    :raises EndedError: for a volume beyond its bound, and whatever the calculator raises.
    """
    mover = _CellMover(atoms, settings) if settings.relax_cell else _Mover(atoms, settings)
    optimizer = OPTIMIZERS[settings.optimizer](mover.movable, logfile=None)
    # The optimiser's own criterion knows no stress: it is never met, and ours decides.
    for n_steps, _ in enumerate(optimizer.irun(fmax=0.0, steps=settings.max_steps)):
        mover.update()
        state = Relaxed(mover.converged(), n_steps)
        yield state
        if state.converged:
            return


class _Mover:
    """Positions alone."""

    def __init__(self, atoms: Atoms, settings: RelaxSettings) -> None:
        self.atoms, self.settings = atoms, settings
        self.moving = self.movable = atoms

    def update(self) -> None:
        """Bring the structure up to date with what moves."""

    def converged(self) -> bool:
        return float(np.sqrt(np.square(self.moving.get_forces()).sum(axis=1).max())) <= self.settings.fmax


class _CellMover(_Mover):
    """Positions and cell, in an orientation where each periodic axis lies in the span of its Cartesian axes."""

    def __init__(self, atoms: Atoms, settings: RelaxSettings) -> None:
        super().__init__(atoms, settings)
        pbc = np.array(atoms.pbc)
        full = complete_cell(atoms.cell.array, pbc)
        self.rotation = np.eye(3) if pbc.all() else orientation(full)
        self.moving = Atoms(atoms.numbers, atoms.positions @ self.rotation, cell=full @ self.rotation, pbc=pbc)
        self.moving.calc = atoms.calc
        self.axes = np.outer(pbc, pbc)
        mask = [self.axes[i, j] for i, j in ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))]
        self.movable = _Filter(self.moving, mask=mask, scalar_pressure=settings.pressure * GPa)
        self.original = atoms.cell.array.copy()
        self.volume = self.moving.get_volume()

    def update(self) -> None:
        pbc = np.array(self.atoms.pbc)
        rows = self.moving.cell.array @ self.rotation.T
        self.atoms.set_cell(np.where(pbc[:, None], rows, self.original), scale_atoms=False)
        self.atoms.set_positions(self.moving.positions @ self.rotation.T)
        ratio, bound = self.moving.get_volume() / self.volume, self.settings.max_volume_ratio
        if not 1.0 / bound <= ratio <= bound:
            raise EndedError(
                EXPLODED, f'the volume changed by a factor of {ratio:.4g}, beyond `max_volume_ratio`, {bound:g}'
            )

    def converged(self) -> bool:
        return super().converged() and self.excess_stress() <= self.settings.max_stress

    def excess_stress(self) -> float:
        """Largest component of stress + pressure along periodic axes, GPa."""
        stress = voigt_6_to_full_3x3_stress(self.moving.get_stress()) / GPa + self.settings.pressure * np.eye(3)
        return float(np.abs(stress[self.axes]).max())


class _Filter(FrechetCellFilter):
    """ASE's filter, whose forces are computed once a step: an optimiser asks three times, each of them costs 3 ms."""

    _asked: bytes = b''
    _forces: np.ndarray

    def get_forces(self, **kwargs: Any) -> np.ndarray:
        """Forces on atoms and cell, shape (n + 3, 3), eV/A."""
        state = self.atoms.positions.tobytes() + self.atoms.cell.array.tobytes()
        if state != self._asked:
            self._forces = super().get_forces(**kwargs)
            self._asked = state
        return self._forces.copy()


def orientation(cell: np.ndarray) -> np.ndarray:
    """Rotation that makes a cell lower triangular: ``cell @ rotation``; orthogonal, shape (3, 3).

    :param cell: complete, see :func:`aiida_alpot.worker.potentials.neighbours.complete_cell`.
    """
    orthogonal, _ = np.linalg.qr(cell.T)
    return np.array(orthogonal)
