"""Kernels of rows that all have the same length."""

from __future__ import annotations

import numpy as np

EPSILON = 1e-12


def cosine(rows: np.ndarray, epsilon: float = EPSILON) -> np.ndarray:
    r"""Rows divided by their lengths, so that their inner products are cosines.

    .. math:: \tilde\phi(x) = \frac{\phi(x)}{\max(|\phi(x)|, \varepsilon)}

    Equation 3 of the study on pretrained representations. A row of zeros stays one: it is at right angles to all
    others, and at a distance of 1 from them. NaN stays NaN.

    :param rows: shape (n, d); single precision stays single.
    :return: shape (n, d).
    """
    rows = np.asarray(rows)
    if rows.dtype.kind != 'f':
        rows = rows.astype(np.float64)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.maximum(lengths, np.asarray(epsilon, dtype=rows.dtype))
