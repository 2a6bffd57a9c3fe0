"""Split conformal calibration: the quantile by hand, and its guarantee by simulation."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from aiida_alpot.worker.acquisition.calibration import conformal
from aiida_alpot.worker.acquisition.calibration.pairs import finite_pairs
from aiida_alpot.worker.acquisition.calibration.split_conformal import (
    conformal_bound,
    conformal_quantile,
    frames_needed,
    grouped_quantile,
)

MakeFrames = Callable[..., tuple[np.ndarray, np.ndarray, np.ndarray]]
DRAWS = 3000


def test_quantile_by_hand() -> None:
    # Of nine scores the tenth of ten is not there, the ninth bounds 90 %.
    scores = np.arange(9.0, 0.0, -1)
    assert conformal_quantile(scores, 0.1) == 9.0
    assert conformal_quantile(scores, 0.05) == math.inf
    assert conformal_quantile(scores, 0.5) == 5.0
    assert conformal_quantile(np.append(scores, math.inf), 0.1) == math.inf
    assert conformal_quantile(np.zeros(0), 0.1) == math.inf
    assert [frames_needed(alpha) for alpha in (0.5, 0.3, 0.1, 0.05, 0.01)] == [1, 3, 9, 19, 99]
    assert all(math.isfinite(conformal_quantile(np.ones(frames_needed(a)), a)) for a in (0.5, 0.3, 0.1, 0.05, 0.01))
    assert not any(math.isfinite(conformal_quantile(np.ones(frames_needed(a) - 1), a)) for a in (0.5, 0.1, 0.05, 0.01))


def test_grouped_quantile_by_hand() -> None:
    # Three frames: a share of 1/4 each and of the new one. Of one atom, of two, of four.
    scores = np.array([3.0, 1.0, 5.0, 2.0, 2.5, 4.0, 9.0])
    frame = np.array([0, 1, 1, 2, 2, 2, 2])
    # Sorted: 1 (1/8), 2 (3/16), 2.5 (1/4), 3 (1/2), 4 (9/16), 5 (11/16), 9 (3/4).
    for alpha, expected in [(0.875, 1.0), (0.75, 2.5), (0.5, 3.0), (0.45, 4.0), (0.25, 9.0), (0.24, math.inf)]:
        assert grouped_quantile(scores, frame, alpha) == expected, alpha
    rng = np.random.default_rng(0)
    alone = rng.random(30)
    assert grouped_quantile(alone, np.arange(30), 0.1) == conformal_quantile(alone, 0.1), 'one atom a frame'


def test_bounds_by_hand() -> None:
    d, e = np.array([1.0, 2.0, 1.0, 4.0]), np.array([3.0, 2.0, 1.0, 2.0])
    pairs = finite_pairs(d, e, np.array([0, 0, 1, 1]))
    # Ratios 3 and 1 in the first frame, 1 and 0.5 in the second.
    assert conformal_bound(pairs, 0.4, 'all_atoms') == 3.0
    assert conformal_bound(pairs.frame_maxima(), 0.4, 'frame') == 1.5
    fit = conformal(d, e, np.array([0, 0, 1, 1]), alpha=0.4)
    assert fit.n == 2 and fit.parameters['quantile'] == 1.5
    assert conformal(d, e, np.array([0, 0, 1, 1]), alpha=0.4, unit='all_atoms').parameters['quantile'] == 3.0


@pytest.mark.parametrize('unit', ['frame', 'atom', 'all_atoms'])
@pytest.mark.parametrize('n', [9, 25])
def test_guarantee(unit: str, n: int, make_frames: MakeFrames) -> None:
    """Over draws of n frames and a new one, the bound is kept as often as promised; for frames hardly more often."""
    rng = np.random.default_rng(n)
    kept = np.zeros(DRAWS)
    for i in range(DRAWS):
        d, e, frame = make_frames(rng, n + 1)
        old = frame < n
        pairs = finite_pairs(d[old], e[old], frame[old])
        q = conformal_bound(pairs.frame_maxima() if unit == 'frame' else pairs, 0.1, unit)
        new_d, new_e = d[~old], e[~old]
        kept[i] = {
            'frame': new_e.max() <= q * new_d.max(),
            'all_atoms': (new_e <= q * new_d).all(),
            'atom': (new_e <= q * new_d).mean(),
        }[unit]
    noise = 3 * np.std(kept) / math.sqrt(DRAWS)
    assert kept.mean() >= 0.9 - noise
    if unit != 'atom':
        assert kept.mean() <= 0.9 + 1 / (n + 1) + noise


def test_pooled_atoms_would_not_keep_it(make_frames: MakeFrames) -> None:
    """What the guarantee is not: the quantile of all atoms, as if they were exchangeable, falls short for frames."""
    rng = np.random.default_rng(1)
    kept = []
    for _ in range(600):
        d, e, frame = make_frames(rng, 26)
        old = frame < 25
        q = conformal_quantile(e[old] / d[old], 0.1)
        kept.append((e[~old] <= q * d[~old]).all())
    assert np.mean(kept) < 0.85


def test_too_few_frames_for_the_level(make_frames: MakeFrames) -> None:
    d, e, frame = make_frames(np.random.default_rng(0), 15)
    fit = conformal(d, e, frame, alpha=0.05)
    assert not fit.trustworthy and fit.reason == '15 held-out frames, at least 19 are needed'
    assert fit.parameters['quantile'] is None
    # The largest ratio that was seen, or the safer line.
    pairs = finite_pairs(d, e, frame).frame_maxima()
    assert fit.slope is not None and fit.slope >= np.max(pairs.error / pairs.deviation)


def test_an_error_without_deviation_has_no_bound() -> None:
    rng = np.random.default_rng(0)
    d, e = rng.uniform(0.1, 1, 50), rng.uniform(0.1, 1, 50)
    e, d[:20] = e * d, 0.0
    fit = conformal(d, e, np.arange(50), alpha=0.1)
    assert not fit.trustworthy and fit.parameters['quantile'] is None
    assert np.isfinite(fit.expected_error(np.ones(1))).all()


def test_covers_what_it_says_on_held_out_frames(make_frames: MakeFrames) -> None:
    d, e, frame = make_frames(np.random.default_rng(3), 400)
    for unit, measure in (('frame', 'coverage'), ('atom', 'coverage_in_frames'), ('all_atoms', 'coverage_frames')):
        fit = conformal(d, e, frame, unit=unit, components=3)
        assert fit.trustworthy and fit.measures[measure] == pytest.approx(0.9, abs=0.03), unit


@pytest.mark.parametrize('options', [{'alpha': 0.0}, {'alpha': 1.0}, {'alpha': 1.5}, {'unit': 'molecule'}])
def test_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match='expected'):
        conformal(np.ones(3), np.ones(3), np.arange(3), **options)
