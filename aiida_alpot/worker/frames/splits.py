"""Train, validation and test sets by lineage."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from ..seeds import derive_seed
from .frame import SPLITS


def assign_splits(
    lineages: Sequence[str],
    fractions: Mapping[str, float],
    seed: int,
    given: Mapping[str, str] | None = None,
    given_counts: Mapping[str, int] | None = None,
) -> dict[str, str]:
    """Split of each lineage, such that the numbers of frames come as close to the fractions as whole lineages allow.

    The lineages without a split come in an order drawn from the seed and their names alone, after those that do not fit
    into the smallest split, and each goes to the split that lacks most frames. Where there are enough lineages, no
    split that is asked for stays empty.

    :param lineages: lineage of every frame, one entry a frame; frames of one lineage never part.
    :param fractions: fraction of the frames for each of ``train``, ``validation``, ``test``; they add up to one.
    :param seed: draws the order in which lineages are served.
    :param given: lineages that have a split already; they keep it, also where the fractions suffer.
    :param given_counts: frames per split that exist already and are not in ``lineages``: a growing set stays
        proportional as a whole.
    :return: split of every lineage in ``lineages``.
    :raises ValueError: for fractions or splits that make no sense, and for an empty lineage.
    """
    given = given or {}
    _check(fractions, [*given.values(), *(given_counts or {})])
    sizes = Counter(lineages)
    if '' in sizes:
        raise ValueError('a frame without lineage cannot be assigned to a split: give it its frame_id as lineage')
    splits = {lineage: given[lineage] for lineage in sizes if given.get(lineage)}
    counts = Counter({name: int((given_counts or {}).get(name, 0)) for name in SPLITS})
    for lineage, split in splits.items():
        counts[split] += sizes[lineage]
    wanted = [name for name in SPLITS if fractions.get(name, 0) > 0]
    new = [lineage for lineage in sizes if lineage not in splits]
    # Frames in a split that takes no share, such as a fixed test set, do not count.
    total = sum(counts[name] for name in wanted) + sum(sizes[lineage] for lineage in new)
    # Serving all by size would be closer still, and would put every long trajectory into the training set.
    smallest = total * min(fractions[name] for name in wanted)
    new.sort(key=lambda x: (-sizes[x] if sizes[x] > smallest else 0, derive_seed(seed, 'split', x), x))
    for lineage in new:
        split = max(wanted, key=lambda name: fractions[name] * total - counts[name])
        splits[lineage] = split
        counts[split] += sizes[lineage]
    _fill_empty(splits, new, sizes, counts, wanted)
    return splits


def _check(fractions: Mapping[str, float], names: Sequence[str]) -> None:
    unknown = sorted({*fractions, *names} - {*SPLITS, ''})
    if unknown or '' in fractions:
        raise ValueError(f'unknown split {unknown or [""]}: the splits are {", ".join(SPLITS)}')
    values = list(fractions.values())
    if not all(math.isfinite(value) and value >= 0 for value in values) or not math.isclose(
        sum(values), 1, abs_tol=1e-6
    ):
        raise ValueError(f'fractions of the splits must be at least 0 and add up to 1, found {dict(fractions)}')


def _fill_empty(
    splits: dict[str, str], new: Sequence[str], sizes: Mapping[str, int], counts: Counter[str], wanted: Sequence[str]
) -> None:
    """Give each split that is still empty the smallest new lineage of the split that can best spare one."""
    for empty in wanted:
        donors = Counter(splits[lineage] for lineage in new)
        if counts[empty] or not donors or donors.most_common(1)[0][1] < 2:
            continue
        donor = donors.most_common(1)[0][0]
        lineage = min((x for x in new if splits[x] == donor), key=lambda x: sizes[x])
        counts[donor] -= sizes[lineage]
        counts[empty] += sizes[lineage]
        splits[lineage] = empty
