"""Passes over all rows of a matrix of features: a matrix product, and a number or two of each of its rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from aiida_alpot.worker.acquisition.batch_selection.blocks import BLOCK_BYTES, Rows

BUFFER_BYTES = 2**20
"""Bytes of the product of a block: it stays in the cache of a core until it is reduced."""
BLOCK_ROWS = (64, 2048)

SAME = 1e-5
COPIES = 4

Reduction = Callable[[np.ndarray, np.ndarray], None]
"""``function(product, out)`` that reduces a product, shape (p, b), which it may overwrite, to ``out``, shape (b,)."""


def largest(product: np.ndarray, out: np.ndarray) -> None:
    """Largest absolute value of each column."""
    np.abs(product, out=product)
    np.maximum.reduce(product, axis=0, out=out, initial=0.0)


def norm(product: np.ndarray, out: np.ndarray) -> None:
    """Euclidean norm of each column."""
    np.einsum('ij,ij->j', product, product, out=out)
    np.sqrt(out, out=out)


class RowReductions:
    """Reductions of the rows of X M, for any number of rows x of X.

    The product is made transposed, M^T X^T, so that the reductions run along contiguous numbers: they cost a few per
    cent of the product, and a pass costs what the product costs.

    :param matrix: M, shape (d, p).
    :param parts: reductions and how many columns of M each takes, in order; p in all.
    :param dtype: what is computed in: float32 or float64.
    """

    def __init__(self, matrix: np.ndarray, parts: Sequence[tuple[Reduction, int]], dtype: np.dtype | type) -> None:
        self.dtype = np.dtype(dtype)
        self._transposed = np.ascontiguousarray(matrix.T, dtype=self.dtype)
        self._parts = parts
        p = max(1, len(self._transposed))
        self._step = int(np.clip(BUFFER_BYTES // (p * self.dtype.itemsize), *BLOCK_ROWS))
        self._buffer = np.empty(p * self._step, dtype=self.dtype)

    def of(self, rows: np.ndarray) -> np.ndarray:
        """Reductions of some rows in memory, shape (b, d); shape (number of parts, b)."""
        out = np.empty((len(self._parts), len(rows)), dtype=self.dtype)
        p = len(self._transposed)
        for start in range(0, len(rows), self._step):
            x = np.asarray(rows[start : start + self._step], dtype=self.dtype)
            product = self._buffer[: p * len(x)].reshape(p, len(x))
            with np.errstate(over='ignore', invalid='ignore'):
                np.matmul(self._transposed, x.T, out=product)
                self._reduce(product, out[:, start : start + len(x)])
        return out

    def over(self, rows: Rows) -> np.ndarray:
        """Reductions of all rows of a matrix, shape (number of parts, n)."""
        out = np.empty((len(self._parts), len(rows)), dtype=self.dtype)
        for start, stop in block_bounds(rows):
            out[:, start:stop] = self.of(rows.block(start, stop))
        return out

    def _reduce(self, product: np.ndarray, out: np.ndarray) -> None:
        first = 0
        for values, (reduction, count) in zip(out, self._parts, strict=True):
            reduction(product[first : first + count], values)
            first += count


def block_bounds(rows: Rows) -> Iterator[tuple[int, int]]:
    """First row and last row + 1 of blocks that fit into a cache, in order."""
    size = max(BLOCK_ROWS[0], BLOCK_BYTES // max(1, rows.d * rows.dtype.itemsize))
    for start in range(0, len(rows), size):
        yield start, min(start + size, len(rows))


def top(values: np.ndarray, count: int) -> np.ndarray:
    """Places of the largest values, in the order of the rows; of equal ones the first. Shape (min(count, n),)."""
    if count >= len(values):
        return np.arange(len(values))
    least = np.partition(values, len(values) - count)[len(values) - count]
    above = np.flatnonzero(values > least)
    equal = np.flatnonzero(values == least)[: count - len(above)]
    return np.sort(np.concatenate([above, equal]))


def top_distinct(values: np.ndarray, count: int) -> np.ndarray:
    """As :func:`top`, with no more than a few rows of the same value, so that copies of one row do not crowd out all
    others. Values that differ by less than rounding in float32 are the same.

    :param values: at least 0, shape (n,).
    """
    if count >= len(values):
        return np.arange(len(values))
    order = np.argsort(-values, kind='stable')
    with np.errstate(divide='ignore'):
        steps = np.floor(np.log(values[order].astype(np.float64)) / SAME)
    starts = np.flatnonzero(np.r_[True, steps[1:] != steps[:-1]])
    within = np.arange(len(order)) - np.repeat(starts, np.diff(np.r_[starts, len(order)]))
    return np.sort(order[within < COPIES][:count])
