"""Uncertainty and distance together."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from aiida_alpot.worker.acquisition.batch_selection import hybrid


def naive_hybrid(
    naive: SimpleNamespace,
    pool: np.ndarray,
    k: int,
    train: np.ndarray | None,
    u: np.ndarray,
    alpha: float,
    greedy: bool,
) -> list[int]:
    normal = (u - u.min()) / (u.max() - u.min())
    picks = [] if train is not None else [int(u.argmax())]
    known = pool[picks] if train is None else train
    largest = np.sqrt(naive.squared(pool, known).min(axis=1)).max()
    while len(picks) < k:
        seen = np.concatenate([known, pool[picks]]) if greedy else known
        distance = np.sqrt(naive.squared(pool, seen).min(axis=1))
        score = alpha * normal + (1 - alpha) * distance / largest
        score[distance == 0] = -1
        score[picks] = -1
        picks.append(int(score.argmax()))
    return picks


@pytest.mark.parametrize('greedy', [True, False])
@pytest.mark.parametrize('is_known', [True, False])
@pytest.mark.parametrize('alpha', [0.0, 0.6, 0.9, 1.0])
def test_against_the_definition(naive: SimpleNamespace, greedy: bool, is_known: bool, alpha: float) -> None:
    rng = np.random.default_rng(0)
    pool, u = rng.normal(size=(150, 4)), rng.random(150)
    train = rng.normal(size=(5, 4)) if is_known else None
    picked = hybrid(pool, 12, train=train, weights=u, alpha=alpha, greedy=greedy)
    assert picked.index.tolist() == naive_hybrid(naive, pool, 12, train, u, alpha, greedy)


def test_by_hand() -> None:
    pool, u = np.array([[1.0], [2.0], [4.0]]), [3.0, 2.0, 1.0]
    picked = hybrid(pool, 3, train=[[0.0]], weights=u)
    # 0.6 U + 0.4 D = 0.6 + 0.1, 0.3 + 0.2, 0 + 0.4; then the second row is 1 from the first pick, the third 3.
    assert picked.index.tolist() == [0, 1, 2]
    assert picked.score == pytest.approx([0.7, 0.3 + 0.1, 0.2])
    assert picked.centre is not None and picked.centre.tolist() == [0, 1, 2]


def test_unit_of_the_uncertainty_does_not_matter() -> None:
    rng = np.random.default_rng(1)
    pool, u = rng.normal(size=(60, 3)), rng.random(60)
    first, again = (hybrid(pool, 8, train=pool[:3] + 1, weights=w).index.tolist() for w in (u, 1000 * u + 5))
    assert first == again


def test_equal_uncertainties_leave_the_distance(naive: SimpleNamespace) -> None:
    rng = np.random.default_rng(2)
    pool, train = rng.normal(size=(60, 3)), rng.normal(size=(4, 3))
    picked = hybrid(pool, 9, train=train, weights=np.full(60, 0.3))
    assert picked.index.tolist() == naive.k_center(pool, 9, train)[0]


def test_a_batch_does_not_crowd() -> None:
    """Fifty copies, nearly, of the most uncertain row: the equation as it stands takes them all."""
    rng = np.random.default_rng(3)
    pool = np.concatenate([1e-3 * rng.normal(size=(50, 2)) + 5.0, rng.normal(size=(50, 2))])
    u = np.concatenate([np.ones(50), np.full(50, 0.5)])
    train = np.zeros((1, 2))
    assert (hybrid(pool, 10, train=train, weights=u, greedy=False).index < 50).all()
    assert (hybrid(pool, 10, train=train, weights=u, alpha=0.1).index < 50).sum() <= 3


def test_wrong_options() -> None:
    with pytest.raises(ValueError, match=r'`weights` is None, expected the uncertainty of each row of `pool`'):
        hybrid(np.ones((3, 2)), 1)
    with pytest.raises(ValueError, match=r'`alpha` is 1.5'):
        hybrid(np.ones((3, 2)), 1, weights=np.ones(3), alpha=1.5)
