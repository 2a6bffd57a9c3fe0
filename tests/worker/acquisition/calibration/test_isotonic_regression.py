"""Calibration by isotonic regression."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import isotonic_regression

from aiida_alpot.worker.acquisition.calibration import isotonic
from aiida_alpot.worker.acquisition.calibration.isotonic_regression import _isotonic, _steps
from aiida_alpot.worker.acquisition.calibration.pairs import finite_pairs


def pool_adjacent_violators(y: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Naive: merge the first pair of neighbours in the wrong order until there is none."""
    blocks = [[value, w, 1] for value, w in zip(y, weight, strict=True)]
    i = 0
    while i < len(blocks) - 1:
        if blocks[i][0] < blocks[i + 1][0]:
            i += 1
            continue
        (a, v, k), (b, w, m) = blocks[i], blocks[i + 1]
        blocks[i : i + 2] = [[(a * v + b * w) / (v + w), v + w, k + m]]
        i = max(0, i - 1)
    return np.repeat([block[0] for block in blocks], [block[2] for block in blocks])


def test_regression_against_a_naive_one() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        y, weight = rng.random(25), rng.integers(1, 4, 25).astype(float)
        assert isotonic_regression(y, weights=weight).x == pytest.approx(pool_adjacent_violators(y, weight))


def test_steps_by_hand() -> None:
    # Errors 2 and 0 of the second and third frame are in the wrong order: one step of error 1 at deviation 2.5.
    d, e = np.array([1.0, 2, 3, 4]), np.array([0.5, 2, 0, 3])
    pairs = finite_pairs(np.repeat(d, 6), np.repeat(e, 6), np.arange(24))
    x, y = _steps(pairs)
    assert x.tolist() == [1.0, 2.5, 4.0] and y.tolist() == [0.5, 1.0, 3.0]
    curve = _isotonic(pairs)
    assert curve is not None
    # Through the means of the steps, in proportion below the first deviation and beyond the last mean.
    assert curve.error(np.array([0.5, 1, 1.75, 2.5, 3.25, 4, 8])) == pytest.approx([0.25, 0.5, 0.75, 1, 2, 3, 6])
    assert [curve.deviation(t) for t in (0.25, 0.75, 2, 6)] == pytest.approx([0.5, 1.75, 3.25, 8])


def test_outer_steps_hold_enough_frames() -> None:
    """Single errors at the ends, 0 at the smallest and 100 at the largest deviation, are no steps of their own."""
    d = np.linspace(1, 2, 40)
    e = d.copy()
    e[0], e[-1] = 0.0, 100.0
    x, y = _steps(finite_pairs(d, e, np.arange(40)))
    assert y[0] == pytest.approx(e[:5].mean()) and x[0] == pytest.approx(d[:5].mean())
    assert y[-1] == pytest.approx(e[-5:].mean()) and x[-1] == pytest.approx(d[-5:].mean())
    # Atoms of one frame are one frame.
    x, _ = _steps(finite_pairs(d, e, np.concatenate([np.zeros(10), np.arange(1, 31)])))
    assert x[0] == pytest.approx(d[:14].mean())


def test_equal_deviations_are_one_point() -> None:
    d = np.repeat([1.0, 2.0], 20)
    e = np.where(np.arange(40) % 2, 1.0, 3.0) * d
    x, y = _steps(finite_pairs(d, e, np.arange(40)))
    assert x.tolist() == [1, 2] and y.tolist() == [2, 4]


def test_follows_what_is_no_line() -> None:
    rng = np.random.default_rng(1)
    d = rng.uniform(0.01, 1, 4000)
    truth = np.where(d < 0.5, 0.2, 0.2 + 2 * (d - 0.5))
    fit = isotonic(d, truth * rng.uniform(0.7, 1.3, 4000), np.arange(4000))
    grid = np.linspace(0.05, 0.95, 19)
    assert fit.expected_error(grid) == pytest.approx(np.where(grid < 0.5, 0.2, 0.2 + 2 * (grid - 0.5)), abs=0.05)
    assert fit.trustworthy and fit.r2 is not None and fit.r2 > 0.8


def test_the_smallest_deviation_decides_where_the_plateau_ends() -> None:
    pairs = finite_pairs(np.array([0.1, 1.0] * 20), np.ones(40), np.arange(40))
    x, _ = _steps(pairs)
    assert x == pytest.approx([0.55])
    curve = _isotonic(pairs)
    assert curve is not None and curve.error(np.array([0.05, 0.1, 0.55, 1.1])) == pytest.approx([0.5, 1, 1, 2])
