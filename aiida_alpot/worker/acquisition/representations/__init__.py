"""Representations: how a structure becomes a row of numbers whose inner products say how alike two structures are."""

from aiida_alpot.worker.acquisition.representations.normalise import cosine
from aiida_alpot.worker.acquisition.representations.registry import (
    REPRESENTATIONS,
    Feature,
    Representation,
    resolve,
)

__all__ = ['REPRESENTATIONS', 'Feature', 'Representation', 'cosine', 'resolve']
