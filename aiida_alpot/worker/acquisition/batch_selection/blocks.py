"""Rows of a feature matrix, read in blocks: arrays, memory maps, data sets of HDF5."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

BLOCK_BYTES = 4 * 2**20
"""Bytes of a block: it and what is computed from it stay in the cache that a core shares."""
MAPPED_BYTES = 32 * 2**20
"""Bytes of a file that may be mapped before its pages are handed back; the kernel's file cache keeps them."""


class Rows:
    """A matrix of features, shape (n, d), of which only blocks are in memory at a time.

    A read-only memory map of contiguous rows, and a data set of HDF5 that is contiguous and uncompressed, are read
    where they lie in the file, and pages that were read are handed back, so that the memory of this process stays
    bounded. Anything else that has ``shape``, ``dtype`` and slices is sliced.

    :param source: numbers, shape (n, d). float32 and float64 are taken as they are, others as float64.
    :param name: what messages call it.
    :raises ValueError: if it is no matrix of numbers.
    """

    def __init__(self, source: Any, name: str = 'pool') -> None:
        if not hasattr(source, 'shape') or not hasattr(source, 'dtype'):
            source = np.asarray(source)
        if len(source.shape) != 2:
            raise ValueError(
                f'`{name}` has shape {tuple(source.shape)}, expected (rows, features): one row for each structure'
            )
        if np.dtype(source.dtype).kind not in 'fiu':
            raise ValueError(f'`{name}` holds {source.dtype}, expected numbers, best float32 or float64')
        self.name = name
        self.n, self.d = (int(size) for size in source.shape)
        native = np.dtype(source.dtype).newbyteorder('=')
        self.dtype = native if native in (np.float32, np.float64) else np.dtype(np.float64)
        located = _located(source)
        self._file = None if located is None else _FileRows(*located, self.n, self.d, np.dtype(source.dtype))
        self._source = source

    def __len__(self) -> int:
        return self.n

    def block(self, start: int, stop: int) -> np.ndarray:
        """Rows ``start`` to ``stop``, shape (stop - start, d); a view where that is possible: not to be written to."""
        block = self._source[start:stop] if self._file is None else self._file.block(start, stop)
        return np.asarray(block, dtype=self.dtype)

    def take(self, index: np.ndarray) -> np.ndarray:
        """Some rows, shape (len(index), d), in the order asked for; a copy."""
        if self._file is not None:
            return self._file.take(index).astype(self.dtype, copy=False)
        if isinstance(self._source, np.ndarray):
            return np.asarray(self._source[index], dtype=self.dtype)
        # The data sets of HDF5 want increasing indices, each once.
        unique, inverse = np.unique(index, return_inverse=True)
        rows = np.asarray(self._source[unique], dtype=self.dtype) if len(unique) else np.empty((0, self.d), self.dtype)
        return rows[inverse]

    def sample(self, size: int) -> np.ndarray:
        """So many rows at even distances, or all.

        :raises ValueError: for a row that holds a number that is not finite.
        """
        return self.checked(even_index(self.n, size))

    def checked(self, index: np.ndarray) -> np.ndarray:
        """Some rows as :meth:`take` gives them.

        :raises ValueError: for one that holds a number that is not finite.
        """
        rows = self.take(index)
        self._check_finite(index, rows)
        return rows

    def blocks(self, size: int | None = None) -> Iterator[tuple[int, int, np.ndarray]]:
        """First row, last row + 1 and the rows of each block, in order.

        :param size: rows of a block; by default what :data:`BLOCK_BYTES` hold.
        :raises ValueError: for a row that holds a number that is not finite.
        """
        size = size or self.block_size
        for start in range(0, self.n, size):
            stop = min(start + size, self.n)
            block = self.block(start, stop)
            self._check_finite(np.arange(start, stop), block)
            yield start, stop, block

    @property
    def block_size(self) -> int:
        """Rows that :data:`BLOCK_BYTES` hold."""
        return max(64, BLOCK_BYTES // max(1, self.d * self.dtype.itemsize))

    def _check_finite(self, index: np.ndarray, block: np.ndarray) -> None:
        with np.errstate(over='ignore', invalid='ignore'):
            suspicious = ~np.isfinite(np.einsum('ij,ij->i', block, block))
        for row in np.flatnonzero(suspicious):
            finite = np.isfinite(block[row]).all()
            what = 'numbers whose squares are not finite' if finite else 'a number that is not finite'
            remedy = 'scale the features' if finite else 'leave out the structures whose features could not be computed'
            raise ValueError(f'row {index[row]} of `{self.name}` holds {what}: {remedy}')


def even_index(n: int, size: int) -> np.ndarray:
    """So many of n places at even distances, or all."""
    return np.arange(n) if n <= size else np.linspace(0, n - 1, size).astype(np.int64)


class _FileRows:
    """Rows that lie one after the other in a file: mapped in blocks, read one by one."""

    def __init__(self, path: str, offset: int, n: int, d: int, dtype: np.dtype) -> None:
        self._handle = open(path, 'rb', buffering=0)  # noqa: SIM115 -- as long as the rows are used
        self._offset, self._d, self._dtype = offset, d, dtype
        self._mapping = mmap.mmap(self._handle.fileno(), 0, access=mmap.ACCESS_READ)
        self._rows = np.frombuffer(self._mapping, dtype=dtype, count=n * d, offset=offset).reshape(n, d)
        self._mapped = 0

    def block(self, start: int, stop: int) -> np.ndarray:
        """A view of the mapped file. The view stays valid: a page that was handed back is mapped again when read."""
        n_bytes = self._rows[start:stop].nbytes
        self._mapped += n_bytes
        if self._mapped > MAPPED_BYTES:
            self._mapping.madvise(mmap.MADV_DONTNEED)
            self._mapped = n_bytes
        return self._rows[start:stop]

    def take(self, index: np.ndarray) -> np.ndarray:
        """Some rows. Read, not mapped: around every row that is touched the kernel maps up to megabytes."""
        out = np.empty((len(index), self._d), dtype=self._dtype)
        length = self._d * self._dtype.itemsize
        for row, place in zip(out, index.tolist(), strict=True):
            if os.preadv(self._handle.fileno(), [row.view(np.uint8)], self._offset + place * length) != length:
                raise OSError(f'row {place} of {self._handle.name} could not be read whole: the file was cut short')
        return out


def _located(source: Any) -> tuple[str, int] | None:
    """File that the rows lie in, one after the other, and where they begin."""
    if not hasattr(mmap, 'MADV_DONTNEED') or not hasattr(os, 'preadv') or 0 in source.shape:
        return None
    if isinstance(source, np.memmap):
        return _located_map(source)
    if not all(hasattr(source, name) for name in ('id', 'chunks', 'file', 'is_virtual', 'external')):
        return None
    plain = source.chunks is None and not source.external and not source.is_virtual and source.dtype.isnative
    if not plain or source.file.driver not in ('sec2', 'stdio'):
        return None
    if source.file.mode != 'r':
        source.file.flush()
    offset = source.id.get_offset()
    return None if offset is None else (source.file.filename, int(offset))


def _located_map(source: np.memmap) -> tuple[str, int] | None:
    mapping: Any = getattr(source, '_mmap', None)
    if source.mode != 'r' or source.filename is None or mapping is None or not source.flags.c_contiguous:
        return None
    if not os.path.isfile(source.filename) or not source.dtype.isnative:
        return None
    # A slice keeps the offset of the whole map, so that only its address says where it begins.
    begin = source.offset - source.offset % mmap.ALLOCATIONGRANULARITY
    return str(source.filename), begin + source.ctypes.data - np.frombuffer(mapping, dtype=np.uint8).ctypes.data
