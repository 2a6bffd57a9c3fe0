"""A committee that counts what it is asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from aiida_alpot.worker.frames.frame import Frame
from aiida_alpot.worker.potentials.committee import Committee
from aiida_alpot.worker.potentials.predictions import Predictions


class Counting(Committee):
    """Three members. What they say follows from the positions and, in the last bits, from the size of the batch."""

    kind = 'counting potentials'
    states_uncertainty = True

    def __init__(self, batch_size: int | None = None, single: bool = False) -> None:
        super().__init__(['Ar'], 7.0, 3, batch_size)
        self.calls: list[tuple[int, tuple[int, ...], tuple[str, ...]]] = []
        self.single = single

    def possible_features(self) -> tuple[str, ...]:
        return ('activations', 'activations_per_atom')

    def evaluate(self, frames: Sequence[Frame], members: Any = None, features: Any = ()) -> Predictions:
        self.calls.append((len(frames), tuple(range(3)) if members is None else tuple(members), tuple(features)))
        return super().evaluate(frames, members, features)

    def _evaluate_batch(self, batch: Any, members: Any, features: Any) -> Predictions:
        frames = [structure.frame for structure in batch]
        offsets = np.concatenate([[0], np.cumsum([len(frame) for frame in frames])])
        positions = np.concatenate([frame.positions for frame in frames]) * (1 + 1e-15 * len(frames))
        forces = np.stack([positions * (m + 1) for m in members])
        if self.single:
            forces = forces.astype(np.float32).astype(np.float64)
        energy = np.add.reduceat(forces.sum(axis=2), offsets[:-1], axis=1)
        stress = energy[:, :, None, None] * np.eye(3)
        stress[:, ~np.array([frame.pbc.any() for frame in frames])] = np.nan
        rows = {'activations': np.add.reduceat(positions, offsets[:-1]).astype(np.float32)}
        rows['activations_per_atom'] = positions**2
        return Predictions(
            energy,
            forces,
            stress,
            offsets,
            virial=-2 * stress,
            atomic_energies=forces.sum(axis=2),
            energy_uncertainty=abs(energy),
            features={feature.name: rows[feature.name] for feature in features},
        )


@pytest.fixture
def make_counting() -> type[Counting]:
    """Factory of such committees."""
    return Counting
