"""A few coordinates of rows that bound their distances from below."""

from __future__ import annotations

import numpy as np

from aiida_alpot.worker.acquisition.batch_selection.blocks import Rows

SAMPLE_ROWS = 2048
POWER_ITERATIONS = 3
SAFETY = 4.0


def rounding(dtype: type, n: int, r: int) -> float:
    """Rounding of sums of r squares of sums of n products, or of products of such rows, as a fraction of the lengths.

    Half units in the last place times sqrt(n) + sqrt(r), as of errors of either sign, and 4 times that: the standard
    deviation, for summands of one sign and without the blocks that libraries sum in, is 1/3 of it before the factor.
    """
    return float(SAFETY * np.finfo(dtype).eps / 2 * (np.sqrt(n) + np.sqrt(r) + 4.0))


class Projection:
    """Principal coordinates of rows, and the length of what they leave out.

    With y = x - origin, an orthonormal basis W, shape (d, p), and rho = sqrt(|y|^2 - |W^T y|^2), Cauchy and Schwarz
    give

        y . y' <= (W^T y) . (W^T y') + rho rho',

    so that a product of p + 1 numbers bounds the distance of two rows from below. With p = d it is the distance.

    :param sample: rows that the origin (their mean) and the basis (nearly their leading principal axes) are fitted to,
        shape (s, d), float64.
    :param p: number of coordinates, at most d.
    :param dtype: what is computed in: float32 or float64.
    :ivar error: bound of the rounding in a product of two rows of coordinates, as a fraction of the product of their
        lengths.
    """

    def __init__(self, sample: np.ndarray, p: int, dtype: type = np.float32) -> None:
        self.d = d = sample.shape[1]
        self.p = min(p, d)
        self.dtype = dtype
        origin = sample.mean(axis=0) if len(sample) else np.zeros(d)
        self.basis = principal_axes(sample - origin, self.p) if self.p < d else None
        self._origin: np.ndarray = origin.astype(dtype)
        self._basis: np.ndarray | None = None if self.basis is None else self.basis.astype(dtype)
        self.error = rounding(dtype, d, self.p)

    def coordinates(self, block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Coordinates of rows and their squared lengths.

        :param block: shape (b, d).
        :return: W^T y and rho (enlarged by its rounding), shape (b, p + 1), and |y|^2, shape (b,).
        """
        y = np.subtract(block, self._origin, dtype=self.dtype, casting='same_kind')
        square = np.einsum('ij,ij->i', y, y)
        out = np.empty((len(block), self.p + 1), dtype=self.dtype)
        if self._basis is None:
            out[:, :-1], out[:, -1] = y, 0.0
            return out, square
        inside = np.matmul(y, self._basis)
        out[:, :-1] = inside
        left = np.maximum(square - np.einsum('ij,ij->i', inside, inside), 0.0)
        out[:, -1] = np.sqrt(left + self.error * square)
        return out, square


def even_sample(rows: Rows, size: int = SAMPLE_ROWS) -> np.ndarray:
    """So many rows at even distances, or all, in float64.

    :raises ValueError: for a row that holds a number that is not finite.
    """
    return rows.sample(size).astype(np.float64)


def principal_axes(rows: np.ndarray, p: int) -> np.ndarray:
    """Leading right singular vectors, nearly, shape (d, p), orthonormal to rounding.

    By subspace iteration from a fixed start: a bound with these axes holds for any orthonormal ones and is only closer
    for good ones.

    :param rows: shape (s, d), s >= 0.
    """
    trial = np.linalg.qr(np.random.default_rng(0).standard_normal((rows.shape[1], p)))[0]
    largest = np.abs(rows).max(initial=0.0)
    if largest == 0.0:
        return trial
    rows = rows / largest
    for _ in range(POWER_ITERATIONS):
        image = rows.T @ (rows @ trial)
        # A small share of what was there keeps as many directions where the sample has fewer.
        trial = np.linalg.qr(image + 1e-9 * np.linalg.norm(image) * trial)[0]
    return trial
