"""What parsers do with files that came back, or did not, from a job that ended one way or another."""

from __future__ import annotations

import pathlib
import zipfile

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
    node = orm.ArrayData()
    with np.load(path, allow_pickle=False) as arrays:
        for name in sorted(arrays.files):
            node.set_array(name, arrays[name])
    return node
