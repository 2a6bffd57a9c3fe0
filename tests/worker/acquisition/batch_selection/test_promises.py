"""What every rule promises."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiida_alpot.worker.acquisition.batch_selection import (
    Picked,
    cur,
    direct,
    farthest_point,
    hybrid,
    k_center,
    k_means,
    lcmd,
    posterior_variance,
)

Rule = Callable[..., Picked]


def with_uncertainty(pool: Any, k: int, *, train: Any = None, weights: Any = None, greedy: bool = True) -> Picked:
    """A hybrid whose uncertainty is the weight, or the first feature."""
    if weights is None:
        weights = np.abs(np.nan_to_num(np.asarray(pool)[:, 0]))
    return hybrid(pool, k, train=train, weights=weights, greedy=greedy)


RULES: dict[str, Rule] = {
    'posterior_variance': posterior_variance,
    'lcmd': lcmd,
    'k_center': k_center,
    'k_means, farthest': partial(k_means, reading='farthest'),
    'k_means, nearest': partial(k_means, reading='nearest'),
    'direct': direct,
    'cur': cur,
    'hybrid': with_uncertainty,
    'hybrid, not greedy': partial(with_uncertainty, greedy=False),
}
#: These go on until nothing new is left; the others give one row a cluster, or one a leverage score above 0.
EXHAUSTIVE = ('posterior_variance', 'lcmd', 'k_center', 'hybrid', 'direct')


@pytest.fixture(params=RULES)
def rule(request: pytest.FixtureRequest) -> Rule:
    return RULES[request.param]


def small(n: int = 40, d: int = 5, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def test_shapes(rule: Rule) -> None:
    picked = rule(small(d=9), 4, train=small(6, 9, seed=1))
    assert len(picked) == 4
    assert picked.index.dtype == np.int64 and picked.score.dtype == np.float64
    assert picked.index.shape == picked.score.shape == (4,)
    assert picked.centre is None or (picked.centre.dtype == np.int64 and picked.centre.shape == (4,))


def test_same_input_same_picks(rule: Rule) -> None:
    pool, weights = small(80), np.random.default_rng(2).random(80)
    first, again = (rule(pool.copy(), 9, train=small(6, seed=1), weights=weights) for _ in range(2))
    assert first.index.tolist() == again.index.tolist() and first.score.tolist() == again.score.tolist()


@pytest.mark.parametrize('name', RULES)
@given(data=st.data())
def test_no_row_is_picked_twice_and_none_that_is_known(name: str, data: st.DataObject) -> None:
    n = data.draw(st.integers(0, 14))
    rows = st.lists(st.tuples(st.integers(-2, 2), st.integers(-1, 1)), min_size=n, max_size=n)
    pool = np.array(data.draw(rows), dtype=np.float32).reshape(n, 2)
    known = data.draw(st.one_of(st.none(), st.lists(st.sampled_from([(0, 0), (1, 1), (2, -1)]), max_size=3)))
    train = None if known is None else np.array(known, dtype=np.float32).reshape(-1, 2)
    k = data.draw(st.integers(1, 16))
    picked = RULES[name](pool, k, train=train)
    chosen = [tuple(pool[row]) for row in picked.index]
    taken = set() if train is None else {tuple(row) for row in train}
    assert len(chosen) == len(set(chosen)) <= k
    assert not taken & set(chosen)
    if name in EXHAUSTIVE:
        new = {tuple(row) for row in pool} - taken
        if name == 'posterior_variance':
            new -= {(0.0, 0.0)}
        assert len(chosen) == min(k, len(new))


def test_pool_of_copies(rule: Rule) -> None:
    pool = np.tile(np.array([[1.0, 2.0, 3.0]], dtype=np.float32), (30, 1))
    assert rule(pool, 5).index.tolist() == [0]
    assert rule(pool, 5, train=pool[:1]).index.tolist() == []


def test_zero_rows(rule: Rule) -> None:
    zeros = np.zeros((20, 3))
    assert len(rule(zeros, 5, train=zeros[:1])) == 0
    assert len(rule(zeros, 5)) <= 1


def test_fewer_rows_than_picks(rule: Rule) -> None:
    assert sorted(rule(small(4), 10, train=small(3, seed=1)).index) == [0, 1, 2, 3]


def test_empty_pool(rule: Rule) -> None:
    assert len(rule(np.empty((0, 3)), 2, weights=np.empty(0))) == 0
    assert len(rule(np.empty((0, 3)), 2, train=np.ones((2, 3)), weights=np.empty(0))) == 0


def test_no_training_rows_is_none(rule: Rule) -> None:
    pool = small()
    assert rule(pool, 5, train=np.empty((0, 5))).index.tolist() == rule(pool, 5).index.tolist()


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite(rule: Rule, value: float) -> None:
    pool, weights = small(), np.ones(40)
    pool[7, 2] = value
    with pytest.raises(ValueError, match=r'row 7 of `pool` holds a number that is not finite: leave out'):
        rule(pool, 3, weights=weights)
    with pytest.raises(ValueError, match=r'row 7 of `train` holds a number that is not finite'):
        rule(small(), 3, train=pool, weights=weights)


def test_squares_that_overflow(rule: Rule) -> None:
    pool = small()
    pool[5] = 1e30
    with pytest.raises(ValueError, match=r'row 5 of `pool` holds numbers whose squares are not finite: scale'):
        rule(pool, 3, weights=np.ones(40))


def test_wrong_arguments(rule: Rule) -> None:
    with pytest.raises(ValueError, match=r'`k` is 0, expected a whole number at least 1'):
        rule(small(), 0)
    with pytest.raises(ValueError, match=r'`pool` has shape \(3,\), expected \(rows, features\)'):
        rule(np.ones(3), 1, weights=np.ones(3))
    with pytest.raises(ValueError, match=r'`pool` holds <U1, expected numbers'):
        rule(np.array([['a']]), 1, weights=np.ones(1))
    with pytest.raises(ValueError, match=r'`train` has 4 features a row, `pool` has 5'):
        rule(small(), 1, train=np.ones((2, 4)))
    with pytest.raises(ValueError, match=r'`weights` has shape \(3,\), expected \(40,\)'):
        rule(small(), 1, weights=np.ones(3))
    for wrong in (np.nan, -1.0, np.inf):
        weights = np.ones(40)
        weights[11] = wrong
        with pytest.raises(ValueError, match=rf'`weights` holds {wrong} for row 11'):
            rule(small(), 1, weights=weights)


@pytest.mark.parametrize('name', [name for name in RULES if not name.startswith('hybrid')])
def test_rows_of_weight_zero_are_not_picked(name: str) -> None:
    pool, weights = small(30), np.ones(30)
    weights[::2] = 0.0
    picked = RULES[name](pool, 10, weights=weights)
    assert len(picked) and not set(picked.index) & set(range(0, 30, 2))
    assert len(RULES[name](pool, 10, weights=np.zeros(30))) == 0


@pytest.mark.parametrize('name', [name for name in RULES if not name.startswith('hybrid')])
def test_equal_weights_are_none(name: str) -> None:
    pool, train = small(60), small(5, seed=1)
    plain = RULES[name](pool, 8, train=train)
    assert plain.index.tolist() == RULES[name](pool, 8, train=train, weights=np.ones(60)).index.tolist()


def test_where_the_rows_lie_does_not_matter(rule: Rule, tmp_path: Path) -> None:
    pool, train = small(300, 17), small(12, 17, seed=1)
    weights = np.random.default_rng(3).random(300)
    np.save(tmp_path / 'pool.npy', pool)
    with h5py.File(tmp_path / 'pool.h5', 'w') as file:
        file['contiguous'] = pool
        file.create_dataset('chunked', data=pool, chunks=(50, 17), compression='gzip')
    expected = rule(pool, 20, train=train, weights=weights)
    with h5py.File(tmp_path / 'pool.h5') as file:
        sources = [np.load(tmp_path / 'pool.npy', mmap_mode='r'), file['contiguous'], file['chunked'], pool.tolist()]
        for source in sources:
            picked = rule(source, 20, train=train, weights=weights)
            assert picked.index.tolist() == expected.index.tolist()
            np.testing.assert_allclose(picked.score, expected.score, rtol=1e-6)


def test_integers_are_numbers(rule: Rule) -> None:
    pool = np.random.default_rng(0).integers(-50, 50, size=(40, 4))
    assert rule(pool, 6).index.tolist() == rule(pool.astype(float), 6).index.tolist()


def test_farthest_point_is_k_center_of_a_pool_alone() -> None:
    pool = small(50)
    assert farthest_point(pool, 7).index.tolist() == k_center(pool, 7).index.tolist()
