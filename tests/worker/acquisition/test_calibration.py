"""Calibration."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.stats import spearmanr

from aiida_alpot.worker.acquisition.calibration import CALIBRATIONS, linear, vanishing
from aiida_alpot.worker.acquisition.labelled import energy_pairs, evaluate_labelled
from aiida_alpot.worker.acquisition.signals import deviations
from aiida_alpot.worker.frames.frame import Frame
from aiida_alpot.worker.potentials.predictions import Predictions


def noisy(n: int, slope: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Errors of a normal distribution whose mean is ``slope`` times the deviation."""
    rng = np.random.default_rng(seed)
    d = rng.uniform(0.01, 0.1, n)
    return d, np.abs(rng.normal(scale=slope * d * np.sqrt(np.pi / 2))), np.arange(n)


def test_by_hand() -> None:
    fit = linear(np.array([1.0, 2.0]), np.array([3.0, 5.0]), np.array([0, 1]), min_frames=2)
    assert fit.slope == fit.fitted_slope == pytest.approx(13 / 5)
    # Without the first frame the slope is 2.5, without the second 3; half their distance is the error.
    assert fit.slope_error == pytest.approx(0.25)
    # Residuals 0.4 and -0.2; the errors lie 1 from their mean.
    assert fit.r2 == pytest.approx(1 - 0.2 / 2)
    # 3 > 2.5 x 1, and 5 < 3 x 2.
    assert fit.coverage == 0.5 and fit.spearman == pytest.approx(1.0) and fit.trustworthy
    assert fit.threshold(0.26) == pytest.approx(0.1)
    assert fit.expected_error(np.array([0.0, 0.1, np.nan]))[:2] == pytest.approx([0.0, 0.26])


def test_recovers_a_slope_with_noise() -> None:
    fit = linear(*noisy(4000, 2.5))
    assert fit.slope == pytest.approx(2.5, rel=0.05)
    assert fit.trustworthy and fit.coverage == pytest.approx(0.575, abs=0.04)
    assert abs(fit.slope - 2.5) < 4 * fit.slope_error < 0.4


class _SizedCommittee:
    """Members of which the energy per atom is off by a known multiple of how far they deviate."""

    n_members = 3
    elements = ('Cu',)

    def __init__(self, slope: float) -> None:
        self.slope = slope

    def evaluate(self, frames: list[Frame]) -> Predictions:
        offsets = np.concatenate([[0], np.cumsum([len(frame) for frame in frames])])
        spread = np.array([frame.metadata['deviation'] for frame in frames]) * np.sqrt(1.5)
        per_atom = np.array([-1.0, 0.0, 1.0])[:, None] * spread
        return Predictions(
            energy=per_atom * np.diff(offsets),
            forces=np.zeros((3, offsets[-1], 3)),
            stress=np.zeros((3, len(frames), 3, 3)),
            offsets=offsets,
        )


def test_slope_of_the_energy_does_not_depend_on_the_sizes() -> None:
    """Peer defect 1: total energies against errors per atom gave 0.19 in place of 0.002 eV/atom.

    Frames of 1 to 256 atoms with a true slope of 2 and noise; 5 % is asked for.
    """
    rng = np.random.default_rng(5)
    frames = []
    for i in range(1500):
        n = int(rng.choice([1, 2, 4, 16, 64, 256]))
        deviation = rng.uniform(1e-3, 5e-3)
        error = rng.choice([-1, 1]) * 2 * deviation * rng.uniform(0.5, 1.5)
        frames.append(
            Frame(
                np.full(n, 29),
                rng.uniform(0, 5, (n, 3)),
                np.eye(3) * 5,
                np.ones(3, dtype=bool),
                energy=error * n,
                split='validation',
                metadata={'deviation': deviation},
                lineage=str(i),
            )
        )
    labelled = evaluate_labelled(frames, _SizedCommittee(2.0), deviations)  # type: ignore[arg-type]
    fit = linear(*energy_pairs(labelled, 'validation'))
    assert fit.n == 1500 and fit.trustworthy
    assert fit.slope == pytest.approx(2.0, rel=0.05)
    assert fit.threshold(0.004) == pytest.approx(0.002, rel=0.05)


