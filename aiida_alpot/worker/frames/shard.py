"""One shard: an immutable HDF5 file of frames, flat arrays plus offsets, named by the hash of its bytes.

Layout of schema version 1, for ``n`` frames with ``N`` atoms in all (little endian, contiguous, uncompressed):

=====================  ============  =======  ====================================================================
dataset                shape         type     content
=====================  ============  =======  ====================================================================
``offsets``            (n + 1,)      int64    frame ``i`` owns the atoms ``offsets[i]:offsets[i + 1]``
``numbers``            (N,)          uint8    atomic numbers
``positions``          (N, 3)        float64  A
``cell``               (n, 3, 3)     float64  lattice vectors as rows, A
``pbc``                (n, 3)        uint8    periodicity
``energy``             (n,)          float64  eV, absent where no frame has one; NaN where a frame has none
``forces``             (N, 3)        float64  eV/A, likewise
``stress``             (n, 3, 3)     float64  eV/A^3, positive under tension, likewise
``has_energy``, ...    (n,)          uint8    what is labelled: ``has_energy``, ``has_forces``, ``has_stress``
``frame_id``           (n, 32)       uint8    SHA-256 of the canonical structure
``<text>_codes``       (n,)          int32    for lineage, origin, split, level_of_theory, metadata (as JSON): index
``<text>_offsets``     (k + 1,)      int64    into the k distinct texts, in order of first appearance,
``<text>_utf8``        (b,)          uint8    which are the UTF-8 bytes ``offsets[c]:offsets[c + 1]``
=====================  ============  =======  ====================================================================

The root attributes are ``format`` and ``schema_version``. No time stamps, no heap strings, no compression: the same
frames in the same order give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

import h5py
import numpy as np

from .frame import Frame

FORMAT = 'aiida-alpot frames'
SCHEMA_VERSION = 1
SUFFIX = '.h5'
LABELS = ('energy', 'forces', 'stress')
TEXTS = ('lineage', 'origin', 'split', 'level_of_theory', 'metadata')

FIXED: dict[str, tuple[str, tuple[int, ...]]] = {
    'numbers': ('<u1', ()),
    'positions': ('<f8', (3,)),
    'cell': ('<f8', (3, 3)),
    'pbc': ('<u1', (3,)),
    'energy': ('<f8', ()),
    'forces': ('<f8', (3,)),
    'stress': ('<f8', (3, 3)),
    'has_energy': ('<u1', ()),
    'has_forces': ('<u1', ()),
    'has_stress': ('<u1', ()),
    'frame_id': ('<u1', (32,)),
}
"""Type and shape of one row of each array; rows are atoms for :data:`PER_ATOM`, frames otherwise."""

PER_ATOM = ('numbers', 'positions', 'forces')

SPOOL_BYTES = 2**23
"""Columns are collected in memory up to this size each, and on disk beyond."""


class ShardError(ValueError):
    """A file that is not a readable shard of frames."""


class _Texts:
    """Dictionary encoding of one column of texts."""

    def __init__(self) -> None:
        self.codes: list[int] = []
        self.values: dict[str, int] = {}

    def append(self, text: str) -> None:
        if '\x00' in text:
            raise ValueError(f'{text!r} holds a NUL character: remove it')
        self.codes.append(self.values.setdefault(text, len(self.values)))

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        encoded = [text.encode('utf-8') for text in self.values]
        return {
            f'{name}_codes': np.array(self.codes, dtype='<i4'),
            f'{name}_offsets': np.cumsum([0, *map(len, encoded)]).astype('<i8'),
            f'{name}_utf8': np.frombuffer(b''.join(encoded), dtype='<u1'),
        }


class _Columns:
    """The arrays of a shard while frames arrive, in bounded memory."""

    def __init__(self, directory: Path) -> None:
        self.fixed: dict[str, IO[bytes]] = {
            name: tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES, dir=str(directory))  # noqa: SIM115
            for name in FIXED
        }
        self.texts = {name: _Texts() for name in TEXTS}
        self.sizes: list[int] = []
        self.labelled = dict.fromkeys(LABELS, False)

    def append(self, frame: Frame) -> None:
        self.sizes.append(len(frame))
        for name in ('numbers', 'positions', 'cell', 'pbc'):
            self._write(name, getattr(frame, name))
        for name in LABELS:
            value = getattr(frame, name)
            self.labelled[name] |= value is not None
            self._write(f'has_{name}', value is not None)
            rows = (len(frame),) if name in PER_ATOM else ()
            self._write(name, np.full(rows + FIXED[name][1], np.nan) if value is None else value)
        self.fixed['frame_id'].write(bytes.fromhex(frame.frame_id))
        for name in TEXTS[:-1]:
            self.texts[name].append(getattr(frame, name))
        self.texts['metadata'].append(dump_metadata(frame.metadata))

    def _write(self, name: str, value: Any) -> None:
        self.fixed[name].write(np.asarray(value).astype(FIXED[name][0]).tobytes())

    def save(self, file: h5py.File) -> None:
        file.attrs['format'] = np.bytes_(FORMAT)
        file.attrs['schema_version'] = np.int64(SCHEMA_VERSION)
        _save_array(file, 'offsets', np.cumsum([0, *self.sizes]).astype('<i8'))
        for name, spool in self.fixed.items():
            if self.labelled.get(name, True):
                _save_spool(file, name, spool, sum(self.sizes) if name in PER_ATOM else len(self.sizes))
        for name, texts in self.texts.items():
            for key, array in texts.arrays(name).items():
                _save_array(file, key, array)

    def close(self) -> None:
        for spool in self.fixed.values():
            spool.close()


def dump_metadata(metadata: Mapping[str, Any]) -> str:
    """Canonical JSON of a frame's metadata; numpy scalars and arrays become numbers and lists.

    :raises ValueError: for what JSON cannot hold.
    """
    try:
        return json.dumps(
            dict(metadata),
            sort_keys=True,
            separators=(',', ':'),
            allow_nan=False,
            ensure_ascii=False,
            default=_plain,
        )
    except (TypeError, ValueError) as error:
        raise ValueError(f'the metadata of a frame must be JSON-serialisable and finite: {error}') from error


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f'{type(value).__name__} {value!r} has no JSON form')


def _create(file: h5py.File, name: str, shape: tuple[int, ...], dtype: np.dtype) -> h5py.Dataset:
    return file.create_dataset(name, shape=shape, dtype=dtype, track_times=False, fill_time='never')


def _save_array(file: h5py.File, name: str, array: np.ndarray) -> None:
    dataset = _create(file, name, array.shape, array.dtype)
    if array.size:
        dataset[...] = array


def _save_spool(file: h5py.File, name: str, spool: IO[bytes], rows: int) -> None:
    dtype, row_shape = np.dtype(FIXED[name][0]), FIXED[name][1]
    dataset = _create(file, name, (rows, *row_shape), dtype)
    row_bytes = dtype.itemsize * int(np.prod(row_shape, dtype=int))
    step = max(1, SPOOL_BYTES // row_bytes)
    spool.seek(0)
    for start in range(0, rows, step):
        block = np.frombuffer(spool.read(step * row_bytes), dtype=dtype).reshape(-1, *row_shape)
        dataset[start : start + len(block)] = block


def write_shard(frames: Iterable[Frame], directory: Path | str) -> Path:
    """Write frames to ``<SHA-256 of the bytes>.h5`` in a directory; frames are streamed, memory stays bounded.

    The file appears under its name only once it is complete.

    :param frames: at least one frame; the order is kept.
    :param directory: made if it does not exist.
    :return: path of the shard.
    :raises ValueError: for no frames at all, and for metadata without a JSON form.
    :raises OSError: where the directory cannot be written; nothing is left behind.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    columns = _Columns(directory)
    descriptor, temporary = tempfile.mkstemp(dir=directory, prefix='.writing-', suffix=SUFFIX)
    os.close(descriptor)
    try:
        for frame in frames:
            columns.append(frame)
        if not columns.sizes:
            raise ValueError('a set of frames needs at least one frame: nothing was written')
        # The oldest file format has no time stamps in the headers of groups, which the newer ones have.
        with h5py.File(temporary, 'w', libver=('earliest', 'v108')) as file:
            columns.save(file)
        os.chmod(temporary, 0o644)
        return Path(temporary).replace(directory / f'{hash_file(temporary)}{SUFFIX}')
    finally:
        columns.close()
        Path(temporary).unlink(missing_ok=True)


