"""What alpot-md left, however the run ended."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aiida_alpot.parsers.md import array_data
from aiida_alpot.worker.frames import write_shard

SUMMARY = {
    'completed': True,
    'reason': 'completed',
    'message': 'the run reached step 40',
    'exit_code': 0,
    'n_steps_done': 40,
    'n_frames': 2,
    'highest_max_force_deviation': None,
}


@pytest.fixture
def job(parse: Callable, make_frame: Callable, tmp_path: Path) -> Callable[..., Any]:
    """Parse a run that left these."""

    def run(summary: Any = None, log: str | None = 'Total wall time\n', frames: bool = True, **changes: Any) -> Any:
        if frames:
            sampled = [make_frame(i, labelled=False, lineage='md:1:0') for i in range(2)]
            write_shard(sampled, tmp_path / 'frames')
            np.savez(
                tmp_path / 'deviations.npz',
                frame_id=[frame.frame_id for frame in sampled],
                step=[20, 40],
                max_force_deviation=[0.1, np.nan],
            )
        text = json.dumps({**SUMMARY, **changes}) if summary is None else summary
        retrieved = {'job.out': log, 'md.json': text}
        return parse('alpot.md', {name: text for name, text in retrieved.items() if text})

    return run


def test_completed(job: Callable) -> None:
    """Frames, deviations by frame, summary."""
    outputs, node = job()
    assert node.is_finished_ok
    frames, deviations = outputs['frames'], outputs['deviations']
    assert len(frames) == 2 and frames.n_labelled == 0
    assert deviations.get_array('frame_id').tolist() == frames.column('frame_id').tolist()
    assert deviations.get_array('step').tolist() == [20, 40]
    assert outputs['results'].get_dict() == SUMMARY


@pytest.mark.parametrize('summary', ['', json.dumps(SUMMARY)[:50]])
def test_killed(job: Callable, summary: str) -> None:
    """No summary, or half of one: what had been sampled is kept, and the last line of the log is the reason."""
    outputs, node = job(summary=summary, log='Step Temp\n 20 300\nslurmstepd: error: *** JOB CANCELLED ***\n')
    assert node.exit_status == 301
    assert node.exit_message.endswith('slurmstepd: error: *** JOB CANCELLED ***')
    assert set(outputs) == {'frames', 'deviations'}


def test_killed_before_it_began(job: Callable) -> None:
    """Nothing at all came back."""
    outputs, node = job(summary='', log=None, frames=False)
    assert node.exit_status == 301 and node.exit_message.endswith('nothing') and not outputs


def test_truncated_deviations(job: Callable, tmp_path: Path) -> None:
    """Killed while it wrote them: the frames are there."""
    job()
    content = (tmp_path / 'deviations.npz').read_bytes()
    (tmp_path / 'deviations.npz').write_bytes(content[: len(content) // 2])
    outputs, node = job(summary='', frames=False)
    assert node.exit_status == 301 and set(outputs) == {'frames'}


def test_stopped(job: Callable) -> None:
    """The reason is the message of the driver; what had been sampled is kept."""
    outputs, node = job(reason='temperature', exit_code=4, n_steps_done=25, message='the temperature is 30000 K')
    assert node.exit_status == 310
    assert node.exit_message == 'the run stopped after 25 steps: the temperature is 30000 K'
    assert set(outputs) == {'frames', 'deviations', 'results'}


def test_halted(job: Callable) -> None:
    """Ended where the committee does not know: that is what a trajectory is for, and the summary says so."""
    outputs, node = job(reason='halted', exit_code=0, n_steps_done=15, message='the deviation is above the bound')
    assert node.is_finished_ok and outputs['results']['reason'] == 'halted'


def test_walltime(job: Callable) -> None:
    """A code of its own, which nothing later overwrites (peer defect 14)."""
    outputs, node = job(reason='walltime', exit_code=6, n_steps_done=30, message='x')
    assert node.exit_status == 312 and 'after 30 steps' in node.exit_message
    assert set(outputs) == {'frames', 'deviations', 'results'}
    outputs, node = job(reason='walltime', exit_code=6, n_steps_done=30, message='x', frames=False)
    assert node.exit_status == 312


def test_no_frames(job: Callable) -> None:
    """A run that was too short to keep one."""
    outputs, node = job(frames=False)
    assert node.exit_status == 311 and '`sample_every`' in node.exit_message and set(outputs) == {'results'}


@pytest.mark.usefixtures('aiida_profile')
def test_array_data(tmp_path: Path) -> None:
    """Texts and NaN survive."""
    np.savez(tmp_path / 'a.npz', name=np.array(['x', 'yz']), value=np.array([1.0, np.nan]))
    node = array_data(tmp_path / 'a.npz').store()
    assert node.get_array('name').tolist() == ['x', 'yz']
    assert np.array_equal(node.get_array('value'), [1.0, np.nan], equal_nan=True)
    assert sorted(node.get_arraynames()) == ['name', 'value']
