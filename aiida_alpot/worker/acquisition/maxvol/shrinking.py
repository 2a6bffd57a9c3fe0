"""Norms of rows that shrink while rows are added to what is known: greedy enlargement of a volume."""

from __future__ import annotations

import numpy as np

from aiida_alpot.worker.acquisition.batch_selection.blocks import Rows
from aiida_alpot.worker.acquisition.batch_selection.known import KnownRows
from aiida_alpot.worker.acquisition.maxvol.search import MAX_ROUNDING, norms_of


class ShrinkingNorm:
    """w_i^2 |x_i T|^2, for :func:`lazy_greedy`; T loses what a picked row adds.

    With v = w x T of a picked row, T becomes T (1 - b v v^T), which is the root of

    - T (1 - v v^T / |v|^2) T^T, ``exact``: what is left of all rows once the direction of v is known, as in QR with
      pivoting, so that the norms are distances from the span of the picks; or
    - T (1 - v v^T / (1 + |v|^2)) T^T: where T T^T = (A^T A)^-1, the same with v below the rows of A
      (Sherman and Morrison), so that the norms are those of the coefficients x A^+.

    :param rows: the matrix, shape (n, d).
    :param matrix: T at the beginning, shape (d, p).
    :param weights: w, shape (n,).
    :param known: exact copies of these rows are never picked; picks join them.
    :param dtype: in which the bounds of all rows are computed. With float32 the coefficients are taken to be off by no
        more than :data:`MAX_ROUNDING`; what decides is in float64.
    """

    def __init__(
        self,
        rows: Rows,
        matrix: np.ndarray,
        weights: np.ndarray | None,
        known: KnownRows,
        *,
        exact: bool,
        dtype: np.dtype | type = np.float64,
    ) -> None:
        self._rows, self._weights, self._known, self._exact = rows, weights, known, exact
        self._dtype = np.dtype(dtype)
        self._rounding = MAX_ROUNDING * np.sqrt(matrix.shape[1]) if self._dtype == np.float32 else 0.0
        self._matrix = matrix.copy()
        self._refreshed = 0

    def bounds(self) -> np.ndarray:
        """Upper bounds of the scores of all rows, shape (n,): a pass."""
        norms = norms_of(self._rows, self._matrix, self._dtype).astype(np.float64)
        norms[norms > 0.0] += self._rounding
        return self._weighted(norms, slice(None)) ** 2

    def refresh(self, index: np.ndarray, rows: np.ndarray, floor: float) -> np.ndarray:
        """Scores of some rows as they are now; all are computed, whatever the floor."""
        self._refreshed += len(rows)
        left = rows.astype(np.float64) @ self._matrix
        return self._weighted(np.sqrt(np.einsum('ij,ij->i', left, left)), index) ** 2

    def pick(self, index: int, row: np.ndarray) -> None:
        """Know a row from now on."""
        weight = 1.0 if self._weights is None else self._weights[index]
        v = weight * (row.astype(np.float64) @ self._matrix)
        square = float(v @ v)
        factor = 1.0 if self._exact else 1.0 - 1.0 / np.sqrt(1.0 + square)
        self._matrix -= np.outer(self._matrix @ v, v * (factor / square))
        self._known.add(row[None])

    def is_known(self, row: np.ndarray) -> bool:
        """Whether a row is a copy of a known one."""
        return row in self._known

    def lower(self, bound: np.ndarray) -> None:
        """Lower all bounds by a pass, if as many rows were refreshed since the last one."""
        if self._refreshed > len(self._rows):
            np.minimum(bound, self.bounds(), out=bound)
            self._refreshed = 0

    def _weighted(self, norms: np.ndarray, index: np.ndarray | slice) -> np.ndarray:
        return norms if self._weights is None else norms * self._weights[index]
