"""Minima that were found, each once."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from ase import Atoms
from ase.neighborlist import neighbor_list

CUTOFF = 6.0
WIDTH = 0.1
SPACING = 0.05
"""Distances up to the cutoff, smeared by a Gaussian of this width, on a grid of this spacing, A."""


def fingerprint(atoms: Atoms) -> np.ndarray:
    r"""Smeared distribution of the distances for each pair of elements, per atom.

    .. math:: F_{AB}(r) = \frac{1}{N} \sum_{i \in A, j \in B} \frac{w(d_{ij})}{d_{ij}}
              \exp\Bigl(-\frac{(r - d_{ij})^2}{2\sigma^2}\Bigr),
              \quad w(d) = \tfrac12 \bigl(1 + \cos\tfrac{\pi d}{r_c}\bigr)

    It does not change under rotation, reflection, permutation of like atoms, or choice of the cell; after the
    fingerprint of Oganov and Valle (J. Chem. Phys. 130, 104504), with a smooth cutoff and no density subtracted.

    :return: shape (pairs of elements x grid,), 1/A.
    """
    grid = np.arange(0.5, CUTOFF, SPACING)
    i, j, d = neighbor_list('ijd', atoms, CUTOFF)
    species = np.unique(atoms.numbers)
    weight = 0.5 * (1.0 + np.cos(np.pi * d / CUTOFF)) / d
    parts = []
    for a, first in enumerate(species):
        for second in species[a:]:
            pair = (atoms.numbers[i] == first) & (atoms.numbers[j] == second)
            parts.append(_smeared(d[pair], weight[pair], grid) / len(atoms))
    return np.concatenate(parts)


def _smeared(distances: np.ndarray, weights: np.ndarray, grid: np.ndarray) -> np.ndarray:
    total = np.zeros(len(grid))
    for start in range(0, len(distances), 4096):  # memory stays flat for large structures
        block = slice(start, start + 4096)
        total += weights[block] @ np.exp(-0.5 * np.square((grid - distances[block, None]) / WIDTH))
    return total


def dissimilarity(first: np.ndarray, second: np.ndarray) -> float:
    """Distance of two fingerprints relative to their lengths: 0 for equal ones, about 1 for unrelated ones."""
    scale = max(float(np.linalg.norm(first)), float(np.linalg.norm(second)))
    return float(np.linalg.norm(first - second)) / scale if scale > 0 else 0.0


@dataclass
class Minima:
    """Distinct minima in the order in which they were found.

    :param energy_tolerance: energies of copies of one minimum differ by no more, eV/atom;
    :param tolerance: nor do their fingerprints, see :func:`dissimilarity`.
    """

    energy_tolerance: float
    tolerance: float
    energies: list[float] = field(default_factory=list)
    visits: list[int] = field(default_factory=list)
    _fingerprints: list[np.ndarray] = field(default_factory=list)

    def add(self, atoms: Atoms, energy: float) -> tuple[int, bool]:
        """Take a minimum.

        :param energy: energy or enthalpy, eV.
        :return: its place among the minima, and whether it is a new one.
        """
        mark = fingerprint(atoms)
        for index, (known, other) in enumerate(zip(self.energies, self._fingerprints, strict=True)):
            close = abs(energy - known) <= self.energy_tolerance * len(atoms)
            if close and dissimilarity(mark, other) <= self.tolerance:
                self.visits[index] += 1
                return index, False
        self.energies.append(energy)
        self.visits.append(1)
        self._fingerprints.append(mark)
        return len(self.energies) - 1, True

    def __len__(self) -> int:
        return len(self.energies)

    def summary(self) -> dict[str, object]:
        """Energies (eV), visits and the place of the lowest."""
        lowest = int(np.argmin(self.energies)) if self.energies else None
        return {'minima': list(self.energies), 'visits': list(self.visits), 'lowest': lowest}
