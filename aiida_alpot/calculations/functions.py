"""Calculation functions on data sets and committees: every one of them has a creator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
from aiida import orm
from aiida.engine import calcfunction

from aiida_alpot.data.committee import CommitteeData
from aiida_alpot.data.pes import PESData
from aiida_alpot.data.potential import PotentialData
from aiida_alpot.data.structures import structure_to_frame
from aiida_alpot.worker.frames import ISOLATED_ATOM, Frame, FrameStore, assign_splits, check_one_level


@calcfunction
def structures_to_frames(**structures: orm.StructureData) -> PESData:
    """Data set of structures, ordered by key; each is its own lineage, of origin ``input``."""
    return PESData(frames=(structure_to_frame(structures[key]) for key in sorted(structures)))


@calcfunction
def merge_datasets(allow_mixed_levels: orm.Bool | None = None, **datasets: PESData) -> PESData:
    """Data set that lists the shards of others, ordered by key.

    :param allow_mixed_levels: accept labels of more than one level of theory; each frame keeps its own.
    """
    mixed = bool(allow_mixed_levels.value) if allow_mixed_levels is not None else False
    return PESData.merge([datasets[key] for key in sorted(datasets)], allow_mixed_levels=mixed)


@calcfunction
def upgrade_dataset(dataset: PESData) -> PESData:
    """The same frames in the schema version of today."""
    return dataset.upgraded()


@calcfunction
def assemble_committee(**potentials: PotentialData) -> CommitteeData:
    """Committee of potentials, ordered by the number at the end of their key."""
    keys = sorted(potentials, key=lambda key: int(key.rpartition('_')[2]))
    return CommitteeData.from_potentials([potentials[key] for key in keys])


@calcfunction
def merge_training_results(**results: orm.Dict) -> orm.Dict:
    """What several jobs tell of the training of one committee, those that come later, by number, counting.

    The errors of the committee as a whole are those of no single job, and are left out.
    """
    parts = [results[key].get_dict() for key in sorted(results, key=lambda key: int(key.rpartition('_')[2]))]
    merged = {key: value for part in parts for key, value in part.items() if key != 'committee'}
    merged['members'] = {key: of for part in parts for key, of in part['members'].items()}
    merged['warnings'] = list(dict.fromkeys(sentence for part in parts for sentence in part['warnings']))
    merged['seconds'] = sum(part.get('seconds') or 0.0 for part in parts)
    return orm.Dict(merged)


@calcfunction
def extend_dataset(labelled: PESData, fractions: orm.Dict, seed: orm.Int, dataset: PESData | None = None) -> PESData:
    """Data set with the labelled frames that it does not have yet, each in its split.

    The shards of ``dataset`` are listed as they are; what is new goes into one small shard. Frames are compared by
    ``frame_id``, at the one level of theory that all labels must share; the first of several equal frames counts. The
    splits go by lineage: a lineage in ``dataset`` keeps its split, a frame that comes with a split keeps it and so does
    its lineage, isolated atoms are trained on, and the others are shared out by
    :func:`~aiida_alpot.worker.frames.splits.assign_splits`. A frame without lineage is its own.

    :param fractions: fraction of the frames for each of ``train``, ``validation``, ``test``.
    :param seed: draws the splits.
    :raises ValueError: for frames without energy, two levels of theory, and a lineage with two splits.
    """
    with labelled.open_store() as store:
        given, levels = _describe(dataset)
        check_one_level([*levels, *store.levels_of_theory()])
        if not store.has('energy').all():
            raise ValueError('some of the new frames have no energy: label them, or leave them out')
        new = _new_frames(store, dataset)
        lineages = _lineages(store)
        splits = _splits(
            lineages[new],
            store.column('split')[new],
            store.column('origin')[new] == ISOLATED_ATOM,
            fractions=fractions.get_dict(),
            seed=seed.value,
            given=given,
            counts=dataset.splits if dataset is not None else {},
        )
        frames = _with_splits(store, new, lineages, splits)
        if dataset is None:
            return PESData(frames=frames)
        return dataset.extended(frames) if len(new) else PESData.merge([dataset])


def _describe(dataset: PESData | None) -> tuple[dict[str, str], list[str]]:
    """Split of each lineage, and levels of theory of a data set."""
    if dataset is None:
        return {}, []
    with dataset.open_store() as store:
        pairs = zip(_lineages(store).tolist(), store.column('split').tolist(), strict=True)
        return _merge_splits({}, pairs), store.levels_of_theory()


def _lineages(store: FrameStore) -> np.ndarray:
    """Lineage of each frame, its own where it has none; shape (n,)."""
    lineages = store.column('lineage')
    alone = np.flatnonzero(lineages == '')
    if not len(alone):
        return lineages
    own = [digest.tobytes().hex()[:16] for digest in store.digests()[alone]]
    lineages = lineages.astype(f'U{max(16, lineages.dtype.itemsize // 4)}')
    lineages[alone] = own
    return lineages


def _new_frames(store: FrameStore, dataset: PESData | None) -> np.ndarray:
    """Indices of the first frame of each structure that the data set does not have."""
    repeated = [index for group in store.duplicates() for index in group[1:].tolist()]
    new = np.ones(len(store), dtype=np.bool_)
    new[repeated] = False
    if dataset is not None:
        with dataset.open_store() as known:
            new &= ~known.contains(store.digests())
    return np.flatnonzero(new)


def _merge_splits(given: Mapping[str, str], pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Splits of lineages with those of more frames added, given as pairs of lineage and split."""
    splits = dict(given)
    for lineage, split in pairs:
        if split and splits.setdefault(lineage, split) != split:
            raise ValueError(
                f'lineage `{lineage}` has frames in `{splits[lineage]}` and in `{split}`, so the test would not be '
                'independent: give all frames of a lineage one split'
            )
    return splits


def _splits(
    lineages: np.ndarray,
    presets: np.ndarray,
    isolated: np.ndarray,
    *,
    fractions: Mapping[str, float],
    seed: int,
    given: Mapping[str, str],
    counts: Mapping[str, int],
) -> dict[str, str]:
    """Split of each lineage of the new frames."""
    given = _merge_splits(given, zip(lineages.tolist(), presets.tolist(), strict=True))
    atoms = set(lineages[isolated].tolist())
    others = [lineage for lineage in lineages.tolist() if lineage not in atoms]
    splits = assign_splits(others, fractions, seed, given, counts)
    drawn = Counter(lineage for lineage in others if lineage not in given)
    if drawn and fractions.get('train') and 'train' not in [splits[lineage] for lineage in others]:
        # Labels that come a few at a time are bought to be learnt: the largest of few lineages is trained on.
        splits[min(drawn, key=lambda lineage: (-drawn[lineage], lineage))] = 'train'
    return splits | {lineage: given.get(lineage, 'train') for lineage in atoms}


def _with_splits(
    store: FrameStore, chosen: np.ndarray, lineages: np.ndarray, splits: Mapping[str, str]
) -> Iterator[Frame]:
    for lineage, frame in zip(lineages[chosen].tolist(), store.select(chosen.tolist()), strict=True):
        yield frame.replace(lineage=lineage, split=splits[lineage])
