"""k-center: the row farthest from all that is known, again and again."""

from __future__ import annotations

from typing import Any

import numpy as np

from aiida_alpot.worker.acquisition.batch_selection.arguments import read_arguments, weighted
from aiida_alpot.worker.acquisition.batch_selection.first_pick import largest_norm
from aiida_alpot.worker.acquisition.batch_selection.lazy_greedy import lazy_greedy
from aiida_alpot.worker.acquisition.batch_selection.nearest_known import NearestKnown
from aiida_alpot.worker.acquisition.batch_selection.picked import Picked, picked


def k_center(pool: Any, k: int, *, train: Any = None, weights: Any = None) -> Picked:
    """Greedy k-center: each pick is the row whose nearest known row is farthest.

    The next row is argmax_i w_i min_c (x_i - c)^2 over the training rows and the picks so far (of which it covers what
    is left with balls of a radius at most twice the smallest possible: Gonzalez, Theor. Comput. Sci. 38, 293 (1985)).
    Where nothing is known, the first pick is argmax_i w_i x_i^2. Ties go to the lowest index.

    Features are centred and compared by products of matrices in float64, which only bound the distances; what decides
    is the sum of squared differences in float64. Memory: O(n + (m + k) d).

    :param pool: features, shape (n, d), float32 or float64; anything that :class:`Rows` reads.
    :param k: picks at most.
    :param train: features of what is known, shape (m, d).
    :param weights: shape (n,), finite, >= 0: they multiply the squared distance.
    :return: scores are w_i times the squared distance (for a first pick without training rows w_i x_i^2), centres the
        known rows at that distance. A row at distance 0 of a known one is never picked, nor one of weight 0.
    :raises ValueError: as :func:`read_arguments`.
    """
    rows, known, w = read_arguments(pool, k, train, weights)
    index: list[int] = []
    scores: list[float] = []
    centres: list[int] = []
    if not len(known) and len(rows):
        first = largest_norm(rows, w)
        if first is not None:
            index, scores, centres = [first[0]], [first[1]], [-1]
            known = rows.take(np.array(index))
    if len(known) and len(rows):
        nearest = NearestKnown(rows, known, k)
        bound = weighted(nearest.distance, w, slice(None)).copy()
        score = KCenterScore(nearest, w)
        if index:
            bound[index[0]] = -np.inf
        for row, value in lazy_greedy(rows, bound, score, k - len(index)):
            index.append(row)
            scores.append(value)
            centres.append(int(nearest.centre[row]))
    return picked(index, scores, centres)


def farthest_point(pool: Any, k: int, *, weights: Any = None) -> Picked:
    """Farthest-point sampling: :func:`k_center` of a pool alone, beginning with its largest row."""
    return k_center(pool, k, weights=weights)


class KCenterScore:
    """w_i times the squared distance to the nearest known row, for :func:`lazy_greedy`."""

    def __init__(self, nearest: NearestKnown, weights: np.ndarray | None) -> None:
        self._nearest, self._weights = nearest, weights

    def refresh(self, index: np.ndarray, rows: np.ndarray, floor: float) -> np.ndarray:
        """Scores of some rows as they are now."""
        return weighted(self._nearest.refresh(index, rows), self._weights, index)

    def pick(self, index: int, row: np.ndarray) -> None:
        """Know a row from now on."""
        self._nearest.add(row)

    def is_known(self, row: np.ndarray) -> bool:
        """Never: a copy of a known row has the score 0."""
        return False
