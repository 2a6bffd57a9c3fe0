"""Frames whose forces vanish by symmetry."""

from __future__ import annotations

import numpy as np

from aiida_alpot.worker.acquisition.calibration import vanishing


def test_vanishing() -> None:
    assert vanishing(np.full((2, 3, 3), 1e-9), np.full((3, 3), 1e-5))
    assert not vanishing(np.full((2, 3, 3), 1e-9), np.full((3, 3), 1e-2))
    assert not vanishing(np.full((2, 3, 3), 1e-2), np.zeros((3, 3)))
