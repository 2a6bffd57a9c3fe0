"""What every calibration is fitted to: pairs of deviation and error, and the frames they come from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LEAVE_ONE_OUT = 20
"""Up to so many frames are left out one at a time; of more, a tenth at a time."""
N_FOLDS = 10
UNITS = ('atom', 'frame')
"""What a calibration speaks of: each atom, or each frame by its largest deviation and its largest error."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """Deviations and errors of n frames or atoms, float64, all finite.

    :param deviation: shape (n,), not negative; likewise
    :param error: absolute errors, in the same unit.
    :param frame: index of the frame that each comes from, 0 to ``n_frames - 1``, shape (n,).
    :param n_frames: number of frames. Atoms of one frame are no independent evidence; frames are taken to be.
    """

    deviation: np.ndarray
    error: np.ndarray
    frame: np.ndarray
    n_frames: int

    def __len__(self) -> int:
        return len(self.deviation)

    def select(self, rows: np.ndarray) -> Pairs:
        """Some of the pairs, with their frames numbered anew.

        :param rows: mask, shape (n,).
        """
        frames, index = np.unique(self.frame[rows], return_inverse=True)
        return Pairs(self.deviation[rows], self.error[rows], index, len(frames))

    def frame_maxima(self) -> Pairs:
        """One pair a frame, its largest deviation and its largest error, which may be those of two atoms."""
        largest = [frame_maximum(values, self.frame, self.n_frames) for values in (self.deviation, self.error)]
        return Pairs(largest[0], largest[1], np.arange(self.n_frames), self.n_frames)

    def folds(self) -> np.ndarray:
        """Which part each pair is left out with, shape (n,): whole frames, every tenth; or one frame at a time."""
        return self.frame if self.n_frames <= LEAVE_ONE_OUT else self.frame % N_FOLDS


def units(deviation: np.ndarray, error: np.ndarray, frame: np.ndarray, unit: str = 'atom') -> Pairs:
    """The pairs that a calibration is fitted to.

    :param deviation: shape (n,), any unit; likewise
    :param error: absolute errors. Pairs of which one is not finite are left out.
    :param frame: label of the frame of each, shape (n,), integers or texts.
    :param unit: ``atom``: as they are given; ``frame``: the largest of each frame.
    :raises ValueError: for different shapes, negative numbers, or another unit.
    """
    if unit not in UNITS:
        raise ValueError(f'`unit` is {unit!r}, expected one of {", ".join(UNITS)}')
    pairs = finite_pairs(deviation, error, frame)
    return pairs.frame_maxima() if unit == 'frame' else pairs


def finite_pairs(deviation: np.ndarray, error: np.ndarray, frame: np.ndarray) -> Pairs:
    """Pairs of which both are finite; see :func:`units`."""
    d, e = np.asarray(deviation, dtype=np.float64), np.asarray(error, dtype=np.float64)
    labels = np.asarray(frame)
    if not d.ndim == 1 or not d.shape == e.shape == labels.shape:
        raise ValueError(
            f'deviations have shape {d.shape}, errors {e.shape} and frames {labels.shape}: '
            'expected one of each for every frame or atom, shape (n,)'
        )
    finite = np.isfinite(d) & np.isfinite(e)
    d, e = d[finite], e[finite]
    if (d < 0).any() or (e < 0).any():
        raise ValueError('deviations and errors must not be negative: give absolute errors, or norms of vectors')
    frames, index = np.unique(labels[finite], return_inverse=True)
    return Pairs(d, e, index, len(frames))


def frame_maximum(values: np.ndarray, frame: np.ndarray, n_frames: int) -> np.ndarray:
    """Largest value of each frame, (n,) -> (n_frames,); values must not be negative."""
    largest = np.zeros(n_frames)
    np.maximum.at(largest, frame, values)
    return largest
