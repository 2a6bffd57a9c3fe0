"""One shard: an immutable HDF5 file of frames, flat arrays plus offsets, named by the hash of its bytes.

Layout of schema version 2, for ``n`` frames with ``N`` atoms in all (little endian, contiguous, uncompressed):

===================  ============  =======  ======================================================================
dataset              shape         type     content
===================  ============  =======  ======================================================================
``offsets``          (n + 1,)      int64    frame ``i`` owns the atoms ``offsets[i]:offsets[i + 1]``
``numbers``          (N,)          uint8    atomic numbers
``positions``        (N, 3)        float64  A
``cell``             (n, 3, 3)     float64  lattice vectors as rows, A
``pbc``              (n, 3)        uint8    periodicity
``frame_id``         (n, 32)       uint8    SHA-256 of the canonical structure, see :attr:`Frame.frame_id`
``energy``           (n,)          float64  eV
``forces``           (N, 3)        float64  eV/A
``stress``           (n, 3, 3)     float64  eV/A^3, positive under tension
``charges``          (N,)          float64  elementary charges
``magmoms``          (N,)          float64  Bohr magnetons
``dipole``           (n, 3)        float64  e A
``has_energy``, ...  (n,)          uint8    which frames are labelled with the energy, ...
``arrays/<name>``    (N, ...)      float64  a user's array, int64 and uint8 for whole numbers and booleans
``has_arrays/...``   (n,)          uint8    which frames have the array
``<text>_codes``     (n,)          int32    for lineage, origin, split, level_of_theory, metadata (as JSON): index
``<text>_offsets``   (k + 1,)      int64    into the k distinct texts, in order of first appearance,
``<text>_utf8``      (b,)          uint8    which are the UTF-8 bytes ``offsets[c]:offsets[c + 1]``
===================  ============  =======  ======================================================================

Properties and arrays that no frame has are left out together with their ``has_``; where only some frames have one, the
others hold NaN, or zero for whole numbers and booleans. The root attributes are ``format`` and ``schema_version``. No
time stamps, no heap strings, no compression: the same frames in the same order give the same bytes.

Version 1 differs in the ``frame_id``, which was taken on another grid, and had energy, forces and stress only. It is
read as it is, with the ``frame_id`` calculated anew; :func:`upgrade_shard` writes it in the version of today.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import h5py
import numpy as np

from .frame import PROPERTIES, PROVENANCE, STRUCTURE, Frame

FORMAT = 'aiida-alpot frames'
SCHEMA_VERSION = 2
SUFFIX = '.h5'
ARRAYS = 'arrays/'
"""Prefix of the users' arrays among the columns."""

COLUMNS: dict[str, tuple[str, tuple[int, ...]]] = {
    'numbers': ('<u1', ()),
    'positions': ('<f8', (3,)),
    'cell': ('<f8', (3, 3)),
    'pbc': ('<u1', (3,)),
    'frame_id': ('<u1', (32,)),
    'energy': ('<f8', ()),
    'forces': ('<f8', (3,)),
    'stress': ('<f8', (3, 3)),
    'charges': ('<f8', ()),
    'magmoms': ('<f8', ()),
    'dipole': ('<f8', (3,)),
}
"""Type and shape of one row of each array; rows are atoms where :func:`is_per_atom`, frames otherwise."""

PER_ATOM = ('numbers', 'positions', 'forces', 'charges', 'magmoms')

ARRAY_TYPES = {'f': '<f8', 'i': '<i8', 'b': '<u1'}
"""How users' arrays are kept, by the kind of their values."""

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
        try:
            text.encode('utf-8')
        except UnicodeEncodeError as error:
            raise ValueError(f'{text!r} cannot be written as UTF-8 ({error.reason}): correct it') from None
        self.codes.append(self.values.setdefault(text, len(self.values)))

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        encoded = [text.encode('utf-8') for text in self.values]
        return {
            f'{name}_codes': np.array(self.codes, dtype='<i4'),
            f'{name}_offsets': np.cumsum([0, *map(len, encoded)]).astype('<i8'),
            f'{name}_utf8': np.frombuffer(b''.join(encoded), dtype='<u1'),
        }


