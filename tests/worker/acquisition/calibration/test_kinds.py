"""What every kind of calibration promises: the conformance kit."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiida_alpot.worker.acquisition.calibration import (
    CALIBRATIONS,
    COMPONENTS,
    Calibration,
    from_dict,
    grouped,
)
from aiida_alpot.worker.acquisition.calibration.fitted import expected_without
from aiida_alpot.worker.acquisition.calibration.lines import _linear
from aiida_alpot.worker.acquisition.calibration.pairs import finite_pairs

Noisy = Callable[..., tuple[np.ndarray, np.ndarray, np.ndarray]]
MEASURES = {
    *('r2', 'spearman', 'nll', 'ece', 'ence', 'miscalibration_area', 'coverage', 'coverage_frames'),
    *('coverage_50', 'coverage_68', 'coverage_90', 'coverage_95', 'detection', 'detection_frames', 'n', 'n_frames'),
}


@pytest.mark.parametrize('name', CALIBRATIONS)
def test_what_every_calibration_promises(name: str, noisy: Noisy) -> None:
    fit = CALIBRATIONS[name](*noisy(200, 3.0), 10)
    check(fit)
    assert fit.trustworthy and fit.reason == '' and fit.kind == name
    assert set(fit.as_dict()) >= MEASURES
    assert fit.threshold(0.1) < 0.1, 'the members are too sure of themselves by a factor of three'


def check(fit: Calibration) -> None:
    """Expected errors and thresholds agree, and what is stored gives the same calibration."""
    grid = np.linspace(0, 0.2, 50)
    expected = fit.expected_error(grid)
    assert expected.shape == grid.shape and np.all(np.diff(expected) >= 0) and np.all(expected >= 0)
    assert expected[0] == 0 and np.isnan(fit.expected_error(np.array([np.nan]))).all()
    assert fit.expected_error(grid.reshape(5, 10)).shape == (5, 10)
    for tolerance in (1e-4, 0.01, 0.1, 0.5, 3.0):
        threshold = fit.threshold(tolerance)
        assert 0 <= threshold < np.inf
        assert fit.expected_error(np.array([threshold * (1 - 1e-9)]))[0] <= tolerance
        assert fit.expected_error(np.array([threshold * (1 + 1e-9)]))[0] > tolerance * (1 - 1e-6)
    again = from_dict(json.loads(json.dumps(fit.as_dict(), allow_nan=False)))
    assert again == fit
    assert np.array_equal(again.expected_error(grid), expected) and again.threshold(0.1) == fit.threshold(0.1)


@pytest.mark.parametrize('name', CALIBRATIONS)
@pytest.mark.parametrize('n', [0, 1, 2, 5])
def test_too_few_frames(name: str, n: int, noisy: Noisy) -> None:
    """The safer rule, and why; with nothing at all the deviation is the error."""
    d, e, frame = noisy(max(n, 1), 3.0, seed=3)
    fit = CALIBRATIONS[name](d[:n], e[:n], frame[:n])
    check(fit)
    assert not fit.trustworthy and ('held-out' in fit.reason) and fit.as_dict()['rule'].startswith('max(1')
    assert fit.n_frames == n and fit.expected_error(np.array([0.1]))[0] >= 0.1
    if n == 0:
        assert fit.threshold(0.1) == 0.1 and fit.as_dict()['coverage'] is None and fit.as_dict()['nll'] is None


@pytest.mark.parametrize('name', CALIBRATIONS)
def test_members_that_are_copies(name: str) -> None:
    fit = CALIBRATIONS[name](np.zeros(40), np.ones(40), np.arange(40))
    check(fit)
    assert not fit.trustworthy and 'copies of one potential' in fit.reason


@pytest.mark.parametrize('name', CALIBRATIONS)
def test_errors_of_zero(name: str) -> None:
    fit = CALIBRATIONS[name](np.ones(40), np.zeros(40), np.arange(40))
    check(fit)
    assert not fit.trustworthy


@pytest.mark.parametrize('name', CALIBRATIONS)
def test_deviations_without_rank(name: str) -> None:
    rng = np.random.default_rng(0)
    fit = CALIBRATIONS[name](rng.uniform(0.1, 1, 400), rng.uniform(0.1, 1, 400), np.arange(400))
    check(fit)
    assert not fit.trustworthy and 'hardly rank' in fit.reason


@pytest.mark.parametrize('name', CALIBRATIONS)
def test_not_finite_is_left_out_and_the_order_does_not_matter(name: str, noisy: Noisy) -> None:
    d, e, frame = noisy(60, 2.0)
    fit = CALIBRATIONS[name](d, e, frame)
    with_nan = CALIBRATIONS[name](np.append(d, np.nan), np.append(e, 1.0), np.append(frame, 99))
    assert with_nan == fit
    shuffled = np.random.default_rng(1).permutation(60)
    again = CALIBRATIONS[name](d[shuffled], e[shuffled], frame[shuffled])
    assert again.threshold(0.1) == pytest.approx(fit.threshold(0.1), rel=1e-12)


@pytest.mark.parametrize('name', CALIBRATIONS)
def test_labels_of_frames_may_be_texts(name: str, noisy: Noisy) -> None:
    d, e, frame = noisy(60, 2.0)
    texts = np.array([f'{i:03d}' for i in frame])
    assert CALIBRATIONS[name](d, e, texts) == CALIBRATIONS[name](d, e, frame)


@pytest.mark.parametrize('name', CALIBRATIONS)
@settings(max_examples=40, deadline=None)
@given(
    data=st.lists(
        st.tuples(st.floats(0, 10, width=32), st.floats(0, 10, width=32), st.integers(0, 8)), min_size=0, max_size=40
    )
)
def test_whatever_comes(name: str, data: list[tuple[float, float, int]]) -> None:
    """Any pairs, with ties, zeros and frames of any size, give a calibration that keeps its promises."""
    d, e, frame = (np.array(column) for column in zip(*data, strict=True)) if data else (np.zeros(0),) * 3
    fit = CALIBRATIONS[name](d, e, frame, 3)
    grid = np.concatenate([[0.0], d, np.linspace(0, 20, 30)])
    expected = fit.expected_error(np.sort(grid))
    assert np.isfinite(expected).all() and np.all(np.diff(expected) >= -1e-12 * expected.max(initial=1.0))
    for tolerance in (1e-3, 0.5, 9.0):
        assert 0 <= fit.threshold(tolerance) < np.inf
        assert fit.expected_error(np.array([fit.threshold(tolerance) * (1 - 1e-6)]))[0] <= tolerance * (1 + 1e-6)
    json.dumps(fit.as_dict(), allow_nan=False)


def test_a_stored_calibration_that_is_not_one(noisy: Noisy) -> None:
    with pytest.raises(ValueError, match='has no curve'):
        from_dict(
            {key: value for key, value in CALIBRATIONS['linear'](*noisy(20, 1.0)).as_dict().items() if key != 'curve'}
        )
    stored = CALIBRATIONS['linear'](*noisy(20, 1.0)).as_dict() | {'curve': {'form': 'spline'}}
    with pytest.raises(ValueError, match='expected broken_line, steps or larger'):
        from_dict(stored)


def test_what_is_measured_is_held_out() -> None:
    """Each pair meets a fit that its frame had no part in: one frame at a time up to 20, then a tenth."""
    rng = np.random.default_rng(4)
    for n_frames, left_out in ((12, lambda f, i: f == i), (50, lambda f, i: f % 10 == i % 10)):
        frame = np.repeat(np.arange(n_frames), 3)
        d, e = rng.random(len(frame)) + 0.1, rng.random(len(frame))
        expected = expected_without(finite_pairs(d, e, frame), _linear)
        for i in range(n_frames):
            kept = ~left_out(frame, i)
            slope = (d[kept] @ e[kept]) / (d[kept] @ d[kept])
            assert expected[frame == i] == pytest.approx(slope * d[frame == i])


def test_detection_is_that_of_the_stored_thresholds(noisy: Noisy) -> None:
    fit = CALIBRATIONS['linear'](*noisy(400, 2.0))
    found = fit.as_dict()['detection']
    assert len(found['threshold']) == len(found['tpr']) == len(found['ppv']) == 9
    assert found['deviation_threshold'] == pytest.approx(np.array(found['threshold']) / fit.slope)
    assert all(rate is None or 0 <= rate <= 1 for rate in found['tpr'] + found['ppv'])
    assert found == fit.as_dict()['detection_frames'], 'one error a frame'


def test_registry() -> None:
    assert {'linear', 'affine', 'isotonic', 'likelihood', 'conformal', 'false_negative'} == set(CALIBRATIONS)
    assert COMPONENTS == {'energy': 1, 'forces': 3, 'stress': 6}
    assert all(kind.__doc__ for kind in CALIBRATIONS.values())


def test_a_grouped_one_keeps_the_promises_too(noisy: Noisy) -> None:
    d, e, frame = noisy(100, 3.0)
    check(grouped(CALIBRATIONS['isotonic'], d, e, frame, np.where(frame % 2, 'odd', 'even')))
