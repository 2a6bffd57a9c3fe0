"""The nearest of some centres to every row, without all the distances."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from aiida_alpot.worker.acquisition.batch_selection.blocks import Rows
from aiida_alpot.worker.acquisition.batch_selection.distances import TIE, squared_distances, where_at_least
from aiida_alpot.worker.acquisition.batch_selection.projection import Projection, even_sample

COORDINATES = (61, 128)
TILE_ROWS = 512
TILE_CENTRES = 2048
TRIAL_ROWS = 1024
PAIR_COST = 60.0
"""A product inside a distance of one pair takes as long as so many inside a product of matrices."""


class Bounds:
    """Lower bounds of the distances of rows to centres.

    In the coordinates of a :class:`Projection`, |x - c|^2 >= |y|^2 - 2 s with

        s = (W^T y) . (W^T c) + rho rho' - |c|^2 / 2

    enlarged by the rounding; s is a product of matrices, :meth:`of_rows` times the transposed :meth:`of_centres`.
    """

    def __init__(self, projection: Projection) -> None:
        self.projection = projection
        self.columns = projection.p + 3

    def of_rows(self, block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Left factor, shape (b, columns), and |y|^2 less its rounding, shape (b,)."""
        coordinates, square = self.projection.coordinates(block)
        columns = [coordinates, np.ones((len(block), 1)), np.sqrt(square)[:, None]]
        left: np.ndarray = np.concatenate(columns, axis=1, dtype=self.projection.dtype, casting='same_kind')
        return left, square * (1.0 - self.projection.error)

    def of_centres(self, centres: np.ndarray) -> np.ndarray:
        """Right factor, shape (m, columns)."""
        coordinates, square = self.projection.coordinates(centres)
        error = self.projection.error
        columns = [coordinates, (error - 0.5 * (1.0 - error)) * square[:, None], error * np.sqrt(square)[:, None]]
        return np.concatenate(columns, axis=1, dtype=self.projection.dtype, casting='same_kind')

    def work(self, m: int, n_pairs: float) -> float:
        """Products that a row costs, in units of those of float32 in a large matrix product.

        :param m: number of centres.
        :param n_pairs: distances that are computed in full.
        """
        d = self.projection.d
        products = self.columns * m + (0 if self.projection.p == d else self.projection.p * d)
        return products * (1.0 if self.projection.dtype is np.float32 else 2.0) + PAIR_COST * n_pairs * d

    def count(self, block: np.ndarray, centres: np.ndarray) -> float:
        """How many distances a row needs on average."""
        left, limit = self.of_rows(block)
        s = left @ self.of_centres(centres).T
        best = squared_distances(block, centres, y_index=s.argmax(axis=1))
        threshold = (0.5 * (limit - best * (1.0 + TIE))).astype(s.dtype)
        return np.count_nonzero(s >= threshold[:, None]) / max(1, len(block))


@dataclass(frozen=True)
class Near:
    """A centre for each row of a block.

    :param start: first row of the block.
    :param rows: the block itself, shape (b, d).
    :param centre: place of a centre, shape (b,).
    :param distance: squared distance to it, float64, shape (b,).
    """

    start: int
    rows: np.ndarray
    centre: np.ndarray
    distance: np.ndarray


def cheapest(rows: Rows, centres: np.ndarray, sizes: Iterable[tuple[int, type]] | None = None) -> Bounds:
    """Bounds with as many coordinates, and as precise, as make the least work on a sample.

    What is computed with them does not depend on the choice.

    :param centres: shape (m, d), m >= 1.
    :param sizes: numbers of coordinates and precisions to choose from; more than d are d.
    """
    if sizes is None:
        sizes = [(p, dtype) for dtype in (np.float32, np.float64) for p in (*COORDINATES, rows.d)]
    sample, trial = even_sample(rows), even_sample(rows, TRIAL_ROWS)
    some = centres[:TILE_CENTRES]
    best: tuple[float, Bounds] | None = None
    for p, dtype in sizes:
        bounds = Bounds(Projection(sample, p, dtype))
        if best is not None and bounds.work(len(some), 1.0) >= best[0]:
            continue
        work = bounds.work(len(some), bounds.count(trial, some))
        if best is None or work < best[0]:
            best = (work, bounds)
    assert best is not None
    return best[1]


