"""What selectors choose from, and what they return."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from aiida_alpot.worker.acquisition.maxvol.sources import Subset, as_rows
from aiida_alpot.worker.options import number


@dataclass(frozen=True)
class Tolerance:
    """Errors that the user accepts.

    :param forces: of the force vector on an atom, eV/A, above 0.
    :param energy: of the energy per atom, eV/atom, above 0; ``None``: energies do not matter.
    """

    forces: float
    energy: float | None = None

    def __post_init__(self) -> None:
        number('tolerance.forces', self.forces, 0.0, exclusive=True)
        if self.energy is not None:
            number('tolerance.energy', self.energy, 0.0, exclusive=True)


@dataclass(frozen=True, eq=False)
class Scores:
    """Frames that passed the gate.

    :param index: their places in the pool, shape (k,).
    :param frame_id: shape (k,).
    :param expected_force_error: calibrated error of the force on the atom the committee deviates most about, eV/A,
        shape (k,).
    :param expected_energy_error: calibrated error of the energy per atom, eV/atom, shape (k,).
    :param origin: shape (k,); empty texts where nobody said.
    :param features: a row for each, shape (k, d), where a selector needs them: an array, or what
        :class:`~aiida_alpot.worker.acquisition.batch_selection.Rows` reads.
    :param known: features of the labelled frames that the potential was trained or calibrated on, shape (m, d).
    """

    index: np.ndarray
    frame_id: np.ndarray
    expected_force_error: np.ndarray
    expected_energy_error: np.ndarray
    origin: np.ndarray | None = None
    features: Any = None
    known: Any = None

    def __len__(self) -> int:
        return len(self.index)

    def take(self, rows: np.ndarray) -> Scores:
        """Some of the frames, in the order asked for."""
        features = self.features if self.features is None else Subset(as_rows(self.features, 'pool'), np.asarray(rows))
        return Scores(
            self.index[rows],
            self.frame_id[rows],
            self.expected_force_error[rows],
            self.expected_energy_error[rows],
            None if self.origin is None else self.origin[rows],
            features,
            self.known,
        )


@dataclass(frozen=True)
class Pick:
    """A frame that is worth a label.

    :param index: its place in the pool.
    """

    index: int
    reason: str


def above_tolerance(scores: Scores, tolerance: Tolerance) -> np.ndarray:
    """Rows whose expected force error, or energy error where one is asked for, exceeds the tolerance; shape (c,).

    They come in the order of their ``frame_id``, each of these once, so that nothing depends on the order of the pool.
    What is NaN exceeds nothing.
    """
    above = scores.expected_force_error > tolerance.forces
    if tolerance.energy is not None:
        above |= scores.expected_energy_error > tolerance.energy
    return each_once(scores, np.flatnonzero(above))


def each_once(scores: Scores, rows: np.ndarray) -> np.ndarray:
    """Of some rows the first of each ``frame_id``, in the order of these, shape (c,)."""
    _, first = np.unique(scores.frame_id[rows], return_index=True)
    return rows[first]


def excess(scores: Scores, row: int, tolerance: Tolerance) -> str:
    """What exceeds the tolerance in a row, as a phrase."""
    force, energy = float(scores.expected_force_error[row]), float(scores.expected_energy_error[row])
    parts = []
    if force > tolerance.forces:
        parts.append(f'expected force error {force:.3g} > {tolerance.forces:g} eV/A')
    if tolerance.energy is not None and energy > tolerance.energy:
        parts.append(f'expected energy error {energy:.3g} > {tolerance.energy:g} eV/atom')
    return ' and '.join(parts) or 'below the tolerance'
