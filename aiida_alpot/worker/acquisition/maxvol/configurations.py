"""MaxVol as a batch selection: configurations that enlarge the volume of what is known the most."""

from __future__ import annotations

from typing import Any

import numpy as np

from aiida_alpot.worker.acquisition.batch_selection.arguments import read_arguments
from aiida_alpot.worker.acquisition.batch_selection.blocks import Rows
from aiida_alpot.worker.acquisition.batch_selection.known import KnownRows
from aiida_alpot.worker.acquisition.batch_selection.lazy_greedy import lazy_greedy
from aiida_alpot.worker.acquisition.batch_selection.picked import Picked, picked
from aiida_alpot.worker.acquisition.maxvol.exchange import Seats, settle
from aiida_alpot.worker.acquisition.maxvol.passes import RowReductions, largest, norm
from aiida_alpot.worker.acquisition.maxvol.shrinking import ShrinkingNorm
from aiida_alpot.worker.acquisition.maxvol.span import Span
from aiida_alpot.worker.acquisition.maxvol.square import MAX_PASSES, TOLERANCE, Search

CANDIDATES = 20
"""Rows that a pass adds to those that are swapped, as a multiple of the rank."""


def maxvol_configurations(
    pool: Any, k: int, train: Any = None, *, weights: Any = None, tolerance: float = TOLERANCE
) -> Picked:
    """Batch of (locally) maximal volume together with what is known.

    Features are of whole configurations (means over atoms, say). Three steps, until there are ``k`` picks:

    1. **New directions**: the row farthest from the span of the training rows and the picks, again and again (QR with
       pivoting). Its score is that distance in units of the largest distance of a training row, until it is at most
       the tolerance; without training rows in units of the typical row, until it is rounding (see :class:`Span`).
    2. **Swaps**: with the square active set of the training rows and the picks, rows of the pool take the place of the
       active row in which they have the largest coefficient (MaxVol, see :func:`settle`), until no coefficient exceeds
       the tolerance; never more than ``k`` rows of the pool at a time. Their score is the coefficient: the factor by
       which the volume grew. A pick of step 1 that loses its place is no pick.
    3. **Additions** as in :func:`rectangular_maxvol`: the row whose coefficients have the largest norm, which is its
       score. Ties go to the lowest index.

    Where step 1 ends with ``k`` picks and directions left, the picks are its pivots.

    :param pool: shape (n, d), float32 or float64; anything that :class:`Rows` reads.
    :param k: picks at most.
    :param train: shape (m, d).
    :param weights: shape (n,), finite, >= 0: rows of the pool are multiplied by them, divided by the largest one. So a
        row of the largest weight counts like a training row.
    :return: no centres. No row that is zero, has weight 0 or is a copy of a known one.
    :raises ValueError: as :func:`read_arguments`.
    """
    rows, known, w = read_arguments(pool, k, train, weights)
    if w is not None:
        w = w / max(float(w.max(initial=0.0)), np.finfo(float).tiny)
    if not len(rows):
        return picked([], [])
    return _Batch(rows, known, w, k, tolerance).run()


