"""Labels of one frame for another that is the same structure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .frame import Frame
from .shard import PER_ATOM


def carry_labels(source: Frame, target: Frame) -> Frame:
    """The target with the labels and the level of theory of the source, in place of its own.

    The atoms may stand in another order, and be shifted by lattice vectors: what is labelled atom by atom goes to the
    atom of the same species on the same spot.

    :raises ValueError: where the two are not the same structure.
    """
    if source.frame_id != target.frame_id:
        raise ValueError(
            f'{source.formula} ({source.frame_id[:12]}) and {target.formula} ({target.frame_id[:12]}) are not the same '
            'structure: labels are only carried over between frames of one frame_id'
        )
    place = np.empty(len(target), dtype=np.int64)
    place[target.canonical_order] = source.canonical_order
    labels: dict[str, Any] = {
        name: value[place] if name in PER_ATOM else value for name, value in source.labels.items()
    }
    return target.unlabelled().replace(**labels, level_of_theory=source.level_of_theory)


def first_of_equals(digests: np.ndarray, kinds: Sequence[str] | np.ndarray) -> np.ndarray:
    """For each frame the index of the first frame that is the same structure and of the same kind, shape (n,).

    :param digests: identities as bytes, shape (n, 32).
    :param kinds: what tells equal structures apart that are not to be taken as one, shape (n,).
    """
    _, numbers = np.unique(np.asarray(kinds), return_inverse=True)
    keys = np.concatenate([digests, numbers.astype('>u4').view(np.uint8).reshape(-1, 4)], axis=1)
    _, first, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    return first[inverse.reshape(-1)]
