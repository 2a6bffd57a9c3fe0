"""Deviation and error of the stress."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from aiida_alpot.worker.acquisition.labelled import Labelled


def stress_pairs(labelled: Labelled, split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Deviation and error (Frobenius norm) of the stress, eV/A^3, and frame of each; shape (k,) all three.

    Frames without a stress, in the label or because nothing is periodic, are left out.
    """
    error = np.linalg.norm((labelled.stress_pred - labelled.stress_ref).reshape(-1, 9), axis=1)
    wanted = (labelled.split == split) & ~labelled.isolated & np.isfinite(error)
    rows = np.flatnonzero(wanted & np.isfinite(labelled.stress_deviation))
    return labelled.stress_deviation[rows], error[rows], rows
