"""A committee that remembers."""

from __future__ import annotations

import copy
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from aiida_alpot.worker.acquisition.deadline import Deadline, OutOfTime
from aiida_alpot.worker.acquisition.kept import KeptCommittee, Progress, Store
from aiida_alpot.worker.acquisition.signals import LastLayerRigidity
from aiida_alpot.worker.frames.frame import Frame
from aiida_alpot.worker.potentials.predictions import Predictions

FEATURES = {'activations': {}, 'activations_per_atom': {}}
ALL = (0, 1, 2)


@pytest.fixture
def frames(make_argon: Callable) -> list[Frame]:
    """Eight frames of different sizes, one of them isolated."""
    made = make_argon(8, 1)
    made[2] = made[2].replace(numbers=made[2].numbers[:1], positions=made[2].positions[:1], pbc=(False,) * 3)
    made[5] = made[5].replace(numbers=made[5].numbers[:3], positions=made[5].positions[:3])
    return made


@pytest.fixture
def make_kept(tmp_path: Path, make_counting: Callable) -> Callable[..., KeptCommittee]:
    """Factory of committees that start anew with the same folder."""

    def make(single: bool = False, **options: object) -> KeptCommittee:
        return KeptCommittee(make_counting(single=single), Store(tmp_path / 'kept'), **options)

    return make


def assert_same(found: Predictions, expected: Predictions) -> None:
    """To the last bit."""
    for name in ('energy', 'forces', 'stress', 'virial', 'atomic_energies', 'energy_uncertainty', 'offsets', 'numbers'):
        a, b = getattr(found, name), getattr(expected, name)
        assert a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind == 'f'), name
        assert a.flags.c_contiguous, name
    assert list(found.features) == list(expected.features)
    for name, rows in expected.features.items():
        assert found.features[name].dtype == rows.dtype and np.array_equal(found.features[name], rows), name


@pytest.mark.parametrize('features', [(), 'activations', FEATURES])
@pytest.mark.parametrize('single', [True, False])
def test_what_is_kept_is_what_was_said(
    make_kept: Callable, make_counting: Callable, frames: list[Frame], features: object, single: bool
) -> None:
    features = (features,) if isinstance(features, str) else features
    expected = make_counting(single=single).evaluate(frames, features=features)
    first, second = make_kept(single), make_kept(single)
    assert_same(first.evaluate(frames, features=features), expected)
    assert_same(first.evaluate(frames, features=features), expected)
    assert len(first.asked.calls) == 1
    second = make_kept(single)
    assert_same(second.evaluate(frames, features=features), expected)
    assert second.asked.calls == []


def test_forces_of_single_precision_take_half_the_room(make_kept: Callable, frames: list[Frame]) -> None:
    sizes = []
    for single in (True, False):
        kept = make_kept(single)
        kept.evaluate(frames)
        (path,) = kept.store.directory.iterdir()
        with np.load(path) as arrays:
            assert arrays['members-0-1-2/1/atoms/forces'].dtype == (np.float32 if single else np.float64)
        sizes.append(path.stat().st_size)
        path.unlink()
    assert sizes[0] < sizes[1]


def test_only_what_is_new_is_evaluated(make_kept: Callable, frames: list[Frame]) -> None:
    kept = make_kept()
    whole = kept.evaluate(frames[:5])
    found = kept.evaluate([frames[6], frames[1], frames[7], frames[4]])
    assert kept.asked.calls == [(5, ALL, ()), (2, ALL, ())]
    assert np.array_equal(found.energy[:, [1, 3]], whole.energy[:, [1, 4]])
    assert found.offsets.tolist() == [0, 4, 8, 12, 16]
    assert np.array_equal(found.forces[:, 4:8], whole.forces[:, whole.offsets[1] : whole.offsets[2]])
    fresh = make_kept().asked.evaluate([frames[6], frames[7]])
    assert np.array_equal(found.energy[:, [0, 2]], fresh.energy)
    assert np.array_equal(found.forces[:, 8:12], fresh.forces[:, 4:])


