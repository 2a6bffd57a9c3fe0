"""k-means clusters and the two readings of what is picked from them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from aiida_alpot.worker.acquisition.batch_selection import k_means
from aiida_alpot.worker.acquisition.batch_selection.blocks import Rows
from aiida_alpot.worker.acquisition.batch_selection.k_means import partition


@pytest.fixture
def blobs() -> tuple[np.ndarray, np.ndarray]:
    """Five clusters that cannot be mistaken, of 10, 20, ... 50 rows, shuffled; and the cluster of each row."""
    rng = np.random.default_rng(0)
    label = np.repeat(np.arange(5), [10, 20, 30, 40, 50])
    pool = 100.0 * rng.normal(size=(5, 6))[label] + rng.normal(size=(150, 6))
    order = rng.permutation(150)
    return pool[order].astype(np.float32), label[order]


def test_clusters_are_found(blobs: tuple[np.ndarray, np.ndarray]) -> None:
    pool, label = blobs
    found = partition(Rows(pool), 5)
    assert len(set(zip(found.cluster.tolist(), label.tolist(), strict=True))) == 5
    for cluster in range(5):
        members = pool[found.cluster == cluster].astype(float)
        np.testing.assert_allclose(found.centres[cluster], members.mean(axis=0), rtol=1e-12)
        expected = ((members - members.mean(axis=0)) ** 2).sum(axis=1)
        np.testing.assert_allclose(found.square[found.cluster == cluster], expected, rtol=1e-9)
    sizes = [len(members) for members in found.largest_first(None)]
    assert sizes == [50, 40, 30, 20, 10]


def test_nothing_can_be_reassigned(naive: SimpleNamespace) -> None:
    """Lloyd has converged: each row is with the nearest mean, each mean is that of its rows."""
    pool = np.random.default_rng(1).normal(size=(400, 4))
    found = partition(Rows(pool), 12, seed=3)
    np.testing.assert_array_equal(found.cluster, naive.squared(pool, found.centres).argmin(axis=1))
    means = np.stack([pool[found.cluster == c].mean(axis=0) for c in range(12)])
    np.testing.assert_allclose(found.centres, means, rtol=1e-9)


def test_weights_pull_the_means() -> None:
    pool = np.array([[0.0], [1.0], [10.0], [11.0]])
    found = partition(Rows(pool), 2, np.array([3.0, 1.0, 1.0, 1.0]))
    assert sorted(found.centres[:, 0].tolist()) == [0.25, 10.5]


def test_fewer_clusters_where_rows_are_copies() -> None:
    pool = np.repeat(np.arange(3.0)[:, None], 4, axis=0)
    found = partition(Rows(pool), 7)
    assert sorted(found.centres[:, 0].tolist()) == [0.0, 1.0, 2.0]


def test_fitted_to_a_part_of_the_rows(blobs: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    pool, label = blobs
    monkeypatch.setattr('aiida_alpot.worker.acquisition.batch_selection.blocks.BLOCK_BYTES', 1)
    import importlib

    module = importlib.import_module('aiida_alpot.worker.acquisition.batch_selection.k_means')
    monkeypatch.setattr(module, 'FIT_ROWS', 75)
    found = partition(Rows(pool), 5)
    assert len(set(zip(found.cluster.tolist(), label.tolist(), strict=True))) == 5


def test_nearest_reading(blobs: tuple[np.ndarray, np.ndarray]) -> None:
    pool, label = blobs
    picked = k_means(pool, 5, reading='nearest')
    assert label[picked.index].tolist() == [4, 3, 2, 1, 0]  # the largest cluster first
    assert picked.centre is not None and picked.centre.tolist() == [0, 1, 2, 3, 4]
    for row, score in zip(picked.index, picked.score, strict=True):
        members = pool[label == label[row]].astype(float)
        square = ((members - members.mean(axis=0)) ** 2).sum(axis=1)
        assert -score == pytest.approx(square.min())
        assert ((pool[row].astype(float) - members.mean(axis=0)) ** 2).sum() == pytest.approx(square.min())


def test_nearest_reading_leaves_known_rows_out(blobs: tuple[np.ndarray, np.ndarray]) -> None:
    pool, label = blobs
    first = k_means(pool, 5, reading='nearest').index
    again = k_means(pool, 5, reading='nearest', train=pool[first])
    assert not set(first) & set(again.index) and label[again.index].tolist() == [4, 3, 2, 1, 0]


def test_farthest_reading(blobs: tuple[np.ndarray, np.ndarray], naive: SimpleNamespace) -> None:
    pool, label = blobs
    train = pool[[3, 77]] + 0.5
    picked = k_means(pool, 5, train=train)
    assert label[picked.index].tolist() == [4, 3, 2, 1, 0]
    known = train.astype(float)
    for row, score in zip(picked.index, picked.score, strict=True):
        near = np.where(label == label[row], naive.squared(pool.astype(float), known).min(axis=1), -1.0)
        assert row == near.argmax() and score == pytest.approx(near.max())
        known = np.concatenate([known, pool[[row]].astype(float)])


def test_farthest_reading_of_a_pool_alone_begins_at_a_mean(blobs: tuple[np.ndarray, np.ndarray]) -> None:
    pool, _ = blobs
    assert k_means(pool, 5).index[0] == k_means(pool, 5, reading='nearest').index[0]


def test_seed(naive: SimpleNamespace) -> None:
    pool = np.random.default_rng(1).normal(size=(300, 3))
    picks = [k_means(pool, 9, seed=seed).index.tolist() for seed in (0, 0, 1)]
    assert picks[0] == picks[1] != picks[2]


def test_wrong_options() -> None:
    with pytest.raises(ValueError, match=r'median'):
        k_means(np.ones((3, 2)), 1, reading='median')
    with pytest.raises(ValueError, match=r'`seed` is -1'):
        k_means(np.ones((3, 2)), 1, seed=-1)
