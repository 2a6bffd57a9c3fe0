"""Measures of an uncertainty: each by hand, and against a naive implementation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi, norm, spearmanr

from aiida_alpot.worker.acquisition.calibration import quality


def test_r2_by_hand() -> None:
    error, expected = np.array([1.0, 2.0, 6.0]), np.array([1.0, 3.0, 5.0])
    # Two residuals of 1; the errors lie -2, -1 and 3 from their mean.
    assert quality.r2(error, expected) == pytest.approx(1 - 2 / 14)
    assert quality.r2(error, np.full(3, 3.0)) == pytest.approx(0)
    assert quality.r2(np.ones(3), np.ones(3)) is None and quality.r2(np.ones(1), np.ones(1)) is None


def test_spearman_by_hand() -> None:
    # Ranks 1 2 3 and 1 3 2: 1 - 6 x 2 / (3 x 8).
    assert quality.spearman(np.array([0.1, 0.2, 0.9]), np.array([1.0, 7.0, 5.0])) == pytest.approx(0.5)
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 5, 50).astype(float), rng.random(50)
    assert quality.spearman(a, b) == pytest.approx(spearmanr(a, b).statistic)
    assert quality.spearman(np.ones(5), b[:5]) is None


def test_coverage_by_hand() -> None:
    assert quality.coverage(np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 1.0, 5.0, np.nan])) == 0.5
    assert quality.coverage(np.array([0.3]), np.array([0.1 + 0.2])) == 1.0, 'rounding'
    assert quality.coverage(np.zeros(0), np.zeros(0)) is None


def test_nll_by_hand() -> None:
    # At sigma 1 and error 0: ln sqrt(2 pi); at sigma 2 and error 2: ln 2 and one half more.
    assert quality.nll(np.array([0.0]), np.array([1.0])) == pytest.approx(0.918939)
    assert quality.nll(np.array([2.0]), np.array([2.0])) == pytest.approx(0.918939 + math.log(2) + 0.5)
    assert quality.nll(np.array([1.0]), np.array([0.0])) is None and quality.nll(np.zeros(0), np.zeros(0)) is None


@pytest.mark.parametrize('k', [1, 3, 6])
def test_nll_is_that_of_the_vector(k: int) -> None:
    rng = np.random.default_rng(k)
    sigma, residual = rng.uniform(0.5, 2, 40), rng.normal(size=(40, k))
    direct = -norm.logpdf(residual, scale=(sigma / math.sqrt(k))[:, None]).sum(axis=1).mean() / k
    assert quality.nll(np.linalg.norm(residual, axis=1), sigma, k) == pytest.approx(direct)


def test_intervals_by_hand() -> None:
    # Half of a normal distribution lies within 0.674, 68 % within 0.994, 90 % within 1.645 and 95 % within 1.960.
    error = np.array([0.67, 0.68, 0.99, 1.0, 1.64, 1.65, 1.95, 1.97, 5.0, 6.0])
    found = [quality.interval_coverage(error * 3, np.full(10, 3.0), level) for level in quality.LEVELS]
    assert found == [0.1, 0.3, 0.5, 0.7]
    # 90 % of vectors with three components are shorter than 2.500 / sqrt(3) times their root mean square.
    assert quality.interval_coverage(np.array([1.443, 1.444]), np.ones(2), 0.9, components=3) == 0.5
    assert chi.ppf(0.9, 3) / math.sqrt(3) == pytest.approx(1.4435, abs=1e-4)


def test_ece_by_hand() -> None:
    # Probabilities of these errors: 0, 0 and 1.
    error, sigma = np.array([0.0, 0.0, 50.0]), np.ones(3)
    assert quality.ece(error, sigma, levels=(0.5, 0.9)) == pytest.approx((abs(2 / 3 - 0.5) + abs(2 / 3 - 0.9)) / 2)
    assert quality.ece(np.zeros(4), np.ones(4)) == pytest.approx(0.5)
    assert quality.ece(np.full(4, 99.0), np.ones(4)) == pytest.approx(0.5)
    # Errors at the very quantiles are calibrated as well as four can be.
    level = (np.arange(4) + 0.5) / 4
    assert quality.ece(norm.ppf((1 + level) / 2), np.ones(4), levels=(0.25, 0.5, 0.75)) == 0


def test_miscalibration_area_by_hand() -> None:
    assert quality.miscalibration_area(np.zeros(3), np.ones(3)) == pytest.approx(0.5)
    assert quality.miscalibration_area(np.full(3, 99.0), np.ones(3)) == pytest.approx(0.5)
    # One error at the median: a step from 0 to 1 at 1/2; two triangles of side 1/2.
    assert quality.miscalibration_area(norm.ppf([0.75]), np.ones(1)) == pytest.approx(0.25)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 4), min_size=1, max_size=12), st.sampled_from([1, 3]))
def test_miscalibration_area_against_a_fine_grid(errors: list[float], k: int) -> None:
    error, sigma = np.array(errors), np.ones(len(errors))
    levels = (np.arange(4000) + 0.5) / 4000
    found = quality.ece(error, sigma, k, levels=levels.tolist())
    assert quality.miscalibration_area(error, sigma, k) == pytest.approx(found, abs=1e-3)


def test_ence_by_hand() -> None:
    # Bins of two by sigma: spreads 1 and 2; errors of root mean square sqrt(2.5) and 1.
    sigma, error = np.array([2.0, 1.0, 1.0, 2.0]), np.array([1.0, 2.0, 1.0, 1.0])
    expected = (abs(1 - math.sqrt(2.5)) / 1 + abs(2 - 1) / 2) / 2
    assert quality.ence(error, sigma, bins=2) == pytest.approx(expected)
    assert quality.ence(sigma, sigma) == 0 and quality.ence(2 * sigma, sigma) == pytest.approx(1.0)
    assert quality.ence(error, np.zeros(4)) is None


def test_detection_by_hand() -> None:
    error, expected = np.array([1.0, 2.0, 3.0, 4.0]), np.array([2.5, 1.0, 5.0, 2.5])
    found = quality.detection(error, expected, [2.0, 4.0])
    # Above 2 are the last two, and expected above 2 the first and the last two. Above 4 is none; one is expected.
    assert found.tpr == (1.0, None) and found.ppv == (2 / 3, 0.0) and found.threshold == (2.0, 4.0)
    assert quality.detection(error, np.zeros(4), [2.0]).ppv == (None,)
    assert quality.detection(error, expected).threshold == pytest.approx(np.quantile(error, np.arange(1, 10) / 10))
    assert quality.detection(np.zeros(0), np.zeros(0)).threshold == ()


def test_detection_on_pairs_of_thresholds() -> None:
    rng = np.random.default_rng(3)
    deviation, error = rng.random(80), rng.random(80)
    e_grid, d_grid = [0.2, 0.5, 2.0], [0.1, 0.6, 0.7, 3.0]
    tpr, ppv = quality.detection_grid(error, deviation, e_grid, d_grid)
    assert tpr.shape == ppv.shape == (3, 4) and np.isnan(tpr[2]).all() and np.isnan(ppv[:, 3]).all()
    tp = fn = fp = 0
    for e, d in zip(error, deviation, strict=True):
        tp += e > 0.5 and d > 0.6
        fn += e > 0.5 and d <= 0.6
        fp += e <= 0.5 and d > 0.6
    assert tpr[1, 1] == tp / (tp + fn) and ppv[1, 1] == tp / (tp + fp)
    # Along a calibration it is the detection of expected errors.
    assert (
        quality.detection(error, 2 * deviation, [0.5]).tpr[0]
        == quality.detection_grid(error, deviation, [0.5], [0.25])[0]
    )


@pytest.mark.parametrize('k', [1, 3])
def test_a_perfect_uncertainty(k: int) -> None:
    rng = np.random.default_rng(0)
    sigma = rng.uniform(0.5, 2, 20000)
    error = np.linalg.norm(rng.normal(size=(20000, k)), axis=1) * sigma / math.sqrt(k)
    found = quality.intervals(error, sigma, k)
    assert found['ece'] < 0.01 and found['miscalibration_area'] < 0.01 and found['ence'] < 0.03
    assert [found[f'coverage_{p}'] for p in (50, 68, 90, 95)] == pytest.approx([0.5, 0.68, 0.9, 0.95], abs=0.01)
    # No other scale is as likely.
    assert all(quality.nll(error, sigma * factor, k) > found['nll'] for factor in (0.9, 1.1))
