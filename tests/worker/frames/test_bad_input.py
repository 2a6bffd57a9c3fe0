"""What is refused, in words that say what to do, and what a failure leaves behind: nothing."""

import os
import subprocess
import sys

import h5py
import numpy as np
import pytest

from aiida_alpot.worker.frames import Frame, FrameStore, ShardError, open_shard, write_shard

SI = {'numbers': [14, 6], 'positions': [[0, 0, 0], [1, 1, 1]], 'cell': 5 * np.eye(3), 'pbc': [True] * 3}
THIRD = np.array([1.0, 2.0, 3.0]) / 3


class TestFrames:
    @pytest.mark.parametrize(
        ('field', 'value', 'message'),
        [
            ('numbers', [14, -1], '1..118, found'),
            ('numbers', [14, np.nan], 'whole numbers'),
            ('numbers', [14, np.inf], 'whole numbers'),
            ('numbers', [14, 2**40], 'whole numbers'),
            ('numbers', ['Si', 'C'], 'whole numbers'),
            ('numbers', None, 'whole numbers'),
            ('numbers', 14, 'expected .n,'),
            ('numbers', [[14, 6]], 'expected .n,'),
            ('positions', [[0, 0, 0], [1, np.nan, 1]], 'not finite'),
            ('positions', [[0, 0, 0], [1, np.inf, 1]], 'not finite'),
            ('positions', [[0, 0, 0], [1, 1]], r'`positions`.*\(2, 3\)'),
            ('positions', [[0, 0, 0]] * 3, r'expected \(2, 3\)'),
            ('positions', np.ones((2, 3)) * 1j, '`positions` holds complex'),
            ('positions', [[0, 0, 0], [1e300, 1, 1]], 'beyond'),
            ('cell', [5, 5, 5], r'expected \(3, 3\)'),
            ('cell', [5, 5, 5, 90, 90, 90], r'expected \(3, 3\)'),
            ('cell', np.full((3, 3), np.nan), 'not finite'),
            ('cell', np.diag([5, 5, 0]), 'singular'),
            ('cell', np.diag([5, 5, 1e-9]), 'singular'),
            # Dependent but for what the last bits of the lengths say.
            ('cell', [THIRD, 3 * THIRD + [0, 0, 1e-13], [0, 0, 5]], 'singular'),
            ('pbc', True, r'expected \(3,\)'),
            ('pbc', ['F', 'F', 'F'], '`pbc`.*true or false'),
            ('pbc', [np.nan] * 3, '`pbc`.*true or false'),
            ('pbc', [2, 0, 0], '`pbc`.*true or false'),
            ('energy', np.inf, 'not finite'),
            ('energy', [-1.0, -2.0], '`energy`.*one number'),
            ('energy', '-1.0', '`energy`.*one number'),
            ('energy', -1j, '`energy`.*one number'),
            ('forces', [[0, 0, 0], [1, 1]], r'`forces`.*\(2, 3\)'),
            ('forces', np.zeros((3, 2)), r'expected \(2, 3\)'),
            ('forces', np.zeros(6), r'expected \(2, 3\)'),
            ('forces', [[None] * 3] * 2, '`forces` holds object'),
            ('forces', np.ma.masked_array(np.zeros((2, 3)), mask=[[0] * 3, [1] * 3]), 'masked'),
            ('stress', np.full((3, 3), -np.inf), 'not finite'),
            ('stress', 1.0, r'expected \(3, 3\)'),
            ('charges', [[0.5], [-0.5]], r'`charges` has shape \(2, 1\), expected \(2,\)'),
            ('charges', [0.5, -0.5, 0], r'expected \(2,\)'),
            ('charges', [0.5, np.nan], '`charges` holds values that are not finite'),
            ('magmoms', np.zeros((2, 3)), r'`magmoms` has shape \(2, 3\), expected \(2,\)'),
            ('magmoms', [np.inf, 0], '`magmoms` holds values that are not finite'),
            ('dipole', 1.0, r'`dipole` has shape \(\), expected \(3,\)'),
            ('dipole', [[0, 0, 1]], r'expected \(3,\)'),
            ('dipole', [0, 0, np.nan], '`dipole` holds values that are not finite'),
            ('lineage', None, '`lineage`.*text'),
            ('origin', 3, '`origin`.*text'),
            ('level_of_theory', None, '`level_of_theory`.*text'),
        ],
    )
    def test_fields(self, field, value, message):
        with pytest.raises(ValueError, match=message):
            Frame(**(SI | {field: value}))

    @pytest.mark.parametrize(
        ('cell', 'pbc'),
        [([[5, 0, 0], [10, 0, 0], [0, 0, 5]], [True, True, False]), (np.zeros((3, 3)), [False, False, True])],
    )
    def test_singular_along_the_periodic_axes_only(self, cell, pbc):
        with pytest.raises(ValueError, match='singular cell'):
            Frame(**(SI | {'cell': cell, 'pbc': pbc}))
        assert len(Frame(**(SI | {'cell': cell, 'pbc': [False] * 3}))) == 2

    @pytest.mark.parametrize(
        ('value', 'message'),
        [
            ([1.0], r'shape \(1,\), expected \(2, ...\)'),
            (1.0, r'shape \(\), expected \(2, ...\)'),
            (np.zeros((2, 0)), 'shape'),
            (np.zeros((2, 1, 1, 1, 1)), 'at most 4 axes'),
            ([1.0, np.nan], 'not finite'),
            ([1.0, np.inf], 'not finite'),
            (['a', 'b'], 'floats, whole numbers and booleans'),
            ([1j, 2], 'floats, whole numbers and booleans'),
            ([None, 1], 'floats, whole numbers and booleans'),
            (np.array([0, 2**64 - 1], dtype=np.uint64), 'above 2.63'),
        ],
    )
    def test_users_arrays(self, value, message):
        with pytest.raises(ValueError, match=message):
            Frame(**SI, arrays={'mine': value})

    @pytest.mark.parametrize(
        'name',
        ['', '1a', 'a b', 'a/b', 'ü', 'a\n', '..', 'forces', 'positions', 'frame_id', 'metadata', 'has_energy', 1],
    )
    def test_names_of_users_arrays(self, name):
        with pytest.raises(ValueError, match='names start with'):
            Frame(**SI, arrays={name: [1.0, 2.0]})


