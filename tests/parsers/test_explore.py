"""What alpot-explore left, however it ended."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiida import orm

from aiida_alpot.worker.frames import write_shard

RUN = {'status': 'completed', 'message': 'all done', 'n_frames': 2, 'shards': ['x'], 'explorer': 'relaxation'}


@pytest.fixture
def jobs(parse: Callable, make_frame: Callable, tmp_path: Path) -> Callable[..., Any]:
    """Parse a job by the summaries of its runs, ``None`` for one without, and its own."""

    def run(*summaries: dict[str, Any] | None, log: str = '', frames: bool = True, **summary: Any) -> Any:
        retrieved = {'job.out': log} if log else {}
        if summary:
            retrieved['explore.json'] = json.dumps({'reason': 'completed', 'message': '', **summary})
        for i, of_run in enumerate(summaries):
            if of_run is not None:
                retrieved[f'run_{i:04d}/explore.json'] = json.dumps({**RUN, **of_run})
                if frames:
                    write_shard([make_frame(i, labelled=False)], tmp_path / f'run_{i:04d}' / 'frames')
        return parse('alpot.explore', retrieved, {'runs': orm.List([{}] * len(summaries))})

    return run


def test_completed(jobs: Callable) -> None:
    """One run that failed does not make the others less."""
    outputs, node = jobs({}, {'status': 'exploded', 'message': 'atoms met'}, reason='completed')
    assert node.is_finished_ok and len(outputs['frames']) == 2
    assert outputs['results']['reasons'] == {'completed': 1, 'exploded': 1}
    assert outputs['results']['runs'][1] == {
        'run': 1,
        'reason': 'exploded',
        'message': 'atoms met',
        'n_frames': 2,
        'explorer': 'relaxation',
    }


@pytest.mark.parametrize(
    ('reason', 'status'), [('walltime', 312), ('terminated', 313), ('no_frames', 311), ('completed', 0)]
)
def test_exit_codes(jobs: Callable, reason: str, status: int) -> None:
    outputs, node = jobs({}, None, reason=reason, message='1 of 2 runs are finished')
    assert (node.exit_status or 0) == status and set(outputs) == {'frames', 'results'}
    assert outputs['results']['runs'][1]['reason'] == 'not_started'


def test_killed(jobs: Callable, tmp_path: Path) -> None:
    """What was found is kept, but for what was cut short."""
    outputs, node = jobs({}, {'status': 'running'}, log='...\nKilled\n')
    assert node.exit_status == 301 and node.exit_message.endswith('Killed')
    assert outputs['results']['reasons'] == {'completed': 1, 'killed': 1} and len(outputs['frames']) == 2
    (shard,) = (tmp_path / 'run_0001' / 'frames').glob('*.h5')
    shard.write_bytes(shard.read_bytes()[:1000])
    outputs, node = jobs({}, None, frames=False)
    assert node.exit_status == 301 and len(outputs['frames']) == 1


def test_nothing(jobs: Callable) -> None:
    outputs, node = jobs(None, log='alpot-explore: `runs` must list\n')
    assert node.exit_status == 302 and '`runs` must list' in node.exit_message and not outputs
    outputs, node = jobs(None)
    assert node.exit_status == 301 and not outputs
