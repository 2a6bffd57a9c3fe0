"""MaxVol on tall matrices: as many rows as there are directions, such that all others interpolate between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from aiida_alpot.worker.acquisition.batch_selection.blocks import Rows
from aiida_alpot.worker.acquisition.maxvol.exchange import Seats, settle
from aiida_alpot.worker.acquisition.maxvol.passes import RowReductions, largest, norm, top_distinct
from aiida_alpot.worker.acquisition.maxvol.sources import as_rows
from aiida_alpot.worker.acquisition.maxvol.span import Span
from aiida_alpot.worker.options import number

TOLERANCE = 1.01
CANDIDATES = (10, 0.01)
"""Rows that each step adds to those kept in memory to be swapped: so many times the rank and at least this share of
all. They are those with the largest leverages at first, then those with the largest grades."""
PIVOTED = 30
"""At most so many times the rank of them are pivoted: QR is slow."""
MAX_ROUNDING = 1e-3
"""Coefficients may be off by this much in float32; beyond, they are computed in float64."""
MAX_PASSES = 200


@dataclass(frozen=True, eq=False)
class MaxVol:
    """Active set of a matrix X, shape (n, d), of rank r.

    :param index: the rows that are active, ascending, shape (K,), K = r for a square active set.
    :param matrix: shape (d, K + d - r). For a row x the first K numbers of x @ matrix are its coefficients in the
        active rows, and the norm of the others is its distance from the span of X in units of ``residual``.
    :param grade: of the rows of X, shape (n,): the largest of the absolute coefficients and of that norm.
    :param span: the directions that X occupies.
    :param residual: largest distance of a row of X from the span, and at least the floor of the span.
    :param dtype: in which grades are computed: float32 or float64.
    :param n_swaps: how often a row took the place of another.
    :param n_passes: how often all rows were read.
    """

    index: np.ndarray
    matrix: np.ndarray
    grade: np.ndarray
    span: Span
    residual: float
    dtype: np.dtype
    n_swaps: int
    n_passes: int

    @property
    def rank(self) -> int:
        """Number of directions that X occupies, to rounding; fewer than features where some depend on others."""
        return self.span.rank


def maxvol(features: Any, *, tolerance: float = TOLERANCE, relative_tolerance: float | None = None) -> MaxVol:
    r"""Square active set of (locally) maximal volume.

    The W study (Shuang et al., Mach. Learn.: Sci. Technol. 7, 025002), eqs 8-12: of the rows B_i of a tall matrix, r
    rows A are chosen so that |det A| is large, and all others are B_i = sum_k c_k A_k with

    .. math:: \gamma_i = \max_k |c_k|, \qquad c = B_i A^{-1},

    at most ``tolerance`` for every row, and 1 for the active ones. Five steps, none of which holds more than a few per
    cent of the rows in memory: the Gram matrix (:class:`Span`: coordinates in which all directions weigh the same, on
    which gamma does not depend, and the rank, see there); the leverages; pivoted QR of the rows with the largest ones;
    swaps among those (:func:`settle`); and the coefficients of all rows. Rows above the tolerance join the candidates,
    and the last two steps are repeated until there is none.

    **Rank.** What is cut off as rounding is not forgotten: the distance of a row from the span, in units of the largest
    distance of a row of X, counts as one more coefficient. So the grade of a row outside the span is large, and
    that of a row of X is at most the tolerance all the same.

    :param features: X, shape (n, d), float32 or float64; anything that :class:`Rows` reads. Features that are float32
        and of full rank are read in float32 after a check of the rounding, all others in float64.
    :param tolerance: largest grade of any row of X, above 1.
    :param relative_tolerance: of singular values, see :class:`Span`.
    :raises ValueError: for a number that is not finite, no rows, rows that are all zero, or a tolerance out of range.
    """
    number('tolerance', tolerance, 1.0, exclusive=True)
    search = Search(as_rows(features, 'features'), relative_tolerance)
    search.converge(tolerance)
    return search.result()


class Search:
    """The active set of a matrix on its way to the largest volume.

    :param rows: X, shape (n, d).
    :ivar seats: the active set.
    :ivar grade: largest coefficient of each row of X as of the last pass, shape (n,).
    :raises ValueError: for a number that is not finite, no rows, or rows that are all zero.
    """

    def __init__(self, rows: Rows, relative_tolerance: float | None) -> None:
        self.rows = rows
        self.span = Span.of(rows, relative_tolerance)
        if self.span.rank == 0:
            raise ValueError(f'all rows of `{rows.name}` are zero: they span nothing, so that nothing can be graded')
        in_single = rows.dtype == np.float32 and self.span.rank == rows.d
        self.dtype: np.dtype[Any] = np.dtype(np.float32 if in_single else np.float64)
        leverage, distance = self._leverages()
        self.n_passes = 2
        self.distance = distance
        self.residual = max(float(distance.max()), self.span.floor)
        self._n_candidates = int(max(CANDIDATES[0] * self.span.rank, CANDIDATES[1] * len(rows)))
        self._n_pivoted = min(self._n_candidates, PIVOTED * self.span.rank)
        self._candidates = top_distinct(leverage, self._n_candidates)
        self.seats = self._first_seats(leverage)
        self._coordinates = self.whitened(self._candidates)
        self._check_rounding()
        self._coordinates = self._coordinates.astype(rows.dtype)
        self.grade = np.empty(0)

    def whitened(self, index: np.ndarray) -> np.ndarray:
        """Whitened coordinates of some rows, shape (m, r), float64."""
        return self.rows.take(index).astype(np.float64) @ self.span.whitening

    def converge(self, tolerance: float) -> None:
        """Swap until no row of X has a coefficient above the tolerance.

        :raises RuntimeError: if that does not come to an end.
        """
        inner = 1.0 + 0.5 * (tolerance - 1.0)  # so that rounding in the passes over all rows does not decide
        for _ in range(MAX_PASSES):
            swaps = settle(self.seats, self._candidates, self._coordinates, inner)
            if len(self.grade) and not swaps:
                self._to_double()
            self.grade = self._largest_coefficients()
            if not self.grade.max() > tolerance:
                return
            self._add(top_distinct(self.grade, self._n_candidates))
        raise RuntimeError(
            f'{MAX_PASSES} passes over `{self.rows.name}` left rows with grades up to {self.grade.max():.4g}, '
            f'expected at most {tolerance:g}: give a larger tolerance'
        )

    def result(self) -> MaxVol:
        """The active set as it is, rows ascending."""
        order = np.argsort(self.seats.ids)
        return self.as_maxvol(self.seats.ids[order], self.seats.inverse[:, order], self.grade)

    def as_maxvol(self, index: np.ndarray, coefficients: np.ndarray, grade: np.ndarray) -> MaxVol:
        """An active set of this matrix.

        :param coefficients: shape (r, K): z @ coefficients are those of a row with the whitened coordinates z.
        :param grade: largest coefficients of all rows, shape (n,).
        """
        return MaxVol(
            index=index,
            matrix=np.hstack([self.span.whitening @ coefficients, self.span.complement / self.residual]),
            grade=np.maximum(grade, self.distance / self.residual).astype(np.float64),
            span=self.span,
            residual=self.residual,
            dtype=self.dtype,
            n_swaps=self.seats.n_swaps,
            n_passes=self.n_passes,
        )

    def _largest_coefficients(self) -> np.ndarray:
        """Largest coefficient of each row of X, shape (n,): a pass."""
        self.n_passes += 1
        matrix = self.span.whitening @ self.seats.inverse
        return RowReductions(matrix, [(largest, self.span.rank)], self.dtype).over(self.rows)[0]

    def _leverages(self) -> tuple[np.ndarray, np.ndarray]:
        """Norms of the whitened coordinates, whose squares sum to n r, and distances from the span; shape (n,) each."""
        matrix = np.hstack([self.span.whitening, self.span.complement])
        parts = [(norm, self.span.rank), (norm, matrix.shape[1] - self.span.rank)]
        leverage, distance = RowReductions(matrix, parts, self.dtype).over(self.rows)
        return leverage, distance

    def _first_seats(self, leverage: np.ndarray) -> Seats:
        """Pivots of QR of the rows with the largest leverages, completed from where these do not reach.

        Any direction has a mean square of 1. So a pivot below that tells that other rows reach farther; those are
        sought by one more pass.
        """
        index = top_distinct(leverage, self._n_pivoted)
        ids = np.empty(0, dtype=np.int64)
        complement = np.eye(self.span.rank)
        while True:
            ids = np.concatenate([ids, index[_pivots(self.whitened(index) @ complement)]])
            if len(ids) == self.span.rank:
                return Seats(ids, self.whitened(ids))
            complement = _complement(self.whitened(ids))
            reach = RowReductions(self.span.whitening @ complement, [(norm, complement.shape[1])], self.dtype)
            index = top_distinct(reach.over(self.rows)[0], self._n_pivoted)
            self.n_passes += 1

    def _check_rounding(self) -> None:
        """Go over to float64 where float32 is not exact enough on the candidates, which have the largest features."""
        if self.dtype == np.float64:
            return
        inverse = self.seats.inverse
        exact = self._coordinates @ inverse
        rough = self.rows.take(self._candidates) @ (self.span.whitening @ inverse).astype(np.float32)
        if not np.abs(rough - exact).max() <= MAX_ROUNDING:
            self.dtype = np.dtype(np.float64)

    def _to_double(self) -> None:
        """Go over to float64: what looked too large in float32 was not."""
        self.dtype = np.dtype(np.float64)
        self._coordinates = self.whitened(self._candidates)

    def _add(self, index: np.ndarray) -> None:
        """Let rows join the candidates, ascending."""
        new = np.setdiff1d(index, self._candidates)
        ids = np.concatenate([self._candidates, new])
        order = np.argsort(ids)
        coordinates = np.concatenate([self._coordinates, self.whitened(new).astype(self._coordinates.dtype)])
        self._candidates, self._coordinates = ids[order], coordinates[order]


def _pivots(coordinates: np.ndarray) -> np.ndarray:
    """Rows that QR with pivoting picks, until what is left of all of them is below the typical row; at least one.

    :param coordinates: shape (m, r), m >= 1.
    """
    from scipy.linalg import qr  # slow to import

    triangle, order = qr(coordinates.T, mode='r', pivoting=True, check_finite=False)
    left = np.abs(triangle.diagonal())
    return order[: max(1, int(np.count_nonzero(left >= 0.5)))]


def _complement(rows: np.ndarray) -> np.ndarray:
    """Orthonormal basis of what is orthogonal to k rows of r numbers, shape (r, r - k)."""
    return np.linalg.qr(rows.T, mode='complete')[0][:, len(rows) :]
