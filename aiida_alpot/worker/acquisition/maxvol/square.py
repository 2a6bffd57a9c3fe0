"""MaxVol on tall matrices: as many rows as there are directions, such that all others interpolate between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from aiida_alpot.worker.acquisition.batch_selection.blocks import Rows
from aiida_alpot.worker.acquisition.maxvol.exchange import Seats
from aiida_alpot.worker.acquisition.maxvol.passes import RowReductions, norm, top_distinct
from aiida_alpot.worker.acquisition.maxvol.search import Search, n_candidates, norms_of
from aiida_alpot.worker.acquisition.maxvol.sources import as_rows
from aiida_alpot.worker.acquisition.maxvol.span import Span
from aiida_alpot.worker.options import number

TOLERANCE = 1.01
PIVOTED = 30
"""At most so many times the rank of the candidates are pivoted: QR is slow."""


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
    rows A are chosen so that ``|det A|`` is large, and all others are B_i = sum_k c_k A_k with

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
    whole = WholeSearch(as_rows(features, 'features'), relative_tolerance)
    whole.search.converge(tolerance)
    return whole.result()


class WholeSearch:
    """Square active set of a whole matrix.

    :param rows: X, shape (n, d).
    :ivar span: the directions that X occupies.
    :ivar search: what swaps its rows.
    :raises ValueError: for a number that is not finite, no rows, or rows that are all zero.
    """

    def __init__(self, rows: Rows, relative_tolerance: float | None) -> None:
        self.rows = rows
        self.span = Span.of(rows, relative_tolerance)
        if self.span.rank == 0:
            raise ValueError(f'all rows of `{rows.name}` are zero: they span nothing, so that nothing can be graded')
        in_single = rows.dtype == np.float32 and self.span.rank == rows.d
        self._dtype = np.dtype(np.float32 if in_single else np.float64)
        self._n_passes = 2  # for the Gram matrix and the leverages
        leverage, self._distance = self._leverages()
        self._residual = max(float(self._distance.max()), self.span.floor)
        seats = self._first_seats(leverage)
        self.search = Search(rows, self.span.whitening, seats, leverage, in_single=in_single)

    def result(self) -> MaxVol:
        """The active set as it is, rows ascending."""
        seats = self.search.seats
        order = np.argsort(seats.ids)
        return self.as_maxvol(seats.ids[order], seats.inverse[:, order], self.search.grade)

    def as_maxvol(self, index: np.ndarray, coefficients: np.ndarray, grade: np.ndarray) -> MaxVol:
        """An active set of this matrix.

        :param coefficients: shape (r, K): z @ coefficients are those of a row with the whitened coordinates z.
        :param grade: largest coefficients of all rows, shape (n,).
        """
        return MaxVol(
            index=index,
            matrix=np.hstack([self.span.whitening @ coefficients, self.span.complement / self._residual]),
            grade=np.maximum(grade, self._distance / self._residual).astype(np.float64),
            span=self.span,
            residual=self._residual,
            dtype=self.search.dtype,
            n_swaps=self.search.seats.n_swaps,
            n_passes=self._n_passes + self.search.n_passes,
        )

    def _leverages(self) -> tuple[np.ndarray, np.ndarray]:
        """Norms of the whitened coordinates, whose squares sum to n r, and distances from the span; shape (n,) each."""
        matrix = np.hstack([self.span.whitening, self.span.complement])
        parts = [(norm, self.span.rank), (norm, matrix.shape[1] - self.span.rank)]
        leverage, distance = RowReductions(matrix, parts, self._dtype).over(self.rows)
        return leverage, distance

    def _first_seats(self, leverage: np.ndarray) -> Seats:
        """Pivots of QR of the rows with the largest leverages, completed from where these do not reach.

        Any direction has a mean square of 1. So a pivot below that tells that other rows reach farther; those are
        sought by one more pass.
        """
        count = min(n_candidates(self.span.rank, len(self.rows)), PIVOTED * self.span.rank)
        reach, complement = leverage, np.eye(self.span.rank)
        ids = np.empty(0, dtype=np.int64)
        while True:
            index = top_distinct(reach, count)
            ids = np.concatenate([ids, index[_pivots(self._whitened(index) @ complement)]])
            if len(ids) == self.span.rank:
                return Seats(ids, self._whitened(ids))
            complement = _complement(self._whitened(ids))
            reach = norms_of(self.rows, self.span.whitening @ complement, self._dtype)
            self._n_passes += 1

    def _whitened(self, index: np.ndarray) -> np.ndarray:
        return self.rows.take(index).astype(np.float64) @ self.span.whitening


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