def test_the_same_frame_twice_in_one_call(make_kept: Callable, frames: list[Frame]) -> None:
    kept = make_kept()
    found = kept.evaluate([frames[0], frames[1], frames[0]])
    assert np.array_equal(found.energy[:, 0], found.energy[:, 2])
    again = kept.evaluate([frames[0], frames[1], frames[0]])
    assert_same(again, found)


def test_another_order_of_atoms_is_another_frame(make_kept: Callable, frames: list[Frame]) -> None:
    """Peers that go by a hash of the structure would give the forces of one atom to another."""
    turned = frames[0].replace(positions=frames[0].positions[::-1])
    assert turned.frame_id == frames[0].frame_id
    kept = make_kept()
    forces = kept.evaluate([frames[0]]).forces
    assert np.array_equal(kept.evaluate([turned]).forces, forces[:, ::-1]) and len(kept.asked.calls) == 2


def test_another_representation_takes_one_member(make_kept: Callable, make_counting: Callable, frames: list) -> None:
    """Another selector, which compares frames by what was not needed before."""
    kept = make_kept()
    kept.evaluate(frames)
    found = kept.evaluate(frames, features=FEATURES)
    assert kept.asked.calls == [(8, ALL, ()), (8, (0,), ('activations', 'activations_per_atom'))]
    assert_same(found, make_counting().evaluate(frames, features=FEATURES))
    assert_same(kept.evaluate(frames, features=FEATURES), found)
    assert len(kept.asked.calls) == 2


def test_a_representation_of_the_frame_alone_takes_no_model(make_kept: Callable, frames: list[Frame]) -> None:
    pytest.importorskip('rdkit')
    frames = [frame.replace(pbc=(False,) * 3) for frame in frames]
    kept = make_kept()
    kept.evaluate(frames)
    rows = kept.evaluate(frames, features=['morgan']).features['morgan']
    assert len(kept.asked.calls) == 1 and len(rows) == 8
    assert np.array_equal(make_kept().evaluate(frames, features=['morgan']).features['morgan'], rows)


def test_some_known_whole_some_in_part_some_not(
    make_kept: Callable, make_counting: Callable, frames: list[Frame]
) -> None:
    kept = make_kept()
    kept.evaluate(frames[:3], features=['activations'])
    kept.evaluate(frames[3:6])
    found = kept.evaluate(frames[::-1], features=['activations'])
    assert kept.asked.calls[2:] == [(2, ALL, ('activations',)), (3, (0,), ('activations',))]
    expected = make_counting(batch_size=1).evaluate(frames[::-1], features=['activations'])
    for name in ('energy', 'forces', 'atomic_energies'):
        assert np.allclose(getattr(found, name), getattr(expected, name), rtol=1e-13)
    assert np.allclose(found.features['activations'], expected.features['activations'], rtol=1e-6)


def test_members_and_options_are_told_apart(make_kept: Callable, frames: list[Frame]) -> None:
    kept = make_kept()
    one = kept.evaluate(frames, members=[1])
    both = kept.evaluate(frames, members=[1, 0], features=['activations'])
    assert len(one.energy) == 1 and np.array_equal(both.energy[0], one.energy[0]) and len(kept.asked.calls) == 2
    kept.evaluate(frames, members=[0, 1], features=['activations'])
    assert len(kept.asked.calls) == 3


def test_features_of_atoms_can_be_left_out(make_kept: Callable, frames: list[Frame]) -> None:
    kept = make_kept(per_atom=False)
    found = kept.evaluate(frames, features=FEATURES)
    again = make_kept(per_atom=False)
    assert_same(again.evaluate(frames, features=FEATURES), found)
    assert again.asked.calls == [(8, (0,), ('activations_per_atom',))]
    (path,) = kept.store.directory.iterdir()
    with np.load(path) as arrays:
        assert not any('per_atom' in name for name in arrays.files)


def test_a_damaged_file_is_evaluated_again(make_kept: Callable, frames: list[Frame], capsys: object) -> None:
    kept = make_kept()
    expected = kept.evaluate(frames)
    (path,) = kept.store.directory.iterdir()
    path.write_bytes(path.read_bytes()[:-100])
    again = make_kept()
    assert_same(again.evaluate(frames), expected)
    assert again.asked.calls == [(8, ALL, ())]
    assert 'alpot-evaluate: ' in (said := capsys.readouterr().err) and 'evaluated again' in said  # type: ignore[attr-defined]
    assert make_kept().evaluate(frames) and make_kept().asked.calls == []


