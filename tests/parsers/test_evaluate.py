"""What alpot-evaluate left."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aiida_alpot.worker.frames import write_shard

SUMMARY = {
    'calibration': {'forces': {'slope': 2.0, 'r2': None}},
    'metrics': {'test': {'forces': {'rmse': 0.1, 'n': 3}}},
    'counts': {'pool': 3, 'rejected': 1, 'above_threshold': 1, 'selected': 1},
    'thresholds': {'energy': None},
    'selection': [{'frame_id': 'a', 'index': 0, 'reason': 'far'}],
    'rejected': [{'frame_id': 'b', 'index': 1, 'reason': 'too close'}],
}
NOTHING_SELECTED = {'counts': {'pool': 3, 'rejected': 1, 'above_threshold': 0, 'selected': 0}, 'selection': []}


@pytest.fixture
def job(parse: Callable, make_frame: Callable, tmp_path: Path) -> Callable[..., Any]:
    """Parse an evaluation that left these."""

    def run(
        summary: str | None = None,
        log: str | None = 'pool: 3\n',
        arrays: tuple[str, ...] = ('scores', 'predictions'),
        selected: bool = True,
        progress: dict[str, Any] | None = None,
        exit_status: int | None = None,
        **changes: Any,
    ) -> Any:
        for name in arrays:
            np.savez(tmp_path / f'{name}.npz', frame_id=np.array(['a', 'b']), energy_pred=np.array([1.0, np.nan]))
        if selected:
            write_shard([make_frame(0, labelled=False, metadata={'selected': 'far'})], tmp_path / 'selected')
        text = json.dumps({**SUMMARY, **changes}) if summary is None else summary
        retrieved = {'job.out': log, 'evaluation.json': text, 'progress.json': json.dumps(progress) if progress else ''}
        return parse(
            'alpot.evaluate', {name: text for name, text in retrieved.items() if text}, exit_status=exit_status
        )

    return run


def test_outputs(job: Callable) -> None:
    """Each thing in a node of its own."""
    outputs, node = job()
    assert node.is_finished_ok
    assert set(outputs) == {'calibration', 'metrics', 'selection', 'scores', 'predictions', 'selected'}
    assert outputs['calibration'].get_dict() == SUMMARY['calibration']
    assert outputs['metrics'].get_dict() == SUMMARY['metrics']
    assert set(outputs['selection'].get_dict()) == {'counts', 'thresholds', 'selection', 'rejected'}
    assert outputs['selected'].frame(0).metadata == {'selected': 'far'}
    assert np.isnan(outputs['predictions'].get_array('energy_pred')[1])


def test_nothing_selected(job: Callable) -> None:
    """No empty data set comes of it (peer defect 13)."""
    outputs, node = job(selected=False, **NOTHING_SELECTED)
    assert node.is_finished_ok and 'selected' not in outputs and outputs['selection']['counts']['selected'] == 0


@pytest.mark.parametrize('summary', ['', json.dumps(SUMMARY)[:80]])
def test_no_summary(job: Callable, summary: str) -> None:
    """The program says on its last line what it refused."""
    outputs, node = job(summary=summary, log='alpot-evaluate: the data set contains W, which it does not know\n')
    assert node.exit_status == 310 and not outputs
    assert node.exit_message == (
        'alpot-evaluate failed: alpot-evaluate: the data set contains W, which it does not know'
    )


@pytest.mark.parametrize('missing', ['predictions', 'selected'])
def test_killed_while_it_wrote(job: Callable, missing: str) -> None:
    """Half of the results would be taken for convergence."""
    arrays = tuple(name for name in ('scores', 'predictions') if name != missing)
    outputs, node = job(arrays=arrays, selected=missing != 'selected')
    assert node.exit_status == 310 and not outputs


def test_truncated_predictions(job: Callable, tmp_path: Path) -> None:
    """A file cut short is none."""
    job()
    content = (tmp_path / 'predictions.npz').read_bytes()
    (tmp_path / 'predictions.npz').write_bytes(content[:100])
    assert job(arrays=('scores',))[1].exit_status == 310


def test_nothing_retrieved(job: Callable) -> None:
    """Not even the log."""
    outputs, node = job(summary='', log=None, arrays=(), selected=False)
    assert node.exit_status == 301 and not outputs


@pytest.mark.parametrize(
    ('progress', 'exit_status', 'sentence'),
    [
        (
            {'evaluated': 512, 'kept': 100, 'stopped': 'walltime'},
            None,
            'the evaluation was stopped (by itself, ahead of the walltime) after 512 more frames; '
            'what it has evaluated is kept',
        ),
        ({'evaluated': 4, 'kept': 0, 'stopped': 'signal'}, None, 'stopped (by a signal) after 4 more frames'),
        ({'evaluated': 4, 'kept': 0}, 120, 'stopped (by the scheduler, at the walltime) after 4 more frames'),
        (None, 120, 'stopped (by the scheduler, at the walltime) after 0 more frames'),
        ({'evaluated': 4, 'kept': 0, 'stopped': 'walltime'}, 120, 'stopped (by itself, ahead of the walltime) after 4'),
    ],
)
def test_walltime(job: Callable, progress: dict | None, exit_status: int | None, sentence: str) -> None:
    """An exit code of its own, whoever stopped it, and how far it came."""
    outputs, node = job(summary='', arrays=(), selected=False, progress=progress, exit_status=exit_status)
    assert node.exit_status == 312 and sentence in node.exit_message
    assert {name: value.get_dict() for name, value in outputs.items()} == ({'progress': progress} if progress else {})


def test_killed_for_another_reason(job: Callable) -> None:
    """How far it came is known, but another such job would fail, too."""
    outputs, node = job(summary='', log='Killed', selected=False, progress={'evaluated': 4, 'kept': 0}, exit_status=110)
    assert node.exit_status == 310 and 'Killed' in node.exit_message
    assert outputs['progress'].get_dict() == {'evaluated': 4, 'kept': 0}


def test_done_before_the_scheduler_ended_it(job: Callable) -> None:
    """Where all results are there the job is one that went well."""
    outputs, node = job(exit_status=120)
    assert node.is_finished_ok and 'selection' in outputs and 'progress' not in outputs
