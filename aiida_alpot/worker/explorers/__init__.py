"""Explorers: what leads from start structures to new ones, and the registry of them."""

from collections.abc import Mapping
from typing import Any

from aiida_alpot.worker.explorers.base import STATUSES, UNFINISHED, EndedError, Explorer, Outcome
from aiida_alpot.worker.explorers.basin_hopping import BasinHopping
from aiida_alpot.worker.explorers.limits import Limits
from aiida_alpot.worker.explorers.minima_hopping import MinimaHopping
from aiida_alpot.worker.explorers.neb import NudgedElasticBand
from aiida_alpot.worker.explorers.random_search import RandomSearch
from aiida_alpot.worker.explorers.random_structures import random_structure
from aiida_alpot.worker.explorers.relaxation import Relaxation
from aiida_alpot.worker.explorers.uncertainty import Uncertainty
from aiida_alpot.worker.explorers.watch import Watch
from aiida_alpot.worker.options import build
from aiida_alpot.worker.registry import find

GROUP = 'alpot.explorers'
"""Group of the entry points by which other packages add explorers."""

EXPLORERS: dict[str, type[Explorer]] = {
    'relaxation': Relaxation,
    'random_search': RandomSearch,
    'basin_hopping': BasinHopping,
    'minima_hopping': MinimaHopping,
    'neb': NudgedElasticBand,
}
"""Name of an explorer -> its class, a dataclass whose fields are the settings."""


def make_explorer(name: object, settings: Mapping[str, Any]) -> Explorer:
    """An explorer by its name.

    :raises ValueError: for an unknown name or setting, or a value that cannot be.
    """
    return build(find(EXPLORERS, GROUP, name, 'explorer'), settings, f'setting of the explorer `{name}`')


__all__ = [
    'EXPLORERS',
    'GROUP',
    'STATUSES',
    'UNFINISHED',
    'BasinHopping',
    'EndedError',
    'Explorer',
    'Limits',
    'MinimaHopping',
    'NudgedElasticBand',
    'Outcome',
    'RandomSearch',
    'Relaxation',
    'Uncertainty',
    'Watch',
    'make_explorer',
    'random_structure',
]
