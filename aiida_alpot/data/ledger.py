"""The label ledger: every label that a data set of the profile holds, so that none is bought twice.

It is no table of its own but a search through the shards of all data sets, whatever project or archive they come from.
"""

from __future__ import annotations

import io
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from aiida import orm
from aiida.manage import get_manager
from disk_objectstore.utils import PackedObjectReader

from aiida_alpot.worker.frames import SCHEMA_VERSION, LevelOfTheory, ShardError
from aiida_alpot.worker.frames.scan import LabelSearch

from .objects import ObjectWindow
from .pes import PESData

EXTRA = 'alpot_ledger'
"""Extra of a data set; where it is ``False``, none of its labels is taken, nor a copy of them in another data set."""

BATCH = 256
"""Shards that are searched before it is seen whether every question has its answer."""

SMALL = 2**22
"""Objects below this size, in bytes, are read as a whole where they cannot be read in place."""


@dataclass(frozen=True, eq=False)
class KnownLabels:
    """Labels that the profile has, for m of the questions.

    :param questions: the questions that have an answer, ascending, shape (m,).
    :param sources: UUIDs of the data sets that hold the answers, oldest first.
    :param source: index into ``sources`` of each answer, shape (m,).
    :param index: index of the frame in that data set, shape (m,).
    :param problems: a sentence on each shard that could not be read.
    """

    questions: np.ndarray
    sources: tuple[str, ...]
    source: np.ndarray
    index: np.ndarray
    problems: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.questions)

    def picks(self) -> dict[str, dict[str, Any]]:
        """For each data set, by ``source_<n>``, its ``uuid``, the questions (``frames``) and the ``indices`` in it."""
        return {
            f'source_{number}': {
                'uuid': uuid,
                'frames': self.questions[self.source == number].tolist(),
                'indices': self.index[self.source == number].tolist(),
            }
            for number, uuid in enumerate(self.sources)
        }


@dataclass(frozen=True)
class _DataSet:
    uuid: str
    shards: Sequence[str]
    left_out: bool


def find_labels(digests: np.ndarray, levels: Sequence[str], needed: Mapping[str, np.ndarray]) -> KnownLabels:
    """Search the data sets of the loaded profile for labels.

    A label answers a question where it is of the same frame, at the very same level of theory, and has everything that
    is needed. Of several the one in the oldest data set is taken, and there the first. Data sets with the extra
    ``alpot_ledger`` set to ``False`` are left out, and so is every copy of their labels.

    :param digests: the ``frame_id`` of each question as bytes, shape (n, 32), uint8.
    :param levels: level of theory of each question, n texts.
    :param needed: by property, which questions need it, shape (n,) each.
    :raises ValueError: for questions that make no sense.
    """
    search = LabelSearch(digests, levels, needed)
    key_format = _repository().key_format
    if key_format != 'sha256':
        none = np.zeros(0, dtype=np.int64)
        problem = f'the repository of this profile names its objects by {key_format}, only sha256 can be searched'
        return KnownLabels(none, (), none, none, (problem,))
    data_sets = _data_sets(levels, needed) if len(levels) else []
    left_out = dict.fromkeys(shard for found in data_sets if found.left_out for shard in found.shards)
    kept = [found for found in data_sets if not found.left_out]
    owners: dict[str, int] = {}
    for number, found in enumerate(kept):
        for shard in found.shards:
            if shard not in left_out:
                owners.setdefault(shard, number)
    reader = _Reader()
    reader.read(list(left_out), lambda shard, source: search.forbid(source))
    ranks = {shard: rank for rank, shard in enumerate(owners)}
    shards = list(owners)
    for start in range(0, len(shards), BATCH):
        if search.found.all():
            break
        reader.read(shards[start : start + BATCH], lambda shard, source: search.scan(source, ranks[shard]))
    return _answer(search, shards, [kept[number] for number in owners.values()], reader)


