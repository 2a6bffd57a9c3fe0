"""Stratified sampling in principal components, as in DIRECT."""

from __future__ import annotations

from typing import Any

import numpy as np

from aiida_alpot.worker.acquisition.batch_selection.arguments import read_arguments
from aiida_alpot.worker.acquisition.batch_selection.blocks import Rows, even_index
from aiida_alpot.worker.acquisition.batch_selection.k_means import Partition, partition
from aiida_alpot.worker.acquisition.batch_selection.known import KnownRows
from aiida_alpot.worker.acquisition.batch_selection.nearest import cheapest, nearest
from aiida_alpot.worker.acquisition.batch_selection.picked import Picked, picked
from aiida_alpot.worker.acquisition.batch_selection.projection import even_sample
from aiida_alpot.worker.options import choice, integer

CLUSTERINGS = ('k_means', 'birch')
FIT_ROWS = 20_000
FIT_BYTES = 128 * 2**20
MAX_COMPONENTS = 32
BIRCH_THRESHOLD = 0.5
BIRCH_HALVINGS = 20


def direct(
    pool: Any,
    k: int,
    *,
    train: Any = None,
    weights: Any = None,
    n_clusters: int | None = None,
    clustering: str = 'k_means',
    seed: int = 0,
) -> Picked:
    """Stratified sampling: clusters in principal components, and as evenly as can be from each.

    The steps of DIRECT (Qi et al., npj Comput. Mater. 10, 43 (2024)), with our choices where it leaves some: features
    are standardised; principal components of a variance above 1 are kept (Kaiser's rule; at least one, at most
    :data:`MAX_COMPONENTS`) and each multiplied by its share of the variance; clusters are those of k-means or BIRCH on
    these; every cluster gives the row nearest to its centre. With fewer clusters than picks, R = ceil(k / clusters)
    rounds are made, and round r = 0, 1, ... takes the member at r / (R - 1) of the way from the nearest to the farthest
    one. Clusters without a known row come first in each round, larger ones before smaller ones. Ties go to the lowest
    index.

    Means, variances and axes are fitted to rows at even distances (:data:`FIT_ROWS` at most), in float64.

    :param pool: features, shape (n, d), float32 or float64; anything that :class:`Rows` reads.
    :param k: picks at most.
    :param train: features of what is known, shape (m, d).
    :param weights: shape (n,), finite, >= 0: they weigh the rows in the means of k-means; rows of weight 0 are never
        picked.
    :param n_clusters: by default k.
    :param clustering: ``k_means`` or ``birch``, which needs scikit-learn.
    :param seed: of k-means.
    :return: scores are minus the squared distance to the centre in the weighted components; centres are the clusters,
        numbered in the order in which they are visited. A copy of a known row or of a pick is never picked.
    :raises ValueError: as :func:`read_arguments`, and for an unknown clustering.
    :raises ModuleNotFoundError: for ``birch`` where scikit-learn is not installed.
    """
    choice('clustering', clustering, CLUSTERINGS)
    if n_clusters is not None:
        integer('n_clusters', n_clusters, 1)
    rows, known, w = read_arguments(pool, k, train, weights)
    if not len(rows):
        return picked([], [], [])
    components = _Components(rows)
    scores = np.concatenate([components(block).astype(np.float32) for _, _, block in rows.blocks()])
    if clustering == 'birch':
        found = _birch(scores, n_clusters or k)
    else:
        found = partition(Rows(scores), n_clusters or k, w, seed)
    clusters = found.largest_first(w)
    visited = _clusters_of(components(known), found) if len(known) else set()
    clusters.sort(key=lambda members: int(found.cluster[members[0]]) in visited)  # stable
    return _round_robin(rows, known, found, clusters, k)


