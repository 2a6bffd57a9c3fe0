"""A committee on a pool."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from aiida_alpot.worker.acquisition.calibration import Calibration, linear
from aiida_alpot.worker.acquisition.gate import Gate, GateSettings
from aiida_alpot.worker.acquisition.pool import PoolScores, Scorer, Selection, score_pool, select
from aiida_alpot.worker.acquisition.selectors import Tolerance, choose, top_k
from aiida_alpot.worker.acquisition.signals import deviations
from aiida_alpot.worker.frames.frame import Frame


def score(frames: list[Frame], committee: object, gate: Gate) -> PoolScores:
    ids = np.array([frame.frame_id for frame in frames])
    return score_pool(frames, ids, Scorer(committee, deviations, gate))  # type: ignore[arg-type]


def selected(scores: PoolScores, fit: Calibration, tolerance: Tolerance, gate: Gate) -> Selection:
    calibrations = {'forces': fit, 'energy': fit}
    return select(scores, calibrations, gate, tolerance, lambda passed: choose(passed, tolerance, top_k, 3, 0))


def test_scores_and_rejections(make_argon: Callable, make_committee: Callable) -> None:
    frames = make_argon(8, 3)
    squeezed = frames[0].replace(cell=frames[0].cell * 0.3, positions=frames[0].positions * 0.3)
    foreign = frames[0].replace(numbers=np.full(4, 10))
    pool = [frames[0], frames[1], squeezed, frames[0], *frames[2:], foreign]
    spoilt = frames[4].frame_id
    gate = Gate(GateSettings(), known=[frames[1].frame_id], elements=('Ar',))
    found = score(pool, make_committee(lambda frame: frame.frame_id == spoilt), gate)
    reasons = {rejection.index: rejection.reason for rejection in found.rejected}
    assert list(reasons) == [1, 2, 3, 6, 10]
    assert reasons[1] == 'already labelled: in the data set' and 'Ar-Ar distance' in reasons[2]
    assert reasons[3] == 'duplicate of frame 0 of the pool' and 'not finite' in reasons[6]
    assert reasons[10] == 'the committee does not know Ne'
    passed = [i for i in range(11) if i not in reasons]
    for name in ('energy_deviation', 'max_force_deviation', 'mean_force_deviation', 'stress_deviation'):
        assert np.flatnonzero(np.isfinite(getattr(found, name))).tolist() == passed
    single = deviations(make_committee().evaluate([frames[7]]))
    assert found.max_force_deviation[9] == pytest.approx(single.max_force[0], rel=1e-12)
    assert found.energy_deviation[9] == pytest.approx(single.energy[0], rel=1e-12)


def test_absurd_forces_are_refused(make_argon: Callable, make_committee: Callable) -> None:
    frames = make_argon(6, 3)
    forces = [np.linalg.norm(make_committee().evaluate([f]).forces.mean(axis=0), axis=1).max() for f in frames]
    bound = float(np.median(forces))
    found = score(frames, make_committee(), Gate(GateSettings(max_force=bound)))
    assert [r.index for r in found.rejected] == [i for i, force in enumerate(forces) if force > bound]
    assert all('predicted force of' in r.reason for r in found.rejected)


def test_expected_errors_and_their_bound(make_argon: Callable, make_committee: Callable) -> None:
    frames = make_argon(12, 3)
    fit = linear(np.arange(1.0, 21), 4 * np.arange(1.0, 21), np.arange(20))
    plain = score(frames, make_committee(), Gate(GateSettings()))
    expected = 4 * plain.max_force_deviation
    low, high = np.quantile(expected, [0.3, 0.8])
    gate = Gate(GateSettings(max_expected_force_error=float(high)))
    selection = selected(plain, fit, Tolerance(float(low)), gate)
    assert selection.expected_force_error == pytest.approx(expected, rel=1e-12)
    assert [r.index for r in selection.rejected] == np.flatnonzero(expected > high).tolist()
    between = [i for i in np.argsort(-expected) if low < expected[i] <= high]
    assert [pick.index for pick in selection.picks] == between[:3] and selection.n_above == len(between)


def test_an_empty_pool_and_one_that_is_refused_whole(make_argon: Callable, make_committee: Callable) -> None:
    fit = linear(np.zeros(0), np.zeros(0), np.zeros(0))
    for frames in ([], make_argon(3, 1)):
        gate = Gate(GateSettings(), elements=('Si',))
        found = score(frames, make_committee(), gate)
        selection = selected(found, fit, Tolerance(1e-9), gate)
        assert selection.picks == [] and selection.n_above == 0 and len(selection.rejected) == len(frames)
