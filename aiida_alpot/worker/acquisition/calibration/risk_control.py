"""Conformal control of the fraction of bad frames that are missed.

As in :mod:`~aiida_alpot.worker.acquisition.calibration.split_conformal`, frames are taken for exchangeable, and the
guarantee is an average over draws.
"""

from __future__ import annotations

import math
from bisect import insort

import numpy as np

from aiida_alpot.worker.acquisition.calibration.curves import Steps
from aiida_alpot.worker.acquisition.calibration.fitted import MIN_FRAMES, FittedCalibration, Kind, make
from aiida_alpot.worker.acquisition.calibration.pairs import Pairs, units
from aiida_alpot.worker.acquisition.calibration.split_conformal import ALPHA, ROUNDING, check_alpha, frames_needed


def false_negative(
    deviation: np.ndarray,
    error: np.ndarray,
    frame: np.ndarray,
    min_frames: int = MIN_FRAMES,
    *,
    components: int = 1,
    alpha: float = ALPHA,
    tolerance: float | None = None,
) -> FittedCalibration:
    r"""Threshold that misses at most a fraction alpha of the bad frames.

    Conformal risk control (Angelopoulos, Bates, Fisch, Lei, Schuster, arXiv:2208.02814) of the loss that a bad frame is
    not selected. Of the m held-out frames whose largest error exceeds the tolerance, the threshold lies just below the
    floor(alpha (m + 1))-th smallest of their largest deviations: the largest one with (frames missed + 1)/(m + 1) at
    most alpha. A new bad frame is then missed with a probability of at most alpha. There is a threshold for every
    tolerance; where it would fall as the tolerance grows, the smaller one holds for both, which misses no more.

    The expected error is the inverse: the smallest tolerance at which a frame of that largest deviation is not
    selected. It is neither a mean nor a bound. From the tolerance on that fewer than 1/alpha - 1 frames exceed
    (``guaranteed_below``) there is no guarantee, and the threshold grows with the tolerance in proportion.

    :param alpha: fraction of bad frames that may be missed, between 0 and 1.
    :param tolerance: the one that will be asked for: with too few frames above it the calibration is not trustworthy.
        ``None``: no tolerance is in doubt, and ``guaranteed_below`` is for the caller to heed.
    :raises ValueError: as :func:`.linear`, and for a value that cannot be.
    """
    check_alpha(alpha)
    pairs = units(deviation, error, frame, 'frame')
    curve = false_negative_steps(pairs, alpha)
    kind = Kind(
        'false_negative',
        lambda some: false_negative_steps(some, alpha),
        sigma=None,
        parameters={
            'unit': 'frame',
            'alpha': alpha,
            'tolerance': tolerance,
            'guaranteed_below': curve.end if curve else None,
        },
        min_coverage=0.0,
        doubt='' if tolerance is None else _too_few_bad(pairs, tolerance, alpha),
    )
    return make(kind, pairs, max(min_frames, frames_needed(alpha)), components)


def false_negative_threshold(deviation: np.ndarray, alpha: float) -> float:
    """Largest threshold that misses at most a fraction alpha of frames like these; minus infinity if they are too few.

    A frame is missed where its deviation does not exceed the threshold.

    :param deviation: of the bad frames, shape (m,).
    """
    return _below(np.sort(deviation).tolist(), alpha)


def false_negative_steps(pairs: Pairs, alpha: float) -> Steps | None:
    """Threshold of the deviation over the tolerance; ``None`` where there are too few frames or none deviates.

    :param pairs: one a frame.
    """
    order = np.argsort(pairs.error, kind='stable')
    errors, deviations = pairs.error[order].tolist(), pairs.deviation[order].tolist()
    bad: list[float] = []
    steps: list[tuple[float, float]] = []
    end = lowest = math.inf
    # From the largest tolerance down: between two errors of frames the bad ones are those above.
    for i in range(len(errors) - 1, -1, -1):
        insort(bad, deviations[i])
        tolerance = errors[i - 1] if i else 0.0
        threshold = _below(bad, alpha)
        if threshold == -math.inf or tolerance == errors[i]:
            continue
        end = errors[i] if end == math.inf else end
        lowest = min(lowest, threshold)
        steps.append((tolerance, lowest))
    if not steps or not steps[0][1] > 0:
        return None
    kept = [steps[-1]]
    for step in steps[-2::-1]:
        kept += [step] if step[1] > kept[-1][1] else []
    return Steps(tuple(t for t, _ in kept), tuple(x for _, x in kept), end)


def _below(deviations: list[float], alpha: float) -> float:
    """Just below the floor(alpha (m + 1))-th smallest of sorted deviations; minus infinity where that is the 0-th."""
    rank = math.floor(alpha * (len(deviations) + 1) + ROUNDING)
    return math.nextafter(deviations[rank - 1], -math.inf) if rank else -math.inf


def _too_few_bad(pairs: Pairs, tolerance: float, alpha: float) -> str:
    n_bad, needed = int(np.sum(pairs.error > tolerance)), frames_needed(alpha)
    if n_bad >= needed:
        return ''
    return (
        f'{n_bad} held-out frames are worse than the tolerance {tolerance:g}, at least {needed} are needed to miss '
        f'at most {alpha:.0%} of such frames'
    )
