"""Frames whose forces vanish by symmetry."""

from __future__ import annotations

import numpy as np

VANISHING_FORCE = 1e-3
"""Forces below this, eV/A, are numerical noise about a zero that symmetry demands."""


def vanishing(forces: np.ndarray, reference: np.ndarray) -> bool:
    """Whether all forces on a frame are zero by symmetry: in the reference and for every member.

    Such a frame has neither deviation nor error and says nothing about how one follows from the other. A third of the
    frames made of symmetric crystals are of this kind.

    :param forces: of the members, shape (M, n, 3), eV/A.
    :param reference: shape (n, 3), eV/A.
    """
    return max(_largest(forces), _largest(reference)) < VANISHING_FORCE


def _largest(forces: np.ndarray) -> float:
    return float(np.linalg.norm(forces, axis=-1).max())
