"""What a committee says about frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from aiida_alpot.worker.frames.frame import Frame


@dataclass(frozen=True, eq=False)
class Predictions:
    """What M members say about n frames with N atoms in all, the atoms of all frames one after the other.

    :param energy: total energies, isolated-atom energies included, shape (M, n), eV.
    :param forces: shape (M, N, 3), eV/A.
    :param stress: shape (M, n, 3, 3), eV/A^3, positive under tension. It refers to the volume of the frame's own
        cell, vacuum included, and is nan where nothing is periodic or the cell is not three-dimensional.
    :param offsets: atoms of frame i are ``offsets[i]:offsets[i + 1]``, shape (n + 1,).
    :param virial: minus the derivative of the energy by the strain, shape (M, n, 3, 3), eV; nan where not known.
    :param atomic_energies: shape (M, N), eV; ``None`` where the potential does not give them.
    :param energy_uncertainty: standard deviation of the total energy that a member states about itself (LLPR), shape
        (M, n), eV; ``None`` where the members do not.
    :param numbers: atomic numbers, shape (N,); ``None`` where nobody said.
    :param features: representations of the first member by name, shape (n, d); (N, d) where the name ends in
        ``_per_atom``.
    """

    energy: np.ndarray
    forces: np.ndarray
    stress: np.ndarray
    offsets: np.ndarray
    virial: np.ndarray | None = None
    atomic_energies: np.ndarray | None = None
    energy_uncertainty: np.ndarray | None = None
    features: dict[str, np.ndarray] = field(default_factory=dict)
    numbers: np.ndarray | None = None


def stress_from_virial(virial: np.ndarray, frames: Sequence[Frame]) -> np.ndarray:
    """Stress per frame, from minus the derivative of the energy by the strain.

    :param virial: shape (..., n, 3, 3), eV.
    :return: shape (..., n, 3, 3), eV/A^3; nan where the frame has no volume or no periodic axis.
    """
    volumes = np.array([frame.volume if frame.pbc.any() and frame.volume > 1e-6 else np.nan for frame in frames])
    return -virial / volumes[:, None, None]


def concatenate(parts: Sequence[Predictions], n_members: int) -> Predictions:
    """Predictions of the frames of all parts, one after the other.

    :param n_members: number of members, for when there is no part.
    """
    if len(parts) == 1:
        return parts[0]
    if not parts:
        empty = np.zeros((n_members, 0, 3, 3))
        return Predictions(
            energy=empty[:, :, 0, 0],
            forces=empty[:, :, 0],
            stress=empty,
            offsets=np.zeros(1, dtype=np.int64),
            virial=empty,
        )
    lengths = np.concatenate([np.diff(part.offsets) for part in parts])
    return Predictions(
        energy=np.concatenate([part.energy for part in parts], axis=1),
        forces=np.concatenate([part.forces for part in parts], axis=1),
        stress=np.concatenate([part.stress for part in parts], axis=1),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        virial=_join([part.virial for part in parts]),
        atomic_energies=_join([part.atomic_energies for part in parts]),
        energy_uncertainty=_join([part.energy_uncertainty for part in parts]),
        features={name: np.concatenate([part.features[name] for part in parts]) for name in parts[0].features},
    )


def _join(arrays: Sequence[np.ndarray | None]) -> np.ndarray | None:
    """Join along the second axis; ``None`` as soon as one part is not known."""
    present = [array for array in arrays if array is not None]
    return np.concatenate(present, axis=1) if len(present) == len(arrays) else None
