"""The disagreement of a committee as a signal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from aiida_alpot.worker.acquisition.signals.base import Signal
from aiida_alpot.worker.acquisition.signals.committee import Deviations, deviations, maximum_deviations

if TYPE_CHECKING:
    from aiida_alpot.worker.potentials.predictions import Predictions


@dataclass
class StandardDeviation(Signal):
    """Standard deviation of the members about their mean, see :func:`deviations`."""

    min_members: ClassVar[int] = 2

    def __call__(self, predictions: Predictions) -> Deviations:
        """Deviations of the energy per atom, the force vectors and the stress."""
        return deviations(predictions)


@dataclass
class MaximumDeviation(Signal):
    """Largest distance of a member from the mean, see :func:`maximum_deviations`."""

    min_members: ClassVar[int] = 2

    def __call__(self, predictions: Predictions) -> Deviations:
        """Deviations of the energy per atom, the force vectors and the stress."""
        return maximum_deviations(predictions)
