"""Clusters of environments, each of which gets active sets of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from aiida_alpot.worker.acquisition.batch_selection.blocks import Rows
from aiida_alpot.worker.acquisition.batch_selection.k_means import partition
from aiida_alpot.worker.acquisition.batch_selection.projection import even_sample
from aiida_alpot.worker.acquisition.maxvol.passes import block_bounds
from aiida_alpot.worker.acquisition.maxvol.span import NOISE
from aiida_alpot.worker.options import integer, number

MIN_ENVIRONMENTS = 50
"""Clusters of fewer environments occupy few directions and know next to nothing: they join the nearest one."""
SAMPLE_ROWS = 20_000


def k_means_clusters(features: Any, n_clusters: int, *, seed: int = 0) -> np.ndarray:
    """Clusters by k-means on features divided by their standard deviations, see :func:`partition
    <aiida_alpot.worker.acquisition.batch_selection.k_means.partition>`.

    :param features: of atoms, or means over the atoms of configurations, shape (n, d).
    :param n_clusters: at most; fewer where the rows have fewer that differ.
    :return: cluster of each row, shape (n,), numbered in the order in which they first appear.
    :raises ValueError: for features that are not finite, fewer than 1 cluster, or no rows.
    """
    integer('n_clusters', n_clusters, 1)
    scaled = Rows(_Scaled(Rows(features, 'features')), 'features')
    return _in_order(partition(scaled, n_clusters, seed=seed).cluster)


def birch_clusters(features: Any, n_clusters: int, *, threshold: float = 0.5) -> np.ndarray:
    """Clusters by BIRCH (of scikit-learn), as the W study proposes, on features divided by their standard deviations.

    The subclusters of BIRCH, found among :data:`SAMPLE_ROWS` rows, are joined by Ward's rule; every row belongs to the
    nearest of them.

    :param features: of atoms, or means over the atoms of configurations, shape (n, d).
    :param n_clusters: at most.
    :param threshold: radius of a subcluster, in units of the root mean square distance of the rows from their mean,
        above 0.
    :return: cluster of each row, shape (n,), numbered in the order in which they first appear.
    :raises ValueError: for features that are not finite, fewer than 1 cluster, or no rows.
    :raises ModuleNotFoundError: where scikit-learn is not installed.
    """
    birch = birch_of_scikit_learn()
    integer('n_clusters', n_clusters, 1)
    number('threshold', threshold, 0.0, exclusive=True)
    source = _Scaled(Rows(features, 'features'))
    scaled = Rows(source, 'features')
    sample = even_sample(scaled, SAMPLE_ROWS)
    radius = threshold * source.spread or threshold
    centroids = birch(threshold=radius, n_clusters=None).fit(sample).subcluster_centers_
    return _in_order(_joined(centroids, n_clusters)[_nearest(scaled, centroids)])


def birch_of_scikit_learn() -> Any:
    """The class of scikit-learn.

    :raises ModuleNotFoundError: where it is not installed, with what to do.
    """
    try:
        from sklearn.cluster import Birch
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'BIRCH is that of scikit-learn, which is not installed: run `pip install scikit-learn` where the '
            'evaluation runs, or cluster by k-means'
        ) from error
    return Birch


CLUSTERINGS: dict[str, Callable[..., np.ndarray]] = {'k_means': k_means_clusters, 'birch': birch_clusters}
"""Name of a clustering -> ``function(features, n_clusters, ...)`` that gives the cluster of each row."""


def as_names(clusters: Sequence[Any] | np.ndarray | None, n: int) -> tuple[list[str], np.ndarray]:
    """Names of clusters, sorted, and the place of each atom's among them, shape (n,).

    :param clusters: labels, shape (n,); ``None``: one cluster without a name.
    :raises ValueError: for another number of labels.
    """
    if clusters is None:
        return [''], np.zeros(n, dtype=np.int64)
    if np.shape(clusters) != (n,):
        raise ValueError(f'`clusters` has shape {np.shape(clusters)}, expected ({n},): one label for each atom')
    names, labels = np.unique(np.asarray(clusters), return_inverse=True)
    return [str(name) for name in names], labels


def merge_small(rows: Rows, labels: np.ndarray, least: int) -> np.ndarray:
    """Labels in which no cluster is smaller than it should be, unless there is only one; shape (n,).

    The smallest one joins the one with the nearest centroid, in features divided by their standard deviations, and
    takes its label; and so on. Ties go to the lowest label.

    :param rows: shape (n, d).
    :param labels: shape (n,), at least 0.
    :param least: number of rows.
    """
    found, own = np.unique(labels, return_inverse=True)
    counts = np.bincount(own).astype(np.float64)
    if len(found) == 1 or counts.min() >= least:
        return labels
    scaled = Rows(_Scaled(rows), rows.name)
    sums = np.zeros((len(found), rows.d))
    for start, stop in block_bounds(scaled):
        np.add.at(sums, own[start:stop], scaled.block(start, stop))
    target = np.arange(len(found))
    while np.count_nonzero(counts) > 1 and counts[counts > 0].min() < least:
        small = int(np.argmin(np.where(counts > 0, counts, np.inf)))
        centroids = sums / np.maximum(counts, 1.0)[:, None]
        distance = np.linalg.norm(centroids - centroids[small], axis=1)
        distance[(counts == 0) | (np.arange(len(found)) == small)] = np.inf
        nearest = int(distance.argmin())
        sums[nearest] += sums[small]
        counts[nearest] += counts[small]
        counts[small] = 0
        target[target == small] = nearest
    return found[target[own]]


class _Scaled:
    """Features less their means, divided by their standard deviations (constant ones are 0): what :class:`Rows` reads.

    :ivar spread: root of the number of features that vary: the root mean square norm of a row.
    """

    def __init__(self, rows: Rows) -> None:
        if not len(rows):
            raise ValueError('there are no rows to be clustered')
        self._rows = rows
        self.shape = (len(rows), rows.d)
        self.dtype = np.dtype(np.float64)
        total = np.zeros(rows.d)
        for _, _, block in rows.blocks():
            total += block.sum(axis=0, dtype=np.float64)
        self._mean = total / len(rows)
        square = np.zeros(rows.d)
        for start, stop in block_bounds(rows):
            square += ((rows.block(start, stop) - self._mean) ** 2).sum(axis=0)
        deviation = np.sqrt(square / len(rows))
        noise = NOISE * float(np.finfo(rows.dtype).eps)
        varies = deviation > noise * np.maximum(np.abs(self._mean), deviation.max(initial=0.0))
        self._factor = np.divide(1.0, deviation, out=np.zeros(rows.d), where=varies)
        self.spread = float(np.sqrt(np.count_nonzero(varies)))

    def __getitem__(self, key: slice | np.ndarray) -> np.ndarray:
        rows = self._rows.block(key.start, key.stop) if isinstance(key, slice) else self._rows.take(key)
        return (rows - self._mean) * self._factor


def _nearest(rows: Rows, centroids: np.ndarray) -> np.ndarray:
    """Place of the nearest centroid of each row, the first of equal ones, shape (n,)."""
    out = np.empty(len(rows), dtype=np.int64)
    half_square = 0.5 * np.einsum('ij,ij->i', centroids, centroids)
    for start, stop in block_bounds(rows):
        out[start:stop] = (half_square - rows.block(start, stop) @ centroids.T).argmin(axis=1)
    return out


def _joined(centroids: np.ndarray, n_clusters: int) -> np.ndarray:
    """Ward clusters of centroids, shape (m,)."""
    if len(centroids) <= n_clusters:
        return np.arange(len(centroids))
    from scipy.cluster.hierarchy import fcluster, ward

    return fcluster(ward(centroids), n_clusters, criterion='maxclust') - 1


def _in_order(labels: np.ndarray) -> np.ndarray:
    """The same clusters, numbered in the order in which they first appear."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse]
