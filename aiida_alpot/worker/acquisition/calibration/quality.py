r"""How good an uncertainty is: measures of expected errors and spreads against errors that were found.

Errors are absolute, or norms of vectors; ``sigma`` is the predicted root mean square of such an error, in the same
unit, and ``components`` the number of independent components of the residual
(:mod:`~aiida_alpot.worker.acquisition.calibration.normal_errors`). A residual with a sign, of a Gaussian process for
one, enters by its absolute value. Whatever cannot be computed is ``None``: of no errors, of a constant, of a ``sigma``
of zero. Give predictions that were made without the labels they are measured with.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from aiida_alpot.worker.acquisition.calibration.normal_errors import probability

LEVELS = (0.5, 0.68, 0.9, 0.95)
"""Probabilities at which the coverage is given."""
ECE_LEVELS = tuple((j + 0.5) / 10 for j in range(10))
"""Probabilities over which the expected calibration error is averaged."""
ENCE_BINS = 10
GRID = tuple(j / 10 for j in range(1, 10))
"""Quantiles of the errors that are taken for error thresholds."""


def r2(error: np.ndarray, expected: np.ndarray) -> float | None:
    r"""Coefficient of determination about the mean error, :math:`1 - \sum(e - \hat e)^2 / \sum(e - \bar e)^2`.

    Below zero where a constant were the better expectation.

    :param error: shape (n,); likewise ``expected``.
    """
    if len(error) < 2:
        return None
    total = float(np.sum((error - error.mean()) ** 2))
    return _ratio(total - float(np.sum((error - expected) ** 2)), total)


def spearman(deviation: np.ndarray, error: np.ndarray) -> float | None:
    """Rank correlation, ties at their mean rank.

    :param deviation: shape (n,); likewise ``error``.
    """
    if len(deviation) < 2:
        return None
    from scipy.stats import rankdata  # slow to import

    x, y = rankdata(deviation), rankdata(error)
    x, y = x - x.mean(), y - y.mean()
    return _ratio(float(x @ y), math.sqrt(float(x @ x) * float(y @ y)))


def covered(error: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Which errors do not exceed what was expected, shape (n,); a hair more counts as rounding.

    :param error: shape (n,); likewise ``expected``, of which NaN covers nothing.
    """
    return error <= expected * (1 + 1e-9)


def coverage(error: np.ndarray, expected: np.ndarray) -> float | None:
    """Fraction of errors that do not exceed what was expected.

    :param error: shape (n,); likewise ``expected``.
    """
    return float(np.mean(covered(error, expected))) if len(error) else None


def nll(error: np.ndarray, sigma: np.ndarray, components: int = 1) -> float | None:
    r"""Mean negative log likelihood of a normal residual, by component.

    :math:`\tfrac12\ln(2\pi\sigma^2/k) + e^2/2\sigma^2`: for k = 1 the usual one (Rasmussen and Williams, Gaussian
    Processes for Machine Learning, eq. 2.34); for a vector of k components that of the vector divided by k, so that
    energies and forces compare.

    :param error: shape (n,); likewise ``sigma``.
    """
    if not len(error) or not (sigma > 0).all():
        return None
    terms = 0.5 * np.log(2 * np.pi * sigma**2 / components) + error**2 / (2 * sigma**2)
    return _finite(float(np.mean(terms)))


def interval_coverage(error: np.ndarray, sigma: np.ndarray, level: float, components: int = 1) -> float | None:
    """Fraction of residuals in the central interval that holds a normal one with this probability; a ball for vectors.

    At 0.68 and one component: the errors below 0.994 sigma.

    :param error: shape (n,); likewise ``sigma``.
    """
    found = _probabilities(error, sigma, components)
    return None if found is None else float(np.mean(found <= level))


def ece(
    error: np.ndarray, sigma: np.ndarray, components: int = 1, levels: Sequence[float] = ECE_LEVELS
) -> float | None:
    r"""Expected calibration error: mean over levels p of \|coverage at p - p\|.

    After Kuleshov, Fenner, Ermon (2018, arXiv:1807.00263) with absolute for squared differences and equal weights. The
    paper behind :mod:`~aiida_alpot.worker.acquisition.residual_gp` reports one without defining it.

    :param error: shape (n,); likewise ``sigma``.
    """
    found = _probabilities(error, sigma, components)
    if found is None:
        return None
    return float(np.mean([abs(float(np.mean(found <= level)) - level) for level in levels]))


def miscalibration_area(error: np.ndarray, sigma: np.ndarray, components: int = 1) -> float | None:
    r"""Area between the curve of coverage over level and the diagonal, :math:`\int_0^1 |c(p) - p|\,dp`, exact.

    0 to 0.5 (Tran et al., Mach. Learn.: Sci. Technol. 1, 025006).

    :param error: shape (n,); likewise ``sigma``.
    """
    found = _probabilities(error, sigma, components)
    if found is None:
        return None
    # Between two neighbours of the sorted probabilities the coverage is constant.
    edges = np.concatenate([[0.0], np.sort(found), [1.0]])
    heights = np.arange(len(found) + 1) / len(found)
    return float(np.sum(_area(heights - edges[:-1]) - _area(heights - edges[1:])))


