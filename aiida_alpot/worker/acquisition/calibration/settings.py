"""How the calibrations of an evaluation are fitted: which kind, with which options, together or by origin."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from aiida_alpot.worker.acquisition.calibration import CALIBRATIONS, COMPONENTS, MIN_FRAMES, Calibration, grouped
from aiida_alpot.worker.acquisition.calibration.stress import stress_pairs
from aiida_alpot.worker.options import choice, unknown_name

if TYPE_CHECKING:
    from aiida_alpot.worker.acquisition.labelled import Labelled

BY = ('all', 'origin')
GIVEN = ('deviation', 'error', 'frame', 'min_frames', 'components', 'tolerance')
UNITS_OF_FORCES = ('unit',)
"""Options that concern atoms and frames, which energies and stresses do not tell apart."""

HELD_OUT = 'validation'
"""Split whose labels calibrate: no member was trained on them."""


@dataclass(frozen=True)
class CalibrationSettings:
    """A kind of calibration with its options.

    :param name: in :data:`CALIBRATIONS`.
    :param options: of its function.
    :param by: ``all`` frames together, or one for each ``origin``.
    :param min_frames: with fewer frames a calibration is not trusted.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    by: str = 'all'
    min_frames: int = MIN_FRAMES

    @classmethod
    def of(cls, name: object, options: Mapping[str, Any], min_frames: int) -> CalibrationSettings:
        """Settings as they stand in a file, checked by a fit to nothing.

        :raises ValueError: for an unknown kind or option, or a value that cannot be.
        """
        if not isinstance(name, str) or name not in CALIBRATIONS:
            raise ValueError(unknown_name(name, CALIBRATIONS, 'calibration'))
        own = dict(options)
        by = choice('calibration.by', own.pop('by', 'all'), BY)
        possible = [key for key in inspect.signature(CALIBRATIONS[name]).parameters if key not in GIVEN]
        for key in own:
            if key not in possible:
                raise ValueError(unknown_name(key, ['by', *possible], f'option of the calibration `{name}`'))
        settings = cls(name, own, by, min_frames)
        nothing = np.zeros(0)
        CALIBRATIONS[name](nothing, nothing, nothing.astype(int), min_frames, **own)
        return settings

    def fit_all(self, labelled: Labelled, tolerances: Mapping[str, float | None]) -> dict[str, Calibration]:
        """Calibrations of ``forces``, ``energy`` and ``stress`` on the held-out frames.

        :param tolerances: errors that the user accepts, where there are such.
        """
        from aiida_alpot.worker.acquisition.labelled import energy_pairs, force_pairs

        pairs: dict[str, Callable[..., tuple[np.ndarray, np.ndarray, np.ndarray]]] = {
            'forces': force_pairs,
            'energy': energy_pairs,
            'stress': stress_pairs,
        }
        return {
            name: self._fit(name, *of(labelled, HELD_OUT), labelled.origin, tolerances.get(name))
            for name, of in pairs.items()
        }

    def _fit(
        self,
        name: str,
        deviation: np.ndarray,
        error: np.ndarray,
        frame: np.ndarray,
        origin: np.ndarray,
        tolerance: float | None,
    ) -> Calibration:
        fit = CALIBRATIONS[self.name]
        options = {key: value for key, value in self.options.items() if name == 'forces' or key not in UNITS_OF_FORCES}
        options['components'] = COMPONENTS[name]
        if 'tolerance' in inspect.signature(fit).parameters:
            options['tolerance'] = tolerance
        if self.by == 'all':
            return fit(deviation, error, frame, self.min_frames, **options)
        return grouped(fit, deviation, error, frame, origin[frame], self.min_frames, **options)
