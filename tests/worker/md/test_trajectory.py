"""Frames and rows that are written while a run goes on."""

import os
import signal
import time

import h5py
import numpy as np
import pytest

from aiida_alpot.worker.frames import FrameStore
from aiida_alpot.worker.md.trajectory import COLUMNS, MAX_FRAMES, Trajectory, read_watch


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def row(step, kept=''):
    return {**dict.fromkeys(COLUMNS, 0.5 * step), 'step': step, 'kept': kept.encode()}


@pytest.fixture
def trajectory(tmp_path):
    return Trajectory(tmp_path / 'frames', tmp_path / 'watch.h5', clock=Clock())


def test_frames_and_rows_come_back(trajectory, argon):
    frames = [argon.replace(positions=argon.positions + 0.01 * i, metadata={'step': i}) for i in range(5)]
    for i, frame in enumerate(frames):
        trajectory.note(row(i, trajectory.keep(frame) if i % 2 else ''))
        if i == 2:
            trajectory.flush()
    trajectory.flush()
    assert len(trajectory.shards) == 2 and trajectory.n_frames == 2
    watch = read_watch(trajectory.table)
    assert watch['step'].tolist() == [0, 1, 2, 3, 4] and watch['grade'].tolist() == [0.0, 0.5, 1.0, 1.5, 2.0]
    assert watch['kept'].tolist() == ['', frames[1].frame_id, '', frames[3].frame_id, '']
    assert [frame.metadata['step'] for frame in FrameStore(trajectory.shards)] == [1, 3]


def test_a_shard_is_written_when_it_is_full_or_old(trajectory, argon):
    for _ in range(MAX_FRAMES):
        assert not trajectory.shards
        trajectory.keep(argon)
        trajectory.flush_if_due()
    assert len(trajectory.shards) == 1
    trajectory.keep(argon.replace(metadata={'step': 1}))
    trajectory.clock.now = 59.0
    trajectory.flush_if_due()
    assert len(trajectory.shards) == 1
    trajectory.clock.now = 60.0
    trajectory.flush_if_due()
    assert len(trajectory.shards) == 2


def test_an_older_table_is_replaced(trajectory, tmp_path):
    (tmp_path / 'watch.h5').write_bytes(b'of another run')
    trajectory.note(row(3))
    trajectory.flush()
    assert read_watch(tmp_path / 'watch.h5')['step'].tolist() == [3]
    assert [path.name for path in tmp_path.iterdir()] == ['watch.h5']


def test_same_rows_same_bytes(tmp_path):
    for name in 'ab':
        trajectory = Trajectory(tmp_path, tmp_path / name)
        for step in range(3):
            trajectory.note(row(step))
            trajectory.flush()
    assert (tmp_path / 'a').read_bytes() == (tmp_path / 'b').read_bytes()


def test_files_that_are_no_table(tmp_path):
    with pytest.raises(ValueError, match='cannot be read'):
        read_watch(tmp_path / 'absent.h5')
    (tmp_path / 'text.h5').write_text('text')
    with pytest.raises(ValueError, match='cannot be read'):
        read_watch(tmp_path / 'text.h5')
    with h5py.File(tmp_path / 'other.h5', 'w') as file:
        file['step'] = [1]
    with pytest.raises(ValueError, match=r'give its watch\.h5'):
        read_watch(tmp_path / 'other.h5')


def test_a_killed_run_keeps_what_was_written(prepare, launch):
    """SIGKILL, while frames come as fast as they can: shards and table are whole, and say the same."""
    folder = prepare(n_steps=1000000, sample_every=1, committee_every=1)
    process = launch(folder, '-in', 'in.lammps', '-screen', 'none')  # nobody reads its output
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline and len(list((folder / 'frames').glob('[!.]*.h5'))) < 2:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL and not (folder / 'md.json').exists()
    store = FrameStore(sorted((folder / 'frames').glob('[!.]*.h5')))
    steps = sorted(frame.metadata['step'] for frame in store)
    assert len(steps) >= 2 * MAX_FRAMES and steps == list(range(1, len(steps) + 1))
    watch = read_watch(folder / 'watch.h5')
    kept = watch['kept'][watch['kept'] != '']
    assert len(kept) >= MAX_FRAMES and set(kept) <= {frame.frame_id for frame in store}
    assert np.isfinite(watch['temperature']).all() and watch['step'][0] == 0
