"""The directions that rows of features occupy, in coordinates in which all of them weigh the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from aiida_alpot.worker.acquisition.batch_selection.blocks import Rows
from aiida_alpot.worker.options import number

RELATIVE_TOLERANCE = {np.dtype(np.float32): 1e-5, np.dtype(np.float64): 1e-6}
"""Singular values below this fraction of the largest are rounding: of the features (a network evaluated in float32), or
of their Gram matrix in float64, which squares the ratio of singular values."""
SMALLEST_TOLERANCE = 1e-7
NOISE = 100.0
"""What is below this many units in the last place of what is large is rounding."""


@dataclass(frozen=True, eq=False)
class Span:
    """Numerical row space of a matrix X of n rows of d features.

    Columns are divided by their root mean square before anything is cut, so that the unit of a feature does not matter;
    a column of noise (below a hundred rounding units of the largest) is divided by that of all columns together.
    The eigenvectors of X^T X / n in these units, accumulated in float64, are the principal directions. Those whose
    singular values exceed ``relative_tolerance`` times the largest are kept.

    :param whitening: shape (d, r): x @ whitening are the coordinates of a row in the span; over the rows of X each has
        the mean square 1, and they are uncorrelated. Grades do not depend on such a change of coordinates.
    :param complement: shape (d, d - r): the norm of x @ complement is the distance of a row from the span, in units
        of the divided features.
    :param scale: what the features are divided by, shape (d,).
    :param floor: the relative tolerance times the root mean square norm of a divided row: what is closer to the span
        than this lies in it, to rounding.
    :param singular_values: relative to the largest, descending, shape (d,); all zero where X is.
    :param relative_tolerance: that was used.
    """

    whitening: np.ndarray
    complement: np.ndarray
    scale: np.ndarray
    floor: float
    singular_values: np.ndarray
    relative_tolerance: float

    @property
    def rank(self) -> int:
        """Number r of directions that are kept."""
        return self.whitening.shape[1]

    @property
    def n_features(self) -> int:
        """Number d of features of a row."""
        return len(self.whitening)

    @classmethod
    def of(cls, parts: Rows | Sequence[Rows], relative_tolerance: float | None = None) -> Span:
        """Span of one matrix, or of several one below the other, read in blocks.

        :param relative_tolerance: at least 1e-7 (below, the Gram matrix in float64 is rounding), below 1; by default
            1e-5 for float32 and 1e-6 for float64.
        :raises ValueError: for a number that is not finite, matrices without rows, or a tolerance out of its range.
        """
        parts = [parts] if isinstance(parts, Rows) else list(parts)
        n = sum(len(rows) for rows in parts)
        if n == 0:
            raise ValueError(f'`{parts[0].name}` has no rows: there are no features to span anything')
        tolerance = relative_tolerance
        if tolerance is None:
            tolerance = max(RELATIVE_TOLERANCE[rows.dtype] for rows in parts)
        number('relative_tolerance', tolerance, SMALLEST_TOLERANCE, 1.0)
        noise = NOISE * max(float(np.finfo(rows.dtype).eps) for rows in parts)
        return cls._of_gram(np.sum([gram(rows) for rows in parts], axis=0) / n, tolerance, noise)

    @classmethod
    def _of_gram(cls, mean_square: np.ndarray, tolerance: float, noise: float) -> Span:
        """Span from X^T X / n, shape (d, d)."""
        scale = _column_scale(np.sqrt(mean_square.diagonal()), noise)
        square, directions = np.linalg.eigh(mean_square / np.outer(scale, scale))
        square, directions = np.maximum(square[::-1], 0.0), _signed(directions[:, ::-1])
        largest = float(square[0]) if len(square) else 0.0
        rank = int(np.count_nonzero(square > tolerance**2 * largest))
        scaled = directions / scale[:, None]
        return cls(
            whitening=scaled[:, :rank] / np.sqrt(square[:rank]),
            complement=scaled[:, rank:],
            scale=scale,
            floor=tolerance * float(np.sqrt(square.sum())),
            singular_values=np.sqrt(square / largest) if largest > 0.0 else np.zeros(len(square)),
            relative_tolerance=tolerance,
        )


def gram(rows: Rows) -> np.ndarray:
    """X^T X in float64, shape (d, d), a block at a time.

    :raises ValueError: for a number that is not finite.
    """
    total = np.zeros((rows.d, rows.d))
    for _, _, block in rows.blocks():
        x = block.astype(np.float64, copy=False)
        total += x.T @ x
    return total


def _column_scale(root_mean_square: np.ndarray, noise: float) -> np.ndarray:
    """What columns are divided by, shape (d,)."""
    largest = root_mean_square.max(initial=0.0)
    if largest == 0.0:
        return np.ones_like(root_mean_square)
    typical = float(np.sqrt(np.mean(root_mean_square**2)))
    return np.where(root_mean_square > noise * largest, root_mean_square, typical)


def _signed(directions: np.ndarray) -> np.ndarray:
    """Columns with a positive component of the largest size, so that libraries agree on them."""
    place = np.abs(directions).argmax(axis=0)
    return directions * np.where(directions[place, np.arange(directions.shape[1])] < 0, -1.0, 1.0)
