"""Curves and their inverses."""

from __future__ import annotations

import json

import numpy as np
import pytest

from aiida_alpot.worker.acquisition.calibration.curves import (
    BrokenLine,
    Curve,
    Larger,
    Steps,
    at_least,
    curve_from_dict,
)

LINE = BrokenLine(2.0)
BROKEN = BrokenLine(3.0, (1.0, 2.0, 4.0), (2.0, 2.0, 6.0))
STEPS = Steps((0.0, 1.0, 3.0), (0.5, 1.0, 2.0), 4.0)
CURVES = [LINE, BROKEN, STEPS, Larger(BROKEN, 1.8), Larger(STEPS, 1.5)]


def test_broken_line_by_hand() -> None:
    assert BROKEN.error(np.array([0, 0.5, 1, 1.5, 2, 3, 4, 5])).tolist() == [0, 1, 2, 2, 2, 4, 6, 9]
    # At the height of the plateau its far end.
    assert [BROKEN.deviation(e) for e in (0, 1, 2, 4, 6, 9)] == [0, 0.5, 2, 3, 4, 5]
    assert LINE.error(np.array([3.0])) == 6 and LINE.deviation(6.0) == 3


def test_steps_by_hand() -> None:
    # Up to 0.5 nothing is expected, up to 1 an error of 1, up to 2 one of 3; beyond in proportion, 4 at 2.
    assert STEPS.error(np.array([0, 0.5, 0.6, 1, 1.5, 2, 3])).tolist() == [0, 0, 1, 1, 3, 3, 6]
    assert [STEPS.deviation(e) for e in (0, 0.9, 1, 2.9, 3, 3.9, 4, 8)] == [0.5, 0.5, 1, 1, 2, 2, 2, 4]


@pytest.mark.parametrize('curve', CURVES)
def test_inverse(curve: Curve) -> None:
    """An error above t is expected if and only if the deviation is above that of t."""
    d = np.linspace(0, 6, 241)
    expected = curve.error(d)
    assert np.all(np.diff(expected) >= 0)
    for t in np.linspace(0.003, 12, 50):
        threshold = curve.deviation(float(t))
        clear = np.abs(d - threshold) > 1e-9
        assert np.array_equal((expected > t)[clear], (d > threshold)[clear])
    assert np.isnan(curve.error(np.array([np.nan]))[0])
    assert curve_from_dict(json.loads(json.dumps(curve.as_dict()))) == curve


def test_at_least() -> None:
    assert at_least(None, 2.0) == BrokenLine(2.0)
    assert at_least(LINE, 1.0) == LINE and at_least(LINE, 3.0) == BrokenLine(3.0)
    larger = at_least(BROKEN, 1.5)
    assert larger.error(np.array([1.0, 2.0])).tolist() == [2.0, 3.0] and larger.deviation(3.0) == 2.0
