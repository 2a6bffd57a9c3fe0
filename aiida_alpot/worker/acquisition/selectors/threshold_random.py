"""Random choice among what is eligible."""

from __future__ import annotations

import numpy as np

from aiida_alpot.worker.acquisition.selectors.scores import Pick, Scores, Tolerance, excess


def threshold_random(scores: Scores, tolerance: Tolerance, max_select: int, seed: int) -> list[Pick]:
    """All frames, or ``max_select`` of them drawn at random, in the order of the pool.

    The rule of AiiDA-TrainsPot: the largest deviations are often of structures that no one cares for, a random draw
    follows the distribution that the exploration has found.
    """
    rows, n = np.arange(len(scores)), len(scores)
    how = ''
    if n > max_select:
        rows = np.random.default_rng(seed).choice(rows, size=max_select, replace=False)
        how = f', drawn among {n} such frames'
    picks = [Pick(int(scores.index[row]), f'{excess(scores, row, tolerance)}{how}') for row in rows.tolist()]
    return sorted(picks, key=lambda pick: pick.index)
