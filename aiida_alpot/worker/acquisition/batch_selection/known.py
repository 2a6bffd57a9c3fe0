"""Exact duplicates of rows that are known."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np


class KnownRows:
    """Rows that are known, compared number by number (in float64, so that float32 rows equal themselves)."""

    def __init__(self) -> None:
        self._digests: set[bytes] = set()

    def add(self, rows: np.ndarray) -> None:
        """Know these rows, shape (m, d)."""
        self._digests.update(_digest(row) for row in rows)

    def __contains__(self, row: np.ndarray) -> bool:
        return _digest(row) in self._digests


def _digest(row: np.ndarray) -> bytes:
    # The sum with zero makes 0.0 of -0.0, which equals it.
    return blake2b((np.asarray(row, dtype=np.float64) + 0.0).tobytes(), digest_size=16).digest()
