"""Bounds beyond which a path through structures has nothing to do with physics any more."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aiida_alpot.worker.explorers.base import ENERGY_DROP, EXPLODED, NOT_FINITE, EndedError
from aiida_alpot.worker.options import number


@dataclass(frozen=True)
class Limits:
    """Bounds on what the driving member says.

    :param max_force: largest allowed norm of a force, eV/A, above 0; ``None``: any.
    :param max_energy_drop: how far the energy may fall below that of the first structure of the path, eV/atom, above 0;
        ``None``: any.
    """

    max_force: float | None = 300.0
    max_energy_drop: float | None = 30.0

    def __post_init__(self) -> None:
        for name in ('max_force', 'max_energy_drop'):
            if getattr(self, name) is not None:
                number(name, getattr(self, name), 0.0, exclusive=True)

    def check(self, energy: float, forces: np.ndarray, first: float | None) -> None:
        """Refuse to go on from a structure.

        :param energy: eV/atom.
        :param forces: shape (n, 3), eV/A.
        :param first: energy of the first structure of the path, eV/atom; ``None``: this is the first.
        :raises EndedError: ``not_finite``, ``exploded`` or ``energy_drop``.
        """
        if not (np.isfinite(energy) and np.isfinite(forces).all()):
            raise EndedError(NOT_FINITE, 'the energy or the forces are not finite: two atoms may have met')
        largest = float(np.sqrt(np.square(forces).sum(axis=1).max()))
        if self.max_force is not None and largest > self.max_force:
            raise EndedError(
                EXPLODED, f'a force of {largest:.4g} eV/A is above `max_force`, {self.max_force:g} eV/A: atoms met'
            )
        drop = 0.0 if first is None else first - energy
        if self.max_energy_drop is not None and drop > self.max_energy_drop:
            raise EndedError(
                ENERGY_DROP,
                f'the energy fell by {drop:.4g} eV/atom, more than `max_energy_drop`, {self.max_energy_drop:g}: the '
                'potential is out of its depth here',
            )
