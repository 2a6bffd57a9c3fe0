"""What a batch selection returns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Picked:
    """Rows of a pool, in the order in which they were picked.

    :param index: their places in the pool, shape (k,), int64; no row twice, and fewer than were asked for where the
        pool has no more that are new.
    :param score: what the rule maximised, as it was when the row was picked, shape (k,), float64.
    :param centre: the known row that each was nearest to, or the cluster that it stands for, shape (k,), int64; for
        known rows, 0..m-1 are the training rows, m + j is the j-th pick and -1 is nothing. ``None`` where the rule has
        no such thing.
    """

    index: np.ndarray
    score: np.ndarray
    centre: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.index)


def picked(index: list[int], score: list[float], centre: list[int] | None = None) -> Picked:
    """The same from lists."""
    return Picked(
        np.array(index, dtype=np.int64),
        np.array(score, dtype=np.float64),
        None if centre is None else np.array(centre, dtype=np.int64),
    )
