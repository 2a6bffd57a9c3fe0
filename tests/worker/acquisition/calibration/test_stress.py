"""Deviation and error of the stress."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from aiida_alpot.worker.acquisition.calibration import linear
from aiida_alpot.worker.acquisition.calibration.stress import stress_pairs
from aiida_alpot.worker.acquisition.labelled import evaluate_labelled
from aiida_alpot.worker.acquisition.signals import deviations
from aiida_alpot.worker.frames.frame import Frame
from aiida_alpot.worker.potentials import Committee


def test_slope_of_the_stress(dataset: list[Frame], make_committee: Callable[..., Committee]) -> None:
    """Labels lie four standard deviations from the members; isolated atoms and other splits are left out."""
    labelled = evaluate_labelled(dataset, make_committee(), deviations)
    d, e, frame = stress_pairs(labelled, 'validation')
    assert len(d) == 13 and set(labelled.split[frame]) == {'validation'} and not labelled.isolated[frame].any()
    fit = linear(d, e, frame, components=6)
    assert fit.slope == pytest.approx(4.0, rel=1e-9) and fit.trustworthy
    assert e[0] == pytest.approx(np.linalg.norm(labelled.stress_pred[frame[0]] - labelled.stress_ref[frame[0]]))