def hash_stream(stream: IO[bytes]) -> str:
    """SHA-256 of what is left in a binary stream."""
    digest = hashlib.sha256()
    while block := stream.read(2**20):
        digest.update(block)
    return digest.hexdigest()


def hash_file(path: Path | str) -> str:
    """SHA-256 of a file's bytes."""
    with open(path, 'rb') as stream:
        return hash_stream(stream)


def check_shard_name(path: Path | str, digest: str | None = None) -> str:
    """Hash of a shard, checked against its name where the name is a hash.

    :param digest: the hash of its bytes where it is known already.
    :raises ShardError: where the name promises other bytes.
    """
    digest = digest or hash_file(path)
    stem = Path(path).stem
    if re.fullmatch(r'[0-9a-f]{64}', stem) and stem != digest:
        raise ShardError(f'{path} does not hold the bytes its name promises (their hash is {digest}): copy it again')
    return digest


def open_shard(source: Path | str | IO[bytes]) -> h5py.File:
    """Open a shard for reading and check that it is one that this version reads.

    :param source: a path or a seekable binary file object.
    :raises FileNotFoundError: where there is no such file.
    :raises ShardError: for truncated and foreign files, and for a newer schema version.
    """
    name = str(source) if isinstance(source, str | Path) else getattr(source, 'name', 'the file object')
    try:
        file = h5py.File(source, 'r')
    except FileNotFoundError:
        raise FileNotFoundError(f'there is no shard of frames at {name}') from None
    except OSError as error:
        raise ShardError(f'{name} is truncated or no HDF5 file ({error}): copy or write it again') from error
    try:
        _check_schema(file, str(name))
    except ShardError:
        file.close()
        raise
    return file