def _data_sets(levels: Sequence[str], needed: Mapping[str, np.ndarray]) -> list[_DataSet]:
    """The data sets that can hold an answer, and those of them that are left out; oldest first."""
    bases = sorted({LevelOfTheory.parse(level).base for level in set(levels)})
    filters: dict[str, Any] = {
        'or': [{'attributes.levels_of_theory': {'has_key': base}} for base in bases],
        'attributes.schema_version': {'<=': SCHEMA_VERSION},
    }
    filters |= {f'attributes.n_{name}': {'>': 0} for name, mask in needed.items() if np.all(mask)}
    project = ['ctime', 'uuid', 'attributes.shards', f'extras.{EXTRA}']
    rows = orm.QueryBuilder().append(PESData, filters=filters, project=project).all(batch_size=500)
    rows.sort(key=lambda row: (row[0], row[1]))
    return [_DataSet(uuid, shards, extra not in (None, True)) for _, uuid, shards, extra in rows]


class _Reader:
    """Reads shards from the repository of the profile and keeps how many frames each has, or what is wrong with it."""

    def __init__(self) -> None:
        self.sizes: dict[str, int] = {}
        self.problems: dict[str, str] = {}

    def read(self, shards: Sequence[str], action: Callable[[str, Any], int]) -> None:
        """Do something with each shard, in any order; the action gives the number of its frames."""
        if not shards:
            return
        for key, stream in _repository().iter_object_streams(list(shards)):
            try:
                with _seekable(stream) as source:
                    self.sizes[key] = action(key, source)
            except ShardError as error:
                self.problems[key] = f'shard {key[:12]}: {error}'
        for shard in shards:
            if shard not in self.sizes:
                self.problems.setdefault(shard, f'shard {shard[:12]} is missing from the repository: restore a backup')


def _repository() -> Any:
    """The repository of the profile.

    The name of a shard is the key of its object there, as both are the SHA-256 of its bytes. Asking for many objects at
    once takes microseconds for each, by way of their nodes milliseconds.
    """
    return get_manager().get_profile_storage().get_repository()


@contextmanager
def _seekable(stream: Any) -> Iterator[IO[bytes]]:
    """A stream of the repository as a file object that can be read anywhere."""
    if isinstance(stream, io.BufferedReader):
        yield stream  # an object in a file of its own
        return
    head = stream.read(SMALL)
    if len(head) < SMALL:
        yield io.BytesIO(head)
    elif isinstance(stream, PackedObjectReader):
        stream.seek(0, io.SEEK_END)
        yield io.BufferedReader(ObjectWindow(stream, stream.tell()))
    else:  # compressed
        with tempfile.TemporaryFile() as copy:
            copy.write(head)
            shutil.copyfileobj(stream, copy)
            yield copy


def _answer(search: LabelSearch, shards: Sequence[str], owners: Sequence[_DataSet], reader: _Reader) -> KnownLabels:
    """What was found, by data set.

    :param shards: the shards by their rank, and the data set that each is taken from.
    """
    questions, ranks = np.flatnonzero(search.found), search.ranks[search.found]
    index = search.rows[search.found]
    sources: list[str] = []
    source = np.full(len(questions), -1, dtype=np.int64)
    for rank in np.unique(ranks).tolist():
        offset = _offset(owners[rank].shards, shards[rank], reader.sizes)
        if offset is None:
            continue  # a shard before it is unreadable, so the place in the data set is not known
        if owners[rank].uuid not in sources:
            sources.append(owners[rank].uuid)
        source[ranks == rank] = sources.index(owners[rank].uuid)
        index[ranks == rank] += offset
    kept = source >= 0
    return KnownLabels(questions[kept], tuple(sources), source[kept], index[kept], tuple(reader.problems.values()))


def _offset(listed: Sequence[str], shard: str, sizes: Mapping[str, int]) -> int | None:
    """Index of the first frame of a shard in a data set."""
    before = [sizes.get(other) for other in listed[: listed.index(shard)]]
    return None if None in before else sum(size for size in before if size is not None)
