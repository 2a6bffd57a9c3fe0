"""Selectors: which of the frames that are worth a label get one, and the registry of them."""

from collections.abc import Callable

from aiida_alpot.worker.acquisition.selectors.scores import Pick, Scores, Tolerance, above_tolerance
from aiida_alpot.worker.acquisition.selectors.threshold_random import threshold_random
from aiida_alpot.worker.acquisition.selectors.top_k import top_k

SELECTORS: dict[str, Callable[[Scores, Tolerance, int, int], list[Pick]]] = {
    'threshold_random': threshold_random,
    'top_k': top_k,
}
"""Name of a selector -> ``function(scores, tolerance, max_select, seed)``."""

__all__ = ['SELECTORS', 'Pick', 'Scores', 'Tolerance', 'above_tolerance', 'threshold_random', 'top_k']
