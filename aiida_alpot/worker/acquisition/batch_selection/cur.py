"""Statistical leverage scores: the rows of a CUR decomposition."""

from __future__ import annotations

from typing import Any

import numpy as np

from aiida_alpot.worker.acquisition.batch_selection.arguments import read_arguments, weighted
from aiida_alpot.worker.acquisition.batch_selection.blocks import Rows
from aiida_alpot.worker.acquisition.batch_selection.known import KnownRows
from aiida_alpot.worker.acquisition.batch_selection.picked import Picked, picked
from aiida_alpot.worker.options import integer

TOLERANCE = 1e-5
"""Singular values below this fraction of the largest are rounding of float32 features."""
DIGITS = 9
"""Digits of a score that decide; what is equal in these is ordered by index."""


def cur(pool: Any, k: int, *, train: Any = None, weights: Any = None, rank: int | None = None) -> Picked:
    """The rows of the largest leverage scores.

    Mahoney and Drineas, Proc. Natl Acad. Sci. 106, 697 (2009), eq 3, for rows and without the random draw: with the
    singular value decomposition X = U S V^T the score of row i is the sum of U_ij^2 over the r leading singular
    vectors. It is computed as x_i^T V S^-2 V^T x_i from the Gram matrix X^T X, in float64. What the training rows span
    is projected out of the pool before. Ties go to the lowest index.

    Scores do not fall as rows are picked, so that a batch may crowd together: for batches, :func:`posterior_variance`,
    which is the same idea made sequential, is the better rule.

    :param pool: features, shape (n, d), float32 or float64; anything that :class:`Rows` reads.
    :param k: picks at most.
    :param train: features of what is known, shape (m, d).
    :param weights: shape (n,), finite, >= 0: they multiply the score.
    :param rank: r; by default the smaller of k and the numerical rank (:data:`TOLERANCE`).
    :return: scores are w_i times the leverage; no centres. A copy of a known row or of a pick is never picked, nor a
        row of score 0.
    :raises ValueError: as :func:`read_arguments`, and for a rank below 1.
    """
    if rank is not None:
        integer('rank', rank, 1)
    rows, known, w = read_arguments(pool, k, train, weights)
    span = _row_space(known)
    root = _inverse_root(rows, span, k if rank is None else rank)
    scores = np.empty(len(rows))
    for start, stop, block in rows.blocks():
        scores[start:stop] = np.einsum('ij,ij->i', image := block @ root, image)
    scores = weighted(scores, w, slice(None))
    taken = KnownRows()
    taken.add(known)
    index = _largest_new(rows, scores, k, taken)
    return picked(index, [float(scores[row]) for row in index])


def _row_space(known: np.ndarray) -> np.ndarray:
    """Orthonormal basis of what the known rows span, shape (r, d)."""
    if not len(known):
        return np.empty((0, known.shape[1]))
    total = np.zeros((known.shape[1], known.shape[1]))
    for _, _, block in Rows(known).blocks():
        x = block.astype(np.float64)
        total += x.T @ x
    return _leading(total, len(known))[1]


def _leading(gram: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues above the tolerance, largest first and so many at most, and their eigenvectors, shape (r, d)."""
    values, vectors = np.linalg.eigh(gram)
    n = int(np.count_nonzero(values > TOLERANCE**2 * max(values[-1], np.finfo(float).tiny)))
    n = min(n, rank)
    return values[::-1][:n], vectors.T[::-1][:n]


def _inverse_root(rows: Rows, span: np.ndarray, rank: int) -> np.ndarray:
    """M, shape (d, r), so that the score of x is |M^T x|^2."""
    total, before = np.zeros((rows.d, rows.d)), 0.0
    for _, _, block in rows.blocks():
        x = block.astype(np.float64)
        before = max(before, float(np.einsum('ij,ij->i', x, x).max(initial=0.0)))
        x -= (x @ span.T) @ span
        total += x.T @ x
    if np.trace(total) <= TOLERANCE**2 * before:  # nothing is left but rounding
        return np.zeros((rows.d, 0))
    values, vectors = _leading(total, rank)
    root = vectors.T / np.sqrt(values)
    return root - span.T @ (span @ root)


def _largest_new(rows: Rows, scores: np.ndarray, k: int, taken: KnownRows) -> list[int]:
    """Rows of the largest scores, copies left out."""
    largest = scores.max(initial=0.0)
    if largest <= 0.0:
        return []
    order = np.argsort(-np.round(scores / largest, DIGITS), kind='stable')
    index: list[int] = []
    for row in order:
        if len(index) == k or scores[row] <= 0.0:
            break
        features = rows.take(np.array([row]))
        if features[0] not in taken:
            taken.add(features)
            index.append(int(row))
    return index
