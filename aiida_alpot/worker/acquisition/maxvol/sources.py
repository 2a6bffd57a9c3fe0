"""Some rows of a matrix, read like any other matrix of features."""

from __future__ import annotations

from typing import Any

import numpy as np

from aiida_alpot.worker.acquisition.batch_selection.blocks import Rows


class Subset:
    """Rows of a matrix in a given order: what :class:`Rows` reads.

    :param rows: the matrix, shape (n, d).
    :param index: which of its rows, shape (m,).
    """

    def __init__(self, rows: Rows, index: np.ndarray) -> None:
        self._rows, self._index = rows, index
        self.shape = (len(index), rows.d)
        self.dtype = rows.dtype

    def __getitem__(self, key: slice | np.ndarray) -> np.ndarray:
        return self._rows.take(self._index[key])


def as_rows(features: Any, name: str) -> Rows:
    """Features as rows that are read in blocks, or what is that already."""
    return features if isinstance(features, Rows) else Rows(features, name)


def subset(rows: Rows, index: np.ndarray, name: str) -> Rows:
    """Some rows of a matrix; the matrix itself where these are all of them, in order.

    :param index: shape (m,).
    :param name: what messages call them.
    """
    if len(index) == len(rows) and np.array_equal(index, np.arange(len(rows))):
        return rows
    return Rows(Subset(rows, index), name)
