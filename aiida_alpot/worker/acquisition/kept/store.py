"""A folder of files that each hold what was said about one chunk of frames."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from aiida_alpot.worker.acquisition.kept.identity import KEY
from aiida_alpot.worker.acquisition.kept.index import Index
from aiida_alpot.worker.acquisition.kept.table import Table, in_order

UNREADABLE = (OSError, EOFError, ValueError, KeyError, NotImplementedError, zipfile.BadZipFile)
"""What reading a file raises that was cut short, damaged, or is something else."""

SUFFIX = '.npz'
ROW_BITS = 32
"""A place is the number of a file, and the row in it in so many bits."""


class Store:
    """Tables of frames by part, in ``.npz`` files that are written once, whole, and never changed.

    A part is one kind of thing that is known about frames, such as the energies and forces of certain members, or one
    representation. In memory are 24 bytes a frame and part; the rest is read when it is asked for. A file that cannot
    be read is left alone: a sentence says so, and its frames are unknown.

    :param directory: it is made where it is missing.
    :param complain: is given sentences about what cannot be read or written; by default they go to standard error.
    """

    def __init__(self, directory: Path, complain: Callable[[str], None] | None = None) -> None:
        self.directory = directory
        self.complain = complain or _to_standard_error
        self._files: list[Path] = []
        self._bad: list[int] = []
        self._parts: dict[str, Index] = {}
        self._full = False
        directory.mkdir(parents=True, exist_ok=True)
        for path in sorted(directory.glob(f'*{SUFFIX}')):
            self._register(path)

    def _register(self, path: Path) -> None:
        try:
            with _open(path) as arrays:
                keys, names = _keys(arrays), arrays.files
        except UNREADABLE as error:
            self._say(path, error)
            return
        self._index(path, keys, {name.split('/')[0] for name in names if '/' in name})

    def _index(self, path: Path, keys: np.ndarray, parts: set[str]) -> None:
        places = (len(self._files) << ROW_BITS) + np.arange(len(keys), dtype=np.int64)
        self._files.append(path)
        for part in parts:
            self._parts.setdefault(part, Index()).add(keys, places)

    def _say(self, path: Path, error: BaseException) -> None:
        self.complain(
            f'{path} holds no predictions that can be read ({str(error) or type(error).__name__}): what it held is '
            'evaluated again, and the file can be deleted'
        )

    def adopt(self, other: Path) -> None:
        """Take over the files of another such folder: by hard links where that is possible, else as copies.

        They are never changed, so that both folders may go on being used, and either may be deleted.
        """
        for path in sorted(other.glob(f'*{SUFFIX}')):
            target = self.directory / path.name
            if not target.exists():
                try:
                    _link_or_copy(path, target)
                except OSError as error:
                    self._say(path, error)
                    continue
                self._register(target)

    def count(self, part: str) -> int:
        """Number of frames of which a part is known."""
        return len(self._parts[part]) if part in self._parts else 0

    def get(self, part: str, keys: np.ndarray) -> tuple[np.ndarray, Table | None]:
        """What is known about some frames.

        :param keys: shape (n,).
        :return: whether something is known about each frame, shape (n,), and the table of those of which it is;
            ``None`` where it is of none.
        """
        while True:
            places = self._parts[part].find(keys) if part in self._parts else np.full(len(keys), -1)
            if self._bad:
                places[np.isin(places >> ROW_BITS, self._bad)] = -1
            known = places >= 0
            table = self._read(part, places[known]) if known.any() else None
            if table is not None or not known.any():
                return known, table

    def _read(self, part: str, places: np.ndarray) -> Table | None:
        """The table of some places; ``None`` where one of the files could not be read, which is remembered."""
        numbers, rows = places >> ROW_BITS, places & ((1 << ROW_BITS) - 1)
        tables, targets = [], []
        for number in np.unique(numbers).tolist():
            wanted = np.flatnonzero(numbers == number)
            try:
                with _open(self._files[number]) as arrays:
                    tables.append(_table(arrays, part).take(rows[wanted]))
            except UNREADABLE as error:
                self._bad.append(number)
                self._say(self._files[number], error)
                return None
            targets.append(wanted)
        return in_order(tables, targets)

    def add(self, keys: np.ndarray, parts: Mapping[str, Table]) -> None:
        """Keep what was said about some frames: all of it, or, if the program ends meanwhile, nothing.

        A folder that cannot be written to, for instance because the disk is full, is no reason to stop: a sentence says
        so, and from then on nothing is kept.

        :param keys: shape (n,).
        :param parts: tables of these frames, by part.
        """
        if self._full or not len(keys) or not parts:
            return
        named = hashlib.blake2b(keys.tobytes() + '\n'.join(sorted(parts)).encode(), digest_size=16)
        path = self.directory / f'{named.hexdigest()}{SUFFIX}'
        try:
            _write_whole(path, lambda stream: np.savez(stream, **_arrays(keys, parts)))
        except OSError as error:
            self._full = True
            self.complain(
                f'{path} could not be written ({error}): predictions are not kept any more, so an evaluation that is '
                'interrupted from now on has to make them again'
            )
            return
        self._index(path, keys, set(parts))


def _to_standard_error(sentence: str) -> None:
    print(f'alpot-evaluate: {sentence}', file=sys.stderr)


def _open(path: Path) -> np.lib.npyio.NpzFile:
    opened = np.load(path, allow_pickle=False)
    if not isinstance(opened, np.lib.npyio.NpzFile):
        raise ValueError('it is no .npz file')
    return opened


def _keys(arrays: np.lib.npyio.NpzFile) -> np.ndarray:
    keys: np.ndarray = arrays['keys']
    if keys.dtype != KEY or keys.ndim != 1:
        raise ValueError('its `keys` are none of frames')
    return keys


def _arrays(keys: np.ndarray, parts: Mapping[str, Table]) -> dict[str, Any]:
    """What a file holds: ``keys``, ``lengths`` and ``<part>/<axis>/<frames or atoms>/<name>``."""
    arrays: dict[str, Any] = {'keys': keys, 'lengths': next(iter(parts.values())).lengths.astype(np.int64)}
    for part in sorted(parts):
        for kind in ('frames', 'atoms'):
            for name, array in getattr(parts[part], kind).items():
                arrays[f'{part}/{parts[part].axis}/{kind}/{name}'] = array
    return arrays


def _table(arrays: np.lib.npyio.NpzFile, part: str) -> Table:
    found: dict[str, dict[str, np.ndarray]] = {'frames': {}, 'atoms': {}}
    axis = 0
    for entry in arrays.files:
        if entry.startswith(f'{part}/'):
            _, number, kind, name = entry.split('/')
            axis = int(number)
            found[kind][name] = arrays[entry]
    table = Table(arrays['lengths'], found['frames'], found['atoms'], axis)
    table.check()
    return table


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source.resolve(), target)
    except FileExistsError:
        return
    except OSError:  # another file system, or one without hard links

        def copy(stream: IO[bytes]) -> None:
            with source.open('rb') as given:
                shutil.copyfileobj(given, stream)

        _write_whole(target, copy)


def _write_whole(path: Path, write: Callable[[IO[bytes]], None]) -> None:
    """Write a file under another name, wait until it is on the disk, and only then give it its name."""
    partial = path.with_name(f'.{path.name}.{secrets.token_hex(4)}.partial')
    try:
        with partial.open('xb') as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