class _Column:
    """The rows of one array while frames arrive: in memory up to a size, on disk beyond."""

    def __init__(self, directory: Path, dtype: str, row_shape: tuple[int, ...]) -> None:
        self.directory = directory
        self.dtype, self.row_shape = np.dtype(dtype), row_shape
        self.buffer = bytearray()
        self.file: io.FileIO | None = None

    @property
    def row_bytes(self) -> int:
        return self.dtype.itemsize * int(np.prod(self.row_shape, dtype=int))

    def write(self, value: Any) -> None:
        self.buffer += np.asarray(value).astype(self.dtype).tobytes()
        if len(self.buffer) > SPOOL_BYTES:
            self._spill()

    def fill(self, rows: int) -> None:
        """Rows of NaN, or of zeros where there is no NaN."""
        row = np.full(self.row_shape, np.nan if self.dtype.kind == 'f' else 0, dtype=self.dtype)
        step = max(1, SPOOL_BYTES // self.row_bytes)
        for start in range(0, rows, step):
            self.write(np.broadcast_to(row, (min(step, rows - start), *self.row_shape)))

    def _spill(self) -> None:
        if self.file is None:
            # Without a buffer of its own, so that closing the file cannot fail.
            self.file = tempfile.TemporaryFile(dir=self.directory, buffering=0)  # noqa: SIM115
        write_all(self.file, self.buffer)
        self.buffer.clear()

    def save(self, file: h5py.File, name: str, rows: int) -> None:
        dataset = _create(file, name, (rows, *self.row_shape), self.dtype)
        start = 0
        for block in self._blocks():
            array = np.frombuffer(block, dtype=self.dtype).reshape(-1, *self.row_shape)
            dataset[start : start + len(array)] = array
            start += len(array)

    def _blocks(self) -> Iterator[bytes | bytearray]:
        """All that was written, in pieces of whole rows."""
        size = max(1, SPOOL_BYTES // self.row_bytes) * self.row_bytes
        if self.file is not None:
            self.file.seek(0)
            while block := self.file.read(size):
                yield block
        if self.buffer:
            yield self.buffer

    def close(self) -> None:
        if self.file is not None:
            self.file.close()


class _Columns:
    """The arrays of a shard while frames arrive, in bounded memory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.columns = {name: _Column(directory, *COLUMNS[name]) for name in (*STRUCTURE, 'frame_id')}
        self.masks: dict[str, _Column] = {}
        self.texts = {name: _Texts() for name in PROVENANCE}
        self.sizes: list[int] = []
        self.n_atoms = 0

    def append(self, frame: Frame) -> None:
        for name in STRUCTURE:
            self.columns[name].write(getattr(frame, name))
        self.columns['frame_id'].write(np.frombuffer(bytes.fromhex(frame.frame_id), dtype='<u1'))
        optional = {**frame.labels, **{f'{ARRAYS}{name}': array for name, array in frame.arrays.items()}}
        for name, value in optional.items():
            self._column(name, value).write(value)
        for name, mask in self.masks.items():
            mask.write(name in optional)
            if name not in optional:
                self.columns[name].fill(len(frame) if is_per_atom(name) else 1)
        for name in PROVENANCE[:-1]:
            self.texts[name].append(getattr(frame, name))
        self.texts['metadata'].append(dump_metadata(frame.metadata))
        self.sizes.append(len(frame))
        self.n_atoms += len(frame)

    def _column(self, name: str, value: Any) -> _Column:
        """The column of a property or a user's array, filled up to this frame."""
        kept = COLUMNS.get(name) or (ARRAY_TYPES[value.dtype.kind], value.shape[1:])
        if name not in self.columns:
            self.columns[name] = _Column(self.directory, *kept)
            self.columns[name].fill(self._rows(name))
            self.masks[name] = _Column(self.directory, '<u1', ())
            self.masks[name].fill(len(self.sizes))
        column = self.columns[name]
        if (column.dtype, column.row_shape) != (np.dtype(kept[0]), kept[1]):
            raise ValueError(
                f'`{name}` of frame {len(self.sizes)} has {kept[0]} of shape {kept[1]} an atom, frames before it have '
                f'{column.dtype.str} of shape {column.row_shape}: give the arrays of one name one kind and shape'
            )
        return column

    def _rows(self, name: str) -> int:
        return self.n_atoms if is_per_atom(name) else len(self.sizes)

    def save(self, file: h5py.File) -> None:
        file.attrs['format'] = np.bytes_(FORMAT)
        file.attrs['schema_version'] = np.int64(SCHEMA_VERSION)
        _save_array(file, 'offsets', np.cumsum([0, *self.sizes]).astype('<i8'))
        # Not in the order in which the columns came up: that depends on which frame has which label.
        for name in sorted(self.columns):
            self.columns[name].save(file, name, self._rows(name))
        for name in sorted(self.masks):
            self.masks[name].save(file, f'has_{name}', len(self.sizes))
        for name, texts in self.texts.items():
            for key, array in texts.arrays(name).items():
                _save_array(file, key, array)

    def close(self) -> None:
        for column in (*self.columns.values(), *self.masks.values()):
            column.close()


class _Sink(io.RawIOBase):
    """The file that HDF5 writes to; an error of the disk is kept until HDF5 has let go of the file.

    HDF5 cannot close a file that it cannot write, and would complain whenever one of its objects is freed.
    """

    def __init__(self, raw: io.FileIO) -> None:
        super().__init__()
        self.raw = raw
        self.error: OSError | None = None

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.raw.tell()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self.raw.seek(offset, whence)

    def readinto(self, buffer: Any) -> int | None:
        return self.raw.readinto(buffer)

    def write(self, data: Any) -> int:
        view = memoryview(data).cast('B')
        if self.error is None:
            try:
                write_all(self.raw, view)
            except OSError as error:
                self.error = error
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        size = self.tell() if size is None else size
        if self.error is None:
            try:
                return self.raw.truncate(size)
            except OSError as error:
                self.error = error
        return size

    def check(self) -> None:
        """Raise the error that was kept."""
        if self.error is not None:
            raise self.error


def write_all(file: io.FileIO, data: Any) -> None:
    """Write to an unbuffered file, which may take a part at a time.

    :raises OSError: where the disk ends.
    """
    with memoryview(data) as view:
        done = 0
        while done < len(view):
            done += file.write(view[done:]) or 0


def is_per_atom(name: str) -> bool:
    """Whether the rows of an array are atoms; otherwise they are frames."""
    return name in PER_ATOM or name.startswith(ARRAYS)


def dump_metadata(metadata: Mapping[str, Any]) -> str:
    """Canonical JSON of a frame's metadata; numpy scalars and arrays become numbers and lists.

    :raises ValueError: for what JSON cannot hold.
    """
    _check_keys(metadata)
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


def _check_keys(value: Any) -> None:
    """Refuse keys that would come back as something else."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ValueError(f'the keys of metadata must be texts, found {key!r}')
            _check_keys(item)
    elif isinstance(value, list | tuple):
        for item in value:
            _check_keys(item)


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


def write_shard(frames: Iterable[Frame], directory: Path | str) -> Path:
    """Write frames to ``<SHA-256 of the bytes>.h5`` in a directory; frames are streamed, memory stays bounded.

    The file appears under its name only once it is complete.

    :param frames: at least one frame; the order is kept.
    :param directory: made if it does not exist.
    :return: path of the shard.
    :raises ValueError: for no frames at all, for metadata without a JSON form, and for users' arrays of one name that
        differ in kind or shape.
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
        with open(temporary, 'r+b', buffering=0) as raw:
            sink = _Sink(raw)
            # The oldest file format has no time stamps in the headers of groups, which the newer ones have.
            with h5py.File(sink, 'w', libver=('earliest', 'v108')) as file:
                columns.save(file)
            sink.check()
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
    version = file.attrs.get('schema_version')
    if not isinstance(version, np.integer) or version < 1:
        raise ShardError(f'{name} has schema version {version!r}, expected a number from 1: it is damaged')
    if version > SCHEMA_VERSION:
        raise ShardError(
            f'{name} has schema version {version}, this aiida-alpot reads up to {SCHEMA_VERSION}: '
            'upgrade with `pip install --upgrade aiida-alpot`'
        )
    try:
        _check_arrays(file)
    except (ShardError, KeyError, OSError) as error:
        raise ShardError(f'{name} is damaged, copy or write it again: {error}') from None


def _check_arrays(file: h5py.File) -> None:
    """Refuse arrays that are absent or of another type or shape than they should be."""
    offsets = _checked(file, 'offsets', '<i8', (None,))[...]
    n_frames = len(offsets) - 1
    if n_frames < 1 or offsets[0] != 0 or np.any(np.diff(offsets) < 1):
        raise ShardError('its offsets are not increasing from 0')
    users = file.get('arrays', {})
    if users and not (isinstance(users, h5py.Group) and isinstance(file.get('has_arrays'), h5py.Group)):
        raise ShardError("its users' arrays are no groups")
    optional = [*(key for key in PROPERTIES if key in file), *(f'{ARRAYS}{key}' for key in users)]
    for key in (*STRUCTURE, 'frame_id', *optional):
        rows = int(offsets[-1]) if is_per_atom(key) else n_frames
        dtype, row_shape = COLUMNS.get(key, (None, None))
        _checked(file, key, dtype, (rows, *(file[key].shape[1:] if row_shape is None else row_shape)))
    for key in optional:
        _checked(file, f'has_{key}', '<u1', (n_frames,))
    for text in PROVENANCE:
        _checked(file, f'{text}_codes', '<i4', (n_frames,))
        _checked(file, f'{text}_offsets', '<i8', (None,))
        _checked(file, f'{text}_utf8', '<u1', (None,))


def _checked(file: h5py.File, key: str, dtype: str | None, shape: tuple[int | None, ...]) -> h5py.Dataset:
    """An array of the file.

    :param dtype: its type; any of those of users' arrays where it is not known.
    :param shape: its shape, ``None`` for any length.
    """
    if key not in file:
        raise ShardError(f'it lacks the array `{key}`')
    array = file[key]
    if not isinstance(array, h5py.Dataset):
        raise ShardError(f'`{key}` is no array')
    allowed = [np.dtype(kept) for kept in ([dtype] if dtype else ARRAY_TYPES.values())]
    if array.dtype not in allowed:
        raise ShardError(f'`{key}` holds {array.dtype}, expected {" or ".join(map(str, allowed))}')
    if len(array.shape) != len(shape) or any(b is not None and a != b for a, b in zip(array.shape, shape, strict=True)):
        raise ShardError(f'`{key}` has shape {array.shape}, expected {shape}')
    return array