def near(rows: Rows, centres: np.ndarray) -> Iterator[Near]:
    """A centre that is near every row, most often the nearest, and an upper bound of the distance to it.

    At the price of one distance a row: an upper bound of the distance to the nearest.

    :param centres: shape (m, d), m >= 1.
    """
    bounds = Bounds(Projection(even_sample(rows), COORDINATES[0]))
    right = bounds.of_centres(centres)
    for start, _, block in rows.blocks():
        centre = np.empty(len(block), dtype=np.int64)
        for tile in _tiles(len(block)):
            centre[tile] = _smallest_bound(bounds.of_rows(block[tile])[0], right)
        yield Near(start, block, centre, _upper_bound(block, centres, centre))


def _smallest_bound(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Centre of the smallest bound of each row."""
    if len(right) <= TILE_CENTRES:
        return (left @ right.T).argmax(axis=1)
    centre, best = np.zeros(len(left), dtype=np.int64), np.full(len(left), -np.inf)
    for first in range(0, len(right), TILE_CENTRES):
        s = left @ right[first : first + TILE_CENTRES].T
        place = s.argmax(axis=1)
        value = s[np.arange(len(s)), place]
        better = value > best
        best[better], centre[better] = value[better], first + place[better]
    return centre


def _upper_bound(block: np.ndarray, centres: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Squared distances in the precision of the rows, and their rounding."""
    square = np.empty(len(block))
    step = max(32, 2**17 // max(1, block.shape[1]))
    for start in range(0, len(block), step):
        difference = block[start : start + step] - centres[centre[start : start + step]]
        square[start : start + step] = np.einsum('ij,ij->i', difference, difference)
    precision = np.finfo(np.result_type(block, centres))
    return square * (1.0 + 2.0 * (block.shape[1] + 4.0) * float(precision.eps)) + float(precision.tiny)


def nearest(block: np.ndarray, left: np.ndarray, limit: np.ndarray, centres: np.ndarray, right: np.ndarray) -> Near:
    """The nearest centre of every row of a block and its distance; of centres at the same distance, the first.

    The centre of the smallest bound is tried first, others only where their bound is below its distance.

    :param left: :meth:`Bounds.of_rows`, likewise
    :param limit: its second part.
    :param right: :meth:`Bounds.of_centres`.
    """
    centre = np.zeros(len(block), dtype=np.int64)
    best = np.full(len(block), np.inf)
    for tile in _tiles(len(block)):
        for first in range(0, len(centres), TILE_CENTRES):
            part = slice(first, first + TILE_CENTRES)
            s = left[tile] @ right[part].T
            place, distance, index = _nearest_of_tile(block[tile], centres[part], s, limit[tile], best[tile])
            better = distance < best[tile][index] * (1.0 - TIE)
            rows = index[better] + tile.start
            best[rows], centre[rows] = distance[better], first + place[better]
    return Near(0, block, centre, best)


def _tiles(n: int) -> Iterator[slice]:
    for start in range(0, n, TILE_ROWS):
        yield slice(start, min(start + TILE_ROWS, n))


def _nearest_of_tile(
    rows: np.ndarray, centres: np.ndarray, s: np.ndarray, limit: np.ndarray, best: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nearest centre in a tile and its distance, for the rows (third) where that may be below the best so far."""
    place = s.argmax(axis=1)
    index = np.flatnonzero(2.0 * s[np.arange(len(s)), place] >= limit - best * (1.0 + TIE))
    place, s = place[index], (s if len(index) == len(s) else s[index])
    distance = squared_distances(rows, centres, index, place)
    s[np.arange(len(s)), place] = -np.inf
    threshold = 0.5 * (limit[index] - np.minimum(distance, best[index]) * (1.0 + TIE))
    which, other = where_at_least(s, threshold)
    if len(which):
        _choose_first(place, distance, which, other, squared_distances(rows, centres, index[which], other))
    return place, distance, index


def _choose_first(
    place: np.ndarray, distance: np.ndarray, which: np.ndarray, other: np.ndarray, pairs: np.ndarray
) -> None:
    """Put the nearest of some centres in place; the first of those at the same distance.

    :param place: a centre for each row; likewise
    :param distance: its distance; both are updated.
    :param which: rows with more centres, which are
    :param other: at the distances
    :param pairs: these.
    """
    least = distance.copy()
    np.minimum.at(least, which, pairs)
    tied = pairs <= least[which] * (1.0 + TIE)
    first = np.where(distance <= least * (1.0 + TIE), place, np.iinfo(np.int64).max)
    np.minimum.at(first, which[tied], other[tied])
    chosen = tied & (other == first[which])
    distance[which[chosen]] = pairs[chosen]
    place[...] = first
