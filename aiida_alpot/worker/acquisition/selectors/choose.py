"""From scores to picks: what is eligible, the selector, and quotas."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from aiida_alpot.worker.acquisition.maxvol.sources import as_rows
from aiida_alpot.worker.acquisition.selectors.scores import Pick, Scores, Tolerance, above_tolerance, each_once

ABOVE, ALL = 'above_tolerance', 'all'
CANDIDATES = (ABOVE, ALL)
"""What may be selected: what is expected to exceed the tolerance, or everything that passed the gate."""


def choose(
    scores: Scores,
    tolerance: Tolerance,
    selector: Callable[[Scores, Tolerance, int, int], list[Pick]],
    max_select: int,
    seed: int,
    *,
    candidates: str = ABOVE,
    quotas: Mapping[str, int] | None = None,
) -> list[Pick]:
    """Frames to be labelled, in the order of the selector.

    The selector sees the eligible frames in the order of their ``frame_id``, each of these once: nothing depends on the
    order of the pool. Where an origin has had its quota, the selector is asked again for what is missing, among the
    other origins and with the picks among what is known.

    :param quotas: largest number of picks of an origin; origins that are not named have none.
    """
    rows = above_tolerance(scores, tolerance) if candidates == ABOVE else each_once(scores, np.arange(len(scores)))
    left, picks, quotas = scores.take(rows), list[Pick](), dict(quotas or {})
    taken: Counter[str] = Counter()
    while len(left) and len(picks) < max_select:
        found = selector(left, tolerance, max_select - len(picks), seed)
        accepted = _within(found, left, quotas, taken)
        picks += accepted
        if len(accepted) == len(found):
            break
        left = _without(left, accepted, [origin for origin, quota in quotas.items() if taken[origin] >= quota])
    return picks


def _within(found: list[Pick], scores: Scores, quotas: Mapping[str, int], taken: Counter[str]) -> list[Pick]:
    """The picks up to the first whose origin has had its quota; counts them."""
    origins = {} if scores.origin is None else dict(zip(scores.index.tolist(), scores.origin.tolist(), strict=True))
    accepted = []
    for pick in found:
        origin = origins.get(pick.index, '')
        if origin in quotas and taken[origin] >= quotas[origin]:
            continue
        taken[origin] += 1
        accepted.append(pick)
    return accepted


def _without(scores: Scores, picks: list[Pick], full: list[str]) -> Scores:
    """What is left: without the picks, which are known now, and without the origins that are full."""
    chosen = np.isin(scores.index, [pick.index for pick in picks])
    keep = ~chosen
    if scores.origin is not None:
        keep &= ~np.isin(scores.origin, full)
    left = scores.take(np.flatnonzero(keep))
    if scores.features is None or not chosen.any():
        return left
    new = as_rows(scores.features, 'pool').take(np.flatnonzero(chosen))
    return replace(left, known=new if scores.known is None else np.concatenate([scores.known, new]))
