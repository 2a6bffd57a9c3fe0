"""Which of the training frames each member sees."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aiida_alpot.worker.seeds import derive_seed
from aiida_alpot.worker.training.settings import Resampling

MAX_DRAWS = 1000
"""So often it is drawn anew until each element and each property is there."""


def draw(resampling: Resampling, has: np.ndarray, names: Sequence[str], seed: int) -> np.ndarray | None:
    """Rows of the training frames that a member sees, in ascending order, possibly some of them more than once.

    Frames are drawn, not lineages: what this is for are members that differ, while each of them should know every
    part of the space. A draw that lacks an element or a property is made anew, with the next seed.

    :param has: whether each frame has each element and each label that is learnt, shape (n, k).
    :param names: of these, k of them.
    :param seed: of the member.
    :return: ``None`` for all frames, once.
    :raises ValueError: where no draw has all.
    """
    if resampling.kind == 'none':
        return None
    n = len(has)
    size = max(1, round(resampling.fraction * n))
    for attempt in range(MAX_DRAWS):
        rng = np.random.default_rng(derive_seed(seed, 'resampling', attempt))
        rows = np.sort(rng.choice(n, size, replace=resampling.kind == 'bootstrap'))
        if has[rows].any(axis=0).all():
            return rows
    rarest = names[int(np.argmin(has.sum(axis=0)))]
    raise ValueError(
        f'none of {MAX_DRAWS} draws of {size} of the {n} training frames has all elements and properties ({rarest} is '
        'the rarest): give a larger `resampling.fraction`, or label more frames with it'
    )
