"""Selectors: what each promises, and what all promise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiida_alpot.worker.acquisition.selectors import SELECTORS, Pick, Scores, Tolerance, choose


def make(force: list[float], energy: list[float] | None = None, ids: list[str] | None = None) -> Scores:
    n = len(force)
    return Scores(
        index=np.arange(n) * 10,
        frame_id=np.array(ids or [f'{i:03d}' for i in range(n)]),
        expected_force_error=np.array(force, dtype=float),
        expected_energy_error=np.array(energy or [0.0] * n, dtype=float),
    )


def select(name: str, scores: Scores, tolerance: Tolerance, max_select: int, seed: int) -> list[Pick]:
    return choose(scores, tolerance, SELECTORS[name], max_select, seed)


def test_threshold_takes_all_that_fit() -> None:
    scores = make([0.05, 0.2, 0.1, 0.3, np.nan])
    picks = select('threshold_random', scores, Tolerance(0.1), 5, 0)
    assert [(pick.index, pick.reason) for pick in picks] == [
        (10, 'expected force error 0.2 > 0.1 eV/A'),
        (30, 'expected force error 0.3 > 0.1 eV/A'),
    ]


def test_energy_counts_only_when_asked_for() -> None:
    scores = make([0.05, 0.2], [0.5, 0.5])
    assert [pick.index for pick in select('threshold_random', scores, Tolerance(0.1), 5, 0)] == [10]
    picks = select('threshold_random', scores, Tolerance(0.1, 0.01), 5, 0)
    assert [pick.reason for pick in picks] == [
        'expected energy error 0.5 > 0.01 eV/atom',
        'expected force error 0.2 > 0.1 eV/A and expected energy error 0.5 > 0.01 eV/atom',
    ]


def test_random_draw_is_uniform_and_seeded() -> None:
    scores = make([1.0] * 20)
    counts = np.zeros(20)
    for seed in range(600):
        for pick in select('threshold_random', scores, Tolerance(0.1), 5, seed):
            counts[pick.index // 10] += 1
    assert counts.sum() == 3000 and np.all(np.abs(counts - 150) < 5 * np.sqrt(150))
    first, again = (select('threshold_random', scores, Tolerance(0.1), 5, 3) for _ in range(2))
    assert first == again and 'drawn among 20 such frames' in first[0].reason


def test_top_k_order_and_ties() -> None:
    scores = make([0.2, 0.9, 0.2, 0.05, 0.4], ids=['d', 'c', 'a', 'b', 'e'])
    picks = select('top_k', scores, Tolerance(0.1), 3, 0)
    assert [pick.index for pick in picks] == [10, 40, 20]  # the tie goes to the frame_id `a`
    assert picks[2].reason == 'expected force error 0.2 > 0.1 eV/A, rank 3 of 4 by expected force error'


@pytest.mark.parametrize('name', SELECTORS)
@given(data=st.data())
def test_what_every_selector_promises(name: str, data: st.DataObject) -> None:
    n = data.draw(st.integers(0, 30))
    force = data.draw(st.lists(st.sampled_from([0.0, 0.05, 0.2, 0.3, np.nan]), min_size=n, max_size=n))
    ids = data.draw(st.lists(st.sampled_from('abcdefghij'), min_size=n, max_size=n))
    max_select = data.draw(st.integers(1, 10))
    scores = make(force, ids=ids)
    picks = select(name, scores, Tolerance(0.1), max_select, 1)
    chosen = [ids[pick.index // 10] for pick in picks]
    worthy = {ids[i] for i in range(n) if force[i] > 0.1}
    assert len(chosen) == len(set(chosen)) == min(max_select, len(worthy))
    assert all(force[pick.index // 10] > 0.1 and pick.reason for pick in picks)
    # The order of the pool does not matter, as long as equal frames have equal scores.
    if len(set(ids)) == n and n > 1:
        order = np.random.default_rng(0).permutation(n)
        shuffled = Scores(
            *(getattr(scores, f)[order] for f in ('index', 'frame_id')),
            *(getattr(scores, f)[order] for f in ('expected_force_error', 'expected_energy_error')),
        )
        again = select(name, shuffled, Tolerance(0.1), max_select, 1)
        assert {pick.index for pick in again} == {pick.index for pick in picks}


@pytest.mark.parametrize('name', SELECTORS)
def test_nothing_to_select(name: str) -> None:
    assert select(name, make([0.01, 0.02]), Tolerance(0.1), 5, 0) == []
    assert select(name, make([]), Tolerance(0.1), 5, 0) == []


@pytest.mark.parametrize('name', SELECTORS)
def test_below_the_tolerance_where_all_are_asked_for(name: str) -> None:
    scores = make([0.01, 0.2, 0.03], ids=['a', 'b', 'a'])
    picks = choose(scores, Tolerance(0.1), SELECTORS[name], 5, 0, candidates='all')
    assert sorted(pick.index for pick in picks) == [0, 10]
    assert next(pick for pick in picks if pick.index == 0).reason.startswith('below the tolerance')


def test_quotas_of_origins() -> None:
    scores = make([0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    scores = replace(scores, origin=np.array(['md', 'md', 'md', 'rattle', 'rattle', 'md']))
    picked = {
        quota: [pick.index for pick in choose(scores, Tolerance(0.1), SELECTORS['top_k'], 4, 0, quotas={'md': quota})]
        for quota in (0, 1, 2, 9)
    }
    assert picked == {0: [30, 40], 1: [0, 30, 40], 2: [0, 10, 30, 40], 9: [0, 10, 20, 30]}


def test_tolerances_are_positive() -> None:
    with pytest.raises(ValueError, match=r'`tolerance.forces` is -0.1'):
        Tolerance(-0.1)
    with pytest.raises(ValueError, match=r'`tolerance.energy` is 0'):
        Tolerance(0.1, 0.0)
