"""Lists of known rows that grow while rows of the pool wait to be compared with them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

SPREAD = 2


def by_staleness(seen: np.ndarray, now: int) -> Iterator[tuple[np.ndarray, int]]:
    """Groups of rows that have waited about as long, so that one matrix product serves each.

    :param seen: how many of the known rows each has been compared with, shape (b,); those up to date are left out.
    :param now: how many there are.
    :return: places of the rows of a group, and the fewest that one of them has been compared with.
    """
    waiting = now - seen
    longest = int(waiting.max(initial=0))
    while longest > 0:
        places = np.flatnonzero((waiting <= longest) & (waiting > longest // SPREAD))
        if len(places):
            yield places, now - int(waiting[places].max())
        longest //= SPREAD
