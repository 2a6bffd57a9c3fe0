"""Thresholds of a deviation: from a tolerance, or from how a quantity is distributed."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from aiida_alpot.worker.acquisition.calibration.fitted import Calibration


def from_tolerance(calibration: Calibration, tolerance: float, group: str | None = None) -> float:
    """Deviation above which the expected error exceeds the error that a user accepts.

    :param tolerance: eV/atom, eV/A or eV/A^3, above zero.
    :param group: of the frames, for a calibration by group.
    :raises ValueError: for a tolerance that is not above zero.
    """
    if not (math.isfinite(tolerance) and tolerance > 0):
        raise ValueError(f'the tolerance is {tolerance}, expected an error above zero in the unit of the deviation')
    return calibration.threshold(tolerance, group)


def adaptive(values: Iterable[float] | np.ndarray) -> float:
    r"""Upper fence :math:`Q_3 + 1.5\,(Q_3 - Q_1)` of a distribution, quartiles interpolated linearly.

    Eq. 7 of the W study (Shuang et al., Mach. Learn.: Sci. Technol. 7, 025002): with the errors of the energies or
    forces on the *training* frames, it is the threshold that their uncertainty is compared with, and adapts to the
    accuracy of the potential. Deviations (in place of errors) on the training frames give the fence in the unit of the
    deviation, without a claim about errors. Eq. 13 is the same fence on forces.

    :param values: any shape; not finite ones are left out.
    :raises ValueError: where there is none.
    """
    found = np.asarray(values if isinstance(values, np.ndarray) else list(values), dtype=np.float64)
    found = found[np.isfinite(found)]
    if not len(found):
        raise ValueError(
            'there is no finite value to take quartiles of: give the errors on at least one labelled frame'
        )
    first, third = np.quantile(found, (0.25, 0.75))
    return float(third + 1.5 * (third - first))