class TestWriting:
    @pytest.mark.parametrize(
        ('fields', 'message'),
        [
            ({'metadata': {1: 'x'}}, 'keys .*text'),
            ({'metadata': {'a': [{'b': {2: 'x'}}]}}, 'keys .*text'),
            ({'metadata': ['a']}, 'JSON-serialisable'),
            ({'metadata': None}, 'JSON-serialisable'),
            ({'metadata': {'a': np.array([1.0, np.nan])}}, 'JSON-serialisable and finite'),
            ({'metadata': {'a': '\ud800'}}, 'cannot be written as UTF-8'),
            ({'lineage': '\ud800'}, 'cannot be written as UTF-8'),
        ],
    )
    def test_texts_that_cannot_be_kept(self, tmp_path, make_frame, fields, message):
        with pytest.raises(ValueError, match=message):
            write_shard([make_frame(0), make_frame(1, **fields)], tmp_path)
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        ('first', 'second'),
        [([1.0] * 4, [1] * 4), ([1] * 4, [True] * 4), ([1.0] * 4, [[1.0] * 3] * 4)],
    )
    def test_users_arrays_of_one_name_and_two_kinds(self, tmp_path, make_frame, first, second):
        frames = [make_frame(0), make_frame(1, arrays={'mine': first}), make_frame(2, arrays={'mine': second})]
        with pytest.raises(ValueError, match=r'`arrays/mine` of frame 2 has .* one kind and shape'):
            write_shard(frames, tmp_path)
        assert not list(tmp_path.iterdir())
        with FrameStore([write_shard(frames[:2], tmp_path), write_shard(frames[2:], tmp_path)]) as store:
            assert [np.shape(frame.arrays['mine']) for frame in store if frame.arrays] == [
                np.shape(first),
                np.shape(second),
            ]
            with pytest.raises(ValueError, match='read it by frame'):
                store.column('mine')

    def test_a_file_where_the_folder_should_be(self, tmp_path, make_frame):
        (tmp_path / 'set').write_text('mine')
        with pytest.raises(OSError, match='set'):
            write_shard([make_frame(0)], tmp_path / 'set')
        assert (tmp_path / 'set').read_text() == 'mine'


FULL_DISK = """
import errno, os, resource, sys
import numpy as np
from aiida_alpot.worker.frames import Frame, write_shard

def frames(size):
    rng = np.random.default_rng(0)
    for _ in range(size):
        positions, forces = rng.uniform(0, 9, (64, 3)), rng.normal(size=(64, 3))
        yield Frame(np.full(64, 14), positions, 9 * np.eye(3), [True] * 3, forces=forces)

directory, limit, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
try:
    write_shard(frames(size), directory)
except OSError as error:
    assert error.errno in (errno.EFBIG, errno.ENOSPC), error
    assert os.listdir(directory) == [], os.listdir(directory)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    # Still able to write HDF5, where there is room.
    write_shard(frames(1), directory)
    sys.exit(7)
"""


