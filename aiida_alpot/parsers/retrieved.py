"""What parsers do with files that came back, or did not, from a job that ended one way or another."""

from __future__ import annotations

import pathlib
import zipfile
from collections.abc import Mapping

import numpy as np
from aiida import orm

TRUNCATED = (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile)
"""What reading a file raises that is not there, or was cut short when its job was killed."""


def last_words(stdout: str) -> str:
    """Last line of a log that says something."""
    lines = [line.strip() for line in stdout.splitlines() if line.strip()]
    return lines[-1][:300] if lines else 'nothing'


def array_data(path: pathlib.Path) -> orm.ArrayData:
    """``ArrayData`` of the arrays of an ``.npz`` file."""
    with np.load(path, allow_pickle=False) as arrays:
        return arrays_of(arrays)


def arrays_of(arrays: Mapping[str, np.ndarray]) -> orm.ArrayData:
    """``ArrayData`` of arrays."""
    node = orm.ArrayData()
    for name in sorted(arrays):
        node.set_array(name, arrays[name])
    return node
