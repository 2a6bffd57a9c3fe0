"""The search for an active set among all rows of a matrix."""

from __future__ import annotations

from typing import Any

import numpy as np

from aiida_alpot.worker.acquisition.batch_selection.blocks import Rows
from aiida_alpot.worker.acquisition.batch_selection.known import KnownRows
from aiida_alpot.worker.acquisition.maxvol.exchange import Seats, settle
from aiida_alpot.worker.acquisition.maxvol.passes import RowReductions, largest, norm, top_distinct

CANDIDATES = (10, 0.01)
"""Rows that each pass adds to those kept in memory to be swapped: so many times the rank and at least this share of
all. They are those with the largest norms at first, then those with the largest coefficients."""
MAX_ROUNDING = 1e-3
"""Coefficients may be off by this much in float32; beyond, they are computed in float64."""
MAX_PASSES = 200


class Search:
    """Swaps of any rows of a matrix into an active set: those in memory first, then what a pass over all rows finds.

    :param rows: X, shape (n, d).
    :param whitening: shape (d, r), see :class:`Span`.
    :param seats: the active set to begin with; it is changed.
    :param norms: of the rows in some coordinates in which those of the active rows are large, shape (n,).
    :param in_single: float32 may do, if the rounding allows it.
    :param weights: what the rows are multiplied by, shape (n,).
    :param known: copies of these rows may not be swapped in.
    :ivar dtype: in which passes are computed.
    :ivar grade: largest coefficient of each row as of the last pass, in the seats that are open, shape (n,).
    :ivar n_passes: number of passes.
    """

    def __init__(
        self,
        rows: Rows,
        whitening: np.ndarray,
        seats: Seats,
        norms: np.ndarray,
        *,
        in_single: bool,
        weights: np.ndarray | None = None,
        known: KnownRows | None = None,
    ) -> None:
        self.rows, self.whitening, self.seats = rows, whitening, seats
        self._weights, self._known = weights, known
        self._barred = np.zeros(len(rows), dtype=bool)
        self.dtype: np.dtype[Any] = np.dtype(np.float32 if in_single else np.float64)
        self.grade = np.empty(0)
        self.n_passes = 0
        self._candidates = np.empty(0, dtype=np.int64)
        self._coordinates = np.empty((0, len(seats)))
        self._add(top_distinct(norms, n_candidates(len(seats), len(rows))))
        self._check_rounding()
        self._coordinates = self._coordinates.astype(np.float32 if in_single else np.float64)

    def converge(self, tolerance: float) -> None:
        """Swap until no row has a coefficient above the tolerance in a seat that is open to it.

        :raises RuntimeError: if that does not come to an end.
        """
        inner = 1.0 + 0.5 * (tolerance - 1.0)  # so that rounding in the passes over all rows does not decide
        for _ in range(MAX_PASSES):
            swaps = settle(self.seats, self._candidates, self._coordinates, inner)
            if len(self.grade) and not swaps:
                self._to_double()
            self.grade = self._largest_coefficients()
            if not self.grade.max(initial=0.0) > tolerance:
                return
            self._add(top_distinct(self.grade, n_candidates(len(self.seats), len(self.rows))))
        raise RuntimeError(
            f'{MAX_PASSES} passes over `{self.rows.name}` left rows with grades up to {self.grade.max():.4g}, '
            f'expected at most {tolerance:g}: give a larger tolerance'
        )

    def whitened(self, index: np.ndarray) -> np.ndarray:
        """Whitened coordinates of some rows, shape (m, r), float64."""
        coordinates = self.rows.take(index).astype(np.float64) @ self.whitening
        return coordinates if self._weights is None else coordinates * self._weights[index, None]

    def _largest_coefficients(self) -> np.ndarray:
        """Largest coefficient of each row in a seat that is open, shape (n,): a pass."""
        self.n_passes += 1
        matrix = (self.whitening @ self.seats.inverse)[:, self.seats.open]
        grade = RowReductions(matrix, [(largest, matrix.shape[1])], self.dtype).over(self.rows)[0]
        if self._weights is not None:
            grade *= self._weights
        grade[self._barred] = 0.0
        return grade

    def _check_rounding(self) -> None:
        """Go over to float64 where float32 is not exact enough on the candidates, which have the largest features."""
        if self.dtype == np.float64 or not len(self._candidates):
            return
        inverse = self.seats.inverse
        rough = self.rows.take(self._candidates) @ (self.whitening @ inverse).astype(np.float32)
        if self._weights is not None:
            rough *= self._weights[self._candidates, None]
        if not np.abs(rough - self._coordinates @ inverse).max() <= MAX_ROUNDING:
            self.dtype = np.dtype(np.float64)

    def _to_double(self) -> None:
        """Go over to float64: what looked too large in float32 was not."""
        self.dtype = np.dtype(np.float64)
        self._coordinates = self.whitened(self._candidates)

    def _add(self, index: np.ndarray) -> None:
        """Let rows join the candidates, ascending, if they are no copies of known ones."""
        new = np.setdiff1d(index, self._candidates)
        if self._known is not None:
            copies = np.array([row in self._known for row in self.rows.take(new)], dtype=bool)
            self._barred[new[copies]] = True
            new = new[~copies]
        ids = np.concatenate([self._candidates, new])
        order = np.argsort(ids)
        coordinates = np.concatenate([self._coordinates, self.whitened(new).astype(self._coordinates.dtype)])
        self._candidates, self._coordinates = ids[order], coordinates[order]


def norms_of(rows: Rows, matrix: np.ndarray, dtype: np.dtype | type) -> np.ndarray:
    """Norm of x @ matrix for each row, shape (n,): a pass."""
    return RowReductions(matrix, [(norm, matrix.shape[1])], dtype).over(rows)[0]


def n_candidates(rank: int, n: int) -> int:
    """Number of rows that a pass adds to the candidates."""
    return int(max(CANDIDATES[0] * rank, CANDIDATES[1] * n))
