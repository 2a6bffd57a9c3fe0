"""Signals: what says that a frame is not known yet, and the registry of them."""

from collections.abc import Mapping
from typing import Any

from aiida_alpot.worker.acquisition.signals.base import Signal
from aiida_alpot.worker.acquisition.signals.committee import Deviations, deviations, maximum_deviations
from aiida_alpot.worker.acquisition.signals.disagreement import MaximumDeviation, StandardDeviation
from aiida_alpot.worker.acquisition.signals.extrapolation_grade import ExtrapolationGrade
from aiida_alpot.worker.acquisition.signals.llpr import LastLayerRigidity
from aiida_alpot.worker.acquisition.signals.residual_process import ResidualProcess
from aiida_alpot.worker.options import build
from aiida_alpot.worker.registry import find

GROUP = 'alpot.signals'
"""Group of the entry points by which other packages add signals."""

SIGNALS: dict[str, type[Signal]] = {
    'committee': StandardDeviation,
    'committee_maximum': MaximumDeviation,
    'extrapolation_grade': ExtrapolationGrade,
    'residual_process': ResidualProcess,
    'llpr': LastLayerRigidity,
}
"""Name of a signal -> its class, a dataclass whose fields are the options."""


def make_signal(name: object, options: Mapping[str, Any]) -> Signal:
    """A signal by its name.

    :raises ValueError: for an unknown name or option, or a value that cannot be.
    """
    return build(find(SIGNALS, GROUP, name, 'signal'), options, f'option of the signal `{name}`')


__all__ = [
    'GROUP',
    'SIGNALS',
    'Deviations',
    'ExtrapolationGrade',
    'LastLayerRigidity',
    'MaximumDeviation',
    'ResidualProcess',
    'Signal',
    'StandardDeviation',
    'deviations',
    'make_signal',
    'maximum_deviations',
]
