"""The length of normally distributed vectors."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import chi

from aiida_alpot.worker.acquisition.calibration.normal_errors import mean_length, probability, quantile


def test_by_hand() -> None:
    # |x| of a normal number has the mean sqrt(2 / pi); the Maxwell distribution has 2 sqrt(2 / pi), of mean square 3.
    assert mean_length(1) == pytest.approx(math.sqrt(2 / math.pi))
    assert mean_length(3) == pytest.approx(2 * math.sqrt(2 / math.pi / 3))
    assert probability(np.array([1.0]), 1) == pytest.approx([0.682689], abs=1e-6)
    assert quantile(0.95, 1) == pytest.approx(1.959964, abs=1e-6)


@pytest.mark.parametrize('k', [1, 2, 3, 6])
def test_against_the_chi_distribution(k: int) -> None:
    ratio = np.linspace(0, 4, 9)
    assert mean_length(k) == pytest.approx(chi.mean(k) / math.sqrt(k))
    assert probability(ratio, k) == pytest.approx(chi.cdf(ratio * math.sqrt(k), k))
    assert [quantile(p, k) for p in (0.1, 0.5, 0.9)] == pytest.approx(chi.ppf([0.1, 0.5, 0.9], k) / math.sqrt(k))


def test_refused() -> None:
    with pytest.raises(ValueError, match='expected 1'):
        mean_length(0)
