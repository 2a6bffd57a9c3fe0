"""Journals, streams and the watch over candidates."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

from aiida_alpot.worker.explorers import Limits, Uncertainty, Watch
from aiida_alpot.worker.explorers.base import EndedError
from aiida_alpot.worker.explorers.journal import Journal, key_of
from aiida_alpot.worker.explorers.stream import FrameStream
from aiida_alpot.worker.frames.frame import Frame
from aiida_alpot.worker.potentials.ase import ASECommittee

from .conftest import bipyramid, read


def frames(n: int) -> list[Frame]:
    return [
        Frame(np.array([18]), np.array([[0.1 * i, 0, 0]]), np.zeros((3, 3)), np.zeros(3, bool), lineage=f'l{i % 2}')
        for i in range(n)
    ]


def test_journal_gives_back_each_bit(tmp_path: Path) -> None:
    arrays = [np.array([np.nan, -0.0, 1 / 3]), np.zeros(0), np.random.default_rng(0).normal(size=100)]
    keys = [key_of('a', [np.array([i])]) for i in range(3)]
    journal = Journal(tmp_path / 'j')
    journal.put(zip(keys[:2], arrays[:2], strict=True))
    journal.put([(keys[2], arrays[2])])
    assert journal.get(keys[0]) is None, 'only what an earlier start recorded is given'
    journal.close()
    again = Journal(tmp_path / 'j')
    assert again.n_recorded == 3
    for key, array in zip(keys, arrays, strict=True):
        assert again.get(key).tobytes() == array.tobytes()  # type: ignore[union-attr]
    again.close(delete=True)
    assert not (tmp_path / 'j').exists()


@pytest.mark.parametrize('damage', ['cut', 'flipped', 'head'])
def test_journal_survives_a_kill(tmp_path: Path, damage: str) -> None:
    """What is not complete at the end is cut off, and can be written anew."""
    path = tmp_path / 'j'
    keys = [key_of('a', [np.array([i])]) for i in range(3)]
    journal = Journal(path)
    journal.put((key, np.full(10, float(i))) for i, key in enumerate(keys))
    journal.close()
    content = path.read_bytes()
    size = len(content) // 3
    if damage == 'flipped':
        content = content[:-1] + bytes([content[-1] ^ 1])
    else:
        content = content[: 2 * size + (40 if damage == 'cut' else 10)]
    path.write_bytes(content)
    again = Journal(path)
    assert again.n_recorded == 2 and again.get(keys[2]) is None
    again.put([(keys[2], np.full(10, 2.0))])
    again.close()
    last = Journal(path)
    assert last.n_recorded == 3 and (last.get(keys[2]) == 2.0).all()  # type: ignore[union-attr]


def test_keys_depend_on_everything() -> None:
    a = np.arange(4.0)
    keys = {key_of('x', [a]), key_of('y', [a]), key_of('x', [a.reshape(2, 2)]), key_of('x', [a, a]), key_of('x', [-a])}
    assert len(keys) == 5


def test_stream_cuts_do_not_show(tmp_path: Path) -> None:
    """However the pieces were cut, by number or by time, the shard at the end is the same."""
    clock = [0.0]
    names = set()
    for label, options in (
        ('whole', {}),
        ('pieces', {'max_frames': 3}),
        ('time', {'max_seconds': 2.0, 'clock': lambda: clock.__setitem__(0, clock[0] + 1) or clock[0]}),
    ):
        stream = FrameStream(tmp_path / label, **options)
        (tmp_path / label).mkdir(exist_ok=True)
        for i, frame in enumerate(frames(11)):
            stream.add(frame)
            on_disk = len(list((tmp_path / label / 'frames').glob('*.h5')))
            assert on_disk == (0 if label == 'whole' else (i + 1) // 3 if label == 'pieces' else on_disk)
        assert label != 'time' or on_disk > 2
        shards = stream.finish()
        assert len(shards) == 1 and len(list((tmp_path / label / 'frames').iterdir())) == 1
        names.add(shards[0])
        assert [frame.frame_id for frame in read(tmp_path / label, shards)] == [f.frame_id for f in frames(11)]
    assert len(names) == 1


def test_stream_goes_on(tmp_path: Path) -> None:
    """Written frames are not written again; provisional ones, and pieces that are not listed, are."""
    stream = FrameStream(tmp_path, max_frames=4)
    for frame in frames(6):
        stream.add(frame)
    shards = stream.pause(provisional=frames(8)[6:])
    assert stream.n_frames == 8 and len(read(tmp_path, shards)) == 8
    again = FrameStream(tmp_path, max_frames=4)
    for frame in frames(11):
        again.add(frame)
    whole = FrameStream(tmp_path / 'other')
    (tmp_path / 'other').mkdir()
    for frame in frames(11):
        whole.add(frame)
    assert again.finish() == whole.finish() and again.n_frames == 11


def test_empty_stream(tmp_path: Path) -> None:
    assert FrameStream(tmp_path).finish() == [] == FrameStream(tmp_path).pause()


def test_candidates_are_evaluated_in_batches(watch, reduced_lj) -> None:
    """One pass of all members for each batch; copies are left out."""
    calls = []
    evaluate = reduced_lj.evaluate

    def note(frames, members=None, features=()):
        calls.append((len(frames), members))
        return evaluate(frames, members, features)

    reduced_lj.evaluate = note
    keeper = watch(reduced_lj, batch_size=3)
    atoms = keeper.atoms(bipyramid())
    for i in range(7):
        atoms.positions[0, 0] += 0.01
        keeper.keep(atoms, 'test', number=i)
        keeper.keep(atoms, 'copy')
    assert calls == [(3, None), (3, None)]
    keeper.assess()
    assert calls[2:] == [(1, None)] and [f.metadata['number'] for f in keeper.frames()] == list(range(7))


def test_facts_without_a_json_form_are_refused_at_once(watch, reduced_lj) -> None:
    keeper = watch(reduced_lj)
    with pytest.raises(ValueError, match='JSON'):
        keeper.keep(keeper.atoms(bipyramid()), 'test', what=object())


def test_single_member_has_no_deviations(watch) -> None:
    from .conftest import ReducedLennardJones

    keeper = watch(ASECommittee([ReducedLennardJones()], ['Ar'], 9.0))
    keeper.keep(keeper.atoms(bipyramid()), 'test')
    keeper.assess()
    metadata = keeper.frames()[0].metadata
    assert 'potential_energy' in metadata and 'expected_force_error' not in metadata
    assert 'max_force_deviation' not in metadata


def test_states_that_are_not_finite(watch, reduced_lj) -> None:
    keeper = watch(reduced_lj)
    atoms = keeper.atoms(bipyramid())
    atoms.positions[0] = np.nan
    with pytest.raises(EndedError) as error:
        atoms.get_forces()
    assert error.value.status == 'not_finite'
    flat = keeper.atoms(bipyramid())
    flat.set_pbc(True)
    with pytest.raises(EndedError, match='none any more') as error:
        flat.get_forces()
    assert error.value.status == 'exploded'


def test_limits() -> None:
    forces = np.array([[3.0, 4.0, 0.0]])
    Limits(max_force=5.0).check(-1.0, forces, 0.0)
    for limits, energy, first, status in (
        (Limits(max_force=4.9), 0.0, None, 'exploded'),
        (Limits(max_energy_drop=2.0), -1.5, 1.0, 'energy_drop'),
        (Limits(None, None), np.inf, None, 'not_finite'),
    ):
        with pytest.raises(EndedError) as error:
            limits.check(energy, forces, first)
        assert error.value.status == status
    Limits(None, None).check(-1e9, 1e9 * forces, 0.0)
    with pytest.raises(ValueError, match='max_force'):
        Limits(max_force=-1.0)


def test_bounds_begin_anew_with_each_path(watch, reduced_lj) -> None:
    keeper = watch(reduced_lj, limits=Limits(None, 0.5))
    far = Atoms('Ar7', 10 * bipyramid().positions)
    far.calc = keeper.calculator
    far.get_potential_energy()
    keeper.path('second')
    keeper.atoms(bipyramid()).get_potential_energy()
    keeper.path()
    far.rattle(0.1)
    far.get_potential_energy()
    with pytest.raises(EndedError, match='the energy fell'):
        keeper.atoms(bipyramid()).get_potential_energy()


def test_member_that_predicts_nan_is_junk(watch, reduced_lj) -> None:
    keeper: Watch = watch(reduced_lj, uncertainty=Uncertainty(0.1))
    evaluate = reduced_lj.evaluate

    def broken(frames, members=None, features=()):
        found = evaluate(frames, members, features)
        found.forces[1:] = np.nan
        return found

    reduced_lj.evaluate = broken
    keeper.keep(keeper.atoms(bipyramid()), 'test')
    with pytest.raises(EndedError, match='not finite'):
        keeper.assess()
    assert keeper.n_junk == 1
