"""Monotone functions from deviation to error that calibrations are made of, and their inverses.

For every curve, ``error(d) > t`` if and only if ``d > deviation(t)``, up to rounding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np


class Curve(Protocol):
    """A function that does not decrease, from deviations >= 0 to errors >= 0."""

    def error(self, deviation: np.ndarray) -> np.ndarray:
        """Error at a deviation, any shape; NaN for NaN."""

    def deviation(self, error: float) -> float:
        """Largest deviation at which the error does not exceed ``error``."""

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers and texts, for :func:`curve_from_dict`."""


@dataclass(frozen=True)
class BrokenLine:
    """Straight pieces from the origin through some knots, and on from the last one with ``slope``.

    Without knots it is a line through the origin. Between the origin and the first knot the error falls in proportion,
    so that members which agree exactly, as symmetry makes them, have no error to expect.

    :param slope: beyond the last knot, above zero.
    :param x: deviations of the knots, above zero and increasing; likewise
    :param y: errors at them, which must not decrease.
    """

    slope: float
    x: tuple[float, ...] = ()
    y: tuple[float, ...] = ()

    def error(self, deviation: np.ndarray) -> np.ndarray:
        """Error at a deviation, any shape; NaN for NaN."""
        d = np.asarray(deviation, dtype=np.float64)
        if not self.x:
            return self.slope * d
        beyond = np.maximum(d - self.x[-1], 0.0)
        return np.interp(d, (0.0, *self.x), (0.0, *self.y)) + self.slope * beyond

    def deviation(self, error: float) -> float:
        """Largest deviation at which the error does not exceed ``error``."""
        x, y = (0.0, *self.x), (0.0, *self.y)
        last = int(np.searchsorted(y, error, side='right')) - 1
        if last < 0:
            return 0.0
        if last == len(x) - 1:
            return x[-1] + (error - y[-1]) / self.slope
        return x[last] + (error - y[last]) * (x[last + 1] - x[last]) / (y[last + 1] - y[last])

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers and texts, for :func:`curve_from_dict`."""
        return {'form': 'broken_line', 'slope': self.slope, 'x': list(self.x), 'y': list(self.y)}


@dataclass(frozen=True)
class Steps:
    """A staircase: from error ``y[i]`` on (``y[0]`` is 0), a deviation of ``x[i]`` is accepted.

    From the error ``end`` on, the accepted deviation grows in proportion.

    :param y: errors at which the accepted deviation grows, increasing from 0; likewise
    :param x: the accepted deviations, increasing; the last is above zero.
    :param end: above the last of ``y``.
    """

    y: tuple[float, ...]
    x: tuple[float, ...]
    end: float

    def error(self, deviation: np.ndarray) -> np.ndarray:
        """Error at a deviation, any shape; NaN for NaN."""
        d = np.asarray(deviation, dtype=np.float64)
        step = np.searchsorted(self.x, d, side='left')
        inside = np.take((*self.y, np.nan), np.minimum(step, len(self.y)))
        return np.where(d > self.x[-1], self.end * (d / self.x[-1]), np.where(np.isnan(d), np.nan, inside))

    def deviation(self, error: float) -> float:
        """Largest deviation at which the error does not exceed ``error``."""
        if error >= self.end:
            return self.x[-1] * (error / self.end)
        return self.x[max(0, int(np.searchsorted(self.y, error, side='right')) - 1)]

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers and texts, for :func:`curve_from_dict`."""
        return {'form': 'steps', 'y': list(self.y), 'x': list(self.x), 'end': self.end}


@dataclass(frozen=True)
class Larger:
    """The larger of a curve and a line through the origin."""

    curve: Curve
    slope: float

    def error(self, deviation: np.ndarray) -> np.ndarray:
        """Error at a deviation, any shape; NaN for NaN."""
        return np.maximum(self.curve.error(deviation), self.slope * np.asarray(deviation, dtype=np.float64))

    def deviation(self, error: float) -> float:
        """Largest deviation at which the error does not exceed ``error``."""
        return min(self.curve.deviation(error), error / self.slope)

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers and texts, for :func:`curve_from_dict`."""
        return {'form': 'larger', 'curve': self.curve.as_dict(), 'slope': self.slope}


def at_least(curve: Curve | None, slope: float) -> Curve:
    """The larger of a curve, if there is one, and a line through the origin."""
    if curve is None:
        return BrokenLine(slope)
    if isinstance(curve, BrokenLine) and not curve.x:
        return BrokenLine(max(curve.slope, slope))
    return Larger(curve, slope)


def curve_from_dict(stored: Mapping[str, Any]) -> Curve:
    """The curve of ``as_dict``.

    :raises ValueError: for a form that is not known.
    """
    if stored.get('form') == 'broken_line':
        return BrokenLine(stored['slope'], tuple(stored['x']), tuple(stored['y']))
    if stored.get('form') == 'steps':
        return Steps(tuple(stored['y']), tuple(stored['x']), stored['end'])
    if stored.get('form') == 'larger':
        return Larger(curve_from_dict(stored['curve']), stored['slope'])
    raise ValueError(
        f'a curve of the form {stored.get("form")!r} is not known, expected broken_line, steps or larger: '
        'read the calibration with the version that wrote it'
    )
