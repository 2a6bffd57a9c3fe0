"""What a run leaves behind while it goes on: frames in shards, and a table of what the committee said.

Both are written in pieces, each complete before it gets its name: whoever kills the run loses what came since the last
piece, and nothing else. Memory does not grow with the length of a run.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from aiida_alpot.worker.frames.frame import Frame
from aiida_alpot.worker.frames.shard import write_shard

MAX_FRAMES = 200
MAX_ATOMS = 1_000_000
"""Frames of so many atoms in all wait for their shard at most."""
MAX_ROWS = 10_000
MAX_SECONDS = 60.0

COLUMNS = {
    'step': 'i8',
    'time_ps': 'f8',
    'temperature': 'f8',
    'pressure': 'f8',
    'potential_energy': 'f8',
    'energy_deviation': 'f8',
    'max_force_deviation': 'f8',
    'mean_force_deviation': 'f8',
    'expected_force_error': 'f8',
    'grade': 'f8',
    'bias_energy': 'f8',
    'kept': 'S64',
}
"""Columns of the table: ps, K, GPa, eV, eV/atom, eV/A (three times), no unit, eV, and the ``frame_id`` of the frame if
it is kept. What is not known is NaN."""
_CHUNK = 1024
_FORMAT = 'aiida-alpot watch'


@dataclass
class Trajectory:
    """Writes frames and rows of the table as they come.

    :param frames: folder of the shards.
    :param table: file of the table; one that is there already is replaced.
    :param clock: wall time, s.
    :ivar n_frames: written or waiting.
    :ivar shards: written so far.
    """

    frames: Path
    table: Path
    clock: Callable[[], float] = time.monotonic
    n_frames: int = 0
    shards: list[Path] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._waiting: list[Frame] = []
        self._n_atoms = 0
        self._rows: list[tuple[Any, ...]] = []
        self._flushed = self.clock()
        self._begun = False

    def keep(self, frame: Frame) -> str:
        """Add a frame.

        :return: its ``frame_id``.
        """
        self._waiting.append(frame)
        self._n_atoms += len(frame)
        self.n_frames += 1
        return frame.frame_id

    def note(self, row: dict[str, Any]) -> None:
        """Add a row of the table.

        :param row: by the names of :data:`COLUMNS`.
        """
        self._rows.append(tuple(row[name] for name in COLUMNS))

    def flush_if_due(self) -> None:
        """Write what waits if it is enough, or has waited long enough."""
        if (
            len(self._waiting) >= MAX_FRAMES
            or self._n_atoms >= MAX_ATOMS
            or len(self._rows) >= MAX_ROWS
            or self.clock() - self._flushed >= MAX_SECONDS
        ):
            self.flush()

    def flush(self) -> None:
        """Write what waits: frames first, so that the table never names one that is not there."""
        if self._waiting:
            self.shards.append(write_shard(self._waiting, self.frames))
            self._waiting, self._n_atoms = [], 0
        if self._rows or not self._begun:
            append_rows(self.table, np.array(self._rows, dtype=list(COLUMNS.items())), anew=not self._begun)
            self._rows, self._begun = [], True
        self._flushed = self.clock()


def append_rows(path: Path, rows: np.ndarray, *, anew: bool = False) -> None:
    """Append to the table: in a copy, which takes the name of the file when it is complete.

    :param rows: structured, with the fields of :data:`COLUMNS`.
    :param anew: forget what is in the file.
    """
    copy = path.with_name(f'.{path.name}.writing')
    if anew:
        copy.unlink(missing_ok=True)
    else:
        shutil.copyfile(path, copy)
    # The oldest file format has no time stamps and no mark of a writer, which only an orderly end would remove.
    with h5py.File(copy, 'w' if anew else 'r+', libver=('earliest', 'v108')) as file:
        if anew:
            file.attrs['format'] = np.bytes_(_FORMAT)
            file.attrs['version'] = np.int64(1)
        for name, dtype in COLUMNS.items():
            column = file[name] if not anew else _column(file, name, dtype)
            n = len(column)
            column.resize((n + len(rows),))
            if len(rows):
                column[n:] = rows[name]
    os.replace(copy, path)


def _column(file: h5py.File, name: str, dtype: str) -> h5py.Dataset:
    return file.create_dataset(
        name, (0,), maxshape=(None,), chunks=(_CHUNK,), dtype=dtype, shuffle=True, compression='gzip', track_times=False
    )


def read_watch(path: Path | str) -> dict[str, np.ndarray]:
    """The table of a run, also of one that was killed.

    :return: by the names of :data:`COLUMNS`, shape (n,) each; ``kept`` as text, '' where the frame is not kept.
    :raises ValueError: for a file that is no such table.
    """
    try:
        with h5py.File(path, 'r') as file:
            if file.attrs.get('format') != np.bytes_(_FORMAT):
                raise ValueError(f'{path} is no table of a run of alpot-md: give its watch.h5')
            columns = {name: file[name][()] for name in COLUMNS}
    except (OSError, KeyError) as error:
        raise ValueError(f'{path} cannot be read as the table of a run of alpot-md ({error})') from error
    return {**columns, 'kept': columns['kept'].astype('U64')}
