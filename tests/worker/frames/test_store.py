import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiida_alpot.worker.frames import FrameStore, write_shard

texts = st.text(st.characters(exclude_categories=['Cs'], exclude_characters='\x00'), max_size=12)
FROZEN = Path(__file__).parent / 'frozen' / 'schema_1.h5'


@given(data=st.data())
def test_round_trip_to_the_last_bit(tmp_path_factory, make_frame, assert_same_frame, data):
    frames = [
        make_frame(
            seed,
            data.draw(st.integers(1, 9)),
            data.draw(st.booleans()),
            lineage=data.draw(texts),
            origin=data.draw(texts),
            pbc=data.draw(st.tuples(*[st.booleans()] * 3)),
            split=data.draw(st.sampled_from(['', 'train', 'validation', 'test'])),
            metadata=data.draw(
                st.dictionaries(texts, st.integers() | texts | st.floats(allow_nan=False, allow_infinity=False))
            ),
        )
        for seed in range(data.draw(st.integers(1, 6)))
    ]
    with FrameStore([write_shard(frames, tmp_path_factory.mktemp('store'))]) as store:
        assert len(store) == len(frames)
        for i, (frame, streamed) in enumerate(zip(frames, store, strict=True)):
            assert_same_frame(streamed, frame)
            assert_same_frame(store[i], frame)


def test_some_labels_only(tmp_path, make_frame, assert_same_frame):
    frames = [make_frame(0, forces=None), make_frame(1, stress=None), make_frame(2, labelled=False), make_frame(3)]
    with FrameStore([write_shard(frames, tmp_path)]) as store:
        for frame, back in zip(frames, store, strict=True):
            assert_same_frame(back, frame)
        assert store.column('has_energy').tolist() == [True, True, False, True]
        assert store.column('has_forces').tolist() == [False, True, False, True]
        assert store.column('has_stress').tolist() == [True, False, False, True]
        assert np.isnan(store.column('energy')).tolist() == [False, False, True, False]
        assert store.summary()['n_labelled'] == 2


@pytest.fixture
def shards(tmp_path, make_frame):
    frames = [make_frame(i, n_atoms=1 + i % 7, split='train' if i % 2 else '', labelled=i != 3) for i in range(25)]
    return frames, [
        write_shard(frames[:10], tmp_path),
        write_shard(frames[10:11], tmp_path),
        write_shard(frames[11:], tmp_path),
    ]


def test_shards_make_one_ordered_list(shards, assert_same_frame):
    frames, paths = shards
    with FrameStore(paths) as store:
        for i, frame in enumerate(frames):
            assert_same_frame(store[i], frame)
            assert_same_frame(store[i - len(frames)], frame)
        assert [x.lineage for x in store[8:13]] == [x.lineage for x in frames[8:13]]
        assert [x.lineage for x in store] == [x.lineage for x in frames]
        for index in (25, -26):
            with pytest.raises(IndexError):
                store[index]


def test_columns(shards):
    frames, paths = shards
    with FrameStore(paths) as store:
        for name in ('frame_id', 'lineage', 'origin', 'split', 'level_of_theory'):
            assert store.column(name).tolist() == [getattr(frame, name) for frame in frames]
        assert store.column('n_atoms').tolist() == [len(frame) for frame in frames]
        with pytest.raises(ValueError, match='no column'):
            store.column('charge')


def test_summary(shards):
    frames, paths = shards
    with FrameStore(paths) as store:
        assert store.summary() == {
            'n_frames': 25,
            'n_atoms': sum(map(len, frames)),
            'elements': ['C', 'Si', 'Ti'],
            'n_labelled': 24,
            'n_energy': 24,
            'n_forces': 24,
            'n_stress': 24,
            'origins': {'rattle': 25},
            'splits': {'train': 12},
            'levels_of_theory': {'pbe': 24},
            'schema_version': 1,
        }
        assert store.levels_of_theory() == ['pbe']


def test_file_objects_are_read(shards):
    _, paths = shards
    with open(paths[0], 'rb') as stream, FrameStore([stream, paths[1]]) as store, FrameStore(paths[:2]) as expected:
        assert [x.frame_id for x in store] == expected.column('frame_id').tolist()


def test_reading_takes_bounded_memory(tmp_path, make_frame):
    """The same frame 8000 times: 26 MB in the file, a few MB at a time in memory."""
    frame = make_frame(0, n_atoms=64)
    path = write_shard((frame for _ in range(8000)), tmp_path)
    assert path.stat().st_size > 2.5e7
    tracemalloc.start()
    with FrameStore([path]) as store:
        energy = sum(x.energy for x in store)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert energy == pytest.approx(8000 * frame.energy, rel=1e-9)
    assert peak < 1.2e7


def test_no_shards_and_a_single_path_are_refused(shards):
    with pytest.raises(ValueError, match='at least one shard'):
        FrameStore([])
    with pytest.raises(ValueError, match='put it into a list'):
        FrameStore(shards[1][0])


def test_frozen_file_of_schema_1_is_read():
    """A file written by the first version; never write it again."""
    with FrameStore([FROZEN]) as store:
        assert store.summary() == {
            'n_frames': 3,
            'n_atoms': 5,
            'elements': ['O', 'Si'],
            'n_labelled': 1,
            'n_energy': 2,
            'n_forces': 1,
            'n_stress': 1,
            'origins': {'input': 1, 'isolated_atom': 1, 'rattle': 1},
            'splits': {'train': 1, 'validation': 1},
            'levels_of_theory': {'pbe': 2},
            'schema_version': 1,
        }
        assert store.column('frame_id').tolist() == [frame.frame_id for frame in store]
        first, second, third = store
        assert first.forces.tolist() == [[0.5, 0.0, -0.5], [-0.5, 0.0, 0.5]]
        assert first.stress.tolist() == [[0.125, 0.0, 0.0], [0.0, 0.25, 0.0], [0.0, 0.0, 0.5]]
        assert first.metadata == {'note': 'Zürich', 'step': 3}
        assert second.energy == -100.25
        assert not second.pbc.any()
        assert third.energy is None
        assert third.pbc.tolist() == [True, True, False]