def _check_schema(file: h5py.File, name: str) -> None:
    if file.attrs.get('format') != np.bytes_(FORMAT):
        raise ShardError(f'{name} is an HDF5 file but no shard of frames: import it from extxyz instead')
    version = int(file.attrs['schema_version'])
    if version > SCHEMA_VERSION:
        raise ShardError(
            f'{name} has schema version {version}, this aiida-alpot reads up to {SCHEMA_VERSION}: '
            'upgrade with `pip install --upgrade aiida-alpot`'
        )
    required = {'offsets', *FIXED, *(f'{text}_{part}' for text in TEXTS for part in ('codes', 'offsets', 'utf8'))}
    missing = sorted(required - set(file) - set(LABELS))
    if missing:
        raise ShardError(f'{name} lacks the arrays {missing}: it is damaged, copy or write it again')
    offsets = file['offsets'][...]
    n_frames = len(offsets) - 1
    if n_frames < 1 or offsets[0] != 0 or np.any(np.diff(offsets) < 1):
        raise ShardError(f'the offsets of {name} are not increasing from 0: it is damaged, copy or write it again')
    for key, (_, row_shape) in FIXED.items():
        expected = (int(offsets[-1]) if key in PER_ATOM else n_frames, *row_shape)
        if key in file and file[key].shape != expected:
            raise ShardError(f'`{key}` of {name} has shape {file[key].shape}, expected {expected}: it is damaged')