class _Batch:
    """The picks so far: index -> score, in order."""

    def __init__(self, rows: Rows, train: np.ndarray, weights: np.ndarray | None, k: int, tolerance: float) -> None:
        self.rows, self.train, self.weights, self.k, self.tolerance = rows, train, weights, k, tolerance
        self.scores: dict[int, float] = {}

    def run(self) -> Picked:
        """All steps."""
        if self._add_new_directions():
            self._swap_and_add()
        return picked(list(self.scores), list(self.scores.values()))

    def _known(self, picks: list[int]) -> KnownRows:
        """Training rows and some picks."""
        known = KnownRows()
        known.add(self.train)
        known.add(self.rows.take(np.array(picks, dtype=np.int64)))
        return known

    def _weighted(self, index: np.ndarray) -> np.ndarray:
        """Rows times their weights, float64, shape (len(index), d)."""
        features = self.rows.take(index).astype(np.float64)
        return features if self.weights is None else features * self.weights[index, None]

    def _add_new_directions(self) -> bool:
        """Step 1; whether no direction is left."""
        matrix, limit = self._distances()
        score = ShrinkingNorm(self.rows, matrix, self.weights, self._known([]), exact=True)
        for row, square in lazy_greedy(self.rows, score.bounds(), score, self.k + 1):
            if not square > limit**2:
                return True
            if len(self.scores) == self.k:
                return False
            self.scores[row] = float(np.sqrt(square))
        return True

    def _distances(self) -> tuple[np.ndarray, float]:
        """Matrix T with the distance |x T| of a row from the span of the training rows, and where step 1 ends."""
        span = Span.of(Rows(self.train, 'train')) if len(self.train) else None
        if span is None or span.rank == 0:
            span = Span.of(self.rows)
            typical = span.floor / span.relative_tolerance or 1.0
            return np.diag(1.0 / span.scale) / typical, span.relative_tolerance
        for _ in self.rows.blocks():
            pass  # all of them finite?
        distance = RowReductions(span.complement, [(norm, span.complement.shape[1])], np.float64).of(self.train)[0]
        return span.complement / max(float(distance.max()), span.floor), self.tolerance

    def _swap_and_add(self) -> None:
        """Steps 2 and 3, from the square active set of what is known."""
        chosen = np.array(list(self.scores), dtype=np.int64)
        features = np.concatenate([self.train, self._weighted(chosen)])
        if not features.any():
            return
        search = Search(Rows(features, 'train'), None)
        search.converge(self.tolerance)
        ids = np.concatenate([np.arange(-len(self.train), 0), chosen])[search.seats.ids]
        locked = np.setdiff1d(chosen, ids)
        seats = Seats(ids, search.seats.coordinates, self.k - len(locked))
        self._swap(seats, search.span.whitening, self._known(locked.tolist()))
        kept = set(seats.ids.tolist()) | set(locked.tolist())
        self.scores = {row: score for row, score in self.scores.items() if row in kept and row not in seats.gain}
        self.scores.update(seats.gain)
        self._add(search.span.whitening @ seats.inverse)

    def _swap(self, seats: Seats, whitening: np.ndarray, known: KnownRows) -> None:
        """Step 2: MaxVol over the pool, a few per cent of it in memory."""
        barred = np.zeros(len(self.rows), dtype=bool)
        candidates = np.empty(0, dtype=np.int64)
        for _ in range(MAX_PASSES):
            grade = self._largest_coefficients((whitening @ seats.inverse)[:, seats.open])
            grade[barred] = 0.0
            violating = np.flatnonzero(grade > self.tolerance)
            new = violating[np.argsort(-grade[violating], kind='stable')[: CANDIDATES * len(seats)]]
            copies = np.array([row in known for row in self.rows.take(new)], dtype=bool)
            barred[new[copies]] = True
            candidates = np.union1d(candidates, new[~copies])
            swaps = settle(seats, candidates, self._weighted(candidates) @ whitening, self.tolerance)
            if not swaps and not copies.any():
                return

    def _largest_coefficients(self, matrix: np.ndarray) -> np.ndarray:
        """Largest coefficient of each row of the pool, shape (n,), in the active rows whose columns these are."""
        grade = RowReductions(matrix, [(largest, matrix.shape[1])], np.float64).over(self.rows)[0]
        return grade if self.weights is None else grade * self.weights

    def _add(self, matrix: np.ndarray) -> None:
        """Step 3."""
        picks = list(self.scores)
        score = ShrinkingNorm(self.rows, matrix, self.weights, self._known(picks), exact=False)
        bound = score.bounds()
        bound[picks] = -np.inf
        for row, square in lazy_greedy(self.rows, bound, score, self.k - len(picks)):
            self.scores[row] = float(np.sqrt(square))
