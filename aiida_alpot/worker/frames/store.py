"""Reading of shards: one ordered list of frames, streamed by chunk, with random access in constant time."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import h5py
import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from .frame import PROPERTIES, PROVENANCE, STRUCTURE, Frame, build_atoms
from .level_of_theory import LevelOfTheory
from .shard import ARRAYS, COLUMNS, ShardError, is_per_atom, open_shard, write_shard

CHUNK_ATOMS = 2**16
"""Iteration reads about this many atoms at a time."""

MANY_TEXTS = 1024
"""Up to this number the distinct texts of a shard are read at once where one is needed."""

Rows = dict[str, np.ndarray]
"""Some of the arrays of a shard, by name, for a range of frames."""


class _Shard:
    """One open shard."""

    def __init__(self, source: Path | str | IO[bytes]) -> None:
        self.file: h5py.File = open_shard(source)
        # Looking a data set up by name costs more than reading one frame from it.
        self.arrays: dict[str, h5py.Dataset] = {}
        for name, item in self.file.items():
            entries = item.items() if isinstance(item, h5py.Group) else [('', item)]
            self.arrays.update({f'{name}/{key}' if key else name: array for key, array in entries})
        self.version = int(self.file.attrs['schema_version'])
        self.offsets: np.ndarray = self.arrays['offsets'][...]
        self.optional = [name for name in (*PROPERTIES, *self.user_arrays()) if name in self.arrays]
        self._texts: dict[str, list[str]] = {}
        self._digests: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def user_arrays(self) -> list[str]:
        """Users' arrays, by the names of their columns."""
        return sorted(name for name in self.arrays if name.startswith(ARRAYS))

    def texts(self, name: str) -> list[str]:
        """The distinct texts of one text column, decoded once."""
        if name not in self._texts:
            raw = self.arrays[f'{name}_utf8'][...].tobytes()
            bounds = self.arrays[f'{name}_offsets'][...].tolist()
            self._texts[name] = [self._decoded(name, raw[i:j]) for i, j in pairwise(bounds)]
        return self._texts[name]

    def text(self, name: str, code: int) -> str:
        """One of the distinct texts; where there are many, only this one is read."""
        if name in self._texts or len(self.arrays[f'{name}_offsets']) <= MANY_TEXTS:
            return self.texts(name)[code]
        start, stop = self.arrays[f'{name}_offsets'][code : code + 2].tolist()
        return self._decoded(name, self.arrays[f'{name}_utf8'][start:stop].tobytes())

    def _decoded(self, name: str, raw: bytes) -> str:
        try:
            return raw.decode('utf-8')
        except UnicodeDecodeError as error:
            raise self.damaged(f'`{name}` is no UTF-8 ({error})') from None

    def codes(self, name: str, start: int, stop: int) -> np.ndarray:
        """For each frame the index into the texts of a text column, shape (n,)."""
        codes: np.ndarray = self.arrays[f'{name}_codes'][start:stop]
        if len(codes) and not (codes.min() >= 0 and codes.max() < len(self.arrays[f'{name}_offsets']) - 1):
            raise self.damaged(f'`{name}_codes` point beyond the texts')
        return codes

    def decode(self, text: str) -> dict[str, Any]:
        """The metadata of a frame."""
        try:
            return dict(json.loads(text))
        except ValueError as error:
            raise self.damaged(f'its metadata are no JSON ({error})') from None

    def damaged(self, what: str) -> ShardError:
        return ShardError(f'{self.file.filename} is damaged, copy or write it again: {what}')

    def digests(self, start: int, stop: int) -> np.ndarray:
        """Frame ids as bytes, shape (n, 32)."""
        if self.version > 1:
            return self.arrays['frame_id'][start:stop]
        if self._digests is None:  # Version 1 took them on another grid.
            ids = b''.join(bytes.fromhex(frame.frame_id) for i, j in self.chunks() for frame in self.frames(i, j))
            self._digests = np.frombuffer(ids, dtype='<u1').reshape(-1, 32)
        return self._digests[start:stop]

    def mask(self, name: str, start: int, stop: int) -> np.ndarray:
        """Which frames have a property or a user's array, shape (n,)."""
        if name not in self.arrays:
            return np.zeros(stop - start, dtype=np.bool_)
        return self.arrays[f'has_{name}'][start:stop].astype(np.bool_)

    def rows(self, names: Iterable[str], start: int, stop: int) -> Rows:
        """Some of the arrays for the frames ``start:stop``, as they are in the file; absent ones are left out."""
        frames, atoms = slice(start, stop), slice(self.offsets[start], self.offsets[stop])
        return {
            name: self.arrays[name][atoms if is_per_atom(name) else frames] for name in names if name in self.arrays
        }

    def parts(self, start: int, stop: int) -> Iterator[tuple[dict[str, Any], dict[str, Any], dict[str, np.ndarray]]]:
        """Structure, labels and users' arrays of each frame in ``start:stop``, read in one go."""
        rows = self.rows((*STRUCTURE, *self.optional), start, stop)
        masks = {name: self.mask(name, start, stop) for name in self.optional}
        whole = {name for name in self.optional if is_per_atom(name)} | {'numbers', 'positions'}
        bounds = (self.offsets[start : stop + 1] - self.offsets[start]).tolist()
        for i in range(stop - start):
            mine = slice(bounds[i], bounds[i + 1])
            values = {
                name: rows[name][mine if name in whole else i] for name in rows if name not in masks or masks[name][i]
            }
            structure = {name: values[name] for name in STRUCTURE}
            labels = {name: values[name] for name in PROPERTIES if name in values}
            arrays = {name[len(ARRAYS) :]: _restore(values[name]) for name in self.user_arrays() if name in values}
            yield structure, labels, arrays

    def frames(self, start: int, stop: int) -> Iterator[Frame]:
        """Frames ``start:stop``, read in one go."""
        codes = {name: self.codes(name, start, stop).tolist() for name in PROVENANCE}
        text = self.text if stop - start == 1 else lambda name, code: self.texts(name)[code]
        for i, (structure, labels, arrays) in enumerate(self.parts(start, stop)):
            texts: dict[str, Any] = {name: text(name, codes[name][i]) for name in PROVENANCE}
            texts['metadata'] = self.decode(texts['metadata'])
            yield Frame(**structure, **labels, **texts, arrays=arrays)

    def atoms(self, start: int, stop: int) -> Iterator[Atoms]:
        """Frames ``start:stop`` as ASE structures, read in one go."""
        for structure, labels, arrays in self.parts(start, stop):
            yield build_atoms(**structure, labels=labels, arrays=arrays)

    def chunks(self) -> Iterator[tuple[int, int]]:
        """Ranges of frames with about :data:`CHUNK_ATOMS` atoms each, that make up all."""
        start = 0
        while start < len(self):
            limit = self.offsets[start] + CHUNK_ATOMS
            stop = max(start + 1, int(np.searchsorted(self.offsets, limit, side='right')) - 1)
            yield start, stop
            start = stop


