import hashlib
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest

from aiida_alpot.worker.frames import SCHEMA_VERSION, FrameStore, ShardError, check_shard_name, open_shard, write_shard


def test_named_by_the_hash_of_its_bytes(tmp_path, make_frame):
    path = write_shard([make_frame(0)], tmp_path / 'new')
    assert path.name == hashlib.sha256(path.read_bytes()).hexdigest() + '.h5'
    assert check_shard_name(path) == path.stem
    assert list((tmp_path / 'new').iterdir()) == [path]


SCRIPT = """
import sys
import numpy as np
from aiida_alpot.worker.frames import Frame, write_shard
frames = [
    Frame(np.arange(1, n + 1), np.arange(3.0 * n).reshape(n, 3), np.eye(3), [1, 0, 1], energy=1.5 * n,
          origin='md', lineage=f'l{n}', metadata={'b': n, 'a': 'x'})
    for n in range(1, 20)
]
print(write_shard(frames, sys.argv[1]).name)
"""


def test_same_frames_give_the_same_bytes_in_another_process_at_another_time(tmp_path):
    names = []
    for run in range(2):
        time.sleep(1.1 * run)  # HDF5 time stamps count seconds.
        command = [sys.executable, '-c', SCRIPT, str(tmp_path / str(run))]
        names.append(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert names[0] == names[1]


def test_size_is_that_of_the_numbers(tmp_path, make_frame):
    path = write_shard([make_frame(i, n_atoms=64) for i in range(300)], tmp_path)
    raw = 300 * (64 * (1 + 24 + 24) + 8 + 72 + 72 + 3)
    assert path.stat().st_size < 1.05 * raw


def test_no_frames_leave_nothing_behind(tmp_path):
    with pytest.raises(ValueError, match='at least one frame'):
        write_shard([], tmp_path)
    assert not list(tmp_path.iterdir())


def test_failure_half_way_leaves_nothing_behind(tmp_path, make_frame):
    def frames():
        yield make_frame(0)
        raise RuntimeError('the source broke')

    with pytest.raises(RuntimeError, match='the source broke'):
        write_shard(frames(), tmp_path)
    assert not list(tmp_path.iterdir())


def test_full_disk_is_an_error_and_leaves_nothing_behind(tmp_path, make_frame, monkeypatch):
    def fail(*_, **__):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('aiida_alpot.worker.frames.shard._Column.save', fail)
    with pytest.raises(OSError, match='No space left'):
        write_shard([make_frame(0)], tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('metadata', [{'x': float('nan')}, {'x': object()}])
def test_metadata_without_json_form_is_refused(tmp_path, make_frame, metadata):
    with pytest.raises(ValueError, match='JSON-serialisable'):
        write_shard([make_frame(0, metadata=metadata)], tmp_path)


def test_numpy_metadata_become_plain_numbers(tmp_path, make_frame):
    path = write_shard([make_frame(0, metadata={'step': np.int64(3), 'box': np.eye(2)})], tmp_path)
    with FrameStore([path]) as store:
        assert store[0].metadata == {'step': 3, 'box': [[1.0, 0.0], [0.0, 1.0]]}


def test_nul_character_is_refused(tmp_path, make_frame):
    with pytest.raises(ValueError, match='NUL'):
        write_shard([make_frame(0, lineage='a\x00')], tmp_path)


def test_newer_schema_is_refused_with_the_remedy(tmp_path, make_frame):
    path = write_shard([make_frame(0)], tmp_path)
    with h5py.File(path, 'r+') as file:
        file.attrs['schema_version'] = SCHEMA_VERSION + 1
    with pytest.raises(ShardError, match='pip install --upgrade'):
        open_shard(path)


def test_truncated_file_is_refused(tmp_path, make_frame):
    path = write_shard([make_frame(i) for i in range(50)], tmp_path)
    content = path.read_bytes()
    for size in (0, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(ShardError, match='truncated'):
            open_shard(path)
        with pytest.raises(ShardError, match='promises'):
            check_shard_name(path)


def test_foreign_files_are_refused(tmp_path):
    (tmp_path / 'text.h5').write_text('not HDF5')
    with pytest.raises(ShardError, match='no HDF5'):
        open_shard(tmp_path / 'text.h5')
    with h5py.File(tmp_path / 'foreign.h5', 'w') as file:
        file['positions'] = np.zeros(3)
    with pytest.raises(ShardError, match='no shard of frames'):
        open_shard(tmp_path / 'foreign.h5')
    with pytest.raises(FileNotFoundError, match='there is no shard'):
        open_shard(tmp_path / 'absent.h5')


@pytest.mark.parametrize(('name', 'message'), [('cell', 'lacks'), ('positions', 'lacks')])
def test_missing_arrays_are_named(tmp_path, make_frame, name, message):
    path = write_shard([make_frame(0)], tmp_path)
    with h5py.File(path, 'r+') as file:
        del file[name]
    with pytest.raises(ShardError, match=f'{message}.*{name}'):
        open_shard(path)


def test_arrays_of_the_wrong_shape_are_named(tmp_path, make_frame):
    path = write_shard([make_frame(0)], tmp_path)
    with h5py.File(path, 'r+') as file:
        del file['forces']
        file['forces'] = np.zeros((7, 3))
    with pytest.raises(ShardError, match=r'`forces`.*expected'):
        open_shard(path)
