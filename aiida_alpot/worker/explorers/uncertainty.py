"""What the committee says about candidates, and the bounds on it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from aiida_alpot.worker.acquisition.calibration import FittedCalibration, GroupedCalibration, from_dict
from aiida_alpot.worker.acquisition.signals.committee import deviations
from aiida_alpot.worker.options import build, choice, number
from aiida_alpot.worker.potentials import Predictions

COLLECT, HALT = 'collect', 'halt'
COLUMNS = ('potential_energy', 'max_force_deviation', 'mean_force_deviation', 'energy_deviation')
"""What is known of each candidate: eV, eV/A, eV/A, eV/atom."""


@dataclass(frozen=True)
class Uncertainty:
    """Bounds on the largest expected force error of an atom.

    It is ``calibration.expected_error(largest force deviation)``, or the deviation itself without a calibration.

    :param lower: above it a frame is marked as uncertain, eV/A, above 0.
    :param upper: above it a frame is junk: it is not kept, and the path ends there; eV/A, above ``lower``; ``None``: no
        such bound.
    :param calibration: what ``Calibration.as_dict`` of the forces gave; ``None``: none.
    :param on_crossing: of ``lower``: ``collect`` goes on, ``halt`` ends the path with that frame as its last.
    """

    lower: float
    upper: float | None = None
    calibration: Mapping[str, Any] | None = None
    on_crossing: str = COLLECT

    def __post_init__(self) -> None:
        number('lower', self.lower, 0.0, exclusive=True)
        if self.upper is not None:
            number('upper', self.upper, float(self.lower), exclusive=True)
        if self.on_crossing == 'rewind':
            raise ValueError("`on_crossing` is 'rewind', which only dynamics can do: give 'collect' or 'halt'")
        choice('on_crossing', self.on_crossing, (COLLECT, HALT))
        if self.calibration is not None:
            if not isinstance(self.calibration, Mapping):
                raise ValueError(
                    f'`calibration` is {self.calibration!r}, expected the object of a calibration, or null'
                )
            _ = self._fitted  # which reads it

    @classmethod
    def of(cls, given: object) -> Uncertainty | None:
        """Bounds as they stand in a file.

        :raises ValueError: for what cannot be.
        """
        if given is None or isinstance(given, cls):
            return given
        if not isinstance(given, Mapping):
            raise ValueError(f'`uncertainty` is {given!r}, expected an object with `lower`, or null')
        return build(cls, given, 'setting of `uncertainty`')

    def expected_error(self, deviation: float, origin: str) -> float:
        """Largest expected force error of an atom, eV/A; NaN for NaN.

        :param deviation: largest force deviation, eV/A.
        :param origin: of the frames, for calibrations by origin.
        """
        if self._fitted is None:
            return deviation
        return float(self._fitted.expected_error(np.array([deviation]), origin)[0])

    @cached_property
    def _fitted(self) -> FittedCalibration | GroupedCalibration | None:
        """The calibration, which each candidate is asked of."""
        return None if self.calibration is None else from_dict(self.calibration)


def statements(predictions: Predictions, driving_member: int) -> np.ndarray:
    """What all members say about frames, shape (n, 4), see :data:`COLUMNS`; deviations of a single member are NaN."""
    n = len(predictions.offsets) - 1
    table = np.full((n, len(COLUMNS)), math.nan)
    table[:, 0] = predictions.energy[driving_member]
    if len(predictions.energy) > 1:
        found = deviations(predictions)
        table[:, 1:] = np.stack([found.max_force, found.mean_force, found.energy], axis=1)
    return table
