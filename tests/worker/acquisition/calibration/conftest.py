"""Deviations and errors that are made up."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest


@pytest.fixture
def noisy() -> Callable[..., tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """``noisy(n, slope)``: errors of a normal distribution whose mean is ``slope`` times the deviation; n frames."""

    def make(n: int, slope: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        d = rng.uniform(0.01, 0.1, n)
        return d, np.abs(rng.normal(scale=slope * d * np.sqrt(np.pi / 2))), np.arange(n)

    return make


@pytest.fixture
def make_frames() -> Callable[..., tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """``make_frames(rng, n)``: n frames of 1 to 12 atoms whose errors share a factor of their frame.

    Deviations, errors and frames of the atoms. Larger frames are worse, so that atoms are not alike across frames.
    """

    def make(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        sizes = rng.integers(1, 13, n)
        frame = np.repeat(np.arange(n), sizes)
        shared = rng.lognormal(0, 0.7, n) * (1 + 0.2 * sizes)
        d = rng.lognormal(-3, 0.5, n)[frame] * rng.uniform(0.5, 1.5, len(frame))
        return d, shared[frame] * d * np.abs(rng.normal(size=len(frame))), frame

    return make
