"""Posterior variance of a linear Gaussian model given known rows, without kernel matrices of the pool."""

from __future__ import annotations

import numpy as np

from aiida_alpot.worker.acquisition.batch_selection.blocks import Rows
from aiida_alpot.worker.acquisition.batch_selection.projection import even_sample, principal_axes, rounding

DIRECTIONS = (16, 32, 64, 128, 256, 512)
"""Numbers of directions that a bound may use."""
EXCESS = 3.0
"""Work, in passes with all directions, that bounds of twice the variances would cause later."""


class Posterior:
    """s^2(x) = x^T A x with A = (I + Phi^T Phi / lambda)^-1, which equals the kernel form

        s^2(x) = k(x, x) - k_T(x)^T (K_TT + lambda I)^-1 k_T(x),    k(x, y) = x . y

    With fewer known rows than features A = I - R^T R, where the rows of R are u_j^T Phi / sqrt(s_j^2 + lambda) and
    K_TT = U diag(s^2) U^T; else A = R^T R with rows sqrt(a_j) v_j^T of the eigenvectors of Phi^T Phi and
    a_j = lambda / (s_j^2 + lambda), so that the variance is a sum of squares, in which nothing cancels.

    :param known: Phi, shape (m, d), m >= 0.
    :param regularisation: lambda > 0.
    :ivar rest: largest a_j, or 1.
    :ivar down: D with s^2(x) = rest |x|^2 - |D x|^2, shape (min(m, d), d).
    """

    def __init__(self, known: np.ndarray, regularisation: float) -> None:
        m, self.d = known.shape
        self._whole = m >= self.d
        if self._whole:
            square, vectors = np.linalg.eigh(_gram(known))
            left = regularisation / (np.maximum(square, 0.0) + regularisation)
            self._root = np.sqrt(left)[:, None] * vectors.T
            self.rest = float(left.max())
            self.down = np.sqrt(self.rest - left)[:, None] * vectors.T
        else:
            phi = known.astype(np.float64)
            square, vectors = np.linalg.eigh(phi @ phi.T)
            scale = np.sqrt(np.maximum(square, 0.0) + regularisation)
            self._root = (vectors.T / scale[:, None]) @ phi
            self.rest = 1.0
            self.down = self._root

    def variance(self, rows: np.ndarray) -> np.ndarray:
        """s^2 of some rows, shape (b, d), in float64; shape (b,)."""
        inside = _squares(rows @ self._root.T)
        return inside if self._whole else np.maximum(_squares(rows) - inside, 0.0)

    def covariance_times(self, row: np.ndarray) -> np.ndarray:
        """A x of one row, shape (d,), in float64."""
        inside = (self._root @ row) @ self._root
        return inside if self._whole else row - inside


class VarianceBounds:
    """Upper bounds of the variances of the rows of a pool.

    |Q^T D x| <= |D x| for any orthonormal Q, shape (len(D), r): with the principal axes of D x on a sample, a few
    directions take off nearly as much as all. How many, and in which precision, is what leaves the least work on the
    sample; rounding is added, so that the bounds hold.

    :param rows: the pool.
    :param posterior: what is known before the first pick.
    :ivar before: the bounds before the first pick, shape (n,), float64.
    :ivar count: picks that :meth:`after` takes into account.
    """

    def __init__(self, rows: Rows, posterior: Posterior) -> None:
        self._dtype = rows.dtype
        self._sample = even_sample(rows)
        self._square = _squares(self._sample)
        self._exact = posterior.variance(self._sample)
        self._bound = posterior.rest * self._square
        self.count = 0
        self._picks: np.ndarray = np.empty((0, rows.d))
        self._image = np.empty((len(self._sample), 0))
        down, error = self._cheapest(posterior.down)
        self.before = np.empty(len(rows))
        for start, stop, block in rows.blocks():
            x = np.asarray(block, dtype=down.dtype)
            square = _squares(x).astype(np.float64)
            known = _squares(x @ down.T)
            self.before[start:stop] = np.maximum(posterior.rest * square - known, 0.0) + error * square

    def renew(self, vectors: np.ndarray) -> None:
        """Take all picks so far into account; x has lost |V x|^2 with their vectors V, shape (count, d)."""
        image = self._sample @ vectors[self.count :].T
        self._exact = np.maximum(self._exact - _squares(image), 0.0)
        self._image = np.concatenate([self._image, image], axis=1)
        self.count = len(vectors)
        sizes = [r for r in DIRECTIONS if r < self.count]
        axes = principal_axes(self._image, max(sizes, default=0))
        taken = dict(zip(sizes, _running(self._image @ axes, sizes), strict=True))
        taken[self.count] = _squares(self._image)
        work = {r: r + self._later(self._bound - off, self.count) for r, off in taken.items()}
        r = min(work, key=lambda r: work[r])
        self._picks = (vectors if r == self.count else axes[:, :r].T @ vectors).astype(self._dtype)

    def after(self, index: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Upper bounds of the variances of some rows, shape (b, d), after :attr:`count` picks."""
        n, r = rows.shape[1], len(self._picks)
        before = self.before[index]
        length = np.sqrt(_squares(rows).astype(np.float64))
        # Each product is wrong by this at most, and what is left of the variance bounds the products themselves.
        error = rounding(self._dtype.type, n, 0) * length
        return np.maximum(before - _squares(rows @ self._picks.T), 0.0) + 2.0 * np.sqrt(before) * error + r * error**2

    def _cheapest(self, down: np.ndarray) -> tuple[np.ndarray, float]:
        """Directions, shape (r, d), and the rounding of what they take off, as a fraction of |x|^2."""
        image = self._sample @ down.T
        sizes = [r for r in DIRECTIONS if r < len(down)]
        axes = principal_axes(image, max(sizes, default=0))
        taken = dict(zip(sizes, _running(image @ axes, sizes), strict=True))
        taken[len(down)] = _squares(image)
        least, best = np.inf, (len(down), np.float64)
        for dtype in (np.float32, np.float64) if self._dtype == np.float32 else (np.float64,):
            for r, off in taken.items():
                bound = self._bound - off + rounding(dtype, down.shape[1], r) * self._square
                work = r * (1.0 if dtype is np.float32 else 2.0) + self._later(bound, len(down))
                if work < least:
                    least, best = work, (r, dtype)
        r, dtype = best
        error = rounding(dtype, down.shape[1], r)
        self._bound = self._bound - taken[r] + error * self._square
        return (down if r == len(down) else axes[:, :r].T @ down).astype(dtype), error

    def _later(self, bound: np.ndarray, n: int) -> float:
        """Work that bounds of the sample will cause, in products a row, where all directions are n."""
        high = self._exact >= np.median(self._exact)
        excess = bound[high].sum() / max(float(self._exact[high].sum()), np.finfo(float).tiny) - 1.0
        return EXCESS * float(excess) * n


def _running(image: np.ndarray, sizes: list[int]) -> list[np.ndarray]:
    """Sums of the squares of the first r columns, for some r."""
    along = np.cumsum(np.square(image), axis=1)
    return [along[:, r - 1] for r in sizes]


def _squares(rows: np.ndarray) -> np.ndarray:
    return np.einsum('ij,ij->i', rows, rows)


def _gram(rows: np.ndarray) -> np.ndarray:
    """Phi^T Phi in float64, a block at a time."""
    total = np.zeros((rows.shape[1], rows.shape[1]))
    for _, _, block in Rows(rows).blocks():
        x = block.astype(np.float64)
        total += x.T @ x
    return total
