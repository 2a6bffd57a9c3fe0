"""Search for known labels in many shards: by column, reading of each shard only what decides.

A shard in a repository is named by the hash of its bytes and was checked when it was stored, so it is not checked again
here: opening thousands of small shards would cost more than searching them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import IO

import h5py
import numpy as np

from .frame import PROPERTIES
from .shard import SCHEMA_VERSION, ShardError
from .store import FrameStore

CHUNK = 2**17
"""Frames whose identities are read at a time: 4 MB."""

_ROW_BITS = 40
"""Bits for the place of a frame in its shard, below those for the rank of the shard."""

_NOTHING = np.iinfo(np.int64).max


class LabelSearch:
    """Which of many wanted labels the shards have that are shown to it, one after the other and in any order.

    A label answers a question where it is of the same frame, at the very same level of theory, and has everything that
    is needed. Of several the one in the shard of lowest rank is kept, and there the first.

    :param digests: the ``frame_id`` of each question as bytes, shape (n, 32), uint8.
    :param levels: level of theory of each question, n texts.
    :param needed: by property, which questions need it, shape (n,) each.
    :raises ValueError: for lengths that differ, and properties that there are not.
    """

    def __init__(self, digests: np.ndarray, levels: Sequence[str], needed: Mapping[str, np.ndarray]) -> None:
        n = len(levels)
        unknown = sorted(set(needed) - set(PROPERTIES))
        if unknown or digests.shape != (n, 32) or any(np.shape(mask) != (n,) for mask in needed.values()):
            raise ValueError(
                f'the search has {n} levels, identities of shape {digests.shape} and needs {sorted(needed)}: give one '
                f'identity of 32 bytes and one level a question, and masks of shape ({n},) for {", ".join(PROPERTIES)}'
            )
        self.needed = {name: np.asarray(mask, dtype=np.bool_) for name, mask in needed.items() if np.any(mask)}
        self._level_numbers = {level: number for number, level in enumerate(dict.fromkeys(levels))}
        self._levels = np.array([self._level_numbers[level] for level in levels], dtype=np.int64)
        self._digests: np.ndarray = np.ascontiguousarray(digests, dtype=np.uint8)
        prefixes = _prefixes(self._digests)
        self._order: np.ndarray = np.argsort(prefixes, kind='stable')
        self._prefixes = prefixes[self._order]
        self._found: np.ndarray = np.full(n, _NOTHING, dtype=np.int64)
        self._forbidden: set[tuple[int, int]] = set()

    @property
    def found(self) -> np.ndarray:
        """Which questions have an answer, shape (n,)."""
        return self._found != _NOTHING

    @property
    def ranks(self) -> np.ndarray:
        """Rank of the shard that answers each question, shape (n,); -1 for none."""
        return np.where(self.found, self._found >> _ROW_BITS, -1)

    @property
    def rows(self) -> np.ndarray:
        """Index of the answer in its shard for each question, shape (n,); -1 for none."""
        return np.where(self.found, self._found & (2**_ROW_BITS - 1), -1)

    def scan(self, source: Path | str | IO[bytes], rank: int) -> int:
        """Search one shard.

        :param source: a path or a seekable binary file object.
        :param rank: place of the shard among all, 0 to 2^22.
        :return: its number of frames.
        :raises ShardError: where it cannot be read.
        """
        with _Columns(source) as columns:
            for questions, rows in self._matches(columns):
                keep = self._is_complete(columns, questions, rows)
                if self._forbidden:
                    pairs = zip(questions.tolist(), columns.energy_bits(rows).tolist(), strict=True)
                    keep &= ~np.array([pair in self._forbidden for pair in pairs], dtype=np.bool_)
                np.minimum.at(self._found, questions[keep], (rank << _ROW_BITS) + rows[keep])
            return columns.n_frames

    def forbid(self, source: Path | str | IO[bytes]) -> int:
        """Take none of the labels of a shard, nor copies of them in the shards that are searched afterwards.

        A copy is a label of the same frame at the same level with the same energy, to the last bit.

        :return: number of frames of the shard.
        :raises ShardError: where it cannot be read.
        """
        with _Columns(source) as columns:
            for questions, rows in self._matches(columns):
                self._forbidden.update(zip(questions.tolist(), columns.energy_bits(rows).tolist(), strict=True))
            return columns.n_frames

    def _matches(self, columns: _Columns) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Pairs of a question and a frame of its structure and level, as two arrays for each chunk that has any."""
        for start in range(0, columns.n_frames if len(self._order) else 0, CHUNK):
            digests = columns.digests(start, start + CHUNK)
            questions, rows = self._same_prefix(_prefixes(digests))
            same = np.all(digests[rows] == self._digests[questions], axis=1)
            questions, rows = questions[same], rows[same] + start
            if len(rows):
                same = columns.levels(self._level_numbers)[rows] == self._levels[questions]
                yield questions[same], rows[same]

    def _same_prefix(self, prefixes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pairs of a question and a row whose identities start with the same eight bytes."""
        first = np.searchsorted(self._prefixes, prefixes)
        hits = np.flatnonzero(self._prefixes[np.minimum(first, len(self._prefixes) - 1)] == prefixes)
        first = first[hits]
        # The same structure may be asked for more than once, at one level or at several.
        counts = np.searchsorted(self._prefixes, prefixes[hits], side='right') - first
        steps = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return self._order[np.repeat(first, counts) + steps], np.repeat(hits, counts)

    def _is_complete(self, columns: _Columns, questions: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Whether each pair's frame has every label that the question needs."""
        complete: np.ndarray = np.ones(len(rows), dtype=np.bool_)
        for name, needed in self.needed.items():
            complete &= columns.has(name)[rows] | ~needed[questions]
        return complete


class _Columns:
    """The columns of one shard that a search needs, each read when it is asked for, and once."""

    def __init__(self, source: Path | str | IO[bytes]) -> None:
        self._source = source
        self._read: dict[str, np.ndarray] = {}

    def __enter__(self) -> _Columns:
        try:
            self._file: h5py.File = h5py.File(self._source, 'r')
        except OSError as error:
            raise _unreadable(self._source, error) from error
        try:
            version = int(self._file.attrs['schema_version'])
            if version > SCHEMA_VERSION:
                raise ShardError(f'{self._source} has schema version {version}: upgrade aiida-alpot to read it')
            self.n_frames: int = h5py.h5d.open(self._file.id, b'frame_id').shape[0]
            if version == 1:
                # Identities were taken on another grid then.
                with FrameStore([self._source]) as store:
                    self._read['frame_id'] = store.digests()
        except (OSError, KeyError, ShardError) as error:
            self._file.close()
            raise error if isinstance(error, ShardError) else _unreadable(self._source, error) from error
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        self._file.close()
        if isinstance(error, OSError | KeyError | IndexError):
            raise _unreadable(self._source, error) from error

    def _array(self, name: str) -> np.ndarray:
        """A whole array. h5py's objects would cost a small shard more than its bytes do."""
        dataset = h5py.h5d.open(self._file.id, name.encode())
        array = np.empty(dataset.shape, dtype=dataset.dtype)
        dataset.read(h5py.h5s.ALL, h5py.h5s.ALL, array)
        return array

    def _has_array(self, name: str) -> bool:
        return self._file.id.links.exists(name.encode())

    def digests(self, start: int, stop: int) -> np.ndarray:
        """Identities of some frames, shape (k, 32)."""
        if 'frame_id' in self._read:
            return self._read['frame_id'][start:stop]
        return self._array('frame_id') if self.n_frames <= stop - start else self._file['frame_id'][start:stop]

    def levels(self, numbers: Mapping[str, int]) -> np.ndarray:
        """Number of the level of theory of each frame, shape (n,); -1 for one that has none."""
        if 'level' not in self._read:
            raw = self._array('level_of_theory_utf8').tobytes()
            bounds = self._array('level_of_theory_offsets').tolist()
            texts = [raw[i:j].decode('utf-8') for i, j in pairwise(bounds)]
            table = np.array([numbers.get(text, -1) for text in texts], dtype=np.int64)
            self._read['level'] = table[self._array('level_of_theory_codes')]
        return self._read['level']

    def has(self, name: str) -> np.ndarray:
        """Which frames are labelled with a property, shape (n,)."""
        key = f'has_{name}'
        if key not in self._read:
            mask = self._array(key) if self._has_array(key) else np.zeros(self.n_frames, dtype=np.uint8)
            self._read[key] = mask.astype(np.bool_)
        return self._read[key]

    def energy_bits(self, rows: np.ndarray) -> np.ndarray:
        """The energies of some frames as whole numbers, shape (k,)."""
        if 'energy' not in self._read:
            energies = self._array('energy') if self._has_array('energy') else np.full(self.n_frames, np.nan)
            self._read['energy'] = energies.astype('<f8').view('<i8')
        return self._read['energy'][rows]


def _prefixes(digests: np.ndarray) -> np.ndarray:
    """The first eight bytes of each row as a number, shape (n,)."""
    return np.ascontiguousarray(digests[:, :8]).view('<u8')[:, 0]


def _unreadable(source: Path | str | IO[bytes], error: BaseException) -> ShardError:
    return ShardError(f'{source} cannot be read ({error}): it is damaged, restore it from a copy')
