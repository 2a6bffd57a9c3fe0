"""Files that appear only once they are complete, and compressed texts."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

COMPRESSIONS = ('.gz', '.bz2', '.xz')

_READ_ERRORS = (EOFError, lzma.LZMAError, zlib.error, UnicodeDecodeError)


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Give what a truncated or foreign file raises while it is read as a text one name.

    :raises ValueError: naming the file.
    """
    try:
        yield
    except (*_READ_ERRORS, OSError) as error:
        # The decompressions also raise bare OSErrors, which are no failures of the system.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ValueError(f'{path} is cut off or no text ({error}): copy it again') from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Path of a file beside ``path`` that takes its place at the end, or disappears where something fails."""
    temporary = path.with_name(f'.writing-{os.getpid()}-{path.name}')
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def at_least_one(items: Iterable[Any]) -> Iterator[Any]:
    """The items as they come.

    :raises ValueError: where there are none.
    """
    empty = True
    for item in items:
        empty = False
        yield item
    if empty:
        raise ValueError('there are no frames to write: a file needs at least one')


@contextmanager
def open_text(path: Path, mode: str) -> Iterator[IO[str]]:
    """Open a text for reading (``r``) or writing (``w``), compressed where its suffix says so.

    Compressed bytes depend on the text alone, not on name and time.
    """
    compression = path.suffix.lower()
    with path.open(f'{mode}b') as raw:
        stream: Any = raw
        if compression == '.gz':
            stream = gzip.GzipFile(filename='', mode=f'{mode}b', fileobj=raw, mtime=0)
        elif compression == '.bz2':
            stream = bz2.BZ2File(raw, mode)  # type: ignore[call-overload]
        elif compression == '.xz':
            stream = lzma.LZMAFile(raw, mode)  # noqa: SIM115 -- closed with the text
        with io.TextIOWrapper(stream, encoding='utf-8', newline=None if mode == 'r' else '\n') as text:
            yield text
