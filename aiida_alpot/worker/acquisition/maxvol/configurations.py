"""MaxVol as a batch selection: configurations that enlarge the volume of what is known the most."""

from __future__ import annotations

from typing import Any

import numpy as np

from aiida_alpot.worker.acquisition.batch_selection.arguments import read_arguments
from aiida_alpot.worker.acquisition.batch_selection.blocks import Rows
from aiida_alpot.worker.acquisition.batch_selection.known import KnownRows
from aiida_alpot.worker.acquisition.batch_selection.lazy_greedy import lazy_greedy
from aiida_alpot.worker.acquisition.batch_selection.picked import Picked, picked
from aiida_alpot.worker.acquisition.maxvol.exchange import Seats
from aiida_alpot.worker.acquisition.maxvol.passes import RowReductions, norm
from aiida_alpot.worker.acquisition.maxvol.search import Search, norms_of
from aiida_alpot.worker.acquisition.maxvol.shrinking import ShrinkingNorm
from aiida_alpot.worker.acquisition.maxvol.span import Span
from aiida_alpot.worker.acquisition.maxvol.square import TOLERANCE, WholeSearch


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
    :param tolerance: largest coefficient that is left, at least 1.
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
        matrix, limit, dtype = self._distances()
        score = ShrinkingNorm(self.rows, matrix, self.weights, self._known([]), exact=True, dtype=dtype)
        for row, square in lazy_greedy(self.rows, score.bounds(), score, self.k + 1):
            if not square > limit**2:
                return True
            if len(self.scores) == self.k:
                return False
            self.scores[row] = float(np.sqrt(square))
        return True

    def _distances(self) -> tuple[np.ndarray, float, np.dtype]:
        """Matrix T with the distance |x T| of a row from the span of the training rows, where step 1 ends, and in what
        bounds of distances are computed."""
        span = Span.of(Rows(self.train, 'train')) if len(self.train) else None
        if span is None or span.rank == 0:
            span = Span.of(self.rows)
            typical = span.floor / span.relative_tolerance or 1.0
            return np.diag(1.0 / span.scale) / typical, span.relative_tolerance, self.rows.dtype
        for _ in self.rows.blocks():
            pass  # all of them finite?
        distance = RowReductions(span.complement, [(norm, span.complement.shape[1])], np.float64).of(self.train)[0]
        return span.complement / max(float(distance.max()), span.floor), self.tolerance, np.dtype(np.float64)

    def _swap_and_add(self) -> None:
        """Steps 2 and 3, from the square active set of what is known."""
        chosen = np.array(list(self.scores), dtype=np.int64)
        features = np.concatenate([self.train, self._weighted(chosen)])
        if not features.any():  # neither training rows nor picks
            return
        known = WholeSearch(Rows(features, 'train'), None)
        known.search.converge(self.tolerance)
        ids = np.concatenate([np.arange(-len(self.train), 0), chosen])[known.search.seats.ids]
        locked = np.setdiff1d(chosen, ids)
        seats = Seats(ids, known.search.seats.coordinates, self.k - len(locked))
        dtype = self._swap(seats, known.span, self._known(locked.tolist()))
        kept = set(seats.ids.tolist()) | set(locked.tolist())
        self.scores = {row: score for row, score in self.scores.items() if row in kept and row not in seats.gain}
        self.scores.update(seats.gain)
        self._add(known.span.whitening @ seats.inverse, dtype)

    def _swap(self, seats: Seats, span: Span, known: KnownRows) -> np.dtype:
        """Step 2, and in what coefficients may be computed.

        :param span: of what is known.
        :param known: rows of which no copy may take a seat.
        """
        in_single = self.rows.dtype == np.float32 and span.rank == self.rows.d
        norms = norms_of(self.rows, span.whitening @ seats.inverse, np.float32 if in_single else np.float64)
        if self.weights is not None:
            norms = norms * self.weights
        search = Search(self.rows, span.whitening, seats, norms, in_single=in_single, weights=self.weights, known=known)
        search.converge(self.tolerance)
        return search.dtype

    def _add(self, matrix: np.ndarray, dtype: np.dtype) -> None:
        """Step 3."""
        picks = list(self.scores)
        score = ShrinkingNorm(self.rows, matrix, self.weights, self._known(picks), exact=False, dtype=dtype)
        bound = score.bounds()
        bound[picks] = -np.inf
        for row, square in lazy_greedy(self.rows, bound, score, self.k - len(picks)):
            self.scores[row] = float(np.sqrt(square))
