"""Distances to the nearest known row while more become known."""

from __future__ import annotations

import numpy as np

from aiida_alpot.worker.acquisition.batch_selection.arguments import weighted
from aiida_alpot.worker.acquisition.batch_selection.blocks import Rows
from aiida_alpot.worker.acquisition.batch_selection.distances import TIE, squared_distances, where_at_least
from aiida_alpot.worker.acquisition.batch_selection.growing import by_staleness
from aiida_alpot.worker.acquisition.batch_selection.lazy_greedy import refresh_best
from aiida_alpot.worker.acquisition.batch_selection.nearest import near

ROUNDING = 64.0
"""Rounding in |x|^2 - 2 x.y + |y|^2 is taken for this many times eps sqrt(d) (|x|^2 + |y|^2)."""


class NearestKnown:
    """Squared distances of rows to the nearest known row: upper bounds until they are refreshed.

    :ivar distance: shape (n,), float64.
    :ivar centre: the known row at that distance, shape (n,).
    """

    def __init__(self, rows: Rows, known: np.ndarray, k: int) -> None:
        n_known, dtype = len(known), np.result_type(rows.dtype, known.dtype)
        self._rows = np.empty((n_known + k, rows.d), dtype=dtype)
        self._rows[:n_known] = known
        self._origin = known.mean(axis=0, dtype=np.float64)
        self._y = np.empty((n_known + k, rows.d))
        self._square = np.empty(n_known + k)
        self._count = 0
        self._seen = np.zeros(len(rows), dtype=np.int32)
        self.distance = np.empty(len(rows))
        self.centre = np.empty(len(rows), dtype=np.int32)
        for found in near(rows, known):
            part = slice(found.start, found.start + len(found.rows))
            self.distance[part], self.centre[part] = found.distance, found.centre
        self._append(known)

    def _append(self, known: np.ndarray) -> None:
        part = slice(self._count, self._count + len(known))
        self._rows[part] = known
        self._y[part] = known - self._origin
        self._square[part] = np.einsum('ij,ij->i', self._y[part], self._y[part])
        self._count = part.stop

    def add(self, row: np.ndarray) -> None:
        """Know a row, shape (d,), from now on."""
        self._append(row[None])

    def farthest(self, rows: Rows, members: np.ndarray, weights: np.ndarray | None) -> tuple[int, float] | None:
        """Row of the largest w_i times squared distance among some, the first of equal ones, and that number.

        :param members: places of rows in increasing order, shape (b,).
        :return: ``None`` where all are 0.
        """
        bound = weighted(self.distance[members], weights, members).copy()
        fresh = np.zeros(len(members), dtype=bool)

        def scores(places: np.ndarray, floor: float) -> np.ndarray:
            index = members[places]
            return weighted(self.refresh(index, rows.take(index)), weights, index)

        refresh_best(bound, fresh, scores, 1.0 - TIE)
        best = bound[fresh].max(initial=0.0)
        if best <= 0.0:
            return None
        first = int(np.flatnonzero(fresh & (bound >= best * (1.0 - TIE)))[0])
        return int(members[first]), float(bound[first])

    def refresh(self, index: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Distances of some rows, shape (b,), to the nearest known one, up to date.

        :param index: their places, shape (b,).
        :param rows: their features, shape (b, d).
        """
        x = rows - self._origin
        square = np.einsum('ij,ij->i', x, x)
        for places, first in by_staleness(self._seen[index], self._count):
            self._compare(index[places], rows[places], x[places], square[places], first)
        self._seen[index] = self._count
        return self.distance[index]

    def _compare(self, index: np.ndarray, rows: np.ndarray, x: np.ndarray, square: np.ndarray, first: int) -> None:
        """Compare some rows with the known ones from the first on."""
        y, y_square = self._y[first : self._count], self._square[first : self._count]
        product = x @ y.T
        product -= 0.5 * y_square  # |x - y|^2 = |x|^2 - 2 product
        error = ROUNDING * np.finfo(float).eps * np.sqrt(len(self._origin)) * (square + y_square.max())
        limit = np.minimum(square - 2.0 * product.max(axis=1) + error, self.distance[index]) + error
        which, other = where_at_least(product, 0.5 * (square - limit))
        if not len(which):
            return
        pairs = squared_distances(rows, self._rows, which, other + first)
        least = np.full(len(index), np.inf)
        np.minimum.at(least, which, pairs)
        # In the order of the centres, so that the first of those at the same distance is found first.
        tied = np.flatnonzero(pairs <= least[which] * (1.0 + TIE))
        row, position = np.unique(which[tied], return_index=True)
        distance, centre = pairs[tied[position]], other[tied[position]] + first
        # What was never compared has a bound, not a distance.
        better = (distance < self.distance[index[row]] * (1.0 - TIE)) | (self._seen[index[row]] == 0)
        self.distance[index[row[better]]] = distance[better]
        self.centre[index[row[better]]] = centre[better]
