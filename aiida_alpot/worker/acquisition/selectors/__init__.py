"""Selectors: which of the frames that are worth a label get one, and the registry of them."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from aiida_alpot.worker.acquisition import batch_selection
from aiida_alpot.worker.acquisition.maxvol.configurations import maxvol_configurations
from aiida_alpot.worker.acquisition.selectors.choose import choose
from aiida_alpot.worker.acquisition.selectors.feature_space import FeatureSpaceSelector
from aiida_alpot.worker.acquisition.selectors.scores import Pick, Scores, Tolerance, above_tolerance
from aiida_alpot.worker.acquisition.selectors.threshold_random import threshold_random
from aiida_alpot.worker.acquisition.selectors.top_k import top_k
from aiida_alpot.worker.options import boolean, build, unknown_name
from aiida_alpot.worker.registry import find

Selector = Callable[[Scores, Tolerance, int, int], list[Pick]]

GROUP = 'alpot.selectors'
"""Group of the entry points by which other packages add selectors."""

SELECTORS: dict[str, Selector] = {'threshold_random': threshold_random, 'top_k': top_k}
"""Name of a selector by the expected error alone -> ``function(scores, tolerance, max_select, seed)``."""

RULES: dict[str, Callable[..., batch_selection.Picked]] = {
    'posterior_variance': batch_selection.posterior_variance,
    'lcmd': batch_selection.lcmd,
    'k_center': batch_selection.k_center,
    'farthest_point': batch_selection.farthest_point,
    'k_means': batch_selection.k_means,
    'direct': batch_selection.direct,
    'cur': batch_selection.cur,
    'maxvol': maxvol_configurations,
    'hybrid': batch_selection.hybrid,
}
"""Name of a selector in the space of a representation -> its rule."""

ALWAYS_WEIGHTED = ('hybrid',)
GIVEN = ('pool', 'k', 'train', 'weights')


def make_selector(name: object, options: Mapping[str, Any]) -> Selector:
    """A selector by its name.

    :param options: of a rule in feature space: those of its function, and ``weighted``; ours by the expected error
        alone have none; those of other packages are functions without options, or dataclasses whose fields they are.
    :raises ValueError: for an unknown name or option.
    """
    if isinstance(name, str) and name in RULES:
        return _in_feature_space(name, dict(options))
    selector: Any = find({**SELECTORS, **RULES}, GROUP, name, 'selector')
    if inspect.isclass(selector):
        selector, options = build(selector, options, f'option of the selector `{name}`'), {}
    if options:
        raise ValueError(f'the selector {name!r} has no options, found {", ".join(options)}')
    made: Selector = selector
    return made


def needs_features(name: object) -> bool:
    """Whether a selector works in the space of a representation."""
    if name in RULES:
        return True
    return name not in SELECTORS and bool(getattr(find(SELECTORS, GROUP, name, 'selector'), 'needs_features', False))


def _in_feature_space(name: str, options: dict[str, Any]) -> FeatureSpaceSelector:
    weighted = boolean('selector.weighted', options.pop('weighted', name in ALWAYS_WEIGHTED))
    possible = [option for option in inspect.signature(RULES[name]).parameters if option not in GIVEN]
    for option in options:
        if option not in possible:
            raise ValueError(unknown_name(option, ['weighted', *possible], f'option of the selector `{name}`'))
    if name in ALWAYS_WEIGHTED and not weighted:
        raise ValueError(f'the selector {name!r} is weighted by the expected error: leave `weighted` out')
    return FeatureSpaceSelector(name, RULES[name], weighted, options)


__all__ = [
    'GROUP',
    'RULES',
    'SELECTORS',
    'FeatureSpaceSelector',
    'Pick',
    'Scores',
    'Selector',
    'Tolerance',
    'above_tolerance',
    'choose',
    'make_selector',
    'needs_features',
    'threshold_random',
    'top_k',
]
