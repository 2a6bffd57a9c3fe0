"""Errors of the members, and of their mean, by split and by origin of the frames."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aiida_alpot.worker.acquisition.labelled import SHEAR_ONCE, chunks
from aiida_alpot.worker.frames import Frame
from aiida_alpot.worker.potentials import Committee, Predictions
from aiida_alpot.worker.training.data import SEEN, TrainingFrames

ALL = 'all'
PROPERTIES = ('energy', 'forces', 'stress')


class Sums:
    """Sums over numbers that were compared, for M rows: the members, and last their mean."""

    def __init__(self, n_rows: int) -> None:
        self.n = 0
        self.squares, self.sizes = np.zeros(n_rows), np.zeros(n_rows)

    def add(self, error: np.ndarray) -> None:
        """Add errors, shape (M, ...)."""
        flat = error.reshape(len(self.squares), -1)
        self.n += flat.shape[1]
        self.squares += (flat**2).sum(axis=1)
        self.sizes += np.abs(flat).sum(axis=1)

    def report(self, row: int) -> dict[str, float] | None:
        """``rmse`` and ``mae`` of one row, nan where a prediction is not finite; ``None`` for nothing compared."""
        if not self.n:
            return None
        return {'rmse': float(np.sqrt(self.squares[row] / self.n)), 'mae': float(self.sizes[row] / self.n)}


class Errors:
    """Errors gathered chunk by chunk; energy in eV/atom, components of forces in eV/A and of stress in eV/A^3.

    :param n_members: M.
    """

    def __init__(self, n_members: int) -> None:
        self._n_rows = n_members + 1
        self._sums: dict[tuple[str, str], dict[str, Sums]] = {}
        self._frames: dict[tuple[str, str], int] = {}

    def add(self, split: str, frames: Sequence[Frame], predictions: Predictions) -> None:
        """Compare predictions of some frames of a split with their labels."""
        energy, forces, stress = map(_with_mean, (predictions.energy, predictions.forces, predictions.stress))
        for index, frame in enumerate(frames):
            atoms = slice(predictions.offsets[index], predictions.offsets[index + 1])
            error: dict[str, np.ndarray] = {}
            if frame.energy is not None:
                error['energy'] = (energy[:, index] - frame.energy) / len(frame)
            if frame.forces is not None:
                error['forces'] = forces[:, atoms] - frame.forces
            # There is no stress (nan) where nothing is periodic; any other nan shows in the energy.
            if frame.stress is not None and np.isfinite(stress[:, index]).all():
                error['stress'] = (stress[:, index] - frame.stress)[:, SHEAR_ONCE[0], SHEAR_ONCE[1]]
            for origin in (ALL, frame.origin):
                self._add_to((split, origin), error)

    def _add_to(self, key: tuple[str, str], error: dict[str, np.ndarray]) -> None:
        sums = self._sums.setdefault(key, {name: Sums(self._n_rows) for name in PROPERTIES})
        self._frames[key] = self._frames.get(key, 0) + 1
        for name, values in error.items():
            sums[name].add(values)

    def report(self, row: int) -> dict[str, dict[str, Any]]:
        """Split -> origin or ``all`` -> ``n`` (frames) and the errors by property.

        :param row: of a member; -1 for their mean.
        """
        found: dict[str, dict[str, Any]] = {}
        for (split, origin), sums in self._sums.items():
            parts = {name: sums[name].report(row) for name in PROPERTIES}
            found.setdefault(split, {})[origin or 'unknown'] = {'n': self._frames[split, origin], **parts}
        return found


def _with_mean(values: np.ndarray) -> np.ndarray:
    return np.concatenate([values, values.mean(axis=0, keepdims=True)])


def evaluate(committee: Committee, frames: TrainingFrames, go_on: Callable[[], bool]) -> Errors | None:
    """Errors on all frames that a training sees, in one pass for all members.

    :param go_on: asked before each chunk.
    :return: ``None`` where it was not to go on.
    """
    errors = Errors(committee.n_members)
    for split in SEEN:
        for chunk in chunks(frames.frames(split)):
            if not go_on():
                return None
            errors.add(split, chunk, committee.evaluate([frame.unlabelled() for frame in chunk]))
    return errors


def loads(path: Path, device: str, dtype: str) -> str:
    """Why a model cannot be loaded as a potential; '' where it can."""
    from aiida_alpot.worker.potentials import load_committee

    try:
        load_committee([path], device=device, dtype=dtype)
    except Exception as error:  # noqa: BLE001 -- a model is a file of a foreign program, which can raise anything
        return f'{type(error).__name__}: {error}'
    return ''
