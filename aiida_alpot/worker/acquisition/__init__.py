"""Acquisition: gate, signals, calibration and selection of the frames that are worth a label."""

from aiida_alpot.worker.acquisition.calibration import CALIBRATIONS
from aiida_alpot.worker.acquisition.selectors import SELECTORS
from aiida_alpot.worker.acquisition.signals import SIGNALS

__all__ = ['CALIBRATIONS', 'SELECTORS', 'SIGNALS']