def ence(error: np.ndarray, sigma: np.ndarray, bins: int = ENCE_BINS) -> float | None:
    r"""Expected normalised calibration error: how far spread and error differ at each size of the spread.

    :math:`\tfrac1B\sum_b |\mathrm{RMV}_b - \mathrm{RMSE}_b| / \mathrm{RMV}_b`. Errors are sorted by sigma and cut into
    B bins of equal size (a difference of one); RMV is the root mean square of sigma in a bin. Levi, Gispan, Giladi,
    Fetaya, Sensors 22, 5540 (2022).

    :param error: shape (n,); likewise ``sigma``.
    :param bins: at most; never more than there are errors.
    """
    if not len(error) or not (sigma > 0).all():
        return None
    parts = np.array_split(np.argsort(sigma, kind='stable'), min(bins, len(error)))
    spread = np.array([math.sqrt(float(np.mean(sigma[part] ** 2))) for part in parts])
    found = np.array([math.sqrt(float(np.mean(error[part] ** 2))) for part in parts])
    return _finite(float(np.mean(np.abs(spread - found) / spread)))


@dataclass(frozen=True)
class Detection:
    r"""How well expected errors find the real ones that exceed a threshold, one number a threshold.

    Eqs 3 and 4 of AiiDA-TrainsPot (10.1039/d6dd00005c): :math:`\mathrm{TPR} = TP/(TP + FN)`,
    :math:`\mathrm{PPV} = TP/(TP + FP)`. An error is positive above the threshold; it is found where the expected error
    is above the threshold too, that is where the deviation exceeds the deviation that the threshold maps to.

    :param threshold: of the error.
    :param tpr: fraction of the errors above the threshold that are found; ``None`` where there is none.
    :param ppv: fraction of what is found that is above the threshold; ``None`` where nothing is found.
    """

    threshold: tuple[float, ...]
    tpr: tuple[float | None, ...]
    ppv: tuple[float | None, ...]


def detection(error: np.ndarray, expected: np.ndarray, thresholds: Sequence[float] | None = None) -> Detection:
    """True positive rate and positive predictive value on a grid of error thresholds.

    :param error: shape (n,); likewise ``expected``.
    :param thresholds: in the unit of the error; ``None``: the deciles of the errors.
    """
    if thresholds is None:
        thresholds = np.quantile(error, GRID).tolist() if len(error) else ()
    rates = [_rates(error > threshold, expected > threshold) for threshold in thresholds]
    return Detection(tuple(float(t) for t in thresholds), tuple(r[0] for r in rates), tuple(r[1] for r in rates))


def detection_grid(
    error: np.ndarray, deviation: np.ndarray, error_thresholds: Sequence[float], deviation_thresholds: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """TPR and PPV for every pair of thresholds, as the insets of figure 5 of AiiDA-TrainsPot show them.

    What deviates by more than its threshold is found.

    :param error: shape (n,); likewise ``deviation``.
    :param error_thresholds: k of them.
    :param deviation_thresholds: l of them.
    :return: shape (k, l) both, NaN where there is nothing to find or nothing found.
    """
    rates = [[_rates(error > e, deviation > d) for d in deviation_thresholds] for e in error_thresholds]
    table = np.array(rates, dtype=np.float64).reshape(len(error_thresholds), len(deviation_thresholds), 2)
    return table[..., 0], table[..., 1]


def _rates(positive: np.ndarray, found: np.ndarray) -> tuple[float | None, float | None]:
    both = int(np.sum(positive & found))
    return _ratio(both, int(positive.sum())), _ratio(both, int(found.sum()))


def intervals(error: np.ndarray, sigma: np.ndarray, components: int = 1) -> dict[str, Any]:
    """``nll``, ``ece``, ``ence``, ``miscalibration_area`` and ``coverage_50`` to ``coverage_95``.

    :param error: shape (n,); likewise ``sigma``.
    """
    return {
        'nll': nll(error, sigma, components),
        'ece': ece(error, sigma, components),
        'ence': ence(error, sigma),
        'miscalibration_area': miscalibration_area(error, sigma, components),
        **{f'coverage_{round(100 * level)}': interval_coverage(error, sigma, level, components) for level in LEVELS},
    }


def as_lists(found: Detection) -> dict[str, list[float | None]]:
    """The columns of a detection, as JSON has them."""
    return {name: list(column) for name, column in asdict(found).items()}


def _probabilities(error: np.ndarray, sigma: np.ndarray, components: int) -> np.ndarray | None:
    if not len(error) or not (sigma > 0).all():
        return None
    return probability(error / sigma, components)


def _area(difference: np.ndarray) -> np.ndarray:
    """Antiderivative of the absolute value."""
    return difference * np.abs(difference) / 2


def _ratio(a: float, b: float) -> float | None:
    return _finite(a / b) if b > 0 else None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