class _Components:
    """Weighted principal components."""

    def __init__(self, rows: Rows) -> None:
        size = min(FIT_ROWS, max(2, FIT_BYTES // (8 * max(1, rows.d))))
        sample = even_sample(rows, size)
        self._mean = sample.mean(axis=0)
        deviation = sample.std(axis=0)
        # What does not vary says nothing; rounding of float32 must not be blown up to unit variance.
        varies = deviation > 1e-6 * max(float(np.abs(sample).max(initial=0.0)), np.finfo(float).tiny)
        self._scale = np.where(varies, 1.0 / np.where(varies, deviation, 1.0), 0.0)
        standard = (sample - self._mean) * self._scale
        values, vectors = np.linalg.eigh(standard.T @ standard / max(1, len(sample)))
        values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
        n = int(np.clip(np.count_nonzero(values > 1.0), 1, MAX_COMPONENTS))
        self._axes = vectors[:, :n] * (values[:n] / max(float(values.sum()), np.finfo(float).tiny))

    def __call__(self, block: np.ndarray) -> np.ndarray:
        """Components of rows, shape (b, n), float64."""
        return ((block - self._mean) * self._scale) @ self._axes


def _birch(scores: np.ndarray, n_clusters: int) -> Partition:
    """Clusters of BIRCH, fitted to rows at even distances; every row belongs to that of the nearest subcluster.

    The threshold is halved until there are as many subclusters as clusters are wanted, or nothing changes any more.
    """
    try:
        from sklearn.cluster import Birch
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'clustering `birch` needs scikit-learn, which is not installed: run `pip install scikit-learn` where the '
            'evaluation runs, or use clustering `k_means`'
        ) from error
    sample = scores[even_index(len(scores), FIT_ROWS)]
    scale = float(np.sqrt(np.var(sample, axis=0).sum())) or 1.0
    wanted = min(n_clusters, len(np.unique(sample, axis=0)))
    threshold = BIRCH_THRESHOLD
    for _ in range(BIRCH_HALVINGS):
        model = Birch(threshold=threshold, n_clusters=None).fit(sample / scale)
        if len(model.subcluster_centers_) >= wanted:
            break
        threshold *= 0.5
    model.set_params(n_clusters=min(wanted, len(model.subcluster_centers_))).partial_fit()
    subcentres = model.subcluster_centers_ * scale
    label = np.asarray(model.subcluster_labels_, dtype=np.int64)
    rows = Rows(scores)
    bounds = cheapest(rows, subcentres)
    right = bounds.of_centres(subcentres)
    cluster = np.empty(len(scores), dtype=np.int64)
    for start, stop, block in rows.blocks():
        cluster[start:stop] = label[nearest(block, *bounds.of_rows(block), subcentres, right).centre]
    return _with_means(scores, cluster)


def _with_means(scores: np.ndarray, cluster: np.ndarray) -> Partition:
    """The partition of labelled rows, with the mean of each cluster as its centre."""
    size = np.bincount(cluster)
    centres = np.stack([np.bincount(cluster, column) for column in scores.T], axis=1) / np.maximum(size, 1)[:, None]
    difference = scores - centres[cluster]
    return Partition(centres, cluster, np.einsum('ij,ij->i', difference, difference))


def _clusters_of(known: np.ndarray, found: Partition) -> set[int]:
    """Clusters that known rows, given by their components, are nearest to."""
    rows = Rows(known)
    bounds = cheapest(rows, found.centres)
    right = bounds.of_centres(found.centres)
    visited: set[int] = set()
    for _, _, block in rows.blocks():
        visited.update(nearest(block, *bounds.of_rows(block), found.centres, right).centre.tolist())
    return visited


def _round_robin(rows: Rows, known: np.ndarray, found: Partition, clusters: list[np.ndarray], k: int) -> Picked:
    """A row of each cluster in turn, at even ranks of the distance from the centre."""
    taken = KnownRows()
    taken.add(known)
    left = [members[np.argsort(found.square[members], kind='stable')].tolist() for members in clusters]
    size = [len(members) for members in left]
    rounds = max(1, -(-k // max(1, len(clusters))))
    index: list[int] = []
    numbers: list[int] = []
    turn = 0
    while len(index) < k and any(left):
        for number, members in enumerate(left):
            rank = round(min(1.0, turn / max(1, rounds - 1)) * (size[number] - 1))
            row = _take_new(rows, members, rank - (size[number] - len(members)), taken)
            if row is not None and len(index) < k:
                index.append(row)
                numbers.append(number)
        turn += 1
    return picked(index, [-float(found.square[row]) for row in index], numbers)


def _take_new(rows: Rows, members: list[int], rank: int, taken: KnownRows) -> int | None:
    """Take the member at a rank, or the next that is no copy of one that is taken, out of the list."""
    while members:
        row = members.pop(min(max(rank, 0), len(members) - 1))
        features = rows.take(np.array([row]))
        if features[0] not in taken:
            taken.add(features)
            return row
    return None
