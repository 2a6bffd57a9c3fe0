"""The frames with the largest expected force error."""

from __future__ import annotations

import numpy as np

from aiida_alpot.worker.acquisition.selectors.scores import Pick, Scores, Tolerance, excess


def top_k(scores: Scores, tolerance: Tolerance, max_select: int, seed: int) -> list[Pick]:
    """The ``max_select`` frames with the largest expected force error, largest first.

    Ties are broken by ``frame_id``.

    :param seed: not used.
    """
    # Stable, and the rows come in the order of their frame_id. What has no force error (energies alone exceed) is last.
    order = np.argsort(-np.nan_to_num(scores.expected_force_error, nan=-np.inf), kind='stable')[:max_select]
    return [
        Pick(
            int(scores.index[row]),
            f'{excess(scores, row, tolerance)}, rank {rank} of {len(scores)} by expected force error',
        )
        for rank, row in enumerate(order.tolist(), start=1)
    ]
