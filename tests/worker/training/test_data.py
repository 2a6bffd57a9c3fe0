"""What is written for the trainers: splits as they are, test frames never."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from aiida_alpot.worker.frames import Frame, FrameStore, assign_splits, read_extxyz, write_shard
from aiida_alpot.worker.training.data import TrainingFrames, write_replay, write_training_data

PROPERTIES = ('energy', 'forces', 'stress')


class Guarded(FrameStore):
    """A store whose test frames cannot be read."""

    def select(self, indices) -> Iterator[Frame]:
        splits = self.column('split')
        for index in indices:
            assert splits[index] != 'test', 'a test frame was read'
            yield super().__getitem__(index)

    def __getitem__(self, index):
        raise AssertionError('frames are read by `select`')

    __iter__ = atoms = iter_atoms = __getitem__


def write(frames: list[Frame], tmp_path: Path, properties=PROPERTIES, name: str = 'data'):
    with Guarded([write_shard(frames, tmp_path)]) as store:
        return write_training_data(store, tmp_path / name, properties)


def test_splits_are_those_of_the_store(frames, tmp_path: Path) -> None:
    """Each frame in the file of its split, with all labels to the last bit; isolated atoms in none."""
    data = write(frames, tmp_path)
    for split, path, n in (('train', data.train, data.n_train), ('validation', data.validation, data.n_validation)):
        written = list(read_extxyz(path))
        expected = [frame for frame in frames if frame.split == split and len(frame) > 1]
        assert len(written) == n == len(expected)
        for found, frame in zip(written, expected, strict=True):
            assert found.frame_id == frame.frame_id and found.energy == frame.energy and found.split == split
            assert np.array_equal(found.forces, frame.forces) and np.array_equal(found.stress, frame.stress)
    text = data.train.read_text()
    assert 'REF_energy=' in text and ':REF_forces:' in text and 'REF_stress=' in text and 'IsolatedAtom' not in text
    assert data.elements == ('Cu', 'Au') and data.n_labelled == {'energy': 12, 'forces': 12, 'stress': 12}


def test_no_lineage_of_a_test_frame_is_written(make_frame, tmp_path: Path) -> None:
    """Trajectories of ten frames each: none is in a file and in the test set."""
    lineages = [f'run-{i // 10}' for i in range(80)]
    splits = assign_splits(lineages, {'train': 0.6, 'validation': 0.2, 'test': 0.2}, seed=3)
    frames = [make_frame(i, lineage=lineage, split=splits[lineage]) for i, lineage in enumerate(lineages)]
    data = write(frames, tmp_path)
    written = {path: {frame.lineage for frame in read_extxyz(path)} for path in (data.train, data.validation)}
    tested = {lineage for lineage, split in splits.items() if split == 'test'}
    assert tested and not tested & set().union(*written.values())
    assert not written[data.train] & written[data.validation]
    assert not any(f'"{lineage}\\"' in path.read_text() for path in written for lineage in tested)


def test_a_lineage_that_is_tested_and_trained_on_is_refused(frames, tmp_path: Path) -> None:
    shared = [frame.replace(lineage='both') if i in (0, 17) else frame for i, frame in enumerate(frames)]
    assert {shared[0].split, shared[17].split} == {'train', 'test'}
    with pytest.raises(ValueError, match=r"lineage 'both' are both in split `test`"):
        write(shared, tmp_path)


def test_the_test_split_cannot_be_asked_for(frames, tmp_path: Path) -> None:
    with FrameStore([write_shard(frames, tmp_path)]) as store:
        reader = TrainingFrames(store, PROPERTIES)
        assert len(reader) == 16 and len(reader.rows('train')) == 12
        for split in ('test', ''):
            with pytest.raises(ValueError, match='train and validation only'):
                next(reader.frames(split))


def test_an_isolated_atom_of_the_test_split_is_not_used(frames, tmp_path: Path) -> None:
    hidden = [frame.replace(split='test') if frame.formula == 'Au' else frame for frame in frames]
    data = write(hidden, tmp_path)
    assert data.reference_source == 'least_squares' and data.reference_energies['Cu'] == -50.0
    assert data.reference_energies['Au'] != -80.0
    assert len(data.warnings) == 1 and 'isolated atom of Au' in data.warnings[0]


def test_frames_without_any_label_that_counts_are_left_out(frames, tmp_path: Path) -> None:
    """Those with some are kept."""
    some = [frames[0].unlabelled(), frames[1].replace(stress=None), frames[2].replace(energy=None), *frames[3:]]
    data = write(some, tmp_path)
    assert data.n_train == 11 and data.n_labelled == {'energy': 10, 'forces': 11, 'stress': 10}
    with_stress = write(some, tmp_path, ('stress',), 'stress')
    assert with_stress.n_train == 10 and with_stress.n_labelled == {'stress': 10}


def test_elements_of_the_test_split_are_unknown(frames, tmp_path: Path) -> None:
    """An element that only test frames have is none of the model."""
    others = [frame.replace(numbers=[47] * 4) if frame.split == 'test' else frame for frame in frames]
    assert write(others, tmp_path).elements == ('Cu', 'Au')


def test_an_element_of_validation_frames_alone(frames, tmp_path: Path) -> None:
    others = [frame.replace(numbers=[47] * 4) if frame.lineage == 'validation-12' else frame for frame in frames]
    with pytest.raises(ValueError, match='no training frame with an energy contains Ag'):
        write(others, tmp_path)
    atom = frames[-1].replace(numbers=[47], energy=-60.0, lineage='isolated_atom:Ag')
    data = write([*others, atom], tmp_path)
    assert data.elements == ('Cu', 'Ag', 'Au') and data.reference_energies['Ag'] == -60.0
    assert any('Ag occurs in validation frames only' in warning for warning in data.warnings)


def test_the_same_bytes_each_time(frames, tmp_path: Path) -> None:
    one, other = write(frames, tmp_path, name='one'), write(frames, tmp_path, name='other')
    assert one.train.read_bytes() == other.train.read_bytes()


def test_frames_to_replay(frames, tmp_path: Path) -> None:
    with Guarded([write_shard(frames, tmp_path)]) as store:
        assert write_replay(store, tmp_path / 'data/replay.xyz') == 16
    unlabelled = [frame.unlabelled() for frame in frames]
    with FrameStore([write_shard(unlabelled, tmp_path)]) as store, pytest.raises(ValueError, match='no labelled frame'):
        write_replay(store, tmp_path / 'replay.xyz')
