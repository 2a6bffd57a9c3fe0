"""Greedy picks by a score that only decreases as more becomes known."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np

from aiida_alpot.worker.acquisition.batch_selection.blocks import Rows
from aiida_alpot.worker.acquisition.batch_selection.distances import TIE

HOT_BYTES = 32 * 2**20
HOT_ROWS = (1024, 16384)
FIRST_BATCH = 32
LAST_BATCH = 1024


class DecreasingScore(Protocol):
    """A score of rows that can only be lowered by what becomes known."""

    def refresh(self, index: np.ndarray, rows: np.ndarray, floor: float) -> np.ndarray:
        """Scores of some rows as they are now, float64, shape (b,).

        :param index: their places in the pool, shape (b,).
        :param rows: their features, shape (b, d).
        :param floor: a score below it may be given as an upper bound that is below it too.
        """

    def pick(self, index: int, row: np.ndarray) -> None:
        """Know this row, shape (d,), from now on."""

    def is_known(self, row: np.ndarray) -> bool:
        """Whether a row that would be picked equals one that is known."""


def lazy_greedy(
    rows: Rows, bound: np.ndarray, score: DecreasingScore, k: int, tie: float = TIE
) -> Iterator[tuple[int, float]]:
    """Rows and their scores, each the row of the largest score at that time; of equal ones the first.

    A score that was computed earlier is an upper bound of what it is now. So only rows whose bounds exceed the best
    score so far are computed again: a few in place of the whole pool, with the same result. The rows with the largest
    bounds are kept at hand (the hot ones) until the best of them falls below the bounds of all others.

    :param rows: the pool.
    :param bound: upper bounds of the scores of all rows, float64, shape (n,); it is written to. No row whose score is 0
        or less is picked.
    :param k: picks at most.
    :param tie: scores that differ by less than this fraction are equal: above their rounding, below what they mean.
    """
    hot = _Hot(rows, bound, score, tie)
    for _ in range(k):
        found = hot.best()
        if found is None:
            return
        index, row, value = found
        score.pick(index, row)
        hot.leave_out(index)
        yield index, value


def refresh_best(
    bound: np.ndarray, fresh: np.ndarray, scores: Callable[[np.ndarray, float], np.ndarray], equal: float
) -> None:
    """Compute scores, those of the largest bounds first, until none that is left can be the largest.

    :param bound: upper bounds of the scores, shape (c,); what is computed is put in place.
    :param fresh: whether each is the score itself, shape (c,); likewise.
    :param scores: function of places that gives their scores, or bounds below the floor that it is given.
    :param equal: scores above this fraction of the largest are as large as it: they are computed too.
    """
    batch = FIRST_BATCH
    while True:
        best = bound[fresh].max(initial=0.0)
        reach = np.flatnonzero(~fresh & (bound >= best * equal) & (bound > 0.0))
        if not len(reach):
            return
        if len(reach) > batch:
            reach = reach[np.argpartition(-bound[reach], batch - 1)[:batch]]
        bound[reach] = np.minimum(scores(reach, best * equal), bound[reach])
        fresh[reach] = True
        batch = min(2 * batch, LAST_BATCH)


class _Hot:
    """The rows with the largest bounds, and the bounds of all."""

    def __init__(self, rows: Rows, bound: np.ndarray, score: DecreasingScore, tie: float) -> None:
        self._rows, self._all, self._score = rows, bound, score
        self._equal = 1.0 - tie
        self._size = int(np.clip(HOT_BYTES // max(1, rows.d * rows.dtype.itemsize), *HOT_ROWS))
        self._take(np.empty(0, dtype=np.int64))
        self._load()

    def best(self) -> tuple[int, np.ndarray, float] | None:
        """Place in the pool, features and score of the row to be picked next; ``None``: there is none."""
        while True:
            self._refresh()
            top = float(self._bound.max(initial=0.0))
            if max(top, self._others) <= 0.0:
                return None
            if top < self._others * self._equal:
                self._load()
                continue
            place = int(np.flatnonzero(self._bound >= top * self._equal)[0])
            if self._score.is_known(self._features[place]):
                self._bound[(self._features == self._features[place]).all(axis=1)] = -np.inf
                self._fresh[:] = False  # others were only known to be below this one
                continue
            index, row, value = int(self._index[place]), self._features[place], float(self._bound[place])
            if top * self._equal > self._others:
                return index, row, value
            return self._earlier(index, top) or (index, row, value)

    def leave_out(self, index: int) -> None:
        """Pick this row no more; the scores of all others are out of date."""
        self._all[index] = -np.inf
        self._bound[self._index == index] = -np.inf
        self._fresh[:] = False

    def _load(self) -> None:
        """Make the rows with the largest bounds the hot ones, the first of equal bounds, in the order of the pool."""
        self._all[self._index] = self._bound
        n = len(self._all)
        self._others = -np.inf
        index = np.arange(n)
        if n > self._size:
            self._others = float(np.partition(self._all, n - self._size - 1)[n - self._size - 1])
            above = np.flatnonzero(self._all > self._others)
            equal = np.flatnonzero(self._all == self._others)[: self._size - len(above)]
            index = np.sort(np.concatenate([above, equal]))
        self._take(index)

    def _take(self, index: np.ndarray) -> None:
        """Make these the hot rows."""
        self._index = index
        self._bound = self._all[index]
        self._features = self._rows.take(index)
        self._fresh = np.zeros(len(index), dtype=bool)

    def _refresh(self) -> None:
        """Scores of those hot rows that may be the best."""

        def scores(places: np.ndarray, floor: float) -> np.ndarray:
            return self._score.refresh(self._index[places], self._features[places], floor)

        refresh_best(self._bound, self._fresh, scores, self._equal)

    def _earlier(self, index: int, top: float) -> tuple[int, np.ndarray, float] | None:
        """The first row before this one that is not hot and whose score equals the top, if there is one."""
        self._all[self._index] = -np.inf
        tied = np.flatnonzero(self._all[:index] >= top * self._equal)
        self._all[self._index] = self._bound
        for start in range(0, len(tied), LAST_BATCH):
            part = tied[start : start + LAST_BATCH]
            features = self._rows.take(part)
            self._all[part] = np.minimum(self._score.refresh(part, features, top * self._equal), self._all[part])
            for place in np.flatnonzero(self._all[part] >= top * self._equal):
                if not self._score.is_known(features[place]):
                    return int(part[place]), features[place], float(self._all[part[place]])
                self._all[part[place]] = -np.inf
        return None
