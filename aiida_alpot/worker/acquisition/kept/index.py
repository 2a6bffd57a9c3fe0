"""Where something is kept, by key: sorted arrays in place of a dictionary, 24 bytes an entry."""

from __future__ import annotations

import numpy as np


class Index:
    """Places by key. What was added last counts.

    Sorted runs of falling length, so that adding n keys takes O(n log n) in all and looking one up O(log^2 n).
    """

    def __init__(self) -> None:
        self._runs: list[tuple[np.ndarray, np.ndarray]] = []

    def __len__(self) -> int:
        return sum(len(keys) for keys, _ in self._runs)

    def add(self, keys: np.ndarray, places: np.ndarray) -> None:
        """Add keys, shape (k,), and their places, shape (k,), at least 0."""
        if not len(keys):
            return
        self._runs.append(_last_of_each(keys, places.astype(np.int64)))
        while len(self._runs) > 1 and len(self._runs[-2][0]) <= 2 * len(self._runs[-1][0]):
            new, old = self._runs.pop(), self._runs.pop()
            self._runs.append(_last_of_each(*(np.concatenate(pair) for pair in zip(old, new, strict=True))))

    def find(self, keys: np.ndarray) -> np.ndarray:
        """Places of some keys, shape (k,), -1 where there is none."""
        found = np.full(len(keys), -1, dtype=np.int64)
        for known, places in self._runs:  # the oldest first, so that later ones replace them
            at = np.minimum(np.searchsorted(known, keys), len(known) - 1)
            found = np.where(known[at] == keys, places[at], found)
        return found


def _last_of_each(keys: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sorted keys, each once, with the last of its places."""
    order = np.argsort(keys, kind='stable')
    keys, places = keys[order], places[order]
    last = np.append(keys[1:] != keys[:-1], True)
    return keys[last], places[last]
