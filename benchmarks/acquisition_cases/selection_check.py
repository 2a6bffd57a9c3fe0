"""Whether picks are those of the definitions, in float64: one pass over the pool, written apart from the package.

That row p_t is the best at step t is checked for all steps at once: the known rows of every step are the training rows
and the picks before it, so that running minima and sums over the columns of one matrix per block give the scores of all
rows at all steps.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.linalg import solve_triangular

BLOCK = 512
ROUNDING = 1e-9
"""A score may exceed that of a pick by this fraction: rounding of products in float64."""


def check(rule: str, pool: Any, train: np.ndarray, index: np.ndarray, regularisation: float) -> dict[str, Any]:
    """Largest fraction by which any row exceeds the pick of its step, and whether all picks hold.

    :param pool: shape (n, d); sliced in blocks.
    """
    known = np.concatenate([train, pool[np.sort(index)][np.argsort(np.argsort(index))]]).astype(np.float64)
    steps = {'k_center': _KCenter, 'lcmd': _Lcmd, 'posterior_variance': _PosteriorVariance}[rule]
    state = steps(known, len(train), index, regularisation)
    for start in range(0, len(pool), BLOCK):
        state.add(start, np.asarray(pool[start : start + BLOCK], dtype=np.float64))
    excess = state.excess()
    return {'largest_excess': float(excess.max()), 'holds': bool(excess.max() <= ROUNDING)}


class _Steps:
    def __init__(self, known: np.ndarray, m: int, index: np.ndarray, regularisation: float) -> None:
        self.m, self.k, self.index = m, len(index), index
        self.origin = known[:m].mean(axis=0)
        self.known = known
        self.y = known - self.origin
        self.y_square = (self.y**2).sum(axis=1)
        self.regularisation = regularisation
        self.place = {int(row): t for t, row in enumerate(index)}
        self.prepare()

    def prepare(self) -> None:
        """What depends on the known rows only."""

    def distances(self, block: np.ndarray) -> np.ndarray:
        """Squared distances to the nearest of the first m + t known rows, shape (b, k), t = 0 ... k - 1."""
        x = block - self.origin
        square = (x**2).sum(axis=1)[:, None] - 2.0 * (x @ self.y.T) + self.y_square
        self.all = square
        first = square[:, : self.m].min(axis=1, keepdims=True)
        return np.minimum.accumulate(np.concatenate([first, square[:, self.m : -1]], axis=1), axis=1)

    def picks_in(self, start: int, n: int) -> list[tuple[int, int]]:
        """Places in a block and steps of the picks that lie in it."""
        return [(int(row) - start, t) for row, t in self.place.items() if start <= row < start + n]


class _KCenter(_Steps):
    def prepare(self) -> None:
        self.best, self.own = np.full(self.k, -np.inf), np.full(self.k, np.nan)

    def add(self, start: int, block: np.ndarray) -> None:
        scores = self.distances(block)
        for row, t in self.picks_in(start, len(block)):
            self.own[t] = scores[row, t]
        self.best = np.maximum(self.best, scores.max(axis=0))

    def excess(self) -> np.ndarray:
        return self.best / self.own - 1.0


class _PosteriorVariance(_KCenter):
    def prepare(self) -> None:
        super().prepare()
        kernel = self.known @ self.known.T
        kernel[np.diag_indices_from(kernel)] += self.regularisation
        self.factor = np.linalg.cholesky(kernel)

    def distances(self, block: np.ndarray) -> np.ndarray:
        inside = solve_triangular(self.factor, self.known @ block.T, lower=True, check_finite=False).T ** 2
        before = (block**2).sum(axis=1) - inside[:, : self.m].sum(axis=1)
        return before[:, None] - np.concatenate(
            [np.zeros((len(block), 1)), np.cumsum(inside[:, self.m : -1], axis=1)], axis=1
        )

    def add(self, start: int, block: np.ndarray) -> None:
        scores = self.distances(block)
        for row, t in self.picks_in(start, len(block)):
            self.own[t] = scores[row, t]
            scores[row, t + 1 :] = -np.inf
        self.best = np.maximum(self.best, scores.max(axis=0))


class _Lcmd(_Steps):
    def prepare(self) -> None:
        self.mass = np.zeros((self.k, self.m + self.k))
        self.best, self.own = np.full(self.k, -np.inf), np.full(self.k, np.nan)
        x = self.known[self.m :]
        scores = self.distances(x)
        centre = self.centres(scores)
        steps = np.arange(self.k)
        self.chosen, self.own = centre[steps, steps], scores[steps, steps]

    def centres(self, scores: np.ndarray) -> np.ndarray:
        """Nearest known row at each step, shape (b, k)."""
        changed = np.zeros(scores.shape, dtype=np.int32)
        changed[:, 1:] = np.where(scores[:, 1:] < scores[:, :-1], self.m + np.arange(self.k - 1), 0)
        changed[:, 0] = self.all[:, : self.m].argmin(axis=1)
        # Picks are numbered above training rows, so that the last change is the largest number.
        return np.maximum.accumulate(changed, axis=1)

    def add(self, start: int, block: np.ndarray) -> None:
        scores = np.maximum(self.distances(block), 0.0)
        centre = self.centres(scores)
        flat = (np.arange(self.k) * self.mass.shape[1] + centre).ravel()
        self.mass += np.bincount(flat, scores.ravel(), self.mass.size).reshape(self.mass.shape)
        self.best = np.maximum(self.best, np.where(centre == self.chosen, scores, 0.0).max(axis=0))

    def excess(self) -> np.ndarray:
        steps = np.arange(self.k)
        heaviest = self.mass.max(axis=1) / self.mass[steps, self.chosen] - 1.0
        return np.maximum(heaviest, self.best / self.own - 1.0)
