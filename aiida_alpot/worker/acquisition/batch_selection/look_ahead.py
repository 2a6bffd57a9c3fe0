"""Which rows LCMD is likely to pick next, from a sample of its clusters."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from aiida_alpot.worker.acquisition.batch_selection.blocks import even_index

CLUSTERS = 128
FARTHEST = 64
OTHERS = 8192


def likely_picks(
    mass: np.ndarray,
    weights: np.ndarray | None,
    square: np.ndarray,
    centre: np.ndarray,
    coordinates: Callable[[np.ndarray], np.ndarray],
    n_picks: int,
) -> list[int]:
    """Rows that the next picks are likely to be among, without repeats; a guess, that only saves time.

    The rule itself is run on a few rows: the farthest ones of the heaviest clusters, from which it picks, and every
    so-and-so-many-th of the others, which stand for the rest of the masses. Distances are taken from a few coordinates,
    as if what these leave out were orthogonal.

    :param mass: of each cluster, shape (m,).
    :param weights: of each row, shape (n,), or ``None``.
    :param square: squared distance of each row to its centre, shape (n,).
    :param centre: its cluster, shape (n,).
    :param coordinates: function of rows that gives their coordinates, the length of what these leave out last,
        shape (b, p + 1).
    :param n_picks: how many rows to name at most.
    """
    rows, share = _sample(mass, square, centre)
    weight = np.ones(len(rows)) if weights is None else weights[rows]
    x = coordinates(rows)
    norm = np.einsum('ij,ij->i', x, x)
    x = np.ascontiguousarray(x[:, :-1])
    own, square = centre[rows], square[rows]
    share *= weight
    mass = np.concatenate([mass, np.zeros(n_picks)])
    picks: list[int] = []
    first_new = len(mass) - n_picks
    while len(picks) < n_picks:
        cluster = int(mass.argmax())
        if mass[cluster] <= 0.0:
            break
        members = np.flatnonzero(own == cluster)
        place = int(members[(weight[members] * square[members]).argmax()]) if len(members) else -1
        if place < 0 or weight[place] * square[place] <= 0.0:
            mass[cluster] = 0.0
            continue
        new = first_new + len(picks)
        picks.append(int(rows[place]))
        distance = norm + norm[place] - 2.0 * (x @ x[place])
        distance[place] = 0.0
        nearer = np.flatnonzero(distance < square)
        lost = share[nearer] * square[nearer]
        mass -= np.bincount(own[nearer], lost, len(mass))
        square[nearer], own[nearer] = np.maximum(distance[nearer], 0.0), new
        mass[new] = (share[nearer] * square[nearer]).sum()
    return picks


def _sample(mass: np.ndarray, square: np.ndarray, centre: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and how many each stands for."""
    heavy = np.argsort(-mass, kind='stable')[:CLUSTERS]
    rank = np.full(len(mass), CLUSTERS, dtype=np.uint8)
    rank[heavy] = np.arange(len(heavy), dtype=np.uint8)
    cluster = rank[centre]
    members = np.flatnonzero(cluster < CLUSTERS)
    members = members[np.argsort(cluster[members], kind='stable')]
    ends = np.cumsum(np.bincount(cluster[members], minlength=len(heavy)))[:-1]
    farthest = np.concatenate([_largest(part, square) for part in np.split(members, ends)])
    others = even_index(len(square), OTHERS)
    others = others[~np.isin(others, farthest)]
    share = np.ones(len(farthest) + len(others))
    share[len(farthest) :] = max(1.0, (len(square) - len(farthest)) / max(1, len(others)))
    return np.concatenate([farthest, others]), share


def _largest(rows: np.ndarray, square: np.ndarray) -> np.ndarray:
    if len(rows) <= FARTHEST:
        return rows
    return rows[np.argpartition(-square[rows], FARTHEST - 1)[:FARTHEST]]
