r"""How long a vector of normally distributed errors is.

A residual with k independent normal components of standard deviation :math:`\sigma/\sqrt k` each has the length e, and
:math:`\langle e^2\rangle = \sigma^2`; :math:`e\sqrt k/\sigma` follows the chi distribution with k degrees of freedom.
So one convention holds for all properties: :math:`\sigma` is the root mean square of the *length* of the residual, as
the deviation of a committee is. An energy has k = 1, the force on an atom k = 3, a stress tensor in the Frobenius norm
k = 6 (its off-diagonal elements count twice there, so that an isotropic residual has six equal components).
"""

from __future__ import annotations

import math

import numpy as np

COMPONENTS = {'energy': 1, 'forces': 3, 'stress': 6}
"""Number of independent components of what is predicted, by property."""


def mean_length(components: int) -> float:
    r"""Mean of :math:`e/\sigma`: :math:`\sqrt{2/k}\,\Gamma((k+1)/2)/\Gamma(k/2)`; 0.798, 0.921, 0.959 for 1, 3, 6."""
    half = _checked(components) / 2
    return math.exp(math.lgamma(half + 0.5) - math.lgamma(half)) / math.sqrt(half)


def probability(ratio: np.ndarray, components: int) -> np.ndarray:
    r"""Probability of an error below ``ratio`` :math:`= e/\sigma`, any shape: :math:`P(k/2, k\,\mathrm{ratio}^2/2)`.

    With one component this is the probability of the central interval, :math:`\operatorname{erf}(|z|/\sqrt 2)`.
    """
    from scipy.special import gammainc  # slow to import

    half = _checked(components) / 2
    return np.asarray(gammainc(half, half * np.square(ratio)))


def quantile(level: float, components: int) -> float:
    r"""The ratio :math:`e/\sigma` that a fraction ``level`` of errors does not exceed: 1.645 for 0.9 and k = 1."""
    from scipy.special import gammaincinv

    half = _checked(components) / 2
    return math.sqrt(float(gammaincinv(half, level)) / half)


def _checked(components: int) -> int:
    if components < 1:
        raise ValueError(
            f'`components` is {components}, expected 1 (energies), 3 (forces), 6 (stresses) or another count'
        )
    return components
