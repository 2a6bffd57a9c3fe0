"""The first pick of rules that measure distances, where nothing is known."""

from __future__ import annotations

import numpy as np

from aiida_alpot.worker.acquisition.batch_selection.arguments import weighted
from aiida_alpot.worker.acquisition.batch_selection.blocks import Rows
from aiida_alpot.worker.acquisition.batch_selection.distances import TIE, squared_distances


def largest_norm(rows: Rows, weights: np.ndarray | None) -> tuple[int, float] | None:
    """Row of the largest w_i |x_i|^2 among those with w_i > 0, the first of equal ones, and that number.

    :return: ``None``: there is no such row.
    """
    norms = np.empty(len(rows))
    for start, stop, block in rows.blocks():
        norms[start:stop] = squared_distances(block, np.zeros(rows.d))
    values = weighted(norms, weights, slice(None))
    if weights is not None:
        values = np.where(weights > 0.0, values, -np.inf)
    best = values.max(initial=-np.inf)
    if best < 0.0:
        return None
    first = int(np.flatnonzero(values >= best * (1.0 - TIE))[0])
    return first, float(values[first])
