"""What a signal said, kept where its features are too large to be."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aiida_alpot.worker.acquisition.kept.identity import frame_keys, text_digest
from aiida_alpot.worker.acquisition.kept.store import Store
from aiida_alpot.worker.acquisition.kept.table import Table
from aiida_alpot.worker.acquisition.signals import Deviations
from aiida_alpot.worker.frames.frame import Frame

OF_FRAMES = ('energy', 'max_force', 'mean_force', 'stress')


class KeptSignal:
    """The values of a fitted signal, for frames that were seen before.

    :param stated: what the signal depends on besides the committee: its name, its options, what it was fitted to.
    """

    def __init__(self, store: Store, *stated: object) -> None:
        self._store = store
        self._part = f'signal-{text_digest(*stated)}'

    def get(self, frames: Sequence[Frame]) -> tuple[np.ndarray, Deviations | None]:
        """Whether each frame is known, shape (n,), and the values of those that are, ``None`` where none is."""
        known, table = self._store.get(self._part, frame_keys(frames))
        return known, None if table is None else Deviations(**table.frames, **table.atoms)

    def add(self, frames: Sequence[Frame], deviations: Deviations) -> None:
        """Keep the values of some frames."""
        table = Table(
            np.array([len(frame) for frame in frames], dtype=np.int64),
            {name: getattr(deviations, name) for name in OF_FRAMES},
            {'force': deviations.force},
        )
        self._store.add(frame_keys(frames), {self._part: table})
