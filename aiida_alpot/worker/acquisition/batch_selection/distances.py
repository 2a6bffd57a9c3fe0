"""Squared distances of rows, from their differences in float64."""

from __future__ import annotations

import numpy as np

TIE = 1e-12
"""What differs by less than this fraction is equal, so that rounding never decides; the lowest index is taken."""
BUFFER_NUMBERS = 64 * 1024


def squared_distances(
    x: np.ndarray, y: np.ndarray, x_index: np.ndarray | None = None, y_index: np.ndarray | None = None
) -> np.ndarray:
    """|x_i - y_i|^2 of pairs of rows, shape (b,), float64.

    Every pair is summed for itself, in one order: equal pairs give equal numbers wherever they stand, and equal rows
    give 0. All decisions about distances are made on these numbers; products of matrices only bound them.

    :param x: shape (b, d), or with ``x_index``, shape (b,), any number of rows that it names; likewise
    :param y: shape (b, d), or (d,): one row for all.
    """
    d = x.shape[1]
    n = len(x) if x_index is None else len(x_index)
    out = np.empty(n)
    step = max(32, BUFFER_NUMBERS // max(1, d))
    buffer = np.empty((min(step, n), d))
    for start in range(0, n, step):
        stop = min(start + step, n)
        part = buffer[: stop - start]
        part[...] = x[start:stop] if x_index is None else x[x_index[start:stop]]
        if y.ndim == 1:
            np.subtract(part, y, out=part)
        else:
            np.subtract(part, y[start:stop] if y_index is None else y[y_index[start:stop]], out=part)
        np.einsum('ij,ij->i', part, part, out=out[start:stop])
    return out


def where_at_least(values: np.ndarray, threshold: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of what is not below the threshold of its row, in order; shape (b, m) and (b,).

    As ``nonzero`` of the comparison, which takes several times as long where there is little.
    """
    flat = np.flatnonzero(values >= threshold.astype(values.dtype)[:, None])
    return np.divmod(flat, values.shape[1])