class FrameStore(Sequence[Frame]):
    """One or more shards as one ordered list of frames. Also a context manager that closes the files.

    Nothing reads more than was asked for: ``store[i]`` and ``store.atoms(i)`` take constant time, iteration streams,
    and :meth:`column` reads one array without building frames. For a fit see
    :func:`~aiida_alpot.worker.frames.batches.batches`.

    :param sources: paths of shards, or seekable binary file objects that stay open as long as the store is used.
    :raises ValueError: for no shards, truncated or foreign files and newer schema versions.
    """

    def __init__(self, sources: Sequence[Path | str | IO[bytes]]) -> None:
        if isinstance(sources, str | Path):
            raise ValueError(f'expected a list of shards, found the single path {sources}: put it into a list')
        if not len(sources):
            raise ValueError('a frame store needs at least one shard')
        self._shards: list[_Shard] = []
        try:
            for source in sources:
                self._shards.append(_Shard(source))
        except (OSError, ValueError):
            self.close()
            raise
        self._starts = np.cumsum([0, *map(len, self._shards)])

    def close(self) -> None:
        """Close the files."""
        for shard in self._shards:
            shard.file.close()

    def __enter__(self) -> FrameStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return int(self._starts[-1])

    # Frames.

    def __getitem__(self, index: Any) -> Any:
        """One frame, or the list of frames of a slice."""
        if isinstance(index, slice):
            return list(self.select(range(*index.indices(len(self)))))
        shard, local = self.locate(index)
        return next(shard.frames(local, local + 1))

    def __iter__(self) -> Iterator[Frame]:
        for shard in self._shards:
            for start, stop in shard.chunks():
                yield from shard.frames(start, stop)

    def atoms(self, index: int) -> Atoms:
        """One frame as an ASE structure, with its labels in a single-point calculator."""
        shard, local = self.locate(index)
        return next(shard.atoms(local, local + 1))

    def iter_atoms(self) -> Iterator[Atoms]:
        """All frames as ASE structures, streamed; somewhat faster than by way of frames."""
        for shard in self._shards:
            for start, stop in shard.chunks():
                yield from shard.atoms(start, stop)

    def select(self, indices: Iterable[int]) -> Iterator[Frame]:
        """Frames in the order of the indices, streamed."""
        for index in indices:
            yield self[index]

    def locate(self, index: Any) -> tuple[_Shard, int]:
        """The shard of a frame and the place of the frame in it.

        :raises IndexError: where there is no such frame.
        """
        i = int(index) + (len(self) if index < 0 else 0)
        if not 0 <= i < len(self):
            raise IndexError(f'frame {index} of a store of {len(self)}')
        shard = int(np.searchsorted(self._starts, i, side='right')) - 1
        return self._shards[shard], i - int(self._starts[shard])

    def ranges(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[_Shard, int, int]]:
        """The shards that hold the frames ``start:stop``, and which of their frames these are."""
        start, stop, _ = slice(start, stop).indices(len(self))
        for shard, first in zip(self._shards, self._starts.tolist(), strict=False):
            local = max(0, start - first), min(len(shard), stop - first)
            if local[0] < local[1]:
                yield shard, *local

    # Columns.

    @property
    def offsets(self) -> np.ndarray:
        """Frame ``i`` owns the atoms ``offsets[i]:offsets[i + 1]`` of the whole store, shape (n + 1,)."""
        sizes = [np.diff(shard.offsets) for shard in self._shards]
        return np.concatenate([[0], np.cumsum(np.concatenate(sizes))])

    def column(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """One array of the frames ``start:stop``, read without building frames.

        :param name: with one row a frame ``frame_id``, ``lineage``, ``origin``, ``split``, ``level_of_theory`` (texts,
            empty where there is none), ``n_atoms``, ``cell``, ``pbc``, ``energy``, ``stress``, ``dipole`` and
            ``has_<property>``; with one row an atom ``numbers``, ``positions``, ``forces``, ``charges``, ``magmoms``
            and users' arrays by their names. Units as in :class:`Frame`; NaN, or 0 where there is no NaN, where a
            frame has none.
        :raises ValueError: for an unknown name, and a user's array that differs in kind or shape between shards.
        """
        if name == 'frame_id':
            return _to_hex(self.digests(start, stop))
        if name == 'n_atoms':
            return np.concatenate([np.diff(s.offsets[i : j + 1]) for s, i, j in self.ranges(start, stop)] or [_NONE])
        if name in PROVENANCE[:-1]:
            categories, codes = self.categories(name, start, stop)
            return np.array(categories, dtype=np.str_)[codes]
        if name.startswith('has_') and name[4:] in self._optional_names():
            return self.has(name[4:], start, stop)
        key = name if name in COLUMNS else f'{ARRAYS}{name}'
        dtype, row_shape = self._layout(key)
        ranges = list(self.ranges(start, stop))
        sizes = [int(s.offsets[j] - s.offsets[i]) if is_per_atom(key) else j - i for s, i, j in ranges]
        column = np.empty((sum(sizes), *row_shape), dtype=dtype)
        end = 0
        for (shard, i, j), size in zip(ranges, sizes, strict=True):
            # One shard after the other goes into its place: joining them later would need the memory twice.
            part = shard.rows([key], i, j)
            column[end : end + size] = part[key] if key in part else _missing(dtype)
            end += size
        return column

    def _optional_names(self) -> list[str]:
        return [*PROPERTIES, *self.array_names()]

    def _layout(self, key: str) -> tuple[np.dtype, tuple[int, ...]]:
        """Type and shape of the rows of a column, as they are given to the user."""
        if key in COLUMNS:
            kept, row_shape = COLUMNS[key]
        else:
            found = {(s.arrays[key].dtype.str, s.arrays[key].shape[1:]) for s in self._shards if key in s.arrays}
            name = key[len(ARRAYS) :]
            if not found:
                columns = [*COLUMNS, 'n_atoms', *PROVENANCE[:-1], *self.array_names()]
                raise ValueError(f'there is no column {name!r}, only {", ".join(columns)} and has_<property>')
            if len(found) > 1:
                raise ValueError(
                    f'`{name}` has several kinds or shapes in different shards ({found}): read it by frame'
                )
            kept, row_shape = next(iter(found))
        if key == 'numbers':
            return np.dtype(np.int32), row_shape
        return np.dtype(np.bool_ if kept.lstrip('<|') == 'u1' else kept), row_shape

    def has(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Which of the frames ``start:stop`` have a property or a user's array, shape (n,)."""
        if name not in self._optional_names():
            raise ValueError(f'there is no property or array {name!r}, only {", ".join(self._optional_names())}')
        key = name if name in PROPERTIES else f'{ARRAYS}{name}'
        masks = [shard.mask(key, i, j) for shard, i, j in self.ranges(start, stop)]
        return np.concatenate(masks or [_NONE]).astype(np.bool_)

    def array_names(self) -> list[str]:
        """Names of the users' arrays that some frame has."""
        return sorted({name[len(ARRAYS) :] for shard in self._shards for name in shard.user_arrays()})

    def digests(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """The ``frame_id`` of each frame as bytes, shape (n, 32)."""
        parts = [shard.digests(i, j) for shard, i, j in self.ranges(start, stop)]
        return np.concatenate(parts or [np.empty((0, 32), dtype=np.uint8)])

    def categories(self, name: str, start: int = 0, stop: int | None = None) -> tuple[list[str], np.ndarray]:
        """A column of texts as the distinct texts of the store and, for each frame, the index into them.

        :param name: ``lineage``, ``origin``, ``split``, ``level_of_theory`` or ``metadata`` (as JSON).
        :return: texts in order of first appearance, and indices of shape (n,).
        """
        index: dict[str, int] = {}
        codes = []
        for shard, i, j in self.ranges(start, stop):
            table = np.array([index.setdefault(text, len(index)) for text in shard.texts(name)], dtype=np.int64)
            codes.append(table[shard.codes(name, i, j)])
        return list(index), np.concatenate(codes or [_NONE])

    def metadata(self, key: str, default: Any = None) -> list[Any]:
        """One value of the metadata of each frame; each distinct text is decoded once."""
        texts, codes = self.categories('metadata')
        values = [json.loads(text).get(key, default) for text in texts]
        return [values[code] for code in codes.tolist()]

    # What there is.

    def elements(self) -> list[str]:
        """Chemical symbols that occur, by atomic number."""
        present = np.bitwise_or.reduce(np.concatenate(list(self._element_sets())), axis=0)
        return _symbols(present)

    def chemical_systems(self) -> dict[str, int]:
        """Number of frames of each set of elements, such as ``Ge-Si``."""
        sets, counts = np.unique(np.concatenate(list(self._element_sets())), axis=0, return_counts=True)
        systems = {'-'.join(sorted(_symbols(row))): int(count) for row, count in zip(sets, counts, strict=True)}
        return dict(sorted(systems.items()))

    def _element_sets(self) -> Iterator[np.ndarray]:
        """Which elements each frame has, as the bits of two whole numbers; shape (n, 2) for each chunk."""
        for shard in self._shards:
            for start, stop in shard.chunks():
                numbers = shard.rows(['numbers'], start, stop)['numbers']
                starts = shard.offsets[start:stop] - shard.offsets[start]
                bits = np.left_shift(np.uint64(1), (numbers & 63).astype(np.uint64))
                halves = [np.where(numbers < 64, bits, 0), np.where(numbers < 64, 0, bits)]
                yield np.stack([np.bitwise_or.reduceat(half, starts) for half in halves], axis=1)

    def levels_of_theory(self) -> list[str]:
        """Levels of theory of the frames that have any label; empty text for labels of unknown level."""
        levels, codes = self.categories('level_of_theory')
        return sorted(levels[code] for code in np.unique(codes[self._labelled()]))

    def _labelled(self) -> np.ndarray:
        return np.any([self.has(name) for name in PROPERTIES], axis=0)

    def duplicates(self) -> list[np.ndarray]:
        """Indices of frames that are the same structure, one array for each structure that occurs more than once."""
        _, inverse, counts = np.unique(self._keys(), return_inverse=True, return_counts=True)
        order = np.argsort(inverse, kind='stable')
        groups = np.split(order, np.cumsum(counts)[:-1])
        return sorted((group for group in groups if len(group) > 1), key=lambda group: int(group[0]))

    def contains(self, digests: np.ndarray) -> np.ndarray:
        """Which structures are here, by their ``frame_id`` as bytes, shape (m, 32) to (m,)."""
        return np.isin(_as_keys(digests), self._keys())

    def _keys(self) -> np.ndarray:
        return _as_keys(self.digests())

    def summary(self) -> dict[str, Any]:
        """Counts as plain numbers and texts; frames without origin, split or level of theory are not in those counts.

        :return: ``n_frames``, ``n_atoms``, ``elements``, ``chemical_systems`` (set of elements -> number of frames),
            ``n_labelled`` (frames with energy and forces), ``n_<property>``, ``arrays`` (names of users' arrays),
            ``origins`` and ``splits`` (name -> number of frames), ``levels_of_theory`` (base -> number of labelled
            frames), ``schema_version`` (the oldest of the shards).
        """
        masks = {name: self.has(name) for name in PROPERTIES}
        return {
            'n_frames': len(self),
            'n_atoms': int(sum(shard.offsets[-1] for shard in self._shards)),
            'elements': self.elements(),
            'chemical_systems': self.chemical_systems(),
            'n_labelled': int(np.sum(masks['energy'] & masks['forces'])),
            **{f'n_{name}': int(mask.sum()) for name, mask in masks.items()},
            'arrays': self.array_names(),
            'origins': self._counts('origin'),
            'splits': self._counts('split'),
            'levels_of_theory': self._level_counts(),
            'schema_version': min(shard.version for shard in self._shards),
        }

    def _counts(self, name: str, mask: np.ndarray | None = None) -> dict[str, int]:
        texts, codes = self.categories(name)
        counts = np.bincount(codes if mask is None else codes[mask], minlength=len(texts)).tolist()
        return {text: count for text, count in sorted(zip(texts, counts, strict=True)) if text and count}

    def _level_counts(self) -> dict[str, int]:
        counts: Counter[str] = Counter()
        for level, count in self._counts('level_of_theory', self._labelled()).items():
            counts[LevelOfTheory.parse(level).base] += count
        return dict(sorted(counts.items()))


def upgrade_shard(source: Path | str | IO[bytes], directory: Path | str) -> Path:
    """Write the frames of a shard of any version in the version of today; the old file stays.

    :return: path of the new shard, in ``directory``; the bytes are those of the old one where that is up to date.
    """
    with FrameStore([source]) as store:
        return write_shard(store, directory)


_NONE = np.empty(0, dtype=np.int64)


def _restore(array: np.ndarray) -> np.ndarray:
    """A user's array with the kind that it had."""
    return array.astype(np.bool_) if array.dtype == np.uint8 else array


def _missing(dtype: np.dtype) -> Any:
    return np.nan if dtype.kind == 'f' else 0


def _symbols(bits: np.ndarray) -> list[str]:
    """Chemical symbols of a set of elements, given as the bits of two whole numbers, by atomic number."""
    return [chemical_symbols[z] for z in range(1, 119) if int(bits[z // 64]) >> (z % 64) & 1]


def _as_keys(digests: np.ndarray) -> np.ndarray:
    """Rows of 32 bytes as values that can be sorted, shape (n,)."""
    return np.ascontiguousarray(digests).view('S32').reshape(-1)


def _to_hex(digests: np.ndarray) -> np.ndarray:
    """Hexadecimal texts of (n, 32) bytes, shape (n,)."""
    text = digests.tobytes().hex().encode('ascii')
    return np.frombuffer(text, dtype='S64').astype(np.str_)
