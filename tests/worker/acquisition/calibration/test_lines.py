"""Calibrations that are straight lines."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
from scipy.optimize import minimize, minimize_scalar
from scipy.stats import spearmanr

from aiida_alpot.worker.acquisition.calibration import affine, likelihood, linear
from aiida_alpot.worker.acquisition.calibration.lines import likelihood_scale
from aiida_alpot.worker.acquisition.labelled import energy_pairs, evaluate_labelled
from aiida_alpot.worker.acquisition.signals import deviations
from aiida_alpot.worker.frames.frame import Frame
from aiida_alpot.worker.potentials.predictions import Predictions

Noisy = Callable[..., tuple[np.ndarray, np.ndarray, np.ndarray]]


def test_by_hand() -> None:
    fit = linear(np.array([1.0, 2.0]), np.array([3.0, 5.0]), np.array([0, 1]), min_frames=2)
    assert fit.slope == fit.fitted_slope == pytest.approx(13 / 5)
    # Without the first frame the slope is 2.5, without the second 3; half their distance is the error.
    assert fit.slope_error == pytest.approx(0.25)
    # Without its own frame 2.5 is expected of the first and 6 of the second; the errors lie 1 from their mean.
    assert fit.r2 == pytest.approx(1 - (0.5**2 + 1) / 2)
    # 3 > 2.5 x 1, and 5 < 3 x 2.
    assert fit.coverage == 0.5 and fit.spearman == pytest.approx(1.0) and fit.trustworthy
    assert fit.threshold(0.26) == pytest.approx(0.1)
    assert fit.expected_error(np.array([0.0, 0.1, np.nan]))[:2] == pytest.approx([0.0, 0.26])


def test_recovers_a_slope_with_noise(noisy: Noisy) -> None:
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


def test_few_frames_are_not_trusted_however_many_atoms(noisy: Noisy) -> None:
    d, e, _ = noisy(300, 3.0)
    fit = linear(d, e, np.arange(300) % 4)
    assert not fit.trustworthy and fit.reason == '4 held-out frames, at least 10 are needed'
    assert fit.slope == pytest.approx(fit.fitted_slope + 2 * fit.slope_error) and fit.slope > fit.fitted_slope
    assert fit.as_dict()['rule'] == 'max(1, fitted slope + 2 standard errors, median of error / deviation)'


def test_thin_evidence_never_says_that_the_committee_exaggerates(noisy: Noisy) -> None:
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


def test_the_safer_line_covers_half_of_the_errors() -> None:
    """Many frames of large deviation fix the slope well, and too low for most others: the standard error is no help."""
    rng = np.random.default_rng(0)
    d = np.concatenate([np.full(160, 0.01), np.full(40, 1.0)])
    e = np.concatenate([np.full(160, 0.05), np.full(40, 1.5)]) * rng.uniform(0.8, 1.2, 200)
    fit = linear(d, e, np.arange(200))
    assert not fit.trustworthy and 'covers' in fit.reason
    assert fit.slope == pytest.approx(np.median(e / d))
    assert fit.slope > 2 * (fit.fitted_slope + 2 * fit.slope_error)
    assert np.mean(e <= fit.expected_error(d)) >= 0.5


def test_pairs_that_are_not_finite_are_left_out(noisy: Noisy) -> None:
    d, e, frame = noisy(40, 2.0)
    with_nan = linear(np.append(d, np.nan), np.append(e, 1.0), np.append(frame, 99))
    assert with_nan == linear(d, e, frame)


def test_affine_by_hand() -> None:
    # The line 2 d + 1 through three points, and a point on it.
    d = np.array([1.0, 2.0, 4.0, 3.0])
    fit = affine(d, 2 * d + 1, np.arange(4), min_frames=2)
    assert fit.curve.slope == pytest.approx(2.0) and fit.slope is None and fit.trustworthy
    assert fit.expected_error(np.array([1.0, 2.5, 10.0])) == pytest.approx([3.0, 6.0, 21.0])
    assert fit.threshold(6.0) == pytest.approx(2.5)
    # Below the smallest deviation, in proportion: members that agree by symmetry are not expected to be wrong.
    assert fit.expected_error(np.array([0.0, 0.5])) == pytest.approx([0.0, 1.5])
    assert fit.threshold(1.5) == pytest.approx(0.5)


def test_affine_against_a_minimiser(noisy: Noisy) -> None:
    d, e, frame = noisy(300, 2.0)
    e = e + 0.04
    fit = affine(d, e, frame)
    found = minimize(lambda x: np.sum((e - x[0] * d - x[1]) ** 2), [1.0, 0.0], bounds=[(0, None)] * 2, tol=1e-14).x
    assert fit.expected_error(d) == pytest.approx(found[0] * d + found[1], rel=1e-4)
    assert found[1] == pytest.approx(0.04, abs=0.01)


def test_affine_has_no_negative_intercept_nor_slope(noisy: Noisy) -> None:
    d = np.linspace(1, 2, 30)
    convex = affine(d, 3 * d - 2, np.arange(30))
    assert convex.slope == pytest.approx(linear(d, 3 * d - 2, np.arange(30)).slope)
    falling = affine(d, 3 - d, np.arange(30))
    assert not falling.trustworthy and falling.slope is not None and falling.slope >= 1.0


def test_likelihood_by_hand() -> None:
    # Ratios 3 and 4: their mean square is 12.5.
    assert likelihood_scale(np.array([1.0, 0.5]), np.array([3.0, 2.0])) == pytest.approx(np.sqrt(12.5))
    fit = likelihood(np.array([1.0, 0.5]), np.array([3.0, 2.0]), np.arange(2), min_frames=2, components=3)
    # The mean of the chi distribution with 3 degrees of freedom is 2 sqrt(2 / pi), its mean square 3.
    assert fit.parameters['scale'] * 2 * np.sqrt(2 / np.pi / 3) == pytest.approx(fit.curve.slope)
    assert likelihood_scale(np.zeros(3), np.ones(3)) is None and likelihood_scale(np.ones(3), np.zeros(3)) is None


@pytest.mark.parametrize('components', [1, 3, 6])
def test_likelihood_is_the_largest(components: int) -> None:
    """The scale against a numerical maximum of the likelihood of the residual vectors, and the truth."""
    rng = np.random.default_rng(components)
    d = rng.uniform(0.1, 1, 3000)
    residual = rng.normal(size=(3000, components)) * (2.5 * d / np.sqrt(components))[:, None]

    def negative(s: float) -> float:
        variance = (s * d) ** 2 / components
        return float(np.sum(0.5 * components * np.log(variance) + np.sum(residual**2, axis=1) / (2 * variance)))

    error = np.linalg.norm(residual, axis=1)
    best = minimize_scalar(negative, bounds=(0.1, 10), method='bounded', options={'xatol': 1e-9}).x
    fit = likelihood(d, error, np.arange(3000), components=components)
    assert fit.parameters['scale'] == pytest.approx(best, rel=1e-5)
    assert best == pytest.approx(2.5, rel=0.03)
    # Errors are on average as long as expected, and the intervals hold what they promise.
    assert np.mean(error / fit.expected_error(d)) == pytest.approx(1, abs=0.03)
    for level in (50, 68, 90, 95):
        assert fit.measures[f'coverage_{level}'] == pytest.approx(level / 100, abs=0.03)
    assert fit.measures['ece'] < 0.02 and fit.measures['miscalibration_area'] < 0.02 and fit.measures['ence'] < 0.1


def test_members_that_agree_where_they_err_are_not_trusted(noisy: Noisy) -> None:
    d, e, frame = noisy(100, 2.0)
    d[:10] = 0.0
    fit = likelihood(d, e, frame)
    assert not fit.trustworthy and fit.reason == 'the members agree exactly on 10% of the held-out errors'


def test_the_largest_error_of_a_frame_is_not_that_expected_of_an_atom() -> None:
    """A line fitted to atoms lies below the largest errors of frames; with frames as the unit it does not."""
    rng = np.random.default_rng(0)
    d = np.repeat(rng.uniform(0.05, 0.1, 200), 50) * rng.uniform(0.9, 1.1, 10000)
    e, frame = np.abs(rng.normal(size=10000)) * d, np.repeat(np.arange(200), 50)
    largest_d, largest_e = d.reshape(200, 50).max(axis=1), e.reshape(200, 50).max(axis=1)
    atoms, frames = linear(d, e, frame), linear(d, e, frame, unit='frame')
    assert np.mean(largest_e <= atoms.expected_error(largest_d)) < 0.01
    assert np.mean(largest_e <= frames.expected_error(largest_d)) > 0.5
    assert (
        frames.n == frames.n_frames == 200 and frames.fitted_slope == linear(largest_d, largest_e, np.arange(200)).slope
    )


def test_what_cannot_be_is_refused(noisy: Noisy) -> None:
    d, e, frame = noisy(20, 1.0)
    for arguments, words in [
        ((d, e[:-1], frame), 'one of each'),
        ((d, -e, frame), 'not be negative'),
        ((d[:, None], e[:, None], frame[:, None]), 'shape'),
    ]:
        with pytest.raises(ValueError, match=words):
            linear(*arguments)
    with pytest.raises(ValueError, match='components'):
        linear(d, e, frame, components=0)
    with pytest.raises(ValueError, match='expected one of atom, frame'):
        affine(d, e, frame, unit='molecule')
