"""What all batch selections are given, checked."""

from __future__ import annotations

from typing import Any

import numpy as np

from aiida_alpot.worker.acquisition.batch_selection.blocks import Rows
from aiida_alpot.worker.options import integer


def read_arguments(pool: Any, k: int, train: Any, weights: Any) -> tuple[Rows, np.ndarray, np.ndarray | None]:
    """Pool, training rows (shape (m, d), m >= 0) and weights as they are used.

    :raises ValueError: for a pool or training rows that are no matrix of finite numbers (those of the pool are checked
        when they are read), different numbers of features, ``k`` below 1, or weights that are not one finite number of
        at least 0 for each row.
    """
    integer('k', k, 1)
    rows = Rows(pool)
    return rows, read_train(train, rows), read_weights(weights, rows.n)


def read_train(train: Any, rows: Rows) -> np.ndarray:
    """Rows that are known, in memory, shape (m, d); none: m = 0."""
    if train is None:
        return np.empty((0, rows.d), dtype=rows.dtype)
    known = Rows(train, 'train')
    if known.d != rows.d:
        raise ValueError(
            f'`train` has {known.d} features a row, `pool` has {rows.d}: compute both with the same model and settings'
        )
    blocks = [block for _, _, block in known.blocks()]
    return np.concatenate(blocks) if blocks else np.empty((0, rows.d), dtype=rows.dtype)


def read_weights(weights: Any, n: int) -> np.ndarray | None:
    """Weights in float64, shape (n,)."""
    if weights is None:
        return None
    values = np.asarray(weights, dtype=np.float64)
    if values.shape != (n,):
        raise ValueError(f'`weights` has shape {values.shape}, expected ({n},): one for each row of `pool`')
    wrong = np.flatnonzero(~(np.isfinite(values) & (values >= 0.0)))
    if len(wrong):
        raise ValueError(
            f'`weights` holds {values[wrong[0]]} for row {wrong[0]}, expected finite numbers of at least 0: leave out '
            'the structures whose deviation could not be computed'
        )
    return values


def weighted(values: np.ndarray, weights: np.ndarray | None, index: np.ndarray | slice) -> np.ndarray:
    """Values of some rows times their weights."""
    return values if weights is None else values * weights[index]
