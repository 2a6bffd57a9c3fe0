"""Rows in clusters around known rows, kept up to date as more become known."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from aiida_alpot.worker.acquisition.batch_selection.arguments import weighted
from aiida_alpot.worker.acquisition.batch_selection.blocks import Rows
from aiida_alpot.worker.acquisition.batch_selection.distances import TIE, squared_distances, where_at_least
from aiida_alpot.worker.acquisition.batch_selection.look_ahead import likely_picks
from aiida_alpot.worker.acquisition.batch_selection.nearest import COORDINATES, Bounds, cheapest, nearest

COORDINATE_BYTES = 256 * 10**6
BATCH = 64
TILE_ROWS = 4096
GATHER_BYTES = 8 * 2**20
MAX_LISTED = 4_000_000
"""Rows in all lists together, at most: 16 MB."""
MASS_ROUNDING = 1e-11
"""Bound of the rounding in a mass that was updated thousands of times, as a fraction of the largest it ever was."""


class Clusters:
    """Every row belongs to the nearest known row, of equally near ones to the first.

    Rows at distance 0 of a known one, and rows of weight 0, add nothing to a mass and are never the farthest.

    Which rows a new centre takes over is found in two steps: a product of matrices with the coordinates of
    :class:`Bounds` leaves a short list, and the distances of these decide. Since the distance of a row to its centre
    only falls, a list that was made earlier is at worst longer than it need be; so lists are made in one product for
    many likely centres, the farthest rows of the heaviest clusters.

    :param known: centres, shape (m, d), m >= 1.
    :param weights: shape (n,), finite, >= 0, or ``None``: all are 1.
    """

    def __init__(self, rows: Rows, known: np.ndarray, weights: np.ndarray | None) -> None:
        self._rows, self._weights = rows, weights
        self._bounds = self._choose(known)
        self._left: np.ndarray | None = None
        self._limit: np.ndarray = np.empty(len(rows), dtype=self._bounds.projection.dtype)
        self._square = np.empty(len(rows))
        self._centre = np.empty(len(rows), dtype=np.int32)
        self._assign(known)
        self._mass = np.bincount(self._centre, weighted(self._square, weights, slice(None)), len(known))
        self._most = self._mass.copy()
        self._lists: dict[int, np.ndarray] = {}

    def _choose(self, known: np.ndarray) -> Bounds:
        """Coordinates that fit into :data:`COORDINATE_BYTES`, or all features, which are read again every time."""
        sizes = []
        for dtype in (np.float32, np.float64):
            most = COORDINATE_BYTES // (max(1, len(self._rows)) * np.dtype(dtype).itemsize) - 3
            sizes += [(p, dtype) for p in sorted({min(COORDINATES[0], most), self._rows.d}) if p > 0]
        return cheapest(self._rows, known, sizes)

    def _assign(self, known: np.ndarray) -> None:
        """Centres of all rows, and their coordinates where these are kept."""
        bounds = self._bounds
        right = bounds.of_centres(known)
        if bounds.projection.p < self._rows.d:
            self._left = np.empty((len(self._rows), bounds.columns), dtype=right.dtype)
        for start, stop, block in self._rows.blocks():
            left, self._limit[start:stop] = bounds.of_rows(block)
            if self._left is not None:
                self._left[start:stop] = left
            near = nearest(block, left, self._limit[start:stop], known, right)
            self._square[start:stop], self._centre[start:stop] = near.distance, near.centre

    def heaviest(self) -> tuple[int, int, float] | None:
        """Cluster of the largest mass (the first of equal ones), its farthest row (likewise) and w_i |x_i - c|^2 of
        that; ``None``: all masses are 0."""
        while True:
            top = int(self._mass.argmax())
            rivals = np.flatnonzero(self._mass + MASS_ROUNDING * self._most >= self._mass[top])
            if len(rivals) > 1 or self._mass[top] < 0.5 * self._most[top]:
                for rival in rivals:
                    self._weigh(int(rival))
            largest = self._mass[rivals].max()
            if largest < self._mass.max():
                continue
            if largest <= 0.0:
                return None
            cluster = int(rivals[np.flatnonzero(self._mass[rivals] >= largest * (1.0 - TIE))[0]])
            return cluster, *self._farthest(cluster)

    def _weigh(self, cluster: int) -> None:
        """Mass of a cluster, from its rows."""
        members = np.flatnonzero(self._centre == cluster)
        self._mass[cluster] = weighted(self._square[members], self._weights, members).sum()
        self._most[cluster] = self._mass[cluster]

    def _farthest(self, cluster: int) -> tuple[int, float]:
        members = np.flatnonzero(self._centre == cluster)
        scores = weighted(self._square[members], self._weights, members)
        place = int(np.flatnonzero(scores >= scores.max() * (1.0 - TIE))[0])
        return int(members[place]), float(scores[place])

    def add(self, row: int) -> None:
        """Make a row a centre: it takes over what is nearer to it than to its own."""
        if row not in self._lists:
            self._make_lists(row)
        candidates = self._lists.pop(row)
        z = self._rows.take(np.array([row]))[0]
        new = len(self._mass)
        self._mass = np.append(self._mass, 0.0)
        self._most = np.append(self._most, 0.0)
        step = max(64, GATHER_BYTES // (self._rows.d * self._rows.dtype.itemsize))
        for start in range(0, len(candidates), step):
            self._take_over(candidates[start : start + step], z, new)
        self._most[new] = self._mass[new]

    def _take_over(self, candidates: np.ndarray, z: np.ndarray, new: int) -> None:
        square = squared_distances(self._rows.take(candidates), z)
        nearer = square < self._square[candidates] * (1.0 - TIE)
        taken, square = candidates[nearer], square[nearer]
        lost = weighted(self._square[taken], self._weights, taken)
        self._mass -= np.bincount(self._centre[taken], lost, len(self._mass))
        self._mass[new] += weighted(square, self._weights, taken).sum()
        self._square[taken], self._centre[taken] = square, new

    def _make_lists(self, row: int) -> None:
        """Rows that may be nearer to a new centre than to their own, for this and for other likely ones.

        Where these are so many that they would take much memory, only for this one.
        """
        lists = self._find(self._likely(row), MAX_LISTED)
        self._lists.update(lists or self._find([row], None) or {})
        listed = sum(map(len, self._lists.values()))
        for other in list(self._lists):  # the oldest first
            if listed <= MAX_LISTED or other == row:
                break
            listed -= len(self._lists.pop(other))

    def _find(self, centres: list[int], most: int | None) -> dict[int, np.ndarray] | None:
        """Rows that may be nearer to each of some rows than to their own centre; ``None`` where they are too many."""
        right = self._bounds.of_centres(self._rows.take(np.array(centres)))
        found: list[tuple[np.ndarray, np.ndarray]] = []
        total = 0
        for start, stop, left in self._lefts():
            threshold = 0.5 * (self._limit[start:stop] - self._square[start:stop])
            which, place = where_at_least(left @ right.T, threshold)
            found.append((which.astype(np.int32) + np.int32(start), place.astype(np.uint8)))
            total += len(which)
            if most is not None and total > most:
                return None
        which, place = (np.concatenate(part) for part in zip(*found, strict=True))
        order = np.argsort(place, kind='stable')
        ends = np.cumsum(np.bincount(place, minlength=len(centres)))[:-1]
        return dict(zip(centres, np.split(which[order], ends), strict=True))

    def _lefts(self) -> Iterator[tuple[int, int, np.ndarray]]:
        """Left factors of the bounds of all rows, in blocks."""
        if self._left is None:
            for start, stop, block in self._rows.blocks():
                yield start, stop, self._bounds.of_rows(block)[0]
            return
        for start in range(0, len(self._left), TILE_ROWS):
            stop = min(start + TILE_ROWS, len(self._left))
            yield start, stop, self._left[start:stop]

    def _likely(self, row: int) -> list[int]:
        """This row and others that are likely to become centres soon."""
        coordinates = self._bounds.projection.p + 1

        def of_rows(index: np.ndarray) -> np.ndarray:
            left = self._bounds.of_rows(self._rows.take(index))[0] if self._left is None else self._left[index]
            return left[:, :coordinates]

        likely = likely_picks(self._mass, self._weights, self._square, self._centre, of_rows, BATCH)
        return [row, *(other for other in likely if other != row and other not in self._lists)][:BATCH]
