"""Greedy posterior variance: the row that a Gaussian process knows least about, again and again."""

from __future__ import annotations

from typing import Any

import numpy as np

from aiida_alpot.worker.acquisition.batch_selection.arguments import read_arguments, weighted
from aiida_alpot.worker.acquisition.batch_selection.blocks import Rows
from aiida_alpot.worker.acquisition.batch_selection.growing import by_staleness
from aiida_alpot.worker.acquisition.batch_selection.known import KnownRows
from aiida_alpot.worker.acquisition.batch_selection.lazy_greedy import lazy_greedy
from aiida_alpot.worker.acquisition.batch_selection.picked import Picked, picked
from aiida_alpot.worker.acquisition.batch_selection.posterior import Posterior, VarianceBounds
from aiida_alpot.worker.options import number

REGULARISATION = 1e-3
TIE = 1e-9
"""Variances that differ by less than this fraction are equal: where little is left of the prior variance, rounding in
float64 may change so much."""
FIRST_EXACT = 8
RENEW = 128
"""Picks after which bounds that take all of them into account are made anew."""


def posterior_variance(
    pool: Any, k: int, *, train: Any = None, weights: Any = None, regularisation: float = REGULARISATION
) -> Picked:
    """Greedy selection by the posterior variance of a Gaussian process with the kernel k(x, y) = x . y.

    Paper 004 (pretrained representations), eq 8: the next row is argmax_i w_i s^2(x_i) with

        s^2(x) = k(x, x) - k_T(x)^T (K_TT + lambda I)^-1 k_T(x)

    where T are the training rows and the picks so far; no labels are needed for it. It is also the greedy maximum of
    the determinant of the kernel matrix (MaxDet of Holzmueller et al., J. Mach. Learn. Res. 24, 164 (2023)). In feature
    space a pick x turns the covariance A into A - v v^T with v = A x / sqrt(lambda + s^2(x)), and s^2(y) falls by
    (y . v)^2: one vector a pick, and no kernel matrix of the pool. Ties go to the lowest index.

    Variances that decide, the vectors v and their sums are in float64; bounds of the variances of the whole pool are in
    float32 where that is enough. Memory: O(n + (min(m, d) + k) d).

    :param pool: features, shape (n, d), float32 or float64; anything that :class:`Rows` reads. Rows of norm 1 (a
        cosine-normalised kernel) make lambda a fraction of the prior variance; the paper has them so.
    :param k: picks at most.
    :param train: features of what is known, shape (m, d).
    :param weights: shape (n,), finite, >= 0: they multiply s^2, not what is known.
    :param regularisation: lambda > 0, the variance of the noise of a label; the paper's is 1e-3.
    :return: scores are w_i s^2(x_i) before the pick. A copy of a known row is never picked, nor a row that is zero or
        of weight 0; no centres.
    :raises ValueError: as :func:`read_arguments`, and for a lambda that is not above 0.
    """
    number('regularisation', regularisation, 0.0, exclusive=True)
    rows, known, w = read_arguments(pool, k, train, weights)
    if not len(rows):
        return picked([], [])
    score = VarianceScore(rows, known, regularisation, k, w)
    found = list(lazy_greedy(rows, score.bounds(), score, k, TIE))
    return picked([row for row, _ in found], [value for _, value in found])


class VarianceScore:
    """w_i s^2(x_i), for :func:`lazy_greedy`.

    The variance of a row is an upper bound until it is computed from all that is known, which only rows need that may
    be the best; either is brought up to date by subtracting what the picks since then have made known.
    """

    def __init__(
        self, rows: Rows, train: np.ndarray, regularisation: float, k: int, weights: np.ndarray | None
    ) -> None:
        self._weights, self._lambda = weights, regularisation
        self._posterior = Posterior(train, regularisation)
        self._vectors = np.empty((k, rows.d))
        self._count = 0
        self._bounds = VarianceBounds(rows, self._posterior)
        self._variance = self._bounds.before.copy()
        self._seen = np.zeros(len(rows), dtype=np.int32)
        self._exact = np.zeros(len(rows), dtype=bool)
        self._known = KnownRows()
        self._known.add(train)

    def bounds(self) -> np.ndarray:
        """Upper bounds of the scores of all rows, shape (n,)."""
        return weighted(self._variance, self._weights, slice(None)).copy()

    def refresh(self, index: np.ndarray, rows: np.ndarray, floor: float) -> np.ndarray:
        """Scores of some rows as they are now, where they are at least the floor."""
        scores = self._outdated(index, rows, floor)
        left = np.flatnonzero(scores >= floor)
        index, x = index[left], rows[left].astype(np.float64)
        self._subtract(index, x)
        scores[left] = weighted(self._variance[index], self._weights, index)
        step = FIRST_EXACT
        while True:
            exact = self._exact[index]
            floor = max(floor, scores[left[exact]].max(initial=0.0) * (1.0 - TIE))
            wanted = np.flatnonzero(~exact & (scores[left] >= floor))
            if not len(wanted):
                return scores
            if len(wanted) > step:
                wanted = wanted[np.argpartition(-scores[left[wanted]], step - 1)[:step]]
            self._compute(index[wanted], x[wanted])
            scores[left[wanted]] = weighted(self._variance[index[wanted]], self._weights, index[wanted])
            step *= 2

    def _outdated(self, index: np.ndarray, rows: np.ndarray, floor: float) -> np.ndarray:
        """Scores of some rows, with those that have not seen many picks brought below the floor if a bound is."""
        if self._count - self._bounds.count >= RENEW:
            self._bounds.renew(self._vectors[: self._count])
        scores = weighted(self._variance[index], self._weights, index).copy()
        old = np.flatnonzero(self._seen[index] < self._bounds.count)
        if len(old):
            where = index[old]
            variance = self._bounds.after(where, rows[old])
            bound = weighted(variance, self._weights, where)
            # What is computed from all that is known stays so, unless it is out of the question.
            use = (variance < self._variance[where]) & (~self._exact[where] | (bound < floor))
            where = where[use]
            self._variance[where], self._seen[where], self._exact[where] = variance[use], self._bounds.count, False
            scores[old[use]] = bound[use]
        return scores

    def _subtract(self, index: np.ndarray, x: np.ndarray) -> None:
        """Subtract what the picks have made known that these rows have not seen."""
        for places, first in by_staleness(self._seen[index], self._count):
            square = x[places] @ self._vectors[first : self._count].T
            np.square(square, out=square)
            done = self._seen[index[places]] - first
            if done.any():  # what some rows of the group had subtracted before
                square *= np.arange(self._count - first) >= done[:, None]
            self._variance[index[places]] -= square.sum(axis=1)
        self._seen[index] = self._count
        self._variance[index] = np.maximum(self._variance[index], 0.0)

    def _compute(self, index: np.ndarray, x: np.ndarray) -> None:
        """Variances from all that is known."""
        inside = x @ self._vectors[: self._count].T
        np.square(inside, out=inside)
        self._variance[index] = np.maximum(self._posterior.variance(x) - inside.sum(axis=1), 0.0)
        self._exact[index] = True

    def pick(self, index: int, row: np.ndarray) -> None:
        """Know a row from now on."""
        x = row.astype(np.float64)
        vectors = self._vectors[: self._count]
        ax = self._posterior.covariance_times(x) - (vectors @ x) @ vectors
        self._vectors[self._count] = ax / np.sqrt(self._lambda + self._variance[index])
        self._count += 1
        self._known.add(row[None])

    def is_known(self, row: np.ndarray) -> bool:
        """Whether a row is a copy of a known one."""
        return row in self._known
