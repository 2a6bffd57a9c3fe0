"""Committees of interatomic potentials: loading and batched evaluation."""

from aiida_alpot.worker.potentials.committee import Committee
from aiida_alpot.worker.potentials.load import load_committee
from aiida_alpot.worker.potentials.predictions import Predictions

__all__ = ('Committee', 'Predictions', 'load_committee')
