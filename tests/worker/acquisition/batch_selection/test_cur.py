"""Leverage scores."""

from __future__ import annotations

import numpy as np
import pytest

from aiida_alpot.worker.acquisition.batch_selection import cur


def leverage(x: np.ndarray, rank: int) -> np.ndarray:
    """From the singular vectors, as it is defined."""
    return (np.linalg.svd(x, full_matrices=False)[0][:, :rank] ** 2).sum(axis=1)


@pytest.mark.parametrize('rank', [1, 3, 6])
def test_against_the_singular_vectors(rank: int) -> None:
    x = np.random.default_rng(0).normal(size=(80, 6)) * [9.0, 5.0, 3.0, 2.0, 1.0, 0.5]
    expected = leverage(x, rank)
    picked = cur(x, 10, rank=rank)
    assert picked.index.tolist() == np.argsort(-expected)[:10].tolist()
    np.testing.assert_allclose(picked.score, np.sort(expected)[::-1][:10], rtol=1e-9)
    # The scores of all rows sum up to the rank.
    assert cur(x, 80, rank=rank).score.sum() == pytest.approx(rank)


def test_rank_is_at_most_the_number_of_picks() -> None:
    x = np.random.default_rng(1).normal(size=(50, 8))
    assert cur(x, 3).score.tolist() == cur(x, 3, rank=3).score.tolist()


def test_numerical_rank() -> None:
    """Noise of float32 is no direction: with it the scores would be 1 for anything."""
    rng = np.random.default_rng(2)
    x = (rng.normal(size=(60, 2)) @ rng.normal(size=(2, 9))).astype(np.float32)
    picked = cur(x, 60)
    assert picked.score.sum() == pytest.approx(2.0, rel=1e-3)


def test_weights_multiply() -> None:
    x, w = np.random.default_rng(3).normal(size=(40, 5)), np.random.default_rng(4).random(40)
    assert cur(x, 6, weights=w, rank=4).index.tolist() == np.argsort(-w * leverage(x, 4))[:6].tolist()


def test_what_is_known_is_projected_out() -> None:
    rng = np.random.default_rng(5)
    x, train = rng.normal(size=(40, 6)), rng.normal(size=(2, 6))
    basis = np.linalg.qr(train.T)[0]
    expected = leverage(x - x @ basis @ basis.T, 4)
    picked = cur(x, 8, train=train, rank=4)
    assert picked.index.tolist() == np.argsort(-expected)[:8].tolist()
    np.testing.assert_allclose(picked.score, np.sort(expected)[::-1][:8], rtol=1e-9)
    assert len(cur(x, 5, train=rng.normal(size=(6, 6)))) == 0


def test_by_hand() -> None:
    """Rows at right angles have leverage 1; two copies share it, and the second is left out."""
    picked = cur(np.array([[2.0, 0.0], [2.0, 0.0], [0.0, 1.0]]), 3, rank=2)
    assert picked.index.tolist() == [2, 0] and picked.score == pytest.approx([1.0, 0.5])


def test_wrong_rank() -> None:
    with pytest.raises(ValueError, match=r'`rank` is 0'):
        cur(np.ones((2, 2)), 1, rank=0)
