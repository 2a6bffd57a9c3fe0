"""Calibration: what error to expect at a deviation, learnt from labels that the members were not trained on."""

from collections.abc import Callable, Mapping
from typing import Any

from aiida_alpot.worker.acquisition.calibration.fitted import MIN_FRAMES, Calibration, FittedCalibration
from aiida_alpot.worker.acquisition.calibration.groups import GroupedCalibration, grouped
from aiida_alpot.worker.acquisition.calibration.isotonic_regression import isotonic
from aiida_alpot.worker.acquisition.calibration.lines import affine, likelihood, linear
from aiida_alpot.worker.acquisition.calibration.normal_errors import COMPONENTS
from aiida_alpot.worker.acquisition.calibration.risk_control import false_negative
from aiida_alpot.worker.acquisition.calibration.split_conformal import conformal
from aiida_alpot.worker.acquisition.calibration.symmetry import VANISHING_FORCE, vanishing

CALIBRATIONS: dict[str, Callable[..., Calibration]] = {
    'linear': linear,
    'affine': affine,
    'isotonic': isotonic,
    'likelihood': likelihood,
    'conformal': conformal,
    'false_negative': false_negative,
}
"""Name of a calibration -> ``function(deviation, error, frame, min_frames, *, components, **options)`` that fits it."""


def from_dict(stored: Mapping[str, Any]) -> FittedCalibration | GroupedCalibration:
    """The calibration whose ``as_dict`` this is, also after JSON or a node.

    :raises ValueError: where something is missing.
    """
    return GroupedCalibration.from_dict(stored) if 'groups' in stored else FittedCalibration.from_dict(stored)


__all__ = [
    'CALIBRATIONS',
    'COMPONENTS',
    'MIN_FRAMES',
    'VANISHING_FORCE',
    'Calibration',
    'FittedCalibration',
    'GroupedCalibration',
    'affine',
    'conformal',
    'false_negative',
    'from_dict',
    'grouped',
    'isotonic',
    'likelihood',
    'linear',
    'vanishing',
]