class TestFullDisk:
    """A disk that ends, at whatever moment, raises ``OSError``, and the interpreter lives on to its normal end."""

    @staticmethod
    def run(directory, limit, size):
        command = [sys.executable, '-c', FULL_DISK, str(directory), str(limit), str(size)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    @pytest.mark.parametrize(
        ('limit', 'size'),
        [
            (0, 50),
            (1_000, 1),  # While HDF5 closes the file.
            (3_000, 1),
            (60_000, 50),  # Within the first large array.
            (150_000, 50),
            (9_000_000, 8_000),  # While frames arrive, beyond what is held in memory.
        ],
    )
    def test_at_any_size(self, tmp_path, limit, size):
        run = self.run(tmp_path, limit, size)
        assert run.returncode == (7 if limit else 0), run.stderr
        assert run.stderr == ''
        assert len(list(tmp_path.iterdir())) == 1

    @pytest.mark.skipif(not hasattr(os, 'geteuid') or os.geteuid() != 0, reason='only root mounts a small disk')
    def test_no_space_left_on_device(self, tmp_path):
        if subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=256k', 'tmpfs', tmp_path], check=False).returncode:
            pytest.skip('mounting is not allowed here')
        try:
            run = self.run(tmp_path, 0, 500)
            assert run.returncode == 7, run.stderr
            assert run.stderr == ''
        finally:
            subprocess.run(['umount', tmp_path], check=True)


def replaced(name, values):
    def change(file):
        del file[name]
        file[name] = values

    return change


def replaced_by_group(name):
    def change(file):
        del file[name]
        file.create_group(name)

    return change


class TestReading:
    """Files that claim to be shards and hold something else."""

    @pytest.fixture
    def shard(self, tmp_path, make_frame):
        frames = [make_frame(i, n_atoms=2, metadata={'step': i}, arrays={'mine': [1.0, 2.0]}) for i in range(3)]
        return write_shard(frames, tmp_path)

    @pytest.mark.parametrize(
        'change',
        [
            lambda file: file.attrs.__delitem__('schema_version'),
            lambda file: file.attrs.__setitem__('schema_version', 'two'),
            lambda file: file.attrs.__setitem__('schema_version', 0),
            replaced('offsets', [1, 2, 4, 6]),
            replaced('offsets', [0, 4, 2, 6]),
            replaced('offsets', [0.0, 2.0, 4.0, 6.0]),
            replaced('offsets', [[0, 2, 4, 6]]),
            replaced('offsets', np.zeros(0, dtype=int)),
            replaced('offsets', [0]),
            replaced_by_group('offsets'),
            replaced_by_group('positions'),
            replaced('positions', np.full((6, 3), b'a')),
            replaced('numbers', np.full(6, 14.5)),
            replaced('energy', np.zeros((3, 1))),
            replaced('has_energy', np.ones(2, dtype='u1')),
            lambda file: file.__delitem__('has_energy'),
            lambda file: file.__delitem__('has_arrays'),
            replaced('arrays', np.zeros(6)),
            replaced('arrays/mine', np.zeros(5)),
            replaced('arrays/mine', np.full(6, b'a')),
            replaced('frame_id', np.zeros((3, 20), dtype='u1')),
            replaced('lineage_codes', np.zeros(2, dtype='i4')),
            lambda file: file.__delitem__('metadata_utf8'),
            replaced('energy', h5py.ExternalLink('elsewhere.h5', 'energy')),
        ],
    )
    def test_structure_is_checked_when_it_is_opened(self, shard, change):
        with h5py.File(shard, 'r+') as file:
            change(file)
        with pytest.raises(ShardError, match=f'{shard.name}.*(damaged|no shard|schema version)'):
            open_shard(shard)
        with pytest.raises(ShardError):
            FrameStore([shard])

    @pytest.mark.parametrize(
        ('change', 'message'),
        [
            (replaced('numbers', np.zeros(6, dtype='u1')), '1..118'),
            (replaced('numbers', np.full(6, 119, dtype='u1')), '1..118'),
            (replaced('forces', np.full((6, 3), np.nan)), 'not finite'),
            (replaced('cell', np.zeros((3, 3, 3))), 'singular'),
            (replaced('lineage_codes', np.array([0, 1, 9], dtype='i4')), 'damaged'),
            (replaced('lineage_codes', np.array([0, 1, -1], dtype='i4')), 'damaged'),
            (lambda file: file['lineage_utf8'].write_direct(np.full(file['lineage_utf8'].shape, 255, 'u1')), 'damaged'),
            (
                lambda file: file['metadata_utf8'].write_direct(np.full(file['metadata_utf8'].shape, 65, 'u1')),
                'damaged',
            ),
        ],
    )
    def test_values_are_checked_when_they_are_read(self, shard, change, message):
        with h5py.File(shard, 'r+') as file:
            change(file)
        with FrameStore([shard]) as store, pytest.raises(ValueError, match=message):
            list(store)

    def test_a_folder_and_no_name(self, tmp_path):
        for path in (tmp_path, ''):
            with pytest.raises(ShardError, match='no HDF5 file'):
                open_shard(path)

    def test_files_are_closed_when_one_of_them_is_refused(self, shard, tmp_path):
        (tmp_path / 'foreign.h5').write_text('not HDF5')
        with pytest.raises(ShardError, match='foreign'):
            FrameStore([shard, tmp_path / 'foreign.h5'])
        with h5py.File(shard, 'r+') as file:  # Refused by HDF5 while it is open for reading.
            assert 'offsets' in file
