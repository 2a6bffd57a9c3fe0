"""Calibration by group."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from aiida_alpot.worker.acquisition.calibration import CALIBRATIONS, from_dict, grouped, linear

Noisy = Callable[..., tuple[np.ndarray, np.ndarray, np.ndarray]]


@pytest.fixture
def three(noisy: Noisy) -> tuple[np.ndarray, ...]:
    """Slopes 1 and 4 in two origins of 50 frames each, and a third with 3 frames."""
    d, e, frame = noisy(103, 1.0)
    group = np.array(['bulk'] * 50 + ['surface'] * 50 + ['cluster'] * 3)
    return d, np.where(group == 'bulk', e, 4 * e), frame, group


def test_each_group_has_its_own(three: tuple[np.ndarray, ...]) -> None:
    d, e, frame, group = three
    fit = grouped(linear, d, e, frame, group)
    for label in ('bulk', 'surface'):
        rows = group == label
        assert fit.groups[label] == linear(d[rows], e[rows], frame[rows])
    assert fit.groups['surface'].slope == pytest.approx(4, rel=0.3) and fit.groups['bulk'].slope == pytest.approx(
        1, rel=0.3
    )
    assert fit.threshold(0.1, 'surface') < fit.threshold(0.1) < fit.threshold(0.1, 'bulk')


def test_small_and_unknown_groups_have_that_of_all(three: tuple[np.ndarray, ...]) -> None:
    d, e, frame, group = three
    fit = grouped(linear, d, e, frame, group)
    assert fit.overall == linear(d, e, frame)
    assert fit.left == {'cluster': '3 held-out frames, at least 10 are needed: that of all frames holds'}
    assert (
        fit.threshold(0.1, 'cluster')
        == fit.threshold(0.1, 'liquid')
        == fit.threshold(0.1)
        == fit.overall.threshold(0.1)
    )
    expected = fit.expected_error(np.full(4, 0.05), np.array(['bulk', 'cluster', 'surface', 'liquid']))
    assert expected == pytest.approx([fit.of(g).expected_error(0.05) for g in ('bulk', None, 'surface', None)])
    assert fit.expected_error(np.full(2, 0.05), 'bulk') == pytest.approx(np.repeat(expected[0], 2))
    assert fit.expected_error(np.full(2, 0.05)) == pytest.approx(np.repeat(expected[1], 2))


def test_stored(three: tuple[np.ndarray, ...]) -> None:
    fit = grouped(CALIBRATIONS['conformal'], *three, alpha=0.2)
    stored = fit.as_dict()
    assert stored['kind'] == 'conformal' and set(stored['groups']) == {'bulk', 'surface'} and stored['trustworthy']
    assert from_dict(stored) == fit
    assert fit.groups['bulk'].parameters['alpha'] == 0.2


def test_a_group_that_is_not_trusted_says_so(three: tuple[np.ndarray, ...]) -> None:
    d, e, frame, group = three
    e = np.where(group == 'surface', np.random.default_rng(1).permutation(e[50:100]).mean(), e)
    fit = grouped(linear, d, e, frame, group)
    assert not fit.groups['surface'].trustworthy and fit.groups['bulk'].trustworthy
    assert not fit.trustworthy and 'surface: ' in fit.reason


def test_clusters_may_be_numbers(three: tuple[np.ndarray, ...]) -> None:
    d, e, frame, group = three
    number = np.unique(group, return_inverse=True)[1]
    fit = grouped(linear, d, e, frame, number)
    assert set(fit.groups) == {'0', '2'} and set(fit.left) == {'1'}
    assert fit.expected_error(np.full(103, 0.05), number) == pytest.approx(
        grouped(linear, d, e, frame, group).expected_error(np.full(103, 0.05), group)
    )


def test_refused(three: tuple[np.ndarray, ...]) -> None:
    d, e, frame, group = three
    with pytest.raises(ValueError, match='expected the group of each'):
        grouped(linear, d, e, frame, group[:-1])
    with pytest.raises(ValueError, match='expected the group of each'):
        grouped(linear, d, e, frame, group).expected_error(d, group[:-1])


def test_what_is_not_by_group_takes_no_notice(noisy: Noisy) -> None:
    fit = linear(*noisy(30, 2.0))
    assert fit.threshold(0.1, 'bulk') == fit.threshold(0.1)
    assert np.array_equal(fit.expected_error(np.ones(2), np.array(['a', 'b'])), fit.expected_error(np.ones(2)))
