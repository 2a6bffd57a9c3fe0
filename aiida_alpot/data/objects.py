"""Repository objects of a node as something that can be read from anywhere, whether loose, packed or in an archive."""

from __future__ import annotations

import io
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from typing import IO, Any

from aiida.orm import Data
from aiida.repository import Repository
from disk_objectstore.utils import PackedObjectReader

from aiida_alpot.worker.frames.shard import hash_stream


class ObjectWindow(io.RawIOBase):
    """A packed object as a seekable file; the reader of the store misreports positions relative to the end."""

    def __init__(self, handle: PackedObjectReader, size: int) -> None:
        super().__init__()
        self._handle = handle
        self._size = size
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        self._handle.seek(min(self._position, self._size))
        data = self._handle.read(len(buffer))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def open_random_access(stack: ExitStack, node: Data, path: str) -> str | IO[bytes]:
    """Path or seekable file object of one repository object, valid as long as the stack is open.

    Compressed objects, and those in archives, can only be read forwards: they are copied to a temporary file.
    """
    handle = stack.enter_context(node.base.repository.open(path, 'rb'))
    name = getattr(handle, 'name', None)
    if isinstance(handle, io.BufferedReader) and isinstance(name, str):
        return name
    if isinstance(handle, PackedObjectReader):
        window = ObjectWindow(handle, node.base.repository.get_object_size(path))
        return io.BufferedReader(window, buffer_size=2**16)
    copy = stack.enter_context(tempfile.NamedTemporaryFile())  # noqa: SIM115
    shutil.copyfileobj(handle, copy)
    copy.flush()
    return copy.name


def list_stored_objects(node: Data, sources: Sequence[Data]) -> None:
    """Let an unstored node without objects list all those of stored nodes of its profile, without copying any.

    An object belongs to no node: the repository keeps it under its content. What is put into the node later goes
    straight into the repository of the profile; should the node never be stored, ``verdi storage maintain`` removes it.
    """
    listed: dict[str, Any] = {}
    for source in sources:
        _merge_listing(listed, source.base.repository.metadata)
    backend = node.backend.get_repository()
    node.base.repository._repository = Repository.from_serialized(backend=backend, serialized=listed)


def _merge_listing(listed: dict[str, Any], other: dict[str, Any]) -> None:
    """Add the files and directories of one listing of a repository to another; ``o`` are the entries of a directory."""
    for name, entry in other.get('o', {}).items():
        if 'o' in entry:
            _merge_listing(listed.setdefault('o', {}).setdefault(name, {}), entry)
        else:
            listed.setdefault('o', {})[name] = entry


def object_hash(node: Data, path: str) -> str:
    """SHA-256 of an object; where the repository keeps objects under their SHA-256 nothing is read."""
    repository = node.base.repository._repository
    if repository.backend.key_format == 'sha256':
        return str(repository.get_object(path).key)
    with node.base.repository.open(path, 'rb') as stream:
        return hash_stream(stream)
