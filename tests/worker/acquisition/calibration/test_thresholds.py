"""Thresholds of a deviation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from aiida_alpot.worker.acquisition.calibration import grouped, linear
from aiida_alpot.worker.acquisition.calibration.thresholds import adaptive, from_tolerance

Noisy = Callable[..., tuple[np.ndarray, np.ndarray, np.ndarray]]


def test_adaptive_by_hand() -> None:
    # Quartiles 2 and 4 of 1 to 5.
    assert adaptive([1, 2, 3, 4, 5]) == 7.0
    assert adaptive(np.array([[5, 4, np.nan], [3, 2, 1]])) == 7.0
    assert adaptive([3.0]) == 3.0
    with pytest.raises(ValueError, match='at least one labelled frame'):
        adaptive(np.full(3, np.nan))


def test_adaptive_leaves_few_of_a_normal_distribution() -> None:
    """Of a normal distribution 0.35 % lie above the fence, at 2.698 standard deviations."""
    assert adaptive(np.random.default_rng(0).normal(size=200_000)) == pytest.approx(2.698, abs=0.03)


def test_from_tolerance(noisy: Noisy) -> None:
    d, e, frame = noisy(60, 2.0)
    fit = linear(d, e, frame)
    assert from_tolerance(fit, 0.1) == fit.threshold(0.1) == pytest.approx(0.05, rel=0.2)
    by_group = grouped(linear, d, e, frame, np.where(frame < 30, 'a', 'b'))
    assert from_tolerance(by_group, 0.1, 'a') == by_group.groups['a'].threshold(0.1)
    for tolerance in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match='above zero'):
            from_tolerance(fit, tolerance)
