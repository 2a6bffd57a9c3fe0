"""Calibration by isotonic regression."""

from __future__ import annotations

import numpy as np

from aiida_alpot.worker.acquisition.calibration.curves import BrokenLine, Curve
from aiida_alpot.worker.acquisition.calibration.fitted import MIN_FRAMES, FittedCalibration, make, mean_error
from aiida_alpot.worker.acquisition.calibration.pairs import Pairs, units

MIN_END = 5
"""The lowest and the highest step have errors of at least so many frames."""


def isotonic(
    deviation: np.ndarray,
    error: np.ndarray,
    frame: np.ndarray,
    min_frames: int = MIN_FRAMES,
    *,
    components: int = 1,
    unit: str = 'atom',
) -> FittedCalibration:
    """Fit of the absolute error by any function of the deviation that does not decrease.

    The steps of isotonic least squares (pool adjacent violators, Barlow et al. 1972) are joined by straight lines
    through their mean deviations and errors. The first and the last step, which would follow single errors, are merged
    with their neighbours until they hold errors of five frames. Below the mean of the first step its error holds, down
    to the smallest deviation that was calibrated, and from there falls to zero; beyond the mean of the last step the
    error grows in proportion to the deviation, because nothing is known there and a constant would end a campaign too
    early.

    Parameters and trust as for :func:`.linear`.
    """
    pairs = units(deviation, error, frame, unit)
    return make(mean_error('isotonic', _isotonic, components, unit), pairs, min_frames, components)


def _isotonic(pairs: Pairs) -> Curve | None:
    x, y = _steps(pairs)
    if not len(x) or not (x[-1] > 0 and y[-1] > 0):
        return None
    first = float(np.min(pairs.deviation[pairs.deviation > 0]))
    kept = x > first
    if first < x[-1]:
        x, y = np.append(first, x[kept]), np.append(np.interp(first, x, y), y[kept])
    return BrokenLine(float(y[-1] / x[-1]), tuple(x.tolist()), tuple(y.tolist()))


def _steps(pairs: Pairs) -> tuple[np.ndarray, np.ndarray]:
    """Mean deviation and mean error of each step, increasing, shape (k,) both."""
    from scipy.optimize import isotonic_regression  # slow to import

    if not len(pairs):
        return np.zeros(0), np.zeros(0)
    # Equal deviations are one point with their mean error: a function has one value there.
    d, inverse, count = np.unique(pairs.deviation, return_inverse=True, return_counts=True)
    total = np.bincount(inverse, weights=pairs.error)
    blocks = isotonic_regression(total / count, weights=count).blocks[:-1]
    starts = _merged_ends(pairs, inverse, blocks)
    n = np.add.reduceat(count, starts)
    return np.add.reduceat(d * count, starts) / n, np.add.reduceat(total, starts) / n


def _merged_ends(pairs: Pairs, position: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Starts of the steps when the outer ones hold errors of enough frames.

    :param position: of each pair among the distinct deviations, shape (n,).
    :param starts: of the steps among the distinct deviations, shape (k,).
    """
    step = np.searchsorted(starts, position, side='right') - 1
    # The step at which each frame enters when steps are counted from below, and from above.
    lowest = np.full(pairs.n_frames, len(starts))
    np.minimum.at(lowest, pairs.frame, step)
    highest = np.full(pairs.n_frames, -1)
    np.maximum.at(highest, pairs.frame, step)
    enough = min(MIN_END, pairs.n_frames)
    first, last = int(np.sort(lowest)[enough - 1]), int(np.sort(highest)[-enough])
    if last <= first:
        return starts[:1]
    return np.concatenate([starts[:1], starts[first + 1 : last], starts[last : last + 1]])
