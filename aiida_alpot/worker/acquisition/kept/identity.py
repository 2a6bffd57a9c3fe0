"""Which frame it is, to the last bit, and everything else that predictions depend on."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Iterable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from aiida_alpot.worker.frames.frame import Frame

KEY_BYTES = 16
KEY = np.dtype(f'S{KEY_BYTES}')
"""Type of the keys of frames. Two of a million frames agree by chance with a probability of 1e-27."""

VERSION = 1
"""Of what is kept and how; another one makes everything that was kept unknown."""

LIBRARIES = {'.model': 'mace-torch', '.pt': 'metatomic-torch', '.json': 'ase'}
"""The library that evaluates a potential, by the suffix of its file."""


def frame_keys(frames: Sequence[Frame]) -> np.ndarray:
    """BLAKE2b of the bytes of numbers, positions, cell and periodicity of each frame, shape (n,) of :data:`KEY`.

    ``frame_id`` is no such key: it is the same for another order of the atoms, and for lengths that round alike.
    """
    return np.frombuffer(b''.join(_key(frame) for frame in frames), dtype=KEY)


def _key(frame: Frame) -> bytes:
    digest = hashlib.blake2b(frame.numbers.astype('<i4', copy=False).tobytes(), digest_size=KEY_BYTES)
    for array in (frame.positions, frame.cell):
        digest.update(array.astype('<f8', copy=False).tobytes())
    digest.update(frame.pbc.tobytes())
    return digest.digest()


def committee_digest(paths: Sequence[Path | str], dtype: str) -> str:
    """Digest of what the predictions of a committee depend on, besides the frame: 32 hexadecimal digits.

    The content of the file of each member in their order, files that an ASE calculator is given and the module that it
    comes from, the precision, the versions of the libraries and of this format. Device and size of batches do not
    enter: results agree up to rounding.
    """
    files = [Path(path) for path in paths]
    stated = {
        'version': VERSION,
        'dtype': dtype,
        'members': [[hashlib.sha256(path.read_bytes()).hexdigest(), *_beside(path)] for path in files],
        'libraries': sorted(
            {_version(name) for name in ('aiida-alpot', *(LIBRARIES.get(p.suffix, '') for p in files))}
        ),
    }
    return hashlib.blake2b(json.dumps(stated, sort_keys=True).encode(), digest_size=16).hexdigest()


def dataset_digest(frames: Iterable[Frame]) -> str:
    """Digest of labelled frames, as what is fitted to them depends on them: 32 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=16)
    for frame in frames:
        digest.update(_key(frame))
        digest.update(json.dumps([frame.split, frame.origin, frame.energy]).encode())
        for label in (frame.forces, frame.stress):
            digest.update(b'-' if label is None else label.astype('<f8', copy=False).tobytes())
    return digest.hexdigest()


def text_digest(*stated: Any) -> str:
    """Digest of what can be written as JSON: 16 hexadecimal digits."""
    text = json.dumps(stated, sort_keys=True, default=repr)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _version(library: str) -> str:
    try:
        return f'{library} {metadata.version(library)}' if library else ''
    except metadata.PackageNotFoundError:
        return library


def _beside(path: Path) -> list[str]:
    """Digests of what a description of a calculator refers to; nothing for other potentials."""
    if path.suffix != '.json':
        return []
    description = json.loads(path.read_text())
    module = str(description['calculator']).rpartition('.')[0]
    found = importlib.util.find_spec(module)
    sources = [found.origin] if found and found.origin else []
    files = [Path(name) for name in [*sources, *_texts(description.get('parameters', {}))]]
    return [hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.is_file()]


def _texts(value: Any) -> Iterator[str]:
    """All texts inside a JSON value that could be the path of a file."""
    if isinstance(value, str) and '\0' not in value and len(value) < 4096:
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
