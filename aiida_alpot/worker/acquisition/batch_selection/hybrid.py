"""A sum of uncertainty and distance."""

from __future__ import annotations

from typing import Any

import numpy as np

from aiida_alpot.worker.acquisition.batch_selection.arguments import read_arguments
from aiida_alpot.worker.acquisition.batch_selection.blocks import Rows
from aiida_alpot.worker.acquisition.batch_selection.distances import TIE
from aiida_alpot.worker.acquisition.batch_selection.known import KnownRows
from aiida_alpot.worker.acquisition.batch_selection.lazy_greedy import lazy_greedy
from aiida_alpot.worker.acquisition.batch_selection.nearest_known import NearestKnown
from aiida_alpot.worker.acquisition.batch_selection.picked import Picked, picked
from aiida_alpot.worker.options import number

ALPHA = 0.6
ELIGIBLE = 1.0
"""Added to the score of rows that may be picked, so that only those that may not have 0."""


def hybrid(
    pool: Any, k: int, *, train: Any = None, weights: Any = None, alpha: float = ALPHA, greedy: bool = True
) -> Picked:
    """Rows that are both uncertain and far from what is known.

    Paper 000 (pool-based strategies over two databases), eq 3: the rows of the largest

        alpha U_norm(x) + (1 - alpha) D_norm(x)

    with alpha = 0.6. It does not define the two terms; here

    - U_norm = (U - min U) / (max U - min U) over the pool, and 0 where all U are equal;
    - D_norm = D / max D over the pool before the first pick, where D is the Euclidean distance to the nearest known
      row; without training rows it is measured from the row of the largest U, which is the first pick.

    By default picks count as known from then on, so that D falls and a batch does not crowd together. With ``greedy``
    off, the k largest scores are taken as the equation has it. Ties go to the lowest index.

    :param pool: features, shape (n, d), float32 or float64; anything that :class:`Rows` reads.
    :param k: picks at most.
    :param train: features of what is known, shape (m, d).
    :param weights: U, shape (n,), finite, >= 0, in any unit.
    :param alpha: in [0, 1].
    :param greedy: whether picks count as known for those after them.
    :return: scores are the sum; centres the nearest known rows. A row at distance 0 of a training row or of a pick is
        never picked.
    :raises ValueError: as :func:`read_arguments`, and without ``weights``.
    """
    number('alpha', alpha, 0.0, 1.0)
    if weights is None:
        raise ValueError('`weights` is None, expected the uncertainty of each row of `pool`: a hybrid needs both terms')
    rows, known, w = read_arguments(pool, k, train, weights)
    assert w is not None
    if not len(rows):
        return picked([], [], [])
    spread = w.max() - w.min()
    uncertainty = alpha * (w - w.min()) / (spread if spread > 0.0 else 1.0)
    first: list[int] = []
    if not len(known):
        first = [int(np.flatnonzero(w >= w.max() * (1.0 - TIE))[0])]
        known = rows.take(np.array(first))
    nearest = NearestKnown(rows, known, k)
    score = HybridScore(rows, nearest, uncertainty, alpha, greedy)
    found = [(row, float(uncertainty[row]), -1) for row in first]
    for row, value in lazy_greedy(rows, score.of(np.arange(len(rows))), score, k - len(first)):
        found.append((row, value - ELIGIBLE, int(nearest.centre[row])))
    return picked([row for row, _, _ in found], [value for _, value, _ in found], [centre for _, _, centre in found])


class HybridScore:
    """The sum of both terms, for :func:`lazy_greedy`.

    :param uncertainty: alpha U_norm, shape (n,).
    :param greedy: whether distances to picks count.
    """

    def __init__(self, rows: Rows, nearest: NearestKnown, uncertainty: np.ndarray, alpha: float, greedy: bool) -> None:
        self._nearest, self._uncertainty, self._greedy = nearest, uncertainty, greedy
        farthest = nearest.farthest(rows, np.arange(len(rows)), None)
        self._scale = (1.0 - alpha) / (np.sqrt(farthest[1]) if farthest else 1.0)
        self._picked = KnownRows()

    def of(self, index: np.ndarray) -> np.ndarray:
        """Scores of some rows at the distances that are known so far, shape (b,)."""
        square = self._nearest.distance[index]
        score = ELIGIBLE + self._uncertainty[index] + self._scale * np.sqrt(square)
        return np.where(square > 0.0, score, 0.0)

    def refresh(self, index: np.ndarray, rows: np.ndarray, floor: float) -> np.ndarray:
        """Scores of some rows as they are now."""
        self._nearest.refresh(index, rows)
        return self.of(index)

    def pick(self, index: int, row: np.ndarray) -> None:
        """Know a row from now on."""
        self._picked.add(row[None])
        if self._greedy:
            self._nearest.add(row)

    def is_known(self, row: np.ndarray) -> bool:
        """Whether a row is a copy of a pick."""
        return row in self._picked
