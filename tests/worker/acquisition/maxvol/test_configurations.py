"""MaxVol as a batch selection."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiida_alpot.worker.acquisition.maxvol import maxvol, maxvol_configurations


def volume(rows: np.ndarray) -> float:
    """Square root of det(A A^T) or det(A^T A), whichever is the smaller matrix."""
    gram = rows @ rows.T if len(rows) <= rows.shape[1] else rows.T @ rows
    return float(np.sqrt(np.linalg.det(gram)))


def test_new_directions_first_by_hand():
    pool = np.array([[5.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.5, 0.0], [3.0, 2.0, 0.0], [0.0, 0.0, 0.1]])
    train = np.array([[1.0, 0.0, 0.0]])
    # Row 3 sticks out of the line of the training row by 2; row 4 out of the plane of both. Features that were always
    # zero are divided by what the others have. Then rows 0 and 1 remain: row 0 is five times the training row.
    picks = maxvol_configurations(pool, 3, train=train)
    assert picks.index.tolist() == [3, 4, 0]
    assert picks.score[2] == pytest.approx(5.0)
    assert picks.centre is None


def test_without_training_rows_it_is_maxvol():
    rows = np.random.default_rng(0).standard_normal((400, 5))
    picks = maxvol_configurations(rows, 5)
    assert np.abs(rows @ np.linalg.inv(rows[picks.index])).max() <= 1.01
    assert volume(rows[picks.index]) >= 0.9 * volume(rows[maxvol(rows).index])


def test_fewer_picks_than_directions_are_the_pivots():
    rows = np.random.default_rng(1).standard_normal((100, 6)) * np.exp(
        np.random.default_rng(2).standard_normal((100, 1))
    )
    scaled = rows / np.sqrt((rows**2).mean(axis=0))
    left, expected = scaled.copy(), []
    for _ in range(4):
        expected.append(int(np.linalg.norm(left, axis=1).argmax()))
        direction = left[expected[-1]] / np.linalg.norm(left[expected[-1]])
        left = left - np.outer(left @ direction, direction)
    assert maxvol_configurations(rows, 4).index.tolist() == expected


def test_no_pick_is_left_that_extrapolates():
    rng = np.random.default_rng(3)
    train, pool = rng.standard_normal((200, 6)), 2.0 * rng.standard_normal((1000, 6))
    picks = maxvol_configurations(pool, 40, train=train)
    assert len(picks) == 40
    known = np.concatenate([train, pool[picks.index]])
    active = known[maxvol(known).index]
    assert np.abs(pool @ np.linalg.inv(active)).max() <= 1.01**2
    # No more than six took places of training rows; what was added after them had smaller and smaller norms.
    assert (picks.score[:6] > 1.0).all()
    assert (np.diff(picks.score[6:]) <= 1e-12).all()


def test_no_more_than_asked_for_take_places():
    rng = np.random.default_rng(4)
    train, pool = rng.standard_normal((50, 8)), 3.0 * rng.standard_normal((300, 8))
    picks = maxvol_configurations(pool, 3, train=train)
    assert len(picks) == 3
    assert (picks.score > 1.01).all()
    base = maxvol(train)
    active = train[base.index]
    # No exchange of one of the three for another row of the pool enlarges the volume of a set that has room for three.
    best = [abs(np.linalg.det(active))]
    for row in pool[picks.index]:
        coefficients = np.linalg.solve(active.T, row)
        active = active.copy()
        active[int(np.abs(coefficients).argmax())] = row
        best.append(abs(np.linalg.det(active)))
    assert best[-1] > 10.0 * best[0]


def test_additions_enlarge_the_volume_the_most():
    rows = np.random.default_rng(5).standard_normal((80, 3))
    picks = maxvol_configurations(rows, 6).index
    for count in (3, 4, 5):
        known = rows[picks[:count]]
        volumes = [0.0 if row in picks[:count] else volume(np.vstack([known, rows[row]])) for row in range(80)]
        assert int(np.argmax(volumes)) == picks[count]


@given(st.integers(0, 10**6), st.integers(1, 30), st.booleans(), st.booleans())
@settings(max_examples=40, deadline=None)
def test_picks_are_new_and_each_picked_once(seed: int, k: int, with_train: bool, weighted: bool):
    rng = np.random.default_rng(seed)
    pool = rng.integers(-2, 3, (25, 3)).astype(np.float64)
    train = rng.integers(-2, 3, (6, 3)).astype(np.float64) if with_train else None
    weights = rng.integers(0, 3, 25).astype(np.float64) if weighted else None
    picks = maxvol_configurations(pool, k, train=train, weights=weights)
    assert len(picks) <= k
    taken = pool[picks.index]
    assert len(np.unique(taken, axis=0)) == len(taken)
    assert taken.any(axis=1).all()
    assert (picks.score > 0).all()
    if train is not None:
        assert not (taken[:, None] == train).all(axis=2).any()
    if weights is not None:
        assert (weights[picks.index] > 0).all()
    usable = pool[pool.any(axis=1) & (True if weights is None else weights > 0)]
    if train is not None:
        usable = usable[~(usable[:, None] == train).all(axis=2).any(axis=1)]
    assert len(picks) == min(k, len(np.unique(usable, axis=0)))


def test_copies_and_zeros():
    assert maxvol_configurations(np.ones((5, 3)), 4).index.tolist() == [0]
    assert len(maxvol_configurations(np.zeros((5, 3)), 4)) == 0
    assert len(maxvol_configurations(np.empty((0, 3)), 4)) == 0
    assert len(maxvol_configurations(np.ones((5, 3)), 4, train=np.ones((1, 3)))) == 0
    assert maxvol_configurations(np.eye(3), 4, train=np.zeros((2, 3))).index.tolist() == [0, 1, 2]


def test_only_the_ratio_of_weights_matters():
    rng = np.random.default_rng(6)
    train, pool, weights = rng.standard_normal((30, 4)), rng.standard_normal((200, 4)), rng.random(200)
    once = maxvol_configurations(pool, 12, train=train, weights=weights)
    again = maxvol_configurations(pool, 12, train=train, weights=1e-3 * weights)
    assert once.index.tolist() == again.index.tolist()
    equal = maxvol_configurations(pool, 12, train=train, weights=np.full(200, 0.1))
    assert equal.index.tolist() == maxvol_configurations(pool, 12, train=train).index.tolist()


def test_bad_input():
    pool = np.ones((4, 2))
    with pytest.raises(ValueError, match='`k`'):
        maxvol_configurations(pool, 0)
    with pytest.raises(ValueError, match='`train` has 3 features'):
        maxvol_configurations(pool, 1, train=np.ones((2, 3)))
    pool[2, 1] = np.inf
    with pytest.raises(ValueError, match='row 2 of `pool`'):
        maxvol_configurations(pool, 1)
    with pytest.raises(ValueError, match='row 2 of `pool`'):
        maxvol_configurations(pool, 1, train=np.ones((2, 2)))


@pytest.mark.parametrize('with_train', [False, True])
def test_single_precision_picks_the_same(with_train: bool):
    rng = np.random.default_rng(7)
    pool, train = rng.standard_normal((3000, 8), dtype=np.float32), rng.standard_normal((50, 8), dtype=np.float32)
    single = maxvol_configurations(pool, 30, train=train if with_train else None)
    double = maxvol_configurations(pool.astype(float), 30, train=train.astype(float) if with_train else None)
    assert single.index.tolist() == double.index.tolist()
    np.testing.assert_allclose(single.score, double.score, rtol=1e-4)
