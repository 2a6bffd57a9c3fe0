"""A committee on a pool."""

from __future__ import annotations

import gc
import tracemalloc
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from aiida_alpot.worker.acquisition.calibration import Calibration, linear
from aiida_alpot.worker.acquisition.gate import Gate, GateSettings
from aiida_alpot.worker.acquisition.kept import KeptCommittee, KeptSignal, Store
from aiida_alpot.worker.acquisition.labelled import CHUNK_FRAMES
from aiida_alpot.worker.acquisition.pool import PoolScores, Scorer, Selection, first_places, score_pool, select
from aiida_alpot.worker.acquisition.selectors import Tolerance, choose, top_k
from aiida_alpot.worker.acquisition.signals import deviations
from aiida_alpot.worker.frames.frame import Frame
from aiida_alpot.worker.potentials.committee import Committee
from aiida_alpot.worker.potentials.predictions import Predictions


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


@pytest.mark.parametrize('kind', ['U64', 'S64'])
def test_the_first_of_equal_texts(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('aiida_alpot.worker.acquisition.pool.BLOCK', 7)
    texts = np.random.default_rng(0).integers(0, 40, size=100).astype(kind)
    listed = texts.tolist()
    assert first_places(texts).tolist() == [listed.index(text) for text in listed]
    assert first_places(texts[:0]).tolist() == [] and first_places(texts[:1]).tolist() == [0]


class Cheap(Committee):
    """Predictions that cost nothing, so that what is left is the way to and from them."""

    def __init__(self) -> None:
        super().__init__(['Ar'], 6.0, 4)

    def evaluate(self, frames, members=None, features=()):  # type: ignore[no-untyped-def]
        offsets = np.concatenate([[0], np.cumsum([len(frame) for frame in frames])])
        n, n_atoms = len(frames), int(offsets[-1])
        rng = np.random.default_rng(n)
        return Predictions(
            rng.normal(size=(4, n)), rng.normal(size=(4, n_atoms, 3)), rng.normal(size=(4, n, 3, 3)), offsets
        )

    def _evaluate_batch(self, *_):  # type: ignore[no-untyped-def]
        raise NotImplementedError


def growth(n: int, scorer: Scorer) -> tuple[float, int]:
    """Bytes that scoring n frames takes at its peak, and the largest number of frames that lived at once."""
    alive: weakref.WeakSet[Frame] = weakref.WeakSet()
    most = [0]
    positions = np.arange(12.0).reshape(4, 3)

    def frames() -> Iterator[Frame]:
        for i in range(n):
            frame = Frame([18] * 4, positions + i * 1e-3 * positions**2, np.eye(3) * 20.0, (True,) * 3, origin='md')
            alive.add(frame)
            most[0] = max(most[0], len(alive))
            yield frame

    ids = np.array([f'{i:064x}' for i in range(n)], dtype='S64')
    gc.collect()
    tracemalloc.start()
    scores = score_pool(frames(), ids, scorer)
    selected(scores, linear(np.arange(1.0, 21), np.arange(1.0, 21), np.arange(20)), Tolerance(1e9), scorer.gate)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak, most[0]


@pytest.mark.parametrize('keep', [True, False])
def test_memory_does_not_follow_the_structures(tmp_path: Path, keep: bool) -> None:
    """What stays of a frame are some numbers; of structures and predictions only one chunk is there at a time."""
    store = Store(tmp_path)
    committee = KeptCommittee(Cheap(), store) if keep else Cheap()

    def scorer() -> Scorer:
        return Scorer(committee, deviations, Gate(GateSettings(min_distance=0.0, max_force=1e9)))

    (small, few), (large, many) = growth(2 * CHUNK_FRAMES, scorer()), growth(6 * CHUNK_FRAMES, scorer())
    assert few <= 2 * CHUNK_FRAMES + 2 and many <= 2 * CHUNK_FRAMES + 2
    of_a_frame = (large - small) / (4 * CHUNK_FRAMES)
    predictions_of_a_frame = 4 * 8 * (1 + 3 * 4 + 9)
    assert of_a_frame < 350 < predictions_of_a_frame
    assert store.count('members-0-1-2-3') == (6 * CHUNK_FRAMES if keep else 0)


def test_a_signal_of_features_of_atoms_is_kept_in_their_place(
    make_argon: Callable, make_committee: Callable, tmp_path: Path
) -> None:
    """Frames whose signal is known are not asked for the features that it is made of, and the scores are the same."""
    frames = make_argon(10, 3)
    asked: list[tuple[int, tuple[str, ...]]] = []

    class Asked(KeptCommittee):
        def evaluate(self, frames, members=None, features=()):  # type: ignore[no-untyped-def]
            asked.append((len(frames), tuple(features)))
            return super().evaluate(frames, members)

    def score_some(some: list[Frame], signal: Callable = deviations) -> PoolScores:
        store = Store(tmp_path)
        committee = Asked(make_committee(), store, per_atom=False)
        kept = KeptSignal(store, 'signal', {}, 'fitted to this')
        ids = np.array([frame.frame_id for frame in some])
        features: dict[str, dict] = {'activations_per_atom': {}, 'activations': {}}
        return score_pool(some, ids, Scorer(committee, signal, Gate(GateSettings()), features, kept=kept))

    def never(_: Predictions) -> None:
        raise AssertionError('all is known')

    whole = score_some(frames[:6])
    again = score_some(frames[:6], never)
    mixed = score_some([frames[7], *frames[2:5], frames[8]])
    assert asked[0] == (6, ('activations_per_atom', 'activations')) and asked[1] == (6, ('activations',))
    assert asked[2:] == [(3, ('activations',)), (2, ('activations_per_atom', 'activations'))]
    for name in ('energy_deviation', 'max_force_deviation', 'mean_force_deviation', 'stress_deviation'):
        assert np.array_equal(getattr(again, name), getattr(whole, name)), name
        assert np.array_equal(getattr(mixed, name)[1:4], getattr(whole, name)[2:5]), name
        assert np.isfinite(getattr(mixed, name)).all(), name
