"""MaxVol: rows of a matrix of features between which all others interpolate."""

from aiida_alpot.worker.acquisition.maxvol.configurations import maxvol_configurations
from aiida_alpot.worker.acquisition.maxvol.rectangular import rectangular_maxvol
from aiida_alpot.worker.acquisition.maxvol.span import Span
from aiida_alpot.worker.acquisition.maxvol.square import MaxVol, maxvol

__all__ = ['MaxVol', 'Span', 'maxvol', 'maxvol_configurations', 'rectangular_maxvol']