def test_spearman_and_jackknife_against_references() -> None:
    rng = np.random.default_rng(2)
    d, e = rng.integers(1, 6, 60) / 10, rng.random(60)
    frame = rng.integers(0, 12, 60)
    fit = linear(d, e, frame)
    assert fit.spearman == pytest.approx(spearmanr(d, e).statistic, abs=1e-12)
    without = np.array([(d[frame != f] @ e[frame != f]) / (d[frame != f] @ d[frame != f]) for f in range(12)])
    assert fit.slope_error == pytest.approx(np.sqrt(11 / 12 * np.sum((without - without.mean()) ** 2)), rel=1e-10)
    assert fit.coverage == pytest.approx(np.mean(e <= without[frame] * d))
    assert fit.n == 60 and fit.n_frames == 12


def test_few_frames_are_not_trusted_however_many_atoms() -> None:
    d, e, _ = noisy(300, 3.0)
    fit = linear(d, e, np.arange(300) % 4)
    assert not fit.trustworthy and fit.reason == '4 held-out frames, at least 10 are needed'
    assert fit.slope == pytest.approx(fit.fitted_slope + 2 * fit.slope_error) and fit.slope > fit.fitted_slope
    assert fit.as_dict()['rule'] == 'max(1, fitted slope + 2 standard errors)'


def test_thin_evidence_never_says_that_the_committee_exaggerates() -> None:
    d, e, _ = noisy(300, 0.1)
    assert linear(d, e, np.arange(300) % 4).slope == 1.0
    assert linear(d, e, np.zeros(300)).slope == 1.0
    assert linear(d, e, np.arange(300)).slope == pytest.approx(0.1, rel=0.1)


def test_no_labels() -> None:
    fit = linear(np.zeros(0), np.zeros(0), np.zeros(0, dtype=int))
    assert not fit.trustworthy and 'no held-out labels' in fit.reason and fit.slope == 1.0
    assert fit.threshold(0.1) == 0.1
    stored = json.loads(json.dumps(fit.as_dict(), allow_nan=False))
    assert stored['fitted_slope'] is None and stored['coverage'] is None and stored['n'] == 0


def test_members_that_agree_exactly() -> None:
    fit = linear(np.zeros(20), np.ones(20), np.arange(20))
    assert not fit.trustworthy and 'copies of one potential' in fit.reason and fit.slope == 1.0


def test_deviations_that_rank_nothing() -> None:
    rng = np.random.default_rng(0)
    fit = linear(rng.uniform(0.1, 1, 400), rng.uniform(0.1, 1, 400), np.arange(400))
    assert not fit.trustworthy and 'Spearman' in fit.reason


def test_fit_below_most_errors() -> None:
    # One frame of large deviation and small error pulls the line below all others.
    d = np.concatenate([np.linspace(0.01, 0.02, 30), [1.0]])
    e = np.concatenate([np.linspace(0.05, 0.10, 30), [0.06]])
    fit = linear(d, e, np.arange(31))
    assert not fit.trustworthy and 'covers' in fit.reason and fit.slope >= 1.0


def test_pairs_that_are_not_finite_are_left_out() -> None:
    d, e, frame = noisy(40, 2.0)
    with_nan = linear(np.append(d, np.nan), np.append(e, 1.0), np.append(frame, 99))
    assert with_nan == linear(d, e, frame)


def test_pairs_at_zero_do_not_matter_to_the_slope_but_are_left_out() -> None:
    assert vanishing(np.full((2, 3, 3), 1e-9), np.full((3, 3), 1e-5))
    assert not vanishing(np.full((2, 3, 3), 1e-9), np.full((3, 3), 1e-2))
    assert not vanishing(np.full((2, 3, 3), 1e-2), np.zeros((3, 3)))


@pytest.mark.parametrize('name', CALIBRATIONS)
def test_what_every_calibration_promises(name: str) -> None:
    """The conformance kit of a calibration."""
    fit = CALIBRATIONS[name](*noisy(200, 3.0), 10)
    grid = np.linspace(0, 0.2, 50)
    expected = fit.expected_error(grid)
    assert expected.shape == grid.shape and np.all(np.diff(expected) >= 0) and np.all(expected >= 0)
    assert fit.expected_error(np.array([fit.threshold(0.1)])) == pytest.approx([0.1], rel=1e-6)
    assert isinstance(fit.trustworthy, bool)
    json.dumps(fit.as_dict(), allow_nan=False)
