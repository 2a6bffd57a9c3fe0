"""From nodes to the record, on nodes made by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from aiida import orm
from aiida.common.links import LinkType
from aiida.engine import ProcessState
from click.testing import CliRunner

from aiida_alpot.data.pes import PESData
from aiida_alpot.report.gather import gather
from aiida_alpot.worker.frames import Frame

pytestmark = pytest.mark.usefixtures('aiida_profile')

ERRORS = {
    name: {'rmse': 0.1, 'mae': 0.08, 'rmse_members': [0.11, 0.12], 'n': 6, 'n_not_finite': 0}
    for name in ('energy', 'forces')
}
NOTHING = {'rmse': None, 'mae': None, 'rmse_members': None, 'n': 0, 'n_not_finite': 0}
FITTED = {
    'kind': 'linear',
    'slope': 2.0,
    'fitted_slope': 1.5,
    'slope_error': 0.3,
    'r2': None,
    'spearman': 0.5,
    'coverage': 0.6,
    'n': 6,
    'n_frames': 2,
    'trustworthy': False,
    'reason': '2 held-out frames, at least 10 are needed',
}


def process(
    kind: type[orm.ProcessNode], caller: orm.ProcessNode | None = None, label: str = '', **inputs: orm.Data
) -> Any:
    """A process node that waits, called by another, with inputs by full name."""
    node = kind()
    link_type = LinkType.INPUT_WORK if isinstance(node, orm.WorkflowNode) else LinkType.INPUT_CALC
    for name, value in inputs.items():
        node.base.links.add_incoming(value.store(), link_type=link_type, link_label=name)
    if caller is not None:
        called = LinkType.CALL_WORK if isinstance(node, orm.WorkflowNode) else LinkType.CALL_CALC
        node.base.links.add_incoming(caller, link_type=called, link_label=label)
    node.set_process_state(ProcessState.WAITING)
    node.set_process_label('ActiveLearningWorkChain' if caller is None else 'Stage')
    return node.store()


def finish(node: orm.ProcessNode, status: int = 0, message: str | None = None) -> None:
    """End a process."""
    node.set_process_state(ProcessState.FINISHED)
    node.set_exit_status(status)
    node.set_exit_message(message)


def arrays(**columns: np.ndarray) -> orm.ArrayData:
    """Node of arrays."""
    node = orm.ArrayData()
    for name, values in columns.items():
        node.set_array(name, values)
    return node


def predictions(split: list[str], isolated: list[bool], n_atoms: list[int]) -> orm.ArrayData:
    """What an evaluation writes: zeros, apart from what tells frames from each other."""
    n, total = len(split), sum(n_atoms)
    per_frame = {
        name: np.zeros(n) for name in ('energy_pred', 'energy_deviation', 'max_force_deviation', 'stress_deviation')
    }
    return arrays(
        **per_frame,
        energy_ref=np.arange(n, dtype=float),
        split=np.array(split),
        origin=np.array(['rattle'] * n),
        frame_id=np.array([f'{index}' for index in range(n)]),
        isolated=np.array(isolated),
        n_atoms=np.array(n_atoms),
        offsets=np.concatenate([[0], np.cumsum(n_atoms)]),
        forces_ref=np.repeat(np.arange(n, dtype=float), n_atoms)[:, None] * np.ones(3),
        forces_pred=np.zeros((total, 3)),
        force_deviation=np.repeat(np.arange(n, dtype=float), n_atoms),
        stress_ref=np.zeros((n, 3, 3)),
        stress_pred=np.zeros((n, 3, 3)),
    )


def silicon(seed: int, split: str) -> Frame:
    """A labelled frame of two atoms."""
    rng = np.random.default_rng(seed)
    return Frame(
        numbers=[14, 14],
        positions=rng.uniform(0, 4, size=(2, 3)),
        cell=4 * np.eye(3),
        pbc=(True, True, True),
        energy=-214.0,
        forces=np.zeros((2, 3)),
        split=split,
        lineage=f'lineage-{seed}',
        origin='rattle',
        level_of_theory='pbe',
    )


@pytest.fixture(scope='module')
def campaign(aiida_profile: Any) -> orm.WorkChainNode:
    """A campaign in its second round: the first is complete, the second has only its committee."""
    splits = ['train', 'train', 'validation']
    dataset = PESData(frames=[silicon(seed, split) for seed, split in enumerate(splits)]).store()
    top = process(
        orm.WorkChainNode,
        max_rounds=orm.Int(2),
        targets=orm.Dict({'energy': None, 'forces': 0.05, 'stress': None}),
        evaluation__parameters=orm.Dict({'tolerance': {'forces': 0.15, 'energy': None}, 'max_select': 4}),
        training__n_members=orm.Int(2),
    )
    failure = {
        'index': 3,
        'process': 'uuid',
        'pk': 55,
        'exit_status': 410,
        'reason': 'no convergence',
        'frame_id': 'a' * 64,
    }
    report = orm.Dict({'n_requested': 4, 'n_labelled': 3, 'n_failed': 1, 'failures': [failure]})
    labelling = process(orm.WorkChainNode, top, 'labelling_initial', frames=dataset)
    for index in range(4):
        finish(process(orm.CalcJobNode, labelling, f'task_{index}', frames=dataset))
    training = process(orm.WorkChainNode, top, 'training_1')
    evaluation = process(orm.WorkChainNode, top, 'evaluation_1')
    job = process(orm.CalcJobNode, evaluation, 'evaluate')
    made = {
        'calibration': orm.Dict({'forces': FITTED, 'energy': FITTED}),
        'metrics': orm.Dict({
            'train': {**ERRORS, 'stress': NOTHING},
            'validation': {**ERRORS, 'stress': NOTHING},
            'test': dict.fromkeys(('energy', 'forces', 'stress'), NOTHING),
        }),
        'selection': orm.Dict({
            'selection': [{'frame_id': 'p1', 'reason': 'expected force error 0.3 > 0.15 eV/A'}],
            'rejected': [{'frame_id': 'p2', 'index': 2, 'reason': 'two atoms are 0.4 A apart'}],
            'counts': {'pool': 3, 'rejected': 1, 'rejected_as_uncertain': 0, 'above_threshold': 1, 'selected': 1},
            'thresholds': {'forces': {'tolerance': 0.15, 'deviation': 0.075}, 'energy': None},
        }),
        'predictions': predictions(['train'] * 3 + ['validation'], [True, False, False, False], [1, 2, 2, 4]),
        'scores': arrays(
            frame_id=np.array(['p0', 'p1', 'p2']),
            expected_force_error=np.array([0.1, 0.3, np.nan]),
            max_force_deviation=np.array([0.05, 0.15, np.nan]),
        ),
    }  # fmt: skip
    for name, node in made.items():
        node.base.links.add_incoming(job, link_type=LinkType.CREATE, link_label=name)
        node.store()
        node.base.links.add_incoming(top, link_type=LinkType.RETURN, link_label=f'rounds__round_1__{name}')
    report.base.links.add_incoming(job, link_type=LinkType.CREATE, link_label='report')
    report.store().base.links.add_incoming(top, link_type=LinkType.RETURN, link_label='labelling__labelling_initial')
    for number in (1, 2):
        dataset.base.links.add_incoming(top, link_type=LinkType.RETURN, link_label=f'rounds__round_{number}__dataset')
    for node in (labelling, training, evaluation, job):
        finish(node)
    return top


def test_running_campaign(campaign: orm.WorkChainNode) -> None:
    """What the rounds have made is there before the campaign ends."""
    record = gather(campaign)
    assert (record.state, record.ended_by, record.terminated) == ('waiting', None, False)
    assert [made.number for made in record.rounds] == [1, 2]
    first, second = record.rounds
    assert (first.n_labelled, first.labels, first.n_fitted) == (3, {'train': 3, 'validation': 1}, 4)
    assert (first.n_pool, first.n_rejected, first.n_candidates, first.n_selected) == (3, 1, 1, 1)
    assert first.rmse('validation', 'forces') == 0.1 and first.rmse('test', 'forces') is None
    assert record.held_out == 'validation'
    assert first.metrics['validation']['forces'].members == (0.11, 0.12)
    assert first.calibration['forces'].slope == 2.0 and not first.calibration['forces'].trustworthy
    assert first.selected == {'p1': 'expected force error 0.3 > 0.15 eV/A'}
    assert first.rejected == {'p2': 'two atoms are 0.4 A apart'}
    assert (second.metrics, second.n_pool, second.labels) == ({}, None, {'train': 2, 'validation': 1})


def test_settings_and_labels(campaign: orm.WorkChainNode) -> None:
    """Inputs by full name, failures with exit code and reason, elements."""
    record = gather(campaign)
    assert record.settings['training.n_members'] == 2
    assert (record.targets['forces'], record.tolerance['forces']) == (0.05, 0.15)
    assert (record.n_labels, record.labellings[0].n_failed) == (3, 1)
    assert record.n_reused == 0  # of a report from before there was a ledger
    failure = record.failures[0]
    assert (failure.labelling, failure.exit_status, failure.reason) == ('labelling_initial', 410, 'no convergence')
    assert record.elements == ('Si',)


def test_nodes_and_stages(campaign: orm.WorkChainNode) -> None:
    """All processes below the campaign, each data node once; the stages in their order."""
    record = gather(campaign)
    assert record.n_processes == 1 + 3 + 5
    # the data set, four settings, and what the evaluation made: five nodes and the report
    assert record.n_data == 1 + 4 + 6
    assert record.nodes_per_label == pytest.approx((9 + 11) / 3)
    assert [(stage.label, stage.kind, stage.part) for stage in record.stages] == [
        ('labelling_initial', 'labelling', 'start'),
        ('training_1', 'training', 'round 1'),
        ('evaluation_1', 'evaluation', 'round 1'),
    ]
    assert all(0 <= stage.seconds < 60 for stage in record.stages)


def test_isolated_atoms_are_left_out(campaign: orm.WorkChainNode) -> None:
    """The arrays of frames and of atoms stay in step."""
    made = gather(campaign).rounds[0].predictions
    assert made is not None
    assert made.n_atoms.tolist() == [2, 2, 4] and made.offsets.tolist() == [0, 2, 4, 8]
    assert made.energy_ref.tolist() == [1, 2, 3]
    assert made.force_deviation.tolist() == [1, 1, 2, 2, 3, 3, 3, 3]


def test_failed_campaign() -> None:
    """A failure before the first round is told with its exit code."""
    node = process(orm.WorkChainNode)
    finish(node, 402, 'labelling failed in round 0: no pw.x')
    record = gather(node)
    assert record.rounds == () and record.n_processes == 1 and record.n_data == 0
    assert 'exit code 402' in record.outcome and 'no pw.x' in record.outcome


def test_results_tell_why_it_ended() -> None:
    """The results node says it, and is among the outputs."""
    node = process(orm.WorkChainNode)
    results = orm.Dict({'ended_by': 'converged'}).store()
    results.base.links.add_incoming(node, link_type=LinkType.RETURN, link_label='results')
    finish(node)
    record = gather(node)
    assert record.ended_by == 'converged' and record.outputs == {'results': results.pk}


def test_command(campaign: orm.WorkChainNode, tmp_path: Any) -> None:
    """The command prints the table and writes the page."""
    from aiida_alpot.cli.report import report

    result = CliRunner().invoke(report, [str(campaign.pk), '--output', str(tmp_path / 'out')])
    assert result.exit_code == 0, result.output
    assert 'held-out RMSE' in result.output and 'labelling_initial' in result.output
    assert (tmp_path / 'out' / 'report.html').is_file()


def test_command_refuses_other_nodes() -> None:
    """No such node, a node of another type: one sentence, exit code 1."""
    from aiida_alpot.cli.report import report

    other = orm.Int(3).store()
    for identifier, words in (('987654', "no single node '987654'"), (str(other.pk), 'no campaign but a Int')):
        result = CliRunner().invoke(report, [identifier])
        assert result.exit_code == 1
        assert words in result.output and 'Traceback' not in result.output
