"""Signals: what says that a frame is not known yet, and the registry of them."""

from aiida_alpot.worker.acquisition.signals.committee import Deviations, deviations, maximum_deviations

SIGNALS = {'committee': deviations, 'committee_maximum': maximum_deviations}
"""Name of a signal -> function of the predictions that gives :class:`Deviations`."""

__all__ = ['SIGNALS', 'Deviations', 'deviations', 'maximum_deviations']