def test_progress_is_written_after_each_call(make_kept: Callable, frames: list[Frame], tmp_path: Path) -> None:
    progress = Progress(tmp_path / 'progress.json')
    kept = make_kept(progress=progress)
    kept.evaluate(frames[:3])
    assert json.loads(progress.path.read_text()) == {'evaluated': 3, 'kept': 0}
    kept.evaluate(frames[:5])
    assert json.loads(progress.path.read_text()) == {'evaluated': 5, 'kept': 3}
    progress.write('walltime')
    assert json.loads(progress.path.read_text())['stopped'] == 'walltime'
    progress.done()
    progress.done()
    assert list(tmp_path.glob('*progress*')) == [] and list(tmp_path.glob('.*')) == []


def test_the_deadline_is_asked_only_where_something_is_evaluated(make_kept: Callable, frames: list[Frame]) -> None:
    now = [0.0]
    deadline = Deadline(10.0, lambda: now[0])
    kept = make_kept(deadline=deadline)
    with deadline.chunk():
        now[0] += 5.0
    make_kept().evaluate(frames[:4])
    now[0] += 4.0
    kept = make_kept(deadline=deadline)
    assert kept.evaluate(frames[:4]).energy.shape == (3, 4)
    with pytest.raises(OutOfTime):
        kept.evaluate(frames[4:])
    assert kept.asked.calls == []


def test_what_a_signal_came_into_is_kept_and_counted(make_kept: Callable, frames: list[Frame], tmp_path: Path) -> None:
    """Else a job that evaluates one chunk and is stopped would seem to have done nothing."""
    progress = Progress(tmp_path / 'progress.json')
    with Deadline() as deadline:
        kept = make_kept(deadline=deadline, progress=progress)
        kept.evaluate(frames[:2])
        whole = kept.asked._evaluate_batch

        def told(*arguments: object) -> Predictions:
            os.kill(os.getpid(), signal.SIGTERM)
            return whole(*arguments)

        kept.asked._evaluate_batch = told
        with pytest.raises(OutOfTime):
            kept.evaluate(frames[2:])
    assert json.loads(progress.path.read_text()) == {'evaluated': 8, 'kept': 0}
    again = make_kept()
    again.evaluate(frames)
    assert again.asked.calls == []


def test_one_frame_to_warm_up(make_kept: Callable, make_counting: Callable, frames: list[Frame]) -> None:
    kept = make_kept(warm_up=True)
    kept.evaluate(frames[:4])
    kept.evaluate(frames[4:])
    kept.evaluate(frames, features=['activations'])
    assert [n for n, _, _ in kept.asked.calls] == [1, 4, 4, 1, 8]
    assert kept.asked.calls[3:] == [(n, (0,), ('activations',)) for n in (1, 8)]
    assert_same(kept.evaluate(frames[:4]), make_counting().evaluate(frames[:4]))


def test_no_frames(make_kept: Callable) -> None:
    kept = make_kept()
    assert kept.evaluate([]).energy.shape == (3, 0) and not any(kept.store.directory.iterdir())


def test_it_is_a_committee_like_the_one_it_asks(make_kept: Callable) -> None:
    kept = make_kept()
    assert (kept.elements, kept.cutoff, kept.n_members) == (('Ar',), 7.0, 3)
    assert kept.possible_features() == ('activations', 'activations_per_atom')
    assert kept.states_uncertainty
    LastLayerRigidity().check(kept)
    with pytest.raises(AttributeError, match='no attribute'):
        kept.nonsense  # noqa: B018
    assert copy.copy(kept).n_members == 3


def test_refusals_come_through(make_kept: Callable, frames: list[Frame]) -> None:
    kept = make_kept()
    with pytest.raises(ValueError, match='contains Ne'):
        kept.evaluate([frames[0].replace(numbers=np.full(4, 10))])
    with pytest.raises(ValueError, match='cannot give the features ntk'):
        kept.evaluate(frames, features=['ntk'])
    with pytest.raises(IndexError, match='member 3'):
        kept.evaluate(frames, members=[3])
    assert not any(kept.store.directory.iterdir())
