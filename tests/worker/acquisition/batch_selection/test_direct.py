"""Stratified sampling in principal components."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from aiida_alpot.worker.acquisition.batch_selection import direct
from aiida_alpot.worker.acquisition.batch_selection.blocks import Rows
from aiida_alpot.worker.acquisition.batch_selection.direct import _Components


def strata(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Four clusters of 12, 24, 36 and 48 rows, shuffled; and the cluster of each row."""
    rng = np.random.default_rng(seed)
    label = np.repeat(np.arange(4), [12, 24, 36, 48])
    pool = 50.0 * rng.normal(size=(4, 5))[label] + rng.normal(size=(120, 5))
    order = rng.permutation(120)
    return pool[order].astype(np.float32), label[order]


def test_one_of_each_cluster() -> None:
    pool, label = strata()
    picked = direct(pool, 4)
    assert label[picked.index].tolist() == [3, 2, 1, 0]
    assert picked.centre is not None and picked.centre.tolist() == [0, 1, 2, 3]


def test_rounds_are_even() -> None:
    pool, label = strata()
    picked = direct(pool, 10, n_clusters=4)
    assert label[picked.index].tolist() == [3, 2, 1, 0, 3, 2, 1, 0, 3, 2]
    # Three rounds: the nearest, the middle and the farthest member, whose scores are minus squared distances.
    scores = picked.score[[0, 4, 8]]
    assert scores[0] > scores[1] > scores[2]


def test_the_nearest_and_the_farthest_member() -> None:
    pool = np.concatenate([np.linspace(0, 1, 11), np.linspace(100, 101, 11)])[:, None]
    picked = direct(pool, 4, n_clusters=2)
    assert picked.index[:2].tolist() == [5, 16]
    assert set(picked.index[2:]) <= {0, 10, 11, 21}


def test_clusters_with_known_rows_come_last() -> None:
    pool, label = strata()
    train = pool[label == 3][:2] + 0.1
    assert label[direct(pool, 4, train=train).index].tolist() == [2, 1, 0, 3]
    assert label[direct(pool, 2, train=train, n_clusters=4).index].tolist() == [2, 1]


def test_components() -> None:
    """Two independent directions, the first in three features and the second in two, and one that does not vary."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 4000, 1))
    pool = np.concatenate([a, 2 * a, -3 * a, b, 5 * b, np.full((4000, 1), 7.0)], axis=1) + 3.0
    scores = _Components(Rows(pool))(pool)
    assert scores.shape == (4000, 2)
    # Variances 3 and 2 of 5, and so are the weights: 3 x 0.6^2 and 2 x 0.4^2.
    np.testing.assert_allclose(scores.var(axis=0), [3 * 0.36, 2 * 0.16], rtol=0.05)
    assert abs(np.corrcoef(scores[:, 0], a[:, 0])[0, 1]) > 0.99
    np.testing.assert_allclose(scores.mean(axis=0), 0.0, atol=1e-9)


def test_birch() -> None:
    pytest.importorskip('sklearn')
    pool, label = strata()
    picked = direct(pool, 4, clustering='birch')
    assert label[picked.index].tolist() == [3, 2, 1, 0]
    assert picked.index.tolist() == direct(pool, 4, clustering='birch').index.tolist()
    copies = np.tile(np.arange(3.0)[:, None], (20, 2))
    assert sorted(copies[direct(copies, 9, clustering='birch').index, 0]) == [0.0, 1.0, 2.0]


def test_birch_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'sklearn', None)
    monkeypatch.setitem(sys.modules, 'sklearn.cluster', None)
    with pytest.raises(ModuleNotFoundError, match=r'clustering `birch` needs scikit-learn, which is not installed'):
        direct(strata()[0], 2, clustering='birch')


def test_wrong_options() -> None:
    with pytest.raises(ValueError, match=r'spectral'):
        direct(np.ones((3, 2)), 1, clustering='spectral')
    with pytest.raises(ValueError, match=r'`n_clusters` is 0'):
        direct(np.ones((3, 2)), 1, n_clusters=0)
