"""The features that a selector compares frames by, collected while the frames are evaluated."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from aiida_alpot.worker.acquisition.batch_selection import Rows
from aiida_alpot.worker.acquisition.feature_file import FeatureFile
from aiida_alpot.worker.acquisition.maxvol.sources import Subset
from aiida_alpot.worker.acquisition.representations.normalise import cosine
from aiida_alpot.worker.acquisition.selectors import Scores

if TYPE_CHECKING:
    from aiida_alpot.worker.acquisition.config import EvaluationConfig
    from aiida_alpot.worker.frames.frame import Frame
    from aiida_alpot.worker.potentials.predictions import Predictions

HELD_BACK = 'test'
"""Frames of this split are known to nobody: what a selector sees must not depend on them."""


class SelectorFeatures:
    """Rows of the frames of a pool, in a file, and of the labelled frames; empty where the selector needs none.

    A context manager: the file goes with it.

    :param n_pool: number of frames of the pool.
    :param scratch: folder in which the file is made.
    """

    def __init__(self, config: EvaluationConfig, n_pool: int, scratch: Path | None = None) -> None:
        self.name = next(iter(config.selector_features), '')
        self.normalise = config.normalise
        self._place = np.full(n_pool, -1, dtype=np.int64)
        self._known: list[np.ndarray] = []
        self._stack = ExitStack()
        self._scratch = scratch
        self._rows: FeatureFile | None = None

    def __enter__(self) -> SelectorFeatures:
        if self.name:
            directory = self._stack.enter_context(tempfile.TemporaryDirectory(dir=self._scratch, prefix='features-'))
            self._rows = self._stack.enter_context(FeatureFile(directory, 'pool'))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def add_labelled(self, frames: list[Frame], predictions: Predictions) -> None:
        """Keep the rows of labelled frames, other than those of the test set."""
        kept = [i for i, frame in enumerate(frames) if frame.split != HELD_BACK]
        if self.name and kept:
            self._known.append(self._of(predictions)[kept])

    def add_pool(self, places: np.ndarray, predictions: Predictions) -> None:
        """Keep the rows of some frames of the pool."""
        if self._rows is None:
            return
        self._place[places] = self._rows.n + np.arange(len(places))
        self._rows.append(self._of(predictions))

    def _of(self, predictions: Predictions) -> np.ndarray:
        rows = predictions.features[self.name]
        return cosine(rows) if self.normalise else rows

    def give(self, scores: Scores) -> Scores:
        """The scores with features, where the selector needs some."""
        if self._rows is None or not len(scores):
            return scores
        known = np.concatenate(self._known) if self._known else None
        return replace(scores, features=Subset(Rows(self._rows.read()), self._place[scores.index]), known=known)
