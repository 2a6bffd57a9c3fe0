import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from ase.data import chemical_symbols
from hypothesis import given
from hypothesis import strategies as st

from aiida_alpot.worker.frames import SCHEMA_VERSION, FrameStore, write_shard

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
    systems = Counter('-'.join(sorted(set(frame.to_atoms().symbols))) for frame in frames)
    with FrameStore(paths) as store:
        assert store.summary() == {
            'n_frames': 25,
            'n_atoms': sum(map(len, frames)),
            'elements': ['C', 'Si', 'Ti'],
            'chemical_systems': dict(sorted(systems.items())),
            'n_labelled': 24,
            'n_energy': 24,
            'n_forces': 24,
            'n_stress': 24,
            'n_charges': 0,
            'n_magmoms': 0,
            'n_dipole': 0,
            'arrays': [],
            'origins': {'rattle': 25},
            'splits': {'train': 12},
            'levels_of_theory': {'pbe': 24},
            'schema_version': SCHEMA_VERSION,
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


@pytest.mark.parametrize('number', [1, 2, 63, 64, 65, 118])
def test_any_element_is_counted(tmp_path, make_frame, number):
    frame = make_frame(0, n_atoms=3).replace(numbers=[number, 1, 118])
    with FrameStore([write_shard([frame], tmp_path)]) as store:
        assert store.elements() == [chemical_symbols[z] for z in sorted({number, 1, 118})]
        assert sum(store.chemical_systems().values()) == 1


def test_duplicates_are_found_whatever_their_order_of_atoms(tmp_path, make_frame):
    frames = [make_frame(i, n_atoms=5) for i in range(4)]
    order = [3, 1, 4, 0, 2]
    twin = frames[1].replace(
        numbers=frames[1].numbers[order], positions=frames[1].positions[order], forces=frames[1].forces[order]
    )
    paths = [write_shard(frames, tmp_path), write_shard([twin, make_frame(9), frames[3]], tmp_path)]
    with FrameStore(paths) as store, FrameStore(paths[1:]) as other:
        assert [group.tolist() for group in store.duplicates()] == [[1, 4], [3, 6]]
        assert other.duplicates() == []
        assert store.contains(other.digests()).all()
        assert other.contains(store.digests()).tolist() == [False, True, False, True, True, True, True]


def test_metadata_of_all_frames_by_key(tmp_path, make_frame):
    frames = [make_frame(i, metadata={'step': i, 'note': 'ü'} if i % 2 else {}) for i in range(4)]
    with FrameStore([write_shard(frames[:3], tmp_path), write_shard(frames[3:], tmp_path)]) as store:
        assert store.metadata('step') == [None, 1, None, 3]
        assert store.metadata('note', default='') == ['', 'ü', '', 'ü']
        texts, codes = store.categories('lineage')
        assert [texts[code] for code in codes] == [frame.lineage for frame in frames]
        assert store.column('lineage', 1, 3).tolist() == ['lineage-1', 'lineage-2']


def test_frozen_file_of_schema_2_is_read():
    """A file written by the second version; never write it again."""
    with FrameStore([FROZEN.with_name('schema_2.h5')]) as store:
        assert store.summary() | {'n_frames': 3, 'n_charges': 1, 'n_magmoms': 1, 'n_dipole': 1} == store.summary()
        assert store.summary()['arrays'] == ['layer', 'move', 'tensor']
        assert store.column('frame_id').tolist() == [frame.frame_id for frame in store]
        first, second, third = store
        assert first.charges.tolist() == [0.5, -0.5]
        assert first.dipole.tolist() == [0.25, 0.0, -0.25]
        assert first.arrays['layer'].tolist() == [1, 2]
        assert first.arrays['move'].tolist() == [True, False]
        assert second.arrays == {}
        assert second.magmoms.tolist() == [2.0]
        assert second.level_of_theory == 'pw-0123456789abcdef[Fe:0123456789ab,+isolated]'
        assert third.arrays['tensor'].tolist() == [[[1.0, 2.0], [3.0, 4.0]]] * 2
        assert third.forces is None
        assert third.metadata == {'note': 'Zürich', 'step': 3}


def test_frozen_file_of_schema_1_is_read():
    """A file written by the first version; never write it again."""
    with FrameStore([FROZEN]) as store:
        assert store.summary() == {
            'n_frames': 3,
            'n_atoms': 5,
            'elements': ['O', 'Si'],
            'chemical_systems': {'O-Si': 2, 'Si': 1},
            'n_labelled': 1,
            'n_energy': 2,
            'n_forces': 1,
            'n_stress': 1,
            'n_charges': 0,
            'n_magmoms': 0,
            'n_dipole': 0,
            'arrays': [],
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
