"""Reading of shards: one ordered list of frames, streamed by chunk, with random access in constant time."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import h5py
import numpy as np
from ase.data import chemical_symbols

from .frame import Frame
from .shard import LABELS, SCHEMA_VERSION, TEXTS, open_shard

CHUNK_ATOMS = 2**16
"""Iteration reads about this many atoms at a time."""

MASKS = ('has_energy', 'has_forces', 'has_stress')
COLUMNS = ('frame_id', *TEXTS[:-1], 'n_atoms', 'energy', *MASKS)


class _Shard:
    """One open shard."""

    def __init__(self, source: Path | str | IO[bytes]) -> None:
        self.file: h5py.File = open_shard(source)
        # Looking a data set up by name costs more than reading one frame from it.
        self.arrays: dict[str, h5py.Dataset] = dict(self.file.items())
        self.offsets: np.ndarray = self.arrays['offsets'][...]
        self._texts: dict[str, list[str]] = {}

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def texts(self, name: str) -> list[str]:
        """The distinct texts of one text column, decoded once."""
        if name not in self._texts:
            raw = self.arrays[f'{name}_utf8'][...].tobytes()
            bounds = self.arrays[f'{name}_offsets'][...].tolist()
            self._texts[name] = [raw[i:j].decode('utf-8') for i, j in pairwise(bounds)]
        return self._texts[name]

    def column(self, name: str) -> np.ndarray:
        if name in TEXTS:
            return np.array(self.texts(name), dtype=np.str_)[self.arrays[f'{name}_codes'][...]]
        if name == 'n_atoms':
            return np.diff(self.offsets)
        if name == 'frame_id':
            return _to_hex(self.arrays['frame_id'][...])
        if name in MASKS:
            return self.arrays[name][...].astype(np.bool_)
        return self.arrays['energy'][...] if 'energy' in self.arrays else np.full(len(self), np.nan)

    def frames(self, start: int, stop: int) -> Iterator[Frame]:
        """Frames ``start:stop``, read in one go."""
        rows, atoms = slice(start, stop), slice(self.offsets[start], self.offsets[stop])
        file = self.arrays
        numbers, positions = file['numbers'][atoms], file['positions'][atoms]
        cell, pbc = file['cell'][rows], file['pbc'][rows]
        masks = {name: file[f'has_{name}'][rows] for name in LABELS}
        labels = {name: file[name][atoms if name == 'forces' else rows] for name in LABELS if masks[name].any()}
        codes = {name: file[f'{name}_codes'][rows] for name in TEXTS}
        bounds = self.offsets[start : stop + 1] - self.offsets[start]
        for i in range(stop - start):
            mine = slice(bounds[i], bounds[i + 1])
            values = {name: labels[name][mine if name == 'forces' else i] for name in LABELS if masks[name][i]}
            texts = {name: self.texts(name)[codes[name][i]] for name in TEXTS}
            metadata = json.loads(texts.pop('metadata'))
            yield Frame(numbers[mine], positions[mine], cell[i], pbc[i], **values, **texts, metadata=metadata)


class FrameStore(Sequence[Frame]):
    """One or more shards as one ordered list of frames. Also a context manager that closes the files.

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

    def __getitem__(self, index: Any) -> Any:
        """One frame, or the list of frames of a slice."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        i = int(index) + (len(self) if index < 0 else 0)
        if not 0 <= i < len(self):
            raise IndexError(f'frame {index} of a store of {len(self)}')
        shard = int(np.searchsorted(self._starts, i, side='right')) - 1
        local = i - int(self._starts[shard])
        return next(self._shards[shard].frames(local, local + 1))

    def __iter__(self) -> Iterator[Frame]:
        for shard in self._shards:
            start = 0
            while start < len(shard):
                limit = shard.offsets[start] + CHUNK_ATOMS
                stop = max(start + 1, int(np.searchsorted(shard.offsets, limit, side='right')) - 1)
                yield from shard.frames(start, stop)
                start = stop

    def column(self, name: str) -> np.ndarray:
        """One value a frame, shape (n,), read without building frames.

        :param name: ``frame_id``, ``lineage``, ``origin``, ``split``, ``level_of_theory`` (texts, empty where there
            is none), ``n_atoms``, ``energy`` (eV, NaN where there is none), ``has_energy``, ``has_forces`` or
            ``has_stress``.
        """
        if name not in COLUMNS:
            raise ValueError(f'there is no column {name!r}, only {", ".join(COLUMNS)}')
        return np.concatenate([shard.column(name) for shard in self._shards])

    def elements(self) -> list[str]:
        """Chemical symbols that occur, by atomic number."""
        present = np.zeros(119, dtype=np.int64)
        for shard in self._shards:
            numbers = shard.arrays['numbers']
            for start in range(0, len(numbers), 2**22):
                present += np.bincount(numbers[start : start + 2**22], minlength=119)
        return [chemical_symbols[z] for z in np.flatnonzero(present)]

    def levels_of_theory(self) -> list[str]:
        """Levels of theory of the frames that have any label; empty text for labels of unknown level."""
        labelled = self.column('has_energy') | self.column('has_forces') | self.column('has_stress')
        return sorted(set(self.column('level_of_theory')[labelled].tolist()))

    def summary(self) -> dict[str, Any]:
        """Counts as plain numbers and texts; frames without origin, split or level of theory are not in those counts.

        :return: ``n_frames``, ``n_atoms``, ``elements``, ``n_labelled`` (energy and forces), ``n_energy``,
            ``n_forces``, ``n_stress``, ``origins``, ``splits`` and ``levels_of_theory`` (name -> number of frames),
            ``schema_version``.
        """
        masks = {name: self.column(name) for name in MASKS}
        return {
            'n_frames': len(self),
            'n_atoms': int(sum(shard.offsets[-1] for shard in self._shards)),
            'elements': self.elements(),
            'n_labelled': int(np.sum(masks['has_energy'] & masks['has_forces'])),
            **{name.replace('has_', 'n_'): int(mask.sum()) for name, mask in masks.items()},
            'origins': self._counts('origin'),
            'splits': self._counts('split'),
            'levels_of_theory': self._counts('level_of_theory'),
            'schema_version': SCHEMA_VERSION,
        }

    def _counts(self, name: str) -> dict[str, int]:
        counts = Counter(self.column(name).tolist())
        return {key: counts[key] for key in sorted(counts) if key}


def _to_hex(digests: np.ndarray) -> np.ndarray:
    """Hexadecimal texts of (n, 32) bytes, shape (n,)."""
    text = digests.tobytes().hex().encode('ascii')
    return np.frombuffer(text, dtype='S64').astype(np.str_)
