"""Calibration: what error to expect at a deviation, learnt from labels that the members were not trained on."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

MIN_FRAMES = 10
"""A calibration on fewer held-out frames is not trusted."""
MIN_SPEARMAN = 0.2
"""Nor one where the deviation hardly ranks the errors,"""
MIN_COVERAGE = 0.4
"""nor one that is below most errors: about 0.55 of errors of a normal distribution are below their mean."""
VANISHING_FORCE = 1e-3
"""Forces below this, eV/A, are numerical noise about a zero that symmetry demands."""


class Calibration(Protocol):
    """What every calibration offers."""

    @property
    def trustworthy(self) -> bool:
        """Whether it may be relied on; if not, it already is the safer rule."""

    def expected_error(self, deviation: np.ndarray) -> np.ndarray:
        """Error to expect at a deviation, in the unit of the deviation, any shape."""

    def threshold(self, tolerance: float) -> float:
        """Deviation above which the expected error exceeds the tolerance."""

    def as_dict(self) -> dict[str, Any]:
        """All there is to know of it, plain numbers and texts; what cannot be computed is ``None``."""


@dataclass(frozen=True)
class LinearCalibration:
    """``error = slope x deviation``.

    :param slope: the slope in use: ``fitted_slope`` where the calibration is trustworthy, else that of the safer rule.
    :param fitted_slope: least squares through the origin; NaN where there is nothing to fit.
    :param slope_error: jackknife standard error of the fitted slope, frames left out in turn; NaN below two frames.
    :param r2: coefficient of determination about the mean error; below zero where a constant were the better fit.
    :param spearman: rank correlation of deviation and error.
    :param coverage: fraction of errors not above what a slope fitted without their own frame expects.
    :param n: number of errors (frames, or atoms).
    :param n_frames: number of frames they come from.
    :param trustworthy: whether there are enough of them and they are described.
    :param reason: why not, in a sentence; or ''.
    """

    slope: float
    fitted_slope: float
    slope_error: float
    r2: float
    spearman: float
    coverage: float
    n: int
    n_frames: int
    trustworthy: bool
    reason: str

    def expected_error(self, deviation: np.ndarray) -> np.ndarray:
        """Error to expect at a deviation, in the unit of the deviation, any shape."""
        return self.slope * np.asarray(deviation, dtype=np.float64)

    def threshold(self, tolerance: float) -> float:
        """Deviation above which the expected error exceeds the tolerance."""
        return tolerance / self.slope

    def as_dict(self) -> dict[str, Any]:
        """All there is to know of it; what cannot be computed is ``None``."""
        values = {key: _plain(value) for key, value in asdict(self).items()}
        return {'kind': 'linear', **values, 'rule': 'fitted' if self.trustworthy else SAFER_RULE}


SAFER_RULE = 'max(1, fitted slope + 2 standard errors)'


def linear(
    deviation: np.ndarray, error: np.ndarray, frame: np.ndarray, min_frames: int = MIN_FRAMES
) -> LinearCalibration:
    r"""Fit of the absolute error to the deviation by a line through the origin.

    :math:`a = \sum d e / \sum d^2`, as AiiDA-TrainsPot does; everything per atom, so that frames of any size mix.

    Where it is not trustworthy, the slope in use is ``max(1, fitted slope + 2 standard errors)``: committees are nearly
    always too sure of themselves, and a threshold that is too low costs some labels, while one that is too high ends a
    campaign early. So on thin evidence the committee is never believed to exaggerate, and the uncertain slope is taken
    at its upper end; without any labels the deviation itself is taken for the error.

    :param deviation: shape (n,), eV/atom of frames or eV/A of atoms.
    :param error: absolute errors of the committee's mean, same shape and unit. Pairs that are not finite are left out.
    :param frame: which frame each comes from, shape (n,); atoms of one frame are no independent evidence.
    :param min_frames: with fewer frames the calibration is not trustworthy.
    """
    finite = np.isfinite(deviation) & np.isfinite(error)
    d, e = np.asarray(deviation, dtype=np.float64)[finite], np.asarray(error, dtype=np.float64)[finite]
    frames, group = np.unique(np.asarray(frame)[finite], return_inverse=True)
    slope = _ratio(float(d @ e), float(d @ d))
    without = _slopes_without(d, e, group, len(frames))
    quality = {
        'slope_error': _jackknife_error(without),
        'r2': _r2(e, slope * d),
        'spearman': _spearman(d, e),
        # A hair of tolerance: errors in exact proportion count as covered whatever the rounding.
        'coverage': float(np.mean(e <= without[group] * d * (1 + 1e-9))) if len(frames) > 1 else math.nan,
    }
    reason = _doubt(slope, len(frames), min_frames, quality['spearman'], quality['coverage'])
    return LinearCalibration(
        slope=_safer_slope(slope, quality['slope_error']) if reason else slope,
        fitted_slope=slope,
        n=len(d),
        n_frames=len(frames),
        trustworthy=not reason,
        reason=reason,
        **quality,
    )


CALIBRATIONS: dict[str, Callable[..., Calibration]] = {'linear': linear}
"""Name of a calibration -> ``function(deviation, error, frame, min_frames)`` that fits it."""


def vanishing(forces: np.ndarray, reference: np.ndarray) -> bool:
    """Whether all forces on a frame are zero by symmetry: in the reference and for every member.

    Such a frame has neither deviation nor error and says nothing about how one follows from the other. A third of the
    frames made of symmetric crystals are of this kind.

    :param forces: of the members, shape (M, n, 3), eV/A.
    :param reference: shape (n, 3), eV/A.
    """
    return max(_largest(forces), _largest(reference)) < VANISHING_FORCE


def _largest(forces: np.ndarray) -> float:
    return float(np.linalg.norm(forces, axis=-1).max())


def _slopes_without(d: np.ndarray, e: np.ndarray, group: np.ndarray, n_groups: int) -> np.ndarray:
    """Slope fitted without each frame in turn, shape (n_groups,); NaN where the rest has no deviation."""
    de = np.bincount(group, weights=d * e, minlength=n_groups)
    dd = np.bincount(group, weights=d * d, minlength=n_groups)
    rest = dd.sum() - dd
    # The difference of two sums leaves rounding noise where nothing is left.
    has_rest = rest > 1e-12 * dd.sum()
    return np.divide(de.sum() - de, rest, out=np.full(n_groups, np.nan), where=has_rest)


def _jackknife_error(slopes: np.ndarray) -> float:
    """Standard error of a slope from those fitted without each frame."""
    k = len(slopes)
    return math.sqrt((k - 1) * float(np.var(slopes))) if k > 1 else math.nan


def _r2(error: np.ndarray, expected: np.ndarray) -> float:
    if len(error) < 2:
        return math.nan
    total = float(np.sum((error - error.mean()) ** 2))
    residual = float(np.sum((error - expected) ** 2))
    return _ratio(total - residual, total)


def _spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Rank correlation, ties at their mean rank; NaN where one of them is constant."""
    if len(a) < 2:
        return math.nan
    from scipy.stats import rankdata  # slow to import

    x, y = rankdata(a), rankdata(b)
    x, y = x - x.mean(), y - y.mean()
    return _ratio(float(x @ y), math.sqrt(float(x @ x) * float(y @ y)))


def _ratio(a: float, b: float) -> float:
    return a / b if b > 0 else math.nan


def _doubt(slope: float, n_frames: int, min_frames: int, spearman: float, coverage: float) -> str:
    """Why a calibration is not trustworthy, or ''."""
    if n_frames == 0:
        return 'there are no held-out labels: assign some frames to the split `validation`'
    if n_frames < min_frames:
        return f'{n_frames} held-out frames, at least {min_frames} are needed'
    if not slope > 0:
        return 'the members agree exactly on all held-out frames, or make no error: are they copies of one potential?'
    if not spearman >= MIN_SPEARMAN:
        return f'deviations hardly rank the errors (Spearman {spearman:.2f}, at least {MIN_SPEARMAN} is needed)'
    if not coverage >= MIN_COVERAGE:
        return f'the fit covers {coverage:.2f} of the errors, at least {MIN_COVERAGE} is needed'
    return ''


def _safer_slope(slope: float, error: float) -> float:
    if not math.isfinite(slope):
        return 1.0
    return max(1.0, slope + 2 * error) if math.isfinite(error) else max(1.0, slope)


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
