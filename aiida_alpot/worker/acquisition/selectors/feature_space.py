"""Selectors that look at a batch as a whole: rules of batch selection in the space of a representation."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from aiida_alpot.worker.acquisition.batch_selection import Picked
from aiida_alpot.worker.acquisition.selectors.scores import Pick, Scores, Tolerance, excess

SEEDED = 'seed'
MEMORY_BYTES = 2**28
"""Features of eligible frames above this size stay in their file."""


@dataclass(frozen=True)
class FeatureSpaceSelector:
    """A rule of :mod:`~aiida_alpot.worker.acquisition.batch_selection` on the features of the eligible frames.

    Labelled frames are what is known. Equal features are never picked twice, so fewer frames than asked for are
    selected where the pool holds no more that differ.

    :param name: in the registry.
    :param rule: the function.
    :param weighted: multiply what the rule maximises by the expected force error (or, without one, the expected
        energy error) of each frame.
    :param options: of the rule.
    """

    name: str
    rule: Callable[..., Picked]
    weighted: bool
    options: dict[str, Any]

    def __call__(self, scores: Scores, tolerance: Tolerance, max_select: int, seed: int) -> list[Pick]:
        """At most ``max_select`` frames, in the order in which the rule picked them."""
        if scores.features is None:
            raise ValueError(f'the selector {self.name!r} needs features of the frames: set `representation`')
        if not len(scores):
            return []
        options = dict(self.options)
        if SEEDED in inspect.signature(self.rule).parameters:
            options.setdefault(SEEDED, seed)
        weights = weights_of(scores) if self.weighted else None
        if 'train' in inspect.signature(self.rule).parameters:
            options['train'] = scores.known
        picked = self.rule(in_memory(scores.features), max_select, weights=weights, **options)
        return [self._pick(scores, tolerance, picked, rank) for rank in range(len(picked))]

    def _pick(self, scores: Scores, tolerance: Tolerance, picked: Picked, rank: int) -> Pick:
        row = int(picked.index[rank])
        reason = (
            f'{excess(scores, row, tolerance)}, pick {rank + 1} of {len(picked)} by {self.name} '
            f'(score {picked.score[rank]:.3g}{self._near(scores, picked, rank)})'
        )
        return Pick(int(scores.index[row]), reason)

    def _near(self, scores: Scores, picked: Picked, rank: int) -> str:
        if picked.centre is None or picked.centre[rank] < 0:
            return ''
        centre, n_known = int(picked.centre[rank]), 0 if scores.known is None else len(scores.known)
        if 'cluster' in (self.rule.__doc__ or '').split('\n', 1)[0].lower():
            return f', cluster {centre}'
        return (
            f', nearest to labelled frame {centre}' if centre < n_known else f', nearest to pick {centre - n_known + 1}'
        )


def in_memory(features: Any) -> Any:
    """Features in memory where they are few; they are read in the order in which they lie in their file."""
    n, d = features.shape
    if n * d * np.dtype(features.dtype).itemsize > MEMORY_BYTES:
        return features
    return np.asarray(features[np.arange(n)])


def weights_of(scores: Scores) -> np.ndarray:
    """Expected force errors or, where there is none, energy errors; zero where there is neither. Shape (k,)."""
    force = scores.expected_force_error
    errors = force if np.isfinite(force).any() else scores.expected_energy_error
    largest = float(np.max(errors[np.isfinite(errors)], initial=0.0))
    return np.nan_to_num(errors, nan=0.0, posinf=largest)
