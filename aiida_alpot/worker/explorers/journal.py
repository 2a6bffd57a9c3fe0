"""What the potential said in an unfinished run, so that the run can be repeated without asking it again.

A run that was interrupted starts anew with the same seed, and takes each force that it had already from here, bit by
bit. So it comes back to where it was in the time that the explorer itself takes, and ends as if it had never been
interrupted; this holds for every explorer, with no state of its own to save.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

_HEAD = struct.Struct('<16sq8s')
"""Key, number of values, checksum."""


class Journal:
    """An append-only file of arrays by key. Whatever a kill leaves incomplete at its end is cut off.

    :param path: made if it does not exist; ``None``: nothing is recorded.
    """

    def __init__(self, path: Path | None) -> None:
        self._places: dict[bytes, tuple[int, int]] = {}
        self._file = None
        if path is None:
            return
        self._file = open(path, 'a+b', buffering=0)  # noqa: SIM115 -- open as long as the run
        self._file.truncate(self._read(path.stat().st_size))
        self._file.seek(0, os.SEEK_END)

    @property
    def n_recorded(self) -> int:
        """Number of arrays found when it was opened."""
        return len(self._places)

    def _read(self, size: int) -> int:
        """Note where each array lies; the length of what is complete."""
        assert self._file is not None
        self._file.seek(0)
        place = 0
        while place + _HEAD.size <= size:
            key, count, checksum = _HEAD.unpack(self._file.read(_HEAD.size))
            if count < 0 or place + _HEAD.size + 8 * count > size:
                break
            data = self._file.read(8 * count)
            if _checksum(key, data) != checksum:
                break
            self._places[key] = (place + _HEAD.size, count)
            place += _HEAD.size + 8 * count
        return place

    def get(self, key: bytes) -> np.ndarray | None:
        """The array that was recorded before the journal was opened, or ``None``."""
        if key not in self._places or self._file is None:
            return None
        place, count = self._places[key]
        data = os.pread(self._file.fileno(), 8 * count, place)
        return np.frombuffer(data, dtype='<f8').copy()

    def put(self, entries: Iterable[tuple[bytes, np.ndarray]]) -> None:
        """Record arrays, all of them with one write."""
        if self._file is None:
            return
        parts = []
        for key, array in entries:
            data = np.ascontiguousarray(array, dtype='<f8').tobytes()
            parts += [_HEAD.pack(key, len(data) // 8, _checksum(key, data)), data]
        self._file.write(b''.join(parts))

    def close(self, *, delete: bool = False) -> None:
        """Close the file, and remove it where it has served."""
        if self._file is not None:
            path = Path(self._file.name)
            self._file.close()
            self._file = None
            if delete:
                path.unlink(missing_ok=True)


def key_of(kind: str, arrays: Sequence[np.ndarray]) -> bytes:
    """Key of what was asked: 16 bytes that depend on each bit of the arrays."""
    digest = hashlib.blake2b(kind.encode(), digest_size=16)
    for array in arrays:
        digest.update(str(array.shape).encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.digest()


def _checksum(key: bytes, data: bytes) -> bytes:
    return hashlib.blake2b(key + data, digest_size=8).digest()
