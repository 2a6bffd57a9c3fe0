"""k-center, LCMD and posterior variance against their definitions, pick by pick."""

from __future__ import annotations

import importlib
import tracemalloc
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiida_alpot.worker.acquisition import batch_selection
from aiida_alpot.worker.acquisition.batch_selection import Picked, k_center, lcmd, posterior_variance

RULES = ('k_center', 'lcmd', 'posterior_variance')
POOLS = (
    'few features',
    'many features',
    'nothing known',
    'alike',
    'alike, float32',
    'copies',
    'far from the origin',
    'one feature',
)
PACKAGE = 'aiida_alpot.worker.acquisition.batch_selection'


def run(rule: str, pool: Any, k: int, **options: Any) -> Picked:
    return getattr(batch_selection, rule)(pool, k, **options)


@pytest.fixture(params=['as it is', 'small pieces', 'all features', 'double'])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Ways to the same result: blocks and lists of a few rows, and each kind of bound."""

    def put(module: str, **values: Any) -> None:
        for name, value in values.items():
            monkeypatch.setattr(importlib.import_module(f'{PACKAGE}.{module}'), name, value)

    if request.param == 'small pieces':
        put('blocks', BLOCK_BYTES=1)
        put('distances', BUFFER_NUMBERS=64)
        put('nearest', TILE_ROWS=7, TILE_CENTRES=5)
        put('lazy_greedy', HOT_ROWS=(16, 16), FIRST_BATCH=2, LAST_BATCH=8)
        put('clusters', TILE_ROWS=11, BATCH=3, GATHER_BYTES=1)
        put('look_ahead', CLUSTERS=4, FARTHEST=3, OTHERS=20)
        put('posterior_variance', RENEW=5, FIRST_EXACT=1)
        put('posterior', DIRECTIONS=(2, 4))
    elif request.param == 'all features':
        put('clusters', COORDINATE_BYTES=0)
        put('nearest', COORDINATES=(10**6, 10**6))
    elif request.param == 'double':
        put('nearest', PAIR_COST=1e9)  # float64 bounds leave the fewest distances
        put('posterior', EXCESS=1e9)
    return str(request.param)


@pytest.mark.parametrize('rule', RULES)
@pytest.mark.parametrize('name', POOLS)
@pytest.mark.parametrize('are_weighted', [False, True])
def test_order_is_that_of_the_definition(
    rule: str,
    name: str,
    are_weighted: bool,
    way: str,
    pools: dict[str, tuple[np.ndarray, np.ndarray | None]],
    naive: SimpleNamespace,
) -> None:
    pool, train = pools[name]
    weights = np.random.default_rng(5).random(len(pool)) if are_weighted else None
    options = {'regularisation': 1.0} if rule == 'posterior_variance' and name == 'far from the origin' else {}
    picked = run(rule, pool, 70, train=train, weights=weights, **options)
    index, scores = getattr(naive, rule)(pool, 70, train, weights, **options)
    assert picked.index.tolist() == index
    np.testing.assert_allclose(picked.score, scores, rtol=1e-6 if rule == 'posterior_variance' else 1e-9)


@pytest.mark.parametrize('rule', ['k_center', 'lcmd'])
@given(data=st.data())
def test_ties_and_copies(rule: str, naive: SimpleNamespace, data: st.DataObject) -> None:
    """On a lattice nearly everything ties, and all distances are exact."""
    d = data.draw(st.integers(1, 4))
    n, m = data.draw(st.integers(1, 40)), data.draw(st.integers(0, 4))
    seed = data.draw(st.integers(0, 10**6))
    rng = np.random.default_rng(seed)
    pool, train = rng.integers(0, 3, size=(n, d)).astype(np.float32), rng.integers(0, 3, size=(m, d))
    weights = rng.integers(0, 3, size=n) if data.draw(st.booleans()) else None
    picked = run(rule, pool, 12, train=train, weights=weights)
    index, scores = getattr(naive, rule)(pool, 12, train, weights)
    assert picked.index.tolist() == index
    assert picked.score.tolist() == scores


@given(seed=st.integers(0, 10**6), are_known=st.booleans())
def test_ties_of_variances(naive: SimpleNamespace, seed: int, are_known: bool) -> None:
    """Copies, and rows that are equal but for the order of their features, tie; the first one is picked."""
    rng = np.random.default_rng(seed)
    pool = rng.integers(-1, 2, size=(30, 6)).astype(np.float32)
    train = rng.integers(-1, 2, size=(3, 6)).astype(np.float32) if are_known else None
    picked = posterior_variance(pool, 8, train=train, regularisation=1.0)
    index, _ = naive.posterior_variance(pool, 8, train, None, 1.0)
    assert picked.index.tolist() == index


def test_k_center_by_hand() -> None:
    pool = np.array([[1.0], [9.0], [4.0], [4.0]])
    picked = k_center(pool, 10, train=[[0.0]])
    assert picked.index.tolist() == [1, 2, 0]
    assert picked.score.tolist() == [81.0, 16.0, 1.0]
    assert picked.centre is not None and picked.centre.tolist() == [0, 0, 0]
    # With weights the nearest row may come first: 1 x 16 > 0.1 x 81.
    picked = k_center(pool, 2, train=[[0.0]], weights=[1.0, 0.1, 1.0, 1.0])
    assert picked.index.tolist() == [2, 1] and picked.score == pytest.approx([16.0, 2.5])
    assert picked.centre is not None and picked.centre.tolist() == [0, 1]


def test_k_center_begins_with_the_largest_row() -> None:
    picked = k_center(np.array([[1.0, 1.0], [-3.0, 0.0], [0.0, 3.0]]), 2)
    assert picked.index.tolist() == [1, 2] and picked.score.tolist() == [9.0, 18.0]
    assert picked.centre is not None and picked.centre.tolist() == [-1, 0]
    zeros = k_center(np.zeros((3, 2)), 2)
    assert zeros.index.tolist() == [0] and zeros.score.tolist() == [0.0]


def test_lcmd_by_hand() -> None:
    pool = np.array([[1.0], [2.0], [3.0], [14.0]])
    picked = lcmd(pool, 10, train=[[0.0], [10.0]])
    # Masses 1 + 4 + 9 = 14 and 16: first 14, then 3, which takes 2 over; 1 and 2 are left, with masses of 1 each.
    assert picked.index.tolist() == [3, 2, 0, 1]
    assert picked.score.tolist() == [16.0, 9.0, 1.0, 1.0]
    assert picked.centre is not None and picked.centre.tolist() == [1, 0, 0, 3]


def test_lcmd_picks_from_many_not_from_far() -> None:
    """An outlier is the farthest row, but a crowd has more mass."""
    crowd = 1.0 + np.arange(50)[:, None] / 100.0
    pool = np.concatenate([crowd, [[-3.0]]])
    assert k_center(pool, 1, train=[[0.0]]).index.tolist() == [50]
    train = [[0.0], [-1.0]]
    assert lcmd(pool, 1, train=train).index.tolist() == [49]


def test_lcmd_weights_count_in_the_mass() -> None:
    pool = np.array([[1.0], [2.0], [3.0], [14.0]])
    picked = lcmd(pool, 1, train=[[0.0], [10.0]], weights=[1.0, 1.0, 1.0, 0.5])
    assert picked.index.tolist() == [2]  # 14 > 8


def test_posterior_variance_by_hand() -> None:
    picked = posterior_variance(np.array([[1.0], [2.0]]), 5, regularisation=1.0)
    assert picked.index.tolist() == [1, 0]
    assert picked.score == pytest.approx([4.0, 1.0 - 4.0 / 5.0])
    assert picked.centre is None
    assert posterior_variance([[2.0]], 1, train=[[1.0]], regularisation=1.0).score == pytest.approx([2.0])
    # Rows at right angles say nothing about each other.
    picked = posterior_variance(np.diag([1.0, 3.0, 2.0]), 3, regularisation=1e-3)
    assert picked.index.tolist() == [1, 2, 0] and picked.score == pytest.approx([9.0, 4.0, 1.0])


def test_posterior_variance_with_as_many_training_rows_as_features(naive: SimpleNamespace) -> None:
    """Both forms of the covariance, on either side of m = d."""
    rng = np.random.default_rng(0)
    pool = rng.normal(size=(200, 9))
    for m in (8, 9, 10, 40):
        train = rng.normal(size=(m, 9))
        picked = posterior_variance(pool, 20, train=train)
        index, scores = naive.posterior_variance(pool, 20, train, None)
        assert picked.index.tolist() == index
        np.testing.assert_allclose(picked.score, scores, rtol=1e-6)


def test_regularisation_is_positive() -> None:
    with pytest.raises(ValueError, match=r'`regularisation` is 0'):
        posterior_variance(np.ones((2, 2)), 1, regularisation=0.0)


def test_rows_beyond_float32_decide(naive: SimpleNamespace) -> None:
    """Differences of 10^-9 are lost in float32 and must not be."""
    rng = np.random.default_rng(1)
    unit = rng.normal(size=(300, 80))
    unit /= np.linalg.norm(unit, axis=1)[:, None]
    pool = unit * (1.0 + 1e-9 * rng.permutation(300))[:, None]
    train = np.zeros((1, 80))
    for rule in ('k_center', 'posterior_variance'):
        index, _ = getattr(naive, rule)(pool, 30, train, None)
        assert run(rule, pool, 30, train=train).index.tolist() == index


@pytest.mark.parametrize('rule', RULES)
def test_memory_does_not_grow_with_the_square(rule: str) -> None:
    """30,000 rows: a matrix of all pairs has 7.2 GB."""
    pool = np.random.default_rng(0).normal(size=(30_000, 8)).astype(np.float32)
    tracemalloc.start()
    run(rule, pool, 20, train=pool[:10] + 0.5)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 60e6
