"""Split conformal calibration: a bound of the error with a guarantee for finite samples.

Frames are taken for exchangeable: those held out and a new one are like draws from one distribution, in any order.
Atoms of one frame are not, since they share its error. The guarantee is an average over draws of the held-out frames
and of the new one: it does not hold given one draw, nor for a pool of another kind than the held-out frames.
"""

from __future__ import annotations

import math

import numpy as np

from aiida_alpot.worker.acquisition.calibration.curves import BrokenLine, Curve
from aiida_alpot.worker.acquisition.calibration.fitted import MIN_FRAMES, FittedCalibration, Kind, make
from aiida_alpot.worker.acquisition.calibration.normal_errors import quantile
from aiida_alpot.worker.acquisition.calibration.pairs import Pairs, frame_maximum, units

ALPHA = 0.1
"""Probability that is accepted for an error above its bound, or for a bad frame that is missed."""
JUDGED_BY = {'frame': 'coverage', 'atom': 'coverage_in_frames', 'all_atoms': 'coverage_frames'}
"""What a bound is for -> the measure whose expectation is guaranteed."""
ROUNDING = 1e-9


def conformal(
    deviation: np.ndarray,
    error: np.ndarray,
    frame: np.ndarray,
    min_frames: int = MIN_FRAMES,
    *,
    components: int = 1,
    unit: str = 'frame',
    alpha: float = ALPHA,
) -> FittedCalibration:
    r"""Upper bound of the error, ``q x deviation``, that a new frame keeps with a probability of at least 1 - alpha.

    Split conformal prediction with normalised scores (Vovk, Gammerman, Shafer, Algorithmic Learning in a Random World;
    Lei et al., J. Am. Stat. Assoc. 113, 1094): q is the ceil((n + 1)(1 - alpha))-th smallest of n scores, one a
    held-out frame. What is kept depends on the score:

    - ``frame``: :math:`\max_i e_i / \max_i d_i`. The largest error of a frame is below the bound at its largest
      deviation, by which frames are selected and runs are halted; single atoms may exceed theirs.
    - ``all_atoms``: :math:`\max_i e_i/d_i`. All atoms of a frame keep their bounds, each at its own deviation.
    - ``atom``: the scores of all atoms, each with a weight of one over the number of atoms of its frame. An atom drawn
      at random from a new frame keeps its bound (hierarchical conformal prediction; Lee, Barber, Willett,
      arXiv:2306.06342).

    They coincide for energies. Without ties the probability of the first two is also at most 1 - alpha + 1/(n + 1).
    With fewer than 1/alpha - 1 frames there is no such bound: the largest score stands in and is not trusted.

    :param unit: ``frame``, ``atom`` or ``all_atoms``.
    :param alpha: between 0 and 1.
    :raises ValueError: as :func:`.linear`, and for a value that cannot be.
    """
    check_alpha(alpha)
    if unit not in JUDGED_BY:
        raise ValueError(f'`unit` is {unit!r}, expected one of {", ".join(JUDGED_BY)}')
    pairs = units(deviation, error, frame, 'frame' if unit == 'frame' else 'atom')
    bound = conformal_bound(pairs, alpha, unit)
    bounded = math.isfinite(bound)
    ratio = quantile(1 - alpha, components)
    kind = Kind(
        'conformal',
        lambda some: _line(some, alpha, unit),
        sigma=lambda expected: expected / ratio,
        parameters={'unit': unit, 'alpha': alpha, 'quantile': bound if bounded else None},
        judged_by=JUDGED_BY[unit],
        # Three times the sampling error of a fraction that is 1 - alpha.
        min_coverage=max(0.0, 1 - alpha - 3 * math.sqrt(alpha * (1 - alpha) / max(1, pairs.n_frames))),
        doubt='' if bounded else 'the members agree exactly where they err: no multiple of that is a bound',
    )
    return make(kind, pairs, max(min_frames, frames_needed(alpha)), components)


def conformal_bound(pairs: Pairs, alpha: float, unit: str) -> float:
    """The multiple q of the deviation; infinite where there are too few frames.

    :param unit: see :func:`conformal`; for ``frame``, one pair a frame is expected.
    """
    scores = _scores(pairs)
    if unit == 'atom':
        return grouped_quantile(scores, pairs.frame, alpha)
    return conformal_quantile(frame_maximum(scores, pairs.frame, pairs.n_frames), alpha)


def conformal_quantile(scores: np.ndarray, alpha: float) -> float:
    """The ceil((n + 1)(1 - alpha))-th smallest score; infinity where n is smaller than that.

    A new score, exchangeable with these, is at most as large with a probability of at least 1 - alpha.

    :param scores: shape (n,); may be infinite.
    """
    n = len(scores)
    rank = math.ceil((n + 1) * (1 - alpha) - ROUNDING)
    return float(np.sort(scores)[rank - 1]) if rank <= n else math.inf


def grouped_quantile(scores: np.ndarray, frame: np.ndarray, alpha: float) -> float:
    """The same for a score drawn at random from those of a new frame.

    The smallest score at or below which, on average over the n frames and one more whose scores are infinite, a
    fraction 1 - alpha of the scores of a frame lies.

    :param scores: shape (N,), of atoms.
    :param frame: index of the frame of each, 0 to n - 1, shape (N,).
    """
    sizes = np.bincount(frame)
    order = np.argsort(scores, kind='stable')
    reached = np.cumsum(1 / (sizes[frame[order]] * (len(sizes) + 1)))
    rank = int(np.searchsorted(reached, 1 - alpha - ROUNDING))
    return float(scores[order[rank]]) if rank < len(scores) else math.inf


def frames_needed(alpha: float) -> int:
    """Number of frames without which nothing can be promised: the smallest n with alpha (n + 1) >= 1."""
    return math.ceil(1 / alpha - 1 - ROUNDING)


def check_alpha(alpha: float) -> None:
    """Refuse what is no fraction.

    :raises ValueError: unless ``alpha`` lies between 0 and 1.
    """
    if not 0 < alpha < 1:
        raise ValueError(f'`alpha` is {alpha}, expected a fraction between 0 and 1, such as {ALPHA}')


def _line(pairs: Pairs, alpha: float, unit: str) -> Curve | None:
    """The bound, or the largest score that is finite where there is none."""
    scores = _scores(pairs)
    largest = float(np.max(scores, where=np.isfinite(scores), initial=0.0))
    slope = min(conformal_bound(pairs, alpha, unit), largest)
    return BrokenLine(slope) if slope > 0 else None


def _scores(pairs: Pairs) -> np.ndarray:
    """Error over deviation; 0 where both are zero, infinite where only the deviation is."""
    with np.errstate(divide='ignore', invalid='ignore'):
        return np.where(pairs.error == 0, 0.0, pairs.error / pairs.deviation)
