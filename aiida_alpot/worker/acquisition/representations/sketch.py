"""Random projections of long rows to short ones that keep inner products, within an error that is known."""

from __future__ import annotations

from typing import Any

import numpy as np

KINDS = ('sparse', 'gaussian')
NONZEROS = 8
BLOCK_ELEMENTS = 2**22
"""Numbers of a Gaussian matrix that are drawn at once: it is never held whole."""


class Sketch:
    r"""A random matrix S of shape (size, d), for which :math:`\langle Sx, Sy \rangle \approx \langle x, y \rangle`.

    Either kind is unbiased, and for a seed drawn independently of x and y

    .. math:: \operatorname{Var} \langle Sx, Sy \rangle \le
        \frac{|x|^2 |y|^2 + \langle x, y \rangle^2}{m} \le \frac{2 |x|^2 |y|^2}{m}, \qquad m = \mathrm{size}:

    the standard error of a cosine is at most :math:`\sqrt{2/m}` (:func:`standard_error`), whatever d is.

    * ``gaussian``: independent normal numbers of variance 1/m; the first bound is an equality. Squared lengths deviate
      by more than a fraction :math:`\varepsilon` with a probability of at most
      :math:`2 \exp(-m (\varepsilon^2 / 4 - \varepsilon^3 / 6))` (Johnson and Lindenstrauss; the form of Dasgupta and
      Gupta, Random Struct. Algorithms 22, 60): :func:`failure_probability`.
    * ``sparse``: the rows are s = 8 blocks; every column has one entry :math:`\pm 1/\sqrt{s}` in each block, at a place
      and with a sign drawn at random (Kane and Nelson, J. ACM 61, 4). The first bound less
      :math:`2 \sum_i x_i^2 y_i^2 / m` is an equality. It costs s d additions a row in place of m d.

    The matrix depends on d, size, seed and kind only.

    :param d: length of the rows.
    :param size: length of the projected rows, a multiple of 8 for ``sparse``.
    :param seed: at least 0.
    :raises ValueError: for a size or kind that cannot be.
    """

    def __init__(self, d: int, size: int, seed: int = 0, kind: str = 'sparse') -> None:
        if kind not in KINDS:
            raise ValueError(f'`kind` of the sketch is {kind!r}: give one of {", ".join(KINDS)}')
        if size < 1 or (kind == 'sparse' and size % NONZEROS):
            raise ValueError(
                f'`size` of the sketch is {size}: give a positive number'
                + (f', a multiple of {NONZEROS} for the sparse kind' if kind == 'sparse' else '')
            )
        if seed < 0:
            raise ValueError(f'`seed` of the sketch is {seed}: give a whole number of at least 0')
        self.d = d
        self.size = size
        self.seed = seed
        self.kind = kind
        self._matrix = _sparse(d, size, seed) if kind == 'sparse' else None

    def project(self, rows: np.ndarray) -> np.ndarray:
        """Projected rows, shape (n, d) -> (n, size), in the precision of the rows.

        :raises ValueError: for rows of another length.
        """
        if rows.ndim != 2 or rows.shape[1] != self.d:
            raise ValueError(f'the sketch is for rows of length {self.d}, found an array of shape {rows.shape}')
        if self._matrix is not None:
            return np.asarray((self._matrix @ rows.T).T, dtype=rows.dtype)
        projected = np.zeros((len(rows), self.size))
        for start, block in _gaussian_blocks(self.d, self.size, self.seed):
            projected += rows[:, start : start + len(block)] @ block
        return projected.astype(rows.dtype)


def standard_error(size: int) -> float:
    """Largest standard error of the cosine of two rows."""
    return float(np.sqrt(2.0 / size))


def failure_probability(size: int, epsilon: float) -> float:
    """Bound of the probability that a Gaussian sketch changes one squared length by more than a fraction epsilon."""
    return float(min(1.0, 2.0 * np.exp(-size * (epsilon**2 / 4.0 - epsilon**3 / 6.0))))


def _sparse(d: int, size: int, seed: int) -> Any:
    """One entry in each of the blocks of rows for every column."""
    from scipy.sparse import csc_array

    rng = np.random.default_rng(seed)
    height = size // NONZEROS
    rows = rng.integers(height, size=(d, NONZEROS)) + height * np.arange(NONZEROS)
    signs = rng.integers(2, size=(d, NONZEROS)) * 2.0 - 1.0
    starts = NONZEROS * np.arange(d + 1)
    matrix = csc_array((signs.ravel() / np.sqrt(NONZEROS), rows.ravel(), starts), shape=(size, d))
    return matrix.tocsr()


def _gaussian_blocks(d: int, size: int, seed: int) -> Any:
    """Some rows of the transposed matrix at a time, with the place of the first: (start, (b, size))."""
    rng = np.random.default_rng(seed)
    height = max(1, BLOCK_ELEMENTS // size)
    for start in range(0, d, height):
        shape = (min(height, d - start), size)
        yield start, rng.normal(scale=1.0 / np.sqrt(size), size=shape)
