"""Import and export of labelled structures. Both stream: memory does not grow with the file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from aiida_alpot.worker import options

from ..frame import Frame
from ..shard import write_shard
from ..store import FrameStore
from .ase_files import read_database, read_trajectory, write_database, write_trajectory
from .declaration import LabelDeclaration
from .extxyz import DEFAULT_STYLE, read_extxyz, write_extxyz
from .files import COMPRESSIONS, at_least_one, replacing
from .interpret import restrict
from .styles import STYLES, Style

__all__ = [
    'FORMATS',
    'STYLES',
    'Format',
    'LabelDeclaration',
    'Style',
    'find_format',
    'read_extxyz',
    'read_frames',
    'write_extxyz',
    'write_frames',
]

Reader = Callable[[Path, LabelDeclaration], Iterator[Frame]]
Writer = Callable[..., int]


@dataclass(frozen=True)
class Format:
    """One kind of file.

    :param description: what it is.
    :param suffixes: of file names, in lower case.
    :param read: from a path and a declaration to frames.
    :param write: from frames and a path, and a style where there are styles, to the number of frames.
    :param styles: names of the sets of keys that it can be written with, the default first.
    :param compressed: whether a compression may follow the suffix.
    """

    description: str
    suffixes: tuple[str, ...]
    read: Reader
    write: Writer
    styles: tuple[str, ...] = ()
    compressed: bool = False


def _read_shard(path: Path, declaration: LabelDeclaration) -> Iterator[Frame]:
    with FrameStore([path]) as store:
        for index, frame in enumerate(store):
            try:
                yield restrict(frame, declaration)
            except ValueError as error:
                raise ValueError(f'frame {index} of {path}: {error}') from error


def _write_shard(frames: Iterable[Frame], path: Path) -> int:
    with TemporaryDirectory(dir=path.parent, prefix='.writing-') as directory, replacing(path) as temporary:
        shard = write_shard(at_least_one(frames), directory)
        with FrameStore([shard]) as store:
            count = len(store)
        shard.replace(temporary)
    return count


FORMATS: dict[str, Format] = {
    'extxyz': Format(
        'extended XYZ, and plain XYZ for reading',
        ('.extxyz', '.xyz'),
        read_extxyz,
        write_extxyz,
        styles=(DEFAULT_STYLE, *(name for name in STYLES if name != DEFAULT_STYLE)),
        compressed=True,
    ),
    'ase-db': Format('database of ASE (SQLite)', ('.db',), read_database, write_database),
    'traj': Format('trajectory of ASE', ('.traj',), read_trajectory, write_trajectory),
    'shard': Format('shard of aiida-alpot (HDF5)', ('.h5',), _read_shard, _write_shard),
}
"""The formats, by name."""


def find_format(path: Path | str, format: str | None = None) -> str:
    """Name of the format of a file.

    :param format: its name, where the suffix does not tell.
    :raises ValueError: for an unknown name, and for a suffix that belongs to no format.
    """
    if format is not None:
        options.lookup(FORMATS, format, 'format')
        return format
    suffixes = [suffix.lower() for suffix in Path(path).suffixes]
    compressed = bool(suffixes) and suffixes[-1] in COMPRESSIONS
    suffix = (['', *suffixes])[-2 if compressed else -1]
    for name, known in FORMATS.items():
        if suffix in known.suffixes and (known.compressed or not compressed):
            return name
    listed = '; '.join(f'{name}: {", ".join(known.suffixes)}' for name, known in FORMATS.items())
    raise ValueError(
        f'{path} has a suffix that belongs to no format: rename it or name the format ({listed}; extxyz may end in '
        f'{", ".join(COMPRESSIONS)} after that)'
    )


def read_frames(
    path: Path | str, format: str | None = None, declaration: LabelDeclaration | None = None
) -> Iterator[Frame]:
    """Read frames from a file, one after the other.

    :param format: one of :data:`FORMATS`; found from the suffix where it is not given.
    :param declaration: what the labels mean. Files that aiida-alpot wrote need none; a foreign file with labels is
        refused, with a list of what has to be stated.
    :raises FileNotFoundError: where there is no such file.
    :raises ValueError: for an unknown format; while reading, where an entry makes no valid frame, or has labels of
        which something is not stated.
    """
    path = Path(path)
    reader = FORMATS[find_format(path, format)].read
    if not path.is_file():
        raise FileNotFoundError(f'there is no file {path}')
    return reader(path, declaration or LabelDeclaration())


def write_frames(frames: Iterable[Frame], path: Path | str, format: str | None = None, style: str | None = None) -> int:
    """Write frames to a file, as they stream in. It appears, or replaces one of its name, once it is complete.

    :param format: one of :data:`FORMATS`; found from the suffix where it is not given.
    :param style: the set of keys for labels, where the format has styles: one of :data:`STYLES`, ``mace`` by default.
    :return: number of frames written.
    :raises ValueError: for an unknown format or style, and for no frames.
    :raises OSError: where the file cannot be written; nothing is left behind.
    """
    path = Path(path)
    name = find_format(path, format)
    known = FORMATS[name]
    if style is None:
        return known.write(frames, path)
    if not known.styles:
        raise ValueError(f'the format {name!r} has no styles: leave `style` out')
    return known.write(frames, path, style)
