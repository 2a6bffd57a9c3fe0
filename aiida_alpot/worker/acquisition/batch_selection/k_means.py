"""k-means clusters of a pool, and a row from each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from aiida_alpot.worker.acquisition.batch_selection.arguments import read_arguments
from aiida_alpot.worker.acquisition.batch_selection.blocks import Rows, even_index
from aiida_alpot.worker.acquisition.batch_selection.distances import squared_distances
from aiida_alpot.worker.acquisition.batch_selection.known import KnownRows
from aiida_alpot.worker.acquisition.batch_selection.nearest import Bounds, cheapest, nearest
from aiida_alpot.worker.acquisition.batch_selection.nearest_known import NearestKnown
from aiida_alpot.worker.acquisition.batch_selection.picked import Picked, picked
from aiida_alpot.worker.options import choice, integer

READINGS = ('farthest', 'nearest')
FIT_BYTES = 128 * 2**20
FIT_ROWS = 50_000
ITERATIONS = 50


@dataclass(frozen=True, eq=False)
class Partition:
    """Rows in clusters around their means.

    :param centres: shape (c, d), float64.
    :param cluster: of each row of the pool, shape (n,).
    :param square: squared distance to the centre, shape (n,).
    """

    centres: np.ndarray
    cluster: np.ndarray
    square: np.ndarray

    def largest_first(self, weights: np.ndarray | None) -> list[np.ndarray]:
        """Rows of each cluster in the order of the pool, without those of weight 0 and empty clusters; larger clusters
        first, of equal ones the one that has the first row."""
        order = np.argsort(self.cluster, kind='stable')
        if weights is not None:
            order = order[weights[order] > 0.0]
        ends = np.cumsum(np.bincount(self.cluster[order], minlength=len(self.centres)))[:-1]
        clusters = [members for members in np.split(order, ends) if len(members)]
        return sorted(clusters, key=lambda members: (-len(members), members[0]))


def k_means(
    pool: Any, k: int, *, train: Any = None, weights: Any = None, reading: str = 'farthest', seed: int = 0
) -> Picked:
    """One row from each of k clusters of the pool.

    Paper 000 (pool-based strategies over two databases) describes its diversity sampling in two ways; here they mean:

    - ``nearest`` (its method section): the row nearest to the mean of its cluster.
    - ``farthest`` (its abstract, k-means with farthest-point refinement): clusters are visited from the largest to the
      smallest, and each gives the row argmax_i w_i min_c (x_i - c)^2 over the training rows and the picks so far; where
      nothing is known, the first pick is the row nearest to the mean of the largest cluster.

    Clusters are those of :func:`partition`. Ties go to the lowest index. A cluster whose rows are all known (at
    distance 0), or of weight 0, gives none, so that there may be fewer picks than k.

    :param pool: features, shape (n, d), float32 or float64; anything that :class:`Rows` reads.
    :param k: clusters.
    :param train: features of what is known, shape (m, d).
    :param weights: shape (n,), finite, >= 0: they weigh the rows in the means too.
    :param reading: ``farthest`` or ``nearest``.
    :param seed: of the first centres.
    :return: scores are w_i times the squared distance that was largest, or for ``nearest`` minus the squared distance
        to the mean; centres are the clusters, numbered from the largest.
    :raises ValueError: as :func:`read_arguments`, and for an unknown reading.
    """
    choice('reading', reading, READINGS)
    rows, known, w = read_arguments(pool, k, train, weights)
    found = partition(rows, k, w, seed)
    clusters = found.largest_first(w)
    if reading == 'nearest':
        return _nearest_to_means(rows, known, found, clusters)
    return _farthest_of_clusters(rows, known, w, found, clusters)


def partition(rows: Rows, n_clusters: int, weights: np.ndarray | None = None, seed: int = 0) -> Partition:
    """k-means (Lloyd, from the seeds of k-means++) of a pool.

    Means are fitted in float64 to rows at even distances, as many as :data:`FIT_BYTES` hold and at most
    :data:`FIT_ROWS`; then every row of the pool belongs to the nearest one, exactly. A cluster that loses all its rows
    begins again at the row that is farthest from its mean.

    :param n_clusters: fewer where the fitted rows have fewer that differ.
    :raises ValueError: for a row that is not finite.
    """
    integer('seed', seed, 0)
    n = len(rows)
    eligible = np.arange(n) if weights is None else np.flatnonzero(weights > 0.0)
    size = min(FIT_ROWS, max(n_clusters, FIT_BYTES // max(1, rows.d * rows.dtype.itemsize)))
    index = eligible[even_index(len(eligible), size)]
    fitted = Rows(rows.checked(index))
    share = np.ones(len(index)) if weights is None else weights[index]
    if not len(index):
        return Partition(np.empty((0, rows.d)), np.zeros(n, dtype=np.int64), np.zeros(n))
    centres = _seeds(fitted, share, n_clusters, seed)
    bounds = cheapest(fitted, centres)
    cluster, square = _assign(fitted, centres, bounds)
    for _ in range(ITERATIONS):
        centres = _means(fitted, share, cluster, square, len(centres))
        before = cluster
        cluster, square = _assign(fitted, centres, bounds)
        if np.array_equal(cluster, before):
            break
    return Partition(centres, *_assign(rows, centres, bounds))


def _seeds(rows: Rows, share: np.ndarray, n_clusters: int, seed: int) -> np.ndarray:
    """Rows drawn one after the other with probabilities w_i min_c (x_i - c)^2 (k-means++), shape (c, d), float64."""
    generator = np.random.default_rng(seed)
    x = rows.block(0, len(rows))
    chosen = [_draw(generator, share)]
    square = squared_distances(x, x[chosen[0]].astype(np.float64))
    while len(chosen) < n_clusters and (square * share > 0.0).any():
        chosen.append(_draw(generator, square * share))
        np.minimum(square, squared_distances(x, x[chosen[-1]].astype(np.float64)), out=square)
    return x[chosen].astype(np.float64)


def _draw(generator: np.random.Generator, weight: np.ndarray) -> int:
    total = np.cumsum(weight)
    place = int(np.searchsorted(total, generator.random() * total[-1], side='right'))
    return place if place < len(weight) and weight[place] > 0.0 else int(np.argmax(weight))


def _assign(rows: Rows, centres: np.ndarray, bounds: Bounds) -> tuple[np.ndarray, np.ndarray]:
    """Nearest centre of every row and the squared distance to it."""
    cluster, square = np.empty(len(rows), dtype=np.int64), np.empty(len(rows))
    right = bounds.of_centres(centres)
    for start, stop, block in rows.blocks():
        near = nearest(block, *bounds.of_rows(block), centres, right)
        cluster[start:stop], square[start:stop] = near.centre, near.distance
    return cluster, square


def _means(rows: Rows, share: np.ndarray, cluster: np.ndarray, square: np.ndarray, n_clusters: int) -> np.ndarray:
    """Weighted means of clusters, in float64; those without rows begin at the farthest rows."""
    from scipy.sparse import csr_array

    total, weight = np.zeros((n_clusters, rows.d)), np.bincount(cluster, share, n_clusters)
    for start, stop, block in rows.blocks():
        places = (cluster[start:stop], np.arange(stop - start))
        total += csr_array((share[start:stop], places), shape=(n_clusters, stop - start)) @ block.astype(np.float64)
    empty = np.flatnonzero(weight == 0.0)
    weight[empty] = 1.0
    total /= weight[:, None]
    total[empty] = rows.take(np.argsort(-square, kind='stable')[: len(empty)])
    return total


def _nearest_to_means(rows: Rows, known: np.ndarray, found: Partition, clusters: list[np.ndarray]) -> Picked:
    taken = KnownRows()
    taken.add(known)
    index: list[int] = []
    numbers: list[int] = []
    for number, members in enumerate(clusters):
        row = _first_new(rows, members[np.argsort(found.square[members], kind='stable')], taken)
        if row is not None:
            index.append(row)
            numbers.append(number)
            taken.add(rows.take(np.array([row])))
    return picked(index, [-float(found.square[row]) for row in index], numbers)


def _first_new(rows: Rows, order: np.ndarray, taken: KnownRows) -> int | None:
    """The first of some rows that is no copy of one that is taken."""
    for row in order:
        if rows.take(np.array([row]))[0] not in taken:
            return int(row)
    return None


def _farthest_of_clusters(
    rows: Rows, known: np.ndarray, weights: np.ndarray | None, found: Partition, clusters: list[np.ndarray]
) -> Picked:
    index: list[int] = []
    scores: list[float] = []
    numbers: list[int] = []
    distances = NearestKnown(rows, known, len(clusters)) if len(known) else None
    for number, members in enumerate(clusters):
        if distances is None:
            row = int(members[np.argmin(found.square[members])])
            first = rows.take(np.array([row]))
            distances = NearestKnown(rows, first, len(clusters))
            score = float(found.square[row] * (1.0 if weights is None else weights[row]))
        else:
            best = distances.farthest(rows, members, weights)
            if best is None:
                continue
            row, score = best
            distances.add(rows.take(np.array([row]))[0])
        index.append(row)
        scores.append(score)
        numbers.append(number)
    return picked(index, scores, numbers)
