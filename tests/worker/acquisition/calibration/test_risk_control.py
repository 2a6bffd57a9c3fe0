"""Conformal control of the fraction of bad frames that are missed."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from aiida_alpot.worker.acquisition.calibration import false_negative
from aiida_alpot.worker.acquisition.calibration.pairs import finite_pairs
from aiida_alpot.worker.acquisition.calibration.risk_control import false_negative_steps, false_negative_threshold

MakeFrames = Callable[..., tuple[np.ndarray, np.ndarray, np.ndarray]]


def risk_controlled(deviation: np.ndarray, alpha: float) -> float:
    """Naive: the largest of all thresholds that matter at which (missed + 1) / (m + 1) is at most alpha."""
    found = [
        threshold
        for threshold in np.nextafter(deviation, -np.inf)
        if (np.sum(deviation <= threshold) + 1) / (len(deviation) + 1) <= alpha + 1e-9
    ]
    return max(found, default=-math.inf)


def test_threshold_by_hand() -> None:
    bad = np.arange(19.0, 0.0, -1)
    # floor(0.1 x 20) = 2: the second smallest is the first that must not be missed.
    assert false_negative_threshold(bad, 0.1) == np.nextafter(2.0, -np.inf)
    assert false_negative_threshold(bad[:8], 0.1) == -math.inf
    assert false_negative_threshold(np.array([3.0, 1.0, 2.0]), 0.5) == np.nextafter(2.0, -np.inf)


@pytest.mark.parametrize('alpha', [0.05, 0.1, 0.3, 0.5])
def test_threshold_is_that_of_risk_control(alpha: float) -> None:
    rng = np.random.default_rng(0)
    for n in (1, 5, 9, 19, 40):
        bad = rng.random(n)
        assert false_negative_threshold(bad, alpha) == risk_controlled(bad, alpha)


@pytest.mark.parametrize('alpha', [0.1, 0.34])
def test_steps_against_every_tolerance(alpha: float) -> None:
    """At any tolerance the threshold of the bad frames, or a smaller one of a larger tolerance."""
    rng = np.random.default_rng(2)
    d = rng.integers(1, 20, 60) / 20
    e = np.round(d * rng.lognormal(0, 0.5, 60), 2)
    steps = false_negative_steps(finite_pairs(d, e, np.arange(60)), alpha)
    assert steps is not None
    tolerances = np.concatenate([[0.0], np.sort(e)])
    direct = {t: risk_controlled(d[e > t], alpha) for t in tolerances}
    guaranteed = [t for t in tolerances if direct[t] > -math.inf]
    for tolerance in guaranteed:
        assert steps.deviation(tolerance) == min(direct[t] for t in guaranteed if t >= tolerance)
        assert steps.deviation(tolerance + 0.004) == steps.deviation(tolerance), 'constant between errors'
    assert steps.end == min(t for t in tolerances if t > max(guaranteed))
    assert steps.deviation(2 * steps.end) == pytest.approx(2 * steps.deviation(steps.end))


@pytest.mark.parametrize('quantile', [0.3, 0.7])
def test_guarantee(quantile: float, make_frames: MakeFrames) -> None:
    """Over draws of held-out frames and a new bad one, the new one is missed at most as often as is accepted."""
    rng = np.random.default_rng(7)
    d, e, frame = make_frames(rng, 20000)
    pairs = finite_pairs(d, e, frame).frame_maxima()
    tolerance = float(np.quantile(pairs.error, quantile))
    missed = []
    for _ in range(1500):
        rows = rng.choice(pairs.n_frames, 61, replace=False)
        old, new = rows[:-1], rows[-1]
        if pairs.error[new] <= tolerance:
            continue
        steps = false_negative_steps(finite_pairs(pairs.deviation[old], pairs.error[old], old), 0.1)
        assert steps is not None and steps.end > tolerance
        missed.append(pairs.deviation[new] <= steps.deviation(tolerance))
    assert np.mean(missed) <= 0.1 + 3 * np.std(missed) / math.sqrt(len(missed))
    # The running minimum costs something, but not everything.
    assert np.mean(missed) > 0.03


def test_judges_frames_by_their_largest_atoms(make_frames: MakeFrames) -> None:
    d, e, frame = make_frames(np.random.default_rng(0), 300)
    pairs = finite_pairs(d, e, frame).frame_maxima()
    fit = false_negative(d, e, frame, components=3)
    assert fit == false_negative(pairs.deviation, pairs.error, pairs.frame, components=3)
    assert fit.n == 300 and fit.trustworthy and fit.measures['nll'] is None
    tolerance = float(np.median(pairs.error))
    found = pairs.error > tolerance
    assert np.mean(pairs.deviation[found] > fit.threshold(tolerance)) >= 0.9
    middle = fit.measures['detection']['tpr'][4]
    assert middle == pytest.approx(0.9, abs=0.05), 'held out too'


def test_too_few_bad_frames_at_the_tolerance(make_frames: MakeFrames) -> None:
    d, e, frame = make_frames(np.random.default_rng(0), 100)
    worst = finite_pairs(d, e, frame).frame_maxima().error
    tolerance = float(np.sort(worst)[-4])
    fit = false_negative(d, e, frame, tolerance=tolerance)
    assert not fit.trustworthy and fit.reason.startswith('3 held-out frames are worse than the tolerance')
    assert 'at least 9' in fit.reason and 'at most 10%' in fit.reason
    loose = false_negative(d, e, frame)
    assert fit.threshold(tolerance) <= loose.threshold(tolerance) and loose.parameters['guaranteed_below'] < tolerance
    assert false_negative(d, e, frame, tolerance=float(np.median(worst))).trustworthy


def test_no_deviation_where_frames_are_bad() -> None:
    pairs = finite_pairs(np.array([0.0] * 10 + [1.0]), np.append(np.linspace(2, 3, 10), 0.1), np.arange(11))
    assert false_negative_steps(pairs, 0.1) is None
