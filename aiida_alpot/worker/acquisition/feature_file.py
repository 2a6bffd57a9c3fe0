"""Features of more frames than fit into the memory: rows in one file that is mapped to be read."""

from __future__ import annotations

from pathlib import Path
from typing import IO

import numpy as np


class FeatureFile:
    """A matrix that grows by rows, float32 or float64 as the first rows are; a context manager.

    :param directory: where the file is made; it has to outlive what :meth:`read` gives.
    :param name: of the file.
    """

    def __init__(self, directory: Path | str, name: str) -> None:
        self.path = Path(directory) / f'{name}.rows'
        self._file: IO[bytes] = open(self.path, 'wb')  # noqa: SIM115
        self.n, self.d = 0, 0
        self.dtype: np.dtype = np.dtype(np.float32)

    def __enter__(self) -> FeatureFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, rows: np.ndarray) -> None:
        """Add rows, shape (k, d).

        :raises ValueError: for another number of features than before.
        """
        if not self.n:
            self.d, self.dtype = rows.shape[1], np.dtype(rows.dtype if rows.dtype == np.float64 else np.float32)
        if rows.shape[1:] != (self.d,):
            raise ValueError(f'rows of {self.d} features were followed by rows of shape {rows.shape}')
        self._file.write(np.ascontiguousarray(rows, dtype=self.dtype).tobytes())
        self.n += len(rows)

    def read(self) -> np.ndarray:
        """All rows, shape (n, d), read from the file where they are used."""
        self._file.flush()
        if not self.n:
            return np.empty((0, self.d), dtype=self.dtype)
        return np.memmap(self.path, dtype=self.dtype, mode='r', shape=(self.n, self.d))
