"""Largest-cluster maximum-distance selection."""

from __future__ import annotations

from typing import Any

import numpy as np

from aiida_alpot.worker.acquisition.batch_selection.arguments import read_arguments
from aiida_alpot.worker.acquisition.batch_selection.clusters import Clusters
from aiida_alpot.worker.acquisition.batch_selection.first_pick import largest_norm
from aiida_alpot.worker.acquisition.batch_selection.picked import Picked, picked


def lcmd(pool: Any, k: int, *, train: Any = None, weights: Any = None) -> Picked:
    """Largest-cluster maximum-distance selection (LCMD).

    Holzmueller et al., J. Mach. Learn. Res. 24, 164 (2023); paper 004 (pretrained representations), eqs 9-11. Every row
    belongs to the nearest known row (training rows and picks so far; of equally near ones the first). The mass of a
    cluster is m_c = sum_i w_i (x_i - c)^2; the next pick is argmax_i w_i (x_i - c)^2 in the cluster of the largest
    mass. Where nothing is known, the first pick is argmax_i w_i x_i^2. Ties go to the centre that became known first,
    then to the lowest index.

    Masses, distances that decide who belongs where, and the farthest row of a cluster are in float64, from differences;
    float32 only bounds distances from below. Memory: O(n p + (m + k) d) with at most 61 coordinates p in float32.

    :param pool: features, shape (n, d), float32 or float64; anything that :class:`Rows` reads.
    :param k: picks at most.
    :param train: features of what is known, shape (m, d).
    :param weights: shape (n,), finite, >= 0: they multiply the squared distance, in the mass too; which cluster a row
        belongs to does not depend on them.
    :return: scores are w_i times the squared distance (for a first pick without training rows w_i x_i^2), centres the
        known rows of the clusters. A row at distance 0 of a known one is never picked, nor one of weight 0.
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
    if not len(known) or not len(rows):
        return picked(index, scores, centres)
    clusters = Clusters(rows, known, w)
    while len(index) < k:
        found = clusters.heaviest()
        if found is None:
            break
        centre, row, score = found
        index.append(row)
        scores.append(score)
        centres.append(centre)
        if len(index) < k:
            clusters.add(row)
    return picked(index, scores, centres)
