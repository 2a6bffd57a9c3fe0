"""What a calibration offers, and how each kind is made: fit, measure with frames left out, and doubt."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np

from aiida_alpot.worker.acquisition.calibration import quality
from aiida_alpot.worker.acquisition.calibration.curves import BrokenLine, Curve, at_least, curve_from_dict
from aiida_alpot.worker.acquisition.calibration.normal_errors import mean_length
from aiida_alpot.worker.acquisition.calibration.pairs import Pairs, frame_maximum

MIN_FRAMES = 10
"""A calibration on fewer held-out frames is not trusted."""
MIN_SPEARMAN = 0.2
"""Nor one where the deviation hardly ranks the errors,"""
MIN_COVERAGE = 0.4
"""nor one that is below most errors: about 0.55 of errors of a normal distribution are below their mean."""
FITTED_RULE = 'fitted'
SAFER_RULE = 'max(1, fitted slope + 2 standard errors, median of error / deviation)'
"""Slope of the line through the origin that a calibration which is not trusted does not fall below."""

FitCurve = Callable[[Pairs], Curve | None]


class Calibration(Protocol):
    """What every calibration offers."""

    @property
    def trustworthy(self) -> bool:
        """Whether it may be relied on; if not, it already is the safer rule."""

    @property
    def reason(self) -> str:
        """Why it is not trustworthy, in a sentence; or ''."""

    def expected_error(self, deviation: np.ndarray, group: np.ndarray | str | None = None) -> np.ndarray:
        """Error to expect at a deviation, in the unit of the deviation, any shape; NaN for NaN.

        :param group: of each deviation, or of all; what is not calibrated by group takes no notice.
        """

    def threshold(self, tolerance: float, group: str | None = None) -> float:
        """Deviation above which the expected error exceeds the tolerance."""

    def as_dict(self) -> dict[str, Any]:
        """All there is to know of it, plain numbers and texts; what cannot be computed is ``None``."""


@dataclass(frozen=True)
class FittedCalibration:
    """A curve from deviation to error, and what is known of it. What cannot be computed is ``None``.

    :param kind: name of the calibration.
    :param curve: the curve in use: the fit where the calibration is trustworthy, else never below the safer line.
    :param fitted_slope: least squares through the origin, whatever the kind; the safer line comes from it.
    :param slope_error: jackknife standard error of the fitted slope, frames left out in turn.
    :param parameters: those of the kind.
    :param measures: see :func:`measure`.
    :param n: number of errors (frames, or atoms).
    :param n_frames: number of frames they come from.
    :param trustworthy: whether there are enough of them and they are described.
    :param reason: why not, in a sentence; or ''.
    """

    kind: str
    curve: Curve
    fitted_slope: float | None
    slope_error: float | None
    parameters: Mapping[str, Any]
    measures: Mapping[str, Any]
    n: int
    n_frames: int
    trustworthy: bool
    reason: str

    @property
    def slope(self) -> float | None:
        """Slope in use, where the curve is a line through the origin."""
        return self.curve.slope if isinstance(self.curve, BrokenLine) and not self.curve.x else None

    @property
    def r2(self) -> float | None:
        """Coefficient of determination, as in :func:`measure`."""
        return self.measures['r2']

    @property
    def spearman(self) -> float | None:
        """Rank correlation of deviation and error."""
        return self.measures['spearman']

    @property
    def coverage(self) -> float | None:
        """Fraction of errors not above what a fit without their own frame expects."""
        return self.measures['coverage']

    def expected_error(self, deviation: np.ndarray, group: np.ndarray | str | None = None) -> np.ndarray:
        """Error to expect at a deviation, in the unit of the deviation, any shape; NaN for NaN."""
        return self.curve.error(np.asarray(deviation, dtype=np.float64))

    def threshold(self, tolerance: float, group: str | None = None) -> float:
        """Deviation above which the expected error exceeds the tolerance."""
        return self.curve.deviation(tolerance)

    def as_dict(self) -> dict[str, Any]:
        """All there is to know of it; :func:`from_dict` makes it anew."""
        return {
            'kind': self.kind,
            'slope': self.slope,
            'fitted_slope': self.fitted_slope,
            'slope_error': self.slope_error,
            **self.measures,
            'n': self.n,
            'n_frames': self.n_frames,
            'trustworthy': self.trustworthy,
            'reason': self.reason,
            'rule': FITTED_RULE if self.trustworthy else SAFER_RULE,
            'parameters': dict(self.parameters),
            'curve': self.curve.as_dict(),
        }

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> FittedCalibration:
        """The calibration of ``as_dict``, also after JSON.

        :raises ValueError: where something is missing.
        """
        own = {field.name for field in fields(cls)} - {'measures', 'curve'}
        missing = sorted((own | {'curve'}) - set(stored))
        if missing:
            raise ValueError(
                f'the stored calibration has no {", ".join(missing)}: give what `as_dict` of a calibration returned'
            )
        derived = {'slope', 'rule', 'curve'}
        measures = {key: value for key, value in stored.items() if key not in own | derived}
        given = {name: stored[name] for name in own}
        return cls(**given, curve=curve_from_dict(stored['curve']), measures=measures)


@dataclass(frozen=True)
class Kind:
    """How a kind of calibration is fitted and judged.

    :param name: in :data:`CALIBRATIONS`.
    :param fit: from pairs to a curve, or ``None`` where nothing can be fitted.
    :param sigma: from expected errors to the root mean square of a normal error; ``None``: the kind does not say.
    :param parameters: what is stored of it besides the curve.
    :param judged_by: the measure that ``min_coverage`` is a bound of.
    :param min_coverage: below it the calibration is not trustworthy.
    :param doubt: a reason of the kind's own, after all general ones.
    """

    name: str
    fit: FitCurve
    sigma: Callable[[np.ndarray], np.ndarray] | None
    parameters: Mapping[str, Any]
    judged_by: str = 'coverage'
    min_coverage: float = MIN_COVERAGE
    doubt: str = ''


def mean_error(name: str, fit: FitCurve, components: int, unit: str) -> Kind:
    """A kind whose curve is the mean error."""
    mean = mean_length(components)
    return Kind(name, fit, sigma=lambda expected: expected / mean, parameters={'unit': unit})


def make(kind: Kind, pairs: Pairs, min_frames: int, components: int) -> FittedCalibration:
    """A calibration: the fit to all pairs, measured with frames left out, with the safer line where it is in doubt."""
    curve = kind.fit(pairs)
    slope, slope_error = slope_through_origin(pairs)
    measures = measure(pairs, expected_without(pairs, kind.fit), kind.sigma, components)
    reason = _doubt(slope, pairs.n_frames, min_frames, measures, kind) or kind.doubt
    if not reason and curve is None:
        reason = 'nothing could be fitted to the held-out errors'
    in_use = curve if curve is not None and not reason else at_least(curve, safer_slope(pairs))
    for name in ('detection', 'detection_frames'):
        mapped = [in_use.deviation(threshold) for threshold in measures[name]['threshold']]
        measures[name]['deviation_threshold'] = mapped
    return FittedCalibration(
        kind=kind.name,
        curve=in_use,
        fitted_slope=slope,
        slope_error=slope_error,
        parameters={'components': components, **kind.parameters},
        measures=measures,
        n=len(pairs),
        n_frames=pairs.n_frames,
        trustworthy=not reason,
        reason=reason,
    )


def expected_without(pairs: Pairs, fit: FitCurve) -> np.ndarray:
    """Error expected of each pair by a fit without its own frame, shape (n,); NaN where nothing could be fitted."""
    expected = np.full(len(pairs), np.nan)
    folds = pairs.folds()
    for fold in np.unique(folds):
        left_out = folds == fold
        curve = fit(pairs.select(~left_out))
        if curve is not None:
            expected[left_out] = curve.error(pairs.deviation[left_out])
    return expected


def measure(
    pairs: Pairs, expected: np.ndarray, sigma: Callable[[np.ndarray], np.ndarray] | None, components: int
) -> dict[str, Any]:
    """Quality of expected errors that were made without the frames they are measured on.

    ``r2`` and ``spearman``; the fraction of errors that are not above the expected one, of all errors (``coverage``),
    in a frame and then averaged over frames (``coverage_in_frames``), and of frames with no error above
    (``coverage_frames``); what :func:`.quality.intervals` gives, without pairs that no spread is expected of; TPR and
    PPV on the deciles of the errors, of the pairs (``detection``) and of frames by their largest error and expected
    error (``detection_frames``).

    :param expected: shape (n,), NaN where nothing could be expected.
    """
    known = np.isfinite(expected)
    error, spread = pairs.error[known], sigma(expected[known]) if sigma else np.zeros(0)
    sized = spread > 0
    some = np.nan_to_num(expected)
    return {
        'r2': quality.r2(error, expected[known]),
        'spearman': quality.spearman(pairs.deviation, pairs.error),
        **_coverages(pairs, expected),
        **quality.intervals(error[sized] if sigma else spread, spread[sized], components),
        'detection': quality.as_lists(quality.detection(pairs.error, some)),
        'detection_frames': quality.as_lists(
            quality.detection(
                frame_maximum(pairs.error, pairs.frame, pairs.n_frames),
                frame_maximum(some, pairs.frame, pairs.n_frames),
            )
        ),
    }


def _coverages(pairs: Pairs, expected: np.ndarray) -> dict[str, float | None]:
    if not np.isfinite(expected).any():
        return {'coverage': None, 'coverage_in_frames': None, 'coverage_frames': None}
    covered = np.bincount(pairs.frame, weights=quality.covered(pairs.error, expected), minlength=pairs.n_frames)
    sizes = np.bincount(pairs.frame, minlength=pairs.n_frames)
    return {
        'coverage': quality.coverage(pairs.error, expected),
        'coverage_in_frames': float(np.mean(covered / sizes)),
        'coverage_frames': float(np.mean(covered == sizes)),
    }


def slope_through_origin(pairs: Pairs) -> tuple[float | None, float | None]:
    r"""Least squares through the origin, :math:`a = \sum de / \sum d^2`, and its jackknife standard error."""
    d, e, k = pairs.deviation, pairs.error, pairs.n_frames
    de = np.bincount(pairs.frame, weights=d * e, minlength=k)
    dd = np.bincount(pairs.frame, weights=d * d, minlength=k)
    if not dd.sum() > 0:
        return None, None
    rest = dd.sum() - dd
    # The difference of two sums leaves rounding noise where nothing is left.
    if k < 2 or not (rest > 1e-12 * dd.sum()).all():
        return float(de.sum() / dd.sum()), None
    without = (de.sum() - de) / rest
    return float(de.sum() / dd.sum()), math.sqrt((k - 1) * float(np.var(without)))


def safer_slope(pairs: Pairs) -> float:
    """Slope of the line that holds where no fit is trusted, see :data:`SAFER_RULE`; 1 where there is nothing to fit."""
    slope, error = slope_through_origin(pairs)
    if slope is None:
        return 1.0
    some = pairs.deviation > 0
    ratio = float(np.median(pairs.error[some] / pairs.deviation[some]))
    return max(1.0, slope + 2 * (error or 0.0), ratio if math.isfinite(ratio) else 1.0)


def _doubt(slope: float | None, n_frames: int, min_frames: int, measures: Mapping[str, Any], kind: Kind) -> str:
    """Why a calibration is not trustworthy, or ''."""
    if n_frames == 0:
        return (
            'there are no held-out labels with finite predictions: assign some frames to the split `validation`, and '
            'see `n_not_finite` in the metrics'
        )
    if n_frames < min_frames:
        return f'{n_frames} held-out frames, at least {min_frames} are needed'
    if not slope:
        return 'the members agree exactly on all held-out frames, or make no error: are they copies of one potential?'
    spearman, coverage = _number(measures['spearman']), _number(measures[kind.judged_by])
    if not spearman >= MIN_SPEARMAN:
        return f'deviations hardly rank the errors (Spearman {spearman:.2f}, at least {MIN_SPEARMAN} is needed)'
    if not coverage >= kind.min_coverage:
        return f'the fit covers {coverage:.2f} of the errors, at least {kind.min_coverage:.2g} is needed'
    return ''


def _number(value: float | None) -> float:
    return math.nan if value is None else value
