"""Clusters of environments."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from aiida_alpot.worker.acquisition.batch_selection.blocks import Rows
from aiida_alpot.worker.acquisition.extrapolation import (
    CLUSTERINGS,
    birch_clusters,
    choose_active_sets,
    k_means_clusters,
)
from aiida_alpot.worker.acquisition.extrapolation.clusters import as_names, merge_small

CENTRES = np.array([[0.0, 0.0, 0.0], [9.0, 0.0, 1e3], [0.0, 9.0, -1e3]])


@pytest.fixture
def blobs() -> tuple[np.ndarray, np.ndarray]:
    """300 rows about three centres, in mixed order, and which of these each belongs to."""
    rng = np.random.default_rng(0)
    of = rng.integers(0, 3, 300)
    return CENTRES[of] + rng.standard_normal((300, 3)) * [0.3, 0.3, 30.0], of


def same_partition(labels: np.ndarray, of: np.ndarray) -> bool:
    return len(np.unique(labels * 10 + of)) == len(np.unique(of)) == len(np.unique(labels))


@pytest.mark.parametrize('seed', [0, 1, 2])
def test_k_means_finds_blobs(blobs, seed: int):
    rows, of = blobs
    labels = k_means_clusters(rows, 3, seed=seed)
    assert same_partition(labels, of)
    assert labels[0] == 0  # numbered as they appear
    assert labels.tobytes() == k_means_clusters(rows, 3, seed=seed).tobytes()


def test_birch_finds_blobs(blobs):
    pytest.importorskip('sklearn')
    rows, of = blobs
    assert same_partition(birch_clusters(rows, 3), of)
    assert same_partition(birch_clusters(rows, 3, threshold=0.05), of)


@pytest.mark.parametrize('threshold', [0.05, 0.3])
def test_birch_is_that_of_scikit_learn(threshold: float):
    """Its own last step joins the subclusters by Ward's rule too; clusters that overlap, so that the rule decides."""
    cluster = pytest.importorskip('sklearn.cluster')
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(4, 3))[rng.integers(0, 4, 400)] + 0.4 * rng.normal(size=(400, 3))
    scaled = (rows - rows.mean(axis=0)) / rows.std(axis=0)
    expected = cluster.Birch(threshold=threshold * np.sqrt(3), n_clusters=4).fit_predict(scaled)
    found = birch_clusters(rows, 4, threshold=threshold)
    assert same_partition(found, expected) and len(np.unique(found)) == 4
    assert found.tobytes() == birch_clusters(rows, 4, threshold=threshold).tobytes()


def test_birch_without_scikit_learn_says_what_to_do(blobs, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, 'sklearn.cluster', None)
    with pytest.raises(ModuleNotFoundError, match='pip install scikit-learn'):
        birch_clusters(blobs[0], 3)


def test_rows_beyond_the_sample_join_the_nearest_centroid(blobs, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip('sklearn')
    monkeypatch.setattr('aiida_alpot.worker.acquisition.extrapolation.clusters.SAMPLE_ROWS', 40)
    rows, of = blobs
    assert same_partition(birch_clusters(rows, 3), of)


def test_no_more_clusters_than_rows_that_differ():
    assert k_means_clusters(np.array([[1.0, 2.0], [1.0, 2.0], [3.0, 2.0]]), 5).tolist() == [0, 0, 1]
    assert k_means_clusters(np.ones((4, 2)), 3).tolist() == [0, 0, 0, 0]


def test_small_clusters_join_the_nearest_by_hand():
    rows = np.array([[0.0], [0.1], [0.2], [1.0], [9.0], [9.1], [9.2]])
    labels = np.array([5, 5, 5, 2, 7, 7, 7])
    assert merge_small(Rows(rows), labels, 1).tolist() == labels.tolist()
    assert merge_small(Rows(rows), labels, 2).tolist() == [5, 5, 5, 5, 7, 7, 7]
    # Then 7 is the smallest, with 3 rows, and joins what is left.
    assert len(set(merge_small(Rows(rows), labels, 4).tolist())) == 1
    assert len(set(merge_small(Rows(rows), labels, 100).tolist())) == 1


def test_clusters_of_few_environments_are_merged_for_active_sets():
    rng = np.random.default_rng(1)
    rows = np.concatenate([rng.standard_normal((100, 2)), 50 + rng.standard_normal((100, 2)), [[49.0, 50.0]]])
    clusters = ['low'] * 100 + ['high'] * 100 + ['one']
    sets = choose_active_sets(rows, np.full(201, 6), clusters=clusters)
    assert [(one.cluster, one.n_environments) for one in sets.sets] == [('high', 101), ('low', 100)]


def test_names():
    names, labels = as_names(['b', 'a', 'b'], 3)
    assert (names, labels.tolist()) == (['a', 'b'], [1, 0, 1])
    assert as_names(None, 2)[1].tolist() == [0, 0]
    with pytest.raises(ValueError, match='`clusters` has shape'):
        as_names(['a'], 2)


def test_bad_input():
    assert set(CLUSTERINGS) == {'k_means', 'birch'}
    with pytest.raises(ValueError, match='n_clusters'):
        k_means_clusters(np.ones((3, 2)), 0)
    with pytest.raises(ValueError, match='no rows'):
        k_means_clusters(np.ones((0, 2)), 2)
    with pytest.raises(ValueError, match='not finite'):
        k_means_clusters(np.full((3, 2), np.nan), 2)
