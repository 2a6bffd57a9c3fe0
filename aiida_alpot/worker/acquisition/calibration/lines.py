"""Calibrations that are straight lines: through the origin by least squares or by likelihood, and with an intercept."""

from __future__ import annotations

import math

import numpy as np

from aiida_alpot.worker.acquisition.calibration.curves import BrokenLine, Curve
from aiida_alpot.worker.acquisition.calibration.fitted import (
    MIN_FRAMES,
    FittedCalibration,
    Kind,
    make,
    mean_error,
    slope_through_origin,
)
from aiida_alpot.worker.acquisition.calibration.normal_errors import mean_length
from aiida_alpot.worker.acquisition.calibration.pairs import Pairs, units

MAX_AGREED = 0.05
"""With a larger fraction of errors at which no member deviates, a likelihood is not trusted."""


def linear(
    deviation: np.ndarray,
    error: np.ndarray,
    frame: np.ndarray,
    min_frames: int = MIN_FRAMES,
    *,
    components: int = 1,
    unit: str = 'atom',
) -> FittedCalibration:
    r"""Fit of the absolute error to the deviation by a line through the origin.

    :math:`a = \sum d e / \sum d^2`, as AiiDA-TrainsPot does; everything per atom, so that frames of any size mix.

    Where it is not trustworthy, the slope in use is the largest of 1, the fitted slope and two standard errors, and the
    median of error over deviation: committees are nearly always too sure of themselves, and a threshold that is too low
    costs some labels, while one that is too high ends a campaign early. So on thin evidence the committee is never
    believed to exaggerate, the uncertain slope is taken at its upper end, and half of the errors seen are covered;
    without any labels the deviation itself is taken for the error.

    :param deviation: shape (n,), eV/atom of frames, eV/A of atoms or eV/A^3 of frames.
    :param error: absolute errors of the committee's mean, same shape and unit. Pairs that are not finite are left out.
    :param frame: which frame each comes from, shape (n,); atoms of one frame are no independent evidence.
    :param min_frames: with fewer frames the calibration is not trustworthy.
    :param components: of what is predicted: 1 for energies, 3 for forces, 6 for stresses.
    :param unit: ``atom``: the line is that of each pair; ``frame``: of the largest error and deviation of each frame.
        The largest of many errors lies above the mean error at the largest deviation, so for judging frames by their
        largest deviation the second is the one that is right.
    :raises ValueError: for shapes that do not fit, negative numbers, another unit, or a number of components below 1.
    """
    pairs = units(deviation, error, frame, unit)
    return make(mean_error('linear', _linear, components, unit), pairs, min_frames, components)


def affine(
    deviation: np.ndarray,
    error: np.ndarray,
    frame: np.ndarray,
    min_frames: int = MIN_FRAMES,
    *,
    components: int = 1,
    unit: str = 'atom',
) -> FittedCalibration:
    r"""Fit of the absolute error by a line, slope and intercept not negative.

    :math:`\min \sum (e - a d - b)^2` with :math:`a, b \ge 0` (Lawson and Hanson's non-negative least squares). The
    intercept is the error that all members share. It holds from the smallest deviation that was calibrated on; below it
    the expected error falls to zero in proportion, so that frames on which symmetry makes the members agree are not
    expected to be wrong. Parameters and trust as for :func:`linear`.
    """
    pairs = units(deviation, error, frame, unit)
    return make(mean_error('affine', _affine, components, unit), pairs, min_frames, components)


def likelihood(
    deviation: np.ndarray,
    error: np.ndarray,
    frame: np.ndarray,
    min_frames: int = MIN_FRAMES,
    *,
    components: int = 1,
    unit: str = 'atom',
) -> FittedCalibration:
    r"""Deviations scaled so that normal errors of that spread are as likely as can be.

    :math:`s^2 = \tfrac1n\sum (e/d)^2` maximises the likelihood of residuals with k independent normal components of
    standard deviation :math:`s d/\sqrt k`, for every k (set the derivative of :math:`-k\ln s - k e^2/2s^2d^2` to zero;
    for k = 1 Musil et al., J. Chem. Theory Comput. 15, 906, without their correction for few members). The length of a
    residual then follows the chi distribution with k degrees of freedom, and the expected error is its mean,
    :math:`s\,d\,\sqrt{2/k}\,\Gamma((k+1)/2)/\Gamma(k/2)`: 0.798 s d for energies, 0.921 s d for forces.

    Single pairs of small deviation weigh much in it. Pairs of no deviation have no likelihood: they are left out, and
    where more than one in twenty has an error all the same, the fit is not trusted. Parameters and trust as for
    :func:`linear`.
    """
    pairs = units(deviation, error, frame, unit)
    mean = mean_length(components)
    agreed = float(np.mean((pairs.deviation == 0) & (pairs.error > 0))) if len(pairs) else 0.0

    def fit(some: Pairs) -> Curve | None:
        scale = likelihood_scale(some.deviation, some.error)
        return None if scale is None else BrokenLine(scale * mean)

    kind = Kind(
        'likelihood',
        fit,
        sigma=lambda expected: expected / mean,
        parameters={'unit': unit, 'scale': likelihood_scale(pairs.deviation, pairs.error)},
        doubt=f'the members agree exactly on {agreed:.0%} of the held-out errors' if agreed > MAX_AGREED else '',
    )
    return make(kind, pairs, min_frames, components)


def likelihood_scale(deviation: np.ndarray, error: np.ndarray) -> float | None:
    """The scale s of :func:`likelihood`; ``None`` where nothing deviates or errs.

    :param deviation: shape (n,); likewise ``error``.
    """
    some = deviation > 0
    if not some.any():
        return None
    scale = math.sqrt(float(np.mean((error[some] / deviation[some]) ** 2)))
    return scale if scale > 0 and math.isfinite(scale) else None


def _linear(pairs: Pairs) -> Curve | None:
    slope, _ = slope_through_origin(pairs)
    return BrokenLine(slope) if slope else None


def _affine(pairs: Pairs) -> Curve | None:
    from scipy.optimize import nnls  # slow to import

    some = pairs.deviation > 0
    if not some.any():
        return None
    largest = float(pairs.deviation.max())
    columns = np.stack([pairs.deviation / largest, np.ones(len(pairs))], axis=1)
    # Two unknowns: the triangle of a QR has the same least squares as all rows, in memory of two.
    triangle = np.asarray(np.linalg.qr(np.column_stack([columns, pairs.error]), mode='r'))
    (slope, intercept), _ = nnls(triangle[:, :2], triangle[:, 2])
    slope, intercept = float(slope) / largest, float(intercept)
    if not slope > 0:
        return None
    first = float(pairs.deviation[some].min())
    return BrokenLine(slope, (first,), (intercept + slope * first,)) if intercept > 0 else BrokenLine(slope)
