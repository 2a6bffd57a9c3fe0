"""The rules straight from their definitions, in float64, and pools to hold them against."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

TIE = 1e-12
Order = tuple[list[int], list[float]]


def first_largest(scores: np.ndarray, tie: float = TIE) -> int:
    return int(np.flatnonzero(scores >= scores.max() * (1.0 - tie))[0])


def squared(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """All squared distances, shape (n, m)."""
    return ((x[:, None, :] - y[None, :, :]) ** 2).sum(axis=2)


def prepare(pool: np.ndarray, train: Any, weights: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    x = np.asarray(pool, dtype=float)
    known = np.empty((0, x.shape[1])) if train is None else np.asarray(train, dtype=float)
    return x, known, np.ones(len(x)) if weights is None else np.asarray(weights, dtype=float)


def naive_k_center(pool: np.ndarray, k: int, train: Any = None, weights: Any = None) -> Order:
    x, known, w = prepare(pool, train, weights)
    index: list[int] = []
    scores: list[float] = []
    while len(index) < k:
        centres = np.concatenate([known, x[index]])
        near = squared(x, centres).min(axis=1) if len(centres) else (x**2).sum(axis=1)
        score = np.where(w > 0, w * near, -1.0)
        if score.max() <= 0 and (len(centres) or score.max() < 0):
            break
        index.append(first_largest(score))
        scores.append(score[index[-1]])
    return index, scores


def naive_lcmd(pool: np.ndarray, k: int, train: Any = None, weights: Any = None) -> Order:
    x, known, w = prepare(pool, train, weights)
    index: list[int] = []
    scores: list[float] = []
    if not len(known):
        index, scores = naive_k_center(pool, 1, None, weights)
    while index or len(known):
        if len(index) == k:
            break
        distance = squared(x, np.concatenate([known, x[index]]))
        near = distance.min(axis=1)
        centre = (distance <= near[:, None] * (1.0 + TIE)).argmax(axis=1)
        mass = np.bincount(centre, w * near, distance.shape[1])
        if mass.max() <= 0:
            break
        score = np.where(centre == first_largest(mass), w * near, -1.0)
        index.append(first_largest(score))
        scores.append(score[index[-1]])
    return index, scores


def naive_posterior_variance(
    pool: np.ndarray, k: int, train: Any = None, weights: Any = None, regularisation: float = 1e-3
) -> Order:
    """In kernel space, as the equation has it."""
    x, known, w = prepare(pool, train, weights)
    index: list[int] = []
    scores: list[float] = []
    while len(index) < k:
        t = np.concatenate([known, x[index]])
        kernel = t @ t.T + regularisation * np.eye(len(t))
        variance = (x**2).sum(axis=1) - ((x @ t.T) * np.linalg.solve(kernel, t @ x.T).T).sum(axis=1)
        copies = (squared(x, t) == 0).any(axis=1) if len(t) else np.zeros(len(x), dtype=bool)
        score = np.where(copies | (w == 0) | (x == 0).all(axis=1), -1.0, w * variance)
        if score.max() <= 0:
            break
        index.append(first_largest(score, 1e-9))
        scores.append(score[index[-1]])
    return index, scores


@pytest.fixture(scope='session')
def naive() -> SimpleNamespace:
    """``naive.k_center``, ``naive.lcmd`` and ``naive.posterior_variance``: ``(pool, k, train, weights)`` to indices and
    scores."""
    return SimpleNamespace(
        k_center=naive_k_center, lcmd=naive_lcmd, posterior_variance=naive_posterior_variance, squared=squared
    )


def clustered(n: int, d: int, seed: int = 0, offset: float = 0.5) -> np.ndarray:
    """Rows in clusters with a decaying spectrum, as those of structures are; float32."""
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(rng.normal(size=(d, d)))[0] / np.arange(1, d + 1)
    latent = rng.normal(size=(12, d))[rng.integers(12, size=n)] + 0.3 * rng.normal(size=(n, d))
    return (offset + latent @ axes.T).astype(np.float32)


@pytest.fixture(scope='session')
def pools() -> dict[str, tuple[np.ndarray, np.ndarray | None]]:
    """Pools with their training rows: alike and clustered, few and many features, copies, far from the origin."""
    rng = np.random.default_rng(7)
    few, many = clustered(460, 5), clustered(460, 90, 1)
    once = rng.normal(size=(60, 12))
    far = clustered(320, 20, 2, offset=200.0)
    return {
        'few features': (few[60:], few[:60]),
        'many features': (many[60:], many[:60]),
        'nothing known': (many, None),
        'alike': (rng.normal(size=(400, 30)), rng.normal(size=(50, 30))),
        'alike, float32': (rng.normal(size=(400, 70)).astype(np.float32), rng.normal(size=(20, 70)).astype(np.float32)),
        'copies': (once[rng.integers(60, size=500)], once[:9]),
        'far from the origin': (far[20:], far[:20]),
        'one feature': (rng.normal(size=(200, 1)), rng.normal(size=(3, 1))),
    }
