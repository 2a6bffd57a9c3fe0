"""What alpot-md left, however the runs ended."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiida import orm

from aiida_alpot.parsers.md import lammps_error
from aiida_alpot.parsers.retrieved import array_data
from aiida_alpot.worker.frames import write_shard
from aiida_alpot.worker.md.ending import EXIT_CODES
from aiida_alpot.worker.md.trajectory import COLUMNS, append_rows

SUMMARY = {
    'completed': True,
    'reason': 'completed',
    'message': 'the run reached step 40',
    'exit_code': 0,
    'first_step': 0,
    'last_step': 40,
    'n_steps_done': 40,
    'n_frames': 2,
    'shards': ['x'],
    'highest_max_force_deviation': None,
}
ALL = {'frames', 'deviations', 'results'}


@pytest.fixture
def leave(make_frame: Callable, tmp_path: Path) -> Callable[..., list[str]]:
    """Leave frames and a table in a folder; the identities of the frames."""

    def write(folder: str = '.', steps: tuple[int, ...] = (20, 40), name: str = 'watch.h5', seed: int = 0) -> list[str]:
        place = tmp_path / folder
        sampled = [make_frame(seed + i, labelled=False, lineage='md:1:0') for i in range(len(steps))]
        write_shard(sampled, place / 'frames')
        rows = np.zeros(len(steps), dtype=list(COLUMNS.items()))
        rows['step'], rows['max_force_deviation'] = steps, np.nan
        rows['kept'] = [frame.frame_id for frame in sampled]
        append_rows(place / name, rows, anew=True)
        return [frame.frame_id for frame in sampled]

    return write


@pytest.fixture
def job(parse: Callable, leave: Callable) -> Callable[..., Any]:
    """Parse a run that left these."""

    def run(summary: Any = None, log: str | None = 'Total wall time\n', frames: bool = True, **changes: Any) -> Any:
        if frames:
            leave()
        text = json.dumps({**SUMMARY, **changes}) if summary is None else summary
        retrieved = {'job.out': log, 'md.json': text}
        return parse('alpot.md', {name: text for name, text in retrieved.items() if text})

    return run


@pytest.fixture
def jobs(parse: Callable) -> Callable[..., Any]:
    """Parse a job of several runs, by their summaries; ``None`` for one without."""

    def run(*summaries: dict[str, Any] | None, log: str = '') -> Any:
        retrieved = {'job.out': log} if log else {}
        for i, summary in enumerate(summaries):
            if summary is not None:
                retrieved[f'run_{i:04d}/md.json'] = json.dumps({**SUMMARY, **summary})
        return parse('alpot.md', retrieved, {'runs': orm.List([{}] * len(summaries))})

    return run


def test_completed(job: Callable) -> None:
    """Frames, deviations by step, summary."""
    outputs, node = job()
    assert node.is_finished_ok
    frames, deviations = outputs['frames'], outputs['deviations']
    assert len(frames) == 2 and frames.n_labelled == 0
    assert deviations.get_array('kept').astype(str).tolist() == frames.column('frame_id').tolist()
    assert deviations.get_array('step').tolist() == [20, 40] and deviations.get_array('run').tolist() == [0, 0]
    assert set(deviations.get_arraynames()) == {*COLUMNS, 'run'}
    results = outputs['results'].get_dict()
    assert results['reasons'] == {'completed': 1}
    kept = {key: value for key, value in SUMMARY.items() if key not in ('shards', 'completed', 'exit_code')}
    assert results['runs'] == [{'run': 0, **kept}]


@pytest.mark.parametrize('summary', ['', json.dumps(SUMMARY)[:50], '[]', '{"reason": "completed"}'])
def test_killed(job: Callable, summary: str) -> None:
    """No summary, or half of one: what had been sampled is kept, and the last line of the log is the reason."""
    outputs, node = job(summary=summary, log='Step Temp\n 20 300\nslurmstepd: error: *** JOB CANCELLED ***\n')
    assert node.exit_status == 301
    assert node.exit_message.endswith('slurmstepd: error: *** JOB CANCELLED ***')
    assert set(outputs) == ALL
    (run,) = outputs['results']['runs']
    assert (run['reason'], run['first_step'], run['last_step'], run['n_steps_done']) == ('killed', 20, 40, 20)


def test_killed_before_it_began(job: Callable) -> None:
    """Nothing at all came back."""
    outputs, node = job(summary='', log=None, frames=False)
    assert node.exit_status == 301 and node.exit_message.endswith('nothing') and not outputs


def test_refused_as_a_whole(job: Callable) -> None:
    """alpot-md said why and ran nothing."""
    outputs, node = job(summary='', log='alpot-md: there is no driver.json\n', frames=False)
    assert node.exit_status == 302 and 'there is no driver.json' in node.exit_message
    assert outputs['results']['reasons'] == {'bad_input': 1}


@pytest.mark.parametrize('share', [0.0, 0.1, 0.9])
def test_truncated(job: Callable, tmp_path: Path, share: float) -> None:
    """Killed while it wrote: what is whole is kept, be it frames or table."""
    job()
    content = (tmp_path / 'watch.h5').read_bytes()
    (tmp_path / 'watch.h5').write_bytes(content[: int(share * len(content))])
    outputs, node = job(reason='potential_error', frames=False)
    assert node.exit_status == 320 and set(outputs) == {'frames', 'results'}
    (tmp_path / 'watch.h5').write_bytes(content)
    (shard,) = (tmp_path / 'frames').glob('*.h5')
    shard.write_bytes(shard.read_bytes()[: int(share * shard.stat().st_size)])
    outputs, node = job(summary='', frames=False)
    assert node.exit_status == 301 and set(outputs) == {'deviations', 'results'}


@pytest.mark.parametrize(
    ('reason', 'status', 'said'),
    [
        ('terminated', 313, 'a signal ended the run'),
        ('potential_error', 320, 'the potential failed'),
        ('not_finite', 321, 'not finite'),
        ('temperature', 322, 'temperature exceeded'),
        ('lost_atoms', 323, 'lost atoms'),
        ('lammps_error', 324, 'LAMMPS stopped with an error'),
        ('walltime', 312, 'walltime'),
    ],
)
def test_one_exit_code_a_cause(job: Callable, reason: str, status: int, said: str) -> None:
    """With the message of the driver, and nothing later overwrites it (peer defect 14); all sampled is kept."""
    outputs, node = job(reason=reason, exit_code=EXIT_CODES[reason], n_steps_done=25, message='it was so')
    assert node.exit_status == status and said in node.exit_message
    assert 'after 25 steps: it was so' in node.exit_message
    assert set(outputs) == ALL
    _, node = job(reason=reason, exit_code=1, n_steps_done=25, message='it was so', frames=False)
    assert node.exit_status == status


def test_every_reason_of_the_driver_is_known() -> None:
    from aiida_alpot.parsers.md import EXIT_CODES as KNOWN
    from aiida_alpot.parsers.md import SETTLED

    assert set(EXIT_CODES) <= {*KNOWN, *SETTLED}


def test_halted(job: Callable) -> None:
    """Ended where the committee does not know: that is what a trajectory is for, and the summary says so."""
    outputs, node = job(reason='halted', exit_code=0, n_steps_done=15, message='the error is above the bound')
    assert node.is_finished_ok and outputs['results']['reasons'] == {'halted': 1}


def test_no_frames(parse: Callable) -> None:
    """A run that was too short to keep one."""
    outputs, node = parse('alpot.md', {'job.out': 'x', 'md.json': json.dumps(SUMMARY)})
    assert node.exit_status == 311 and '`sample_every`' in node.exit_message and set(outputs) == {'results'}


def test_lammps_kills_the_process(job: Callable) -> None:
    """An error that it does not hand back: its last words are in the log, and those of runs before do not count."""
    log = (
        'LAMMPS (22 Jul 2025)\nERROR: of another run\nLAMMPS (22 Jul 2025)\nERROR on proc 0: Out of range atoms\nbye\n'
    )
    _, node = job(summary='', log=log)
    assert node.exit_status == 324 and 'Out of range atoms' in node.exit_message
    _, node = job(summary='', log='ERROR: Lost atoms: original 8 current 7\n')
    assert node.exit_status == 323
    assert lammps_error('ERROR: old\nLAMMPS (x)\nStep\n') == ''


def test_several_runs(jobs: Callable, leave: Callable) -> None:
    """All in one data set and one table; the first that did not end well decides."""
    ids = leave('run_0000') + leave('run_0002', seed=5)
    outputs, node = jobs({}, {'reason': 'lost_atoms', 'message': 'gone', 'n_steps_done': 3}, {'reason': 'halted'})
    assert node.exit_status == 323 and 'after 3 steps: run_0001: gone' in node.exit_message
    assert sorted(outputs['frames'].column('frame_id').tolist()) == sorted(ids)
    assert outputs['deviations'].get_array('run').tolist() == [0, 0, 2, 2]
    assert outputs['results']['reasons'] == {'completed': 1, 'lost_atoms': 1, 'halted': 1}


def test_what_can_go_on_decides_first(jobs: Callable, leave: Callable) -> None:
    """So that it does: killed, or not even begun, before what failed for good."""
    leave('run_0001')
    outputs, node = jobs({'reason': 'temperature'}, None, None, log='Killed\n')
    assert node.exit_status == 301 and node.exit_message.endswith('run_0001: Killed')
    assert [run['reason'] for run in outputs['results']['runs']] == ['temperature', 'killed', 'not_started']
    _, node = jobs({'reason': 'temperature'}, {'reason': 'halted'}, None)
    assert node.exit_status == 312


def test_tables_of_an_interrupted_start(job: Callable, leave: Callable) -> None:
    """Rows of both, in their order."""
    leave(name='watch.000.h5', steps=(5, 10))
    outputs, _ = job()
    assert outputs['deviations'].get_array('step').tolist() == [5, 10, 20, 40]


@pytest.mark.usefixtures('aiida_profile')
def test_array_data(tmp_path: Path) -> None:
    """Texts and NaN survive."""
    np.savez(tmp_path / 'a.npz', name=np.array(['x', 'yz']), value=np.array([1.0, np.nan]))
    node = array_data(tmp_path / 'a.npz').store()
    assert node.get_array('name').tolist() == ['x', 'yz']
    assert np.array_equal(node.get_array('value'), [1.0, np.nan], equal_nan=True)
    assert sorted(node.get_arraynames()) == ['name', 'value']
