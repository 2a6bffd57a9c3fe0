"""From the nodes of a campaign, finished, failed or under way, to its record."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

import numpy as np
from aiida import orm
from aiida.common.links import LinkType

from aiida_alpot.report.record import (
    SPLIT_ORDER,
    CalibrationRecord,
    CampaignRecord,
    Errors,
    Failure,
    Labelling,
    Predictions,
    Round,
    Scores,
    Stage,
)
from aiida_alpot.report.trajectories import read_trajectories
from aiida_alpot.worker.acquisition.calibration import from_dict

KINDS = ('augmentation', 'labelling', 'training', 'calibration', 'exploration', 'evaluation')
BATCH = 500
"""PKs in one query."""


def gather(node: orm.WorkChainNode) -> CampaignRecord:
    """Everything about a campaign.

    :param node: an ``ActiveLearningWorkChain``, in whatever state.
    """
    made = node.base.links.get_outgoing(link_type=LinkType.RETURN).nested()
    inputs = _inputs(node)
    settings = {name: _plain(value) for name, value in inputs.items() if isinstance(value, SETTINGS)}
    rounds = tuple(_rounds(made.get('rounds', {})))
    reports = {name: report.get_dict() for name, report in made.get('labelling', {}).items()}
    processes = descendants(node)
    return CampaignRecord(
        pk=node.pk,
        uuid=node.uuid,
        label=node.label,
        state=node.process_state.value if node.process_state else 'unknown',
        exit_status=node.exit_status,
        exit_message=_last_word(node),
        ended_by=made['results'].get_dict()['ended_by'] if 'results' in made else None,
        started=node.ctime,
        seconds=wall_time(node),
        elements=_elements(made, inputs),
        rounds=rounds,
        labellings=tuple(
            Labelling(name, report['n_requested'], report['n_labelled'], report['n_failed'], report.get('n_reused', 0))
            for name, report in reports.items()
        ),
        failures=tuple(_failures(reports)),
        stages=tuple(_stages(node)),
        n_processes=len(processes),
        n_data=count_data(processes),
        outputs=_outputs(made, rounds),
        targets=settings.get('targets', {}),
        tolerance=(settings.get('evaluation.parameters') or {}).get('tolerance', {}),
        settings=settings,
        codes={name: _describe_code(code) for name, code in inputs.items() if isinstance(code, orm.AbstractCode)},
    )


SETTINGS = (orm.Int, orm.Float, orm.Str, orm.Bool, orm.Dict, orm.List)
"""Types of the inputs that are settings."""


def _inputs(node: orm.ProcessNode) -> dict[str, orm.Data]:
    """Inputs by their full name, with dots between namespaces."""
    links = node.base.links.get_incoming(link_type=LinkType.INPUT_WORK).all()
    return {link.link_label.replace('__', '.'): link.node for link in sorted(links, key=lambda link: link.link_label)}


def _plain(node: orm.Data) -> Any:
    if isinstance(node, orm.Dict):
        return node.get_dict()
    return node.get_list() if isinstance(node, orm.List) else node.value


def _describe_code(code: orm.AbstractCode) -> str:
    executable = getattr(code, 'filepath_executable', None)
    return f'{code.full_label} ({executable})' if executable else str(code.full_label)


def _last_word(node: orm.ProcessNode) -> str:
    """What a process has to say about its end."""
    if node.exit_message:
        return str(node.exit_message)
    if node.exception:
        return str(node.exception).strip().splitlines()[-1]
    return str(node.process_status or '')


def _elements(made: Mapping[str, Any], inputs: Mapping[str, orm.Data]) -> tuple[str, ...]:
    """Chemical symbols of the latest data set, or of what the campaign starts from."""
    for round_ in reversed(list(made.get('rounds', {}).values())):
        if 'dataset' in round_:
            return tuple(round_['dataset'].elements)
    if 'dataset' in inputs:
        return tuple(inputs['dataset'].elements)
    structures = (value for value in inputs.values() if isinstance(value, orm.StructureData))
    return tuple(sorted({symbol for structure in structures for symbol in structure.get_symbols_set()}))


# Rounds.


def _rounds(namespace: Mapping[str, Any]) -> Iterator[Round]:
    """The rounds in their order; the first and the last that explored with their trajectories."""
    explored = sorted((key for key, nodes in namespace.items() if 'exploration' in nodes), key=_number)
    for key in sorted(namespace, key=_number):
        made = _round(_number(key), namespace[key])
        if key in (*explored[:1], *explored[-1:]):
            report = namespace[key]['exploration'].get_dict()
            bound = (report.get('bounds') or {}).get('lower')
            made = replace(made, trajectories=read_trajectories(report), bound=bound)
        yield made


def _number(key: str) -> int:
    return int(key.rpartition('_')[2])


def _round(number: int, nodes: Mapping[str, Any]) -> Round:
    selection = nodes['selection'].get_dict() if 'selection' in nodes else {}
    counts = selection.get('counts', {})
    metrics = nodes['metrics'].get_dict() if 'metrics' in nodes else {}
    calibration = nodes['calibration'].get_dict() if 'calibration' in nodes else {}
    return Round(
        number=number,
        n_labelled=nodes['dataset'].n_labelled if 'dataset' in nodes else 0,
        labels=_labels(nodes),
        n_pool=counts.get('pool'),
        n_rejected=counts.get('rejected'),
        n_candidates=counts.get('above_threshold'),
        n_selected=counts.get('selected'),
        metrics={split: {name: _errors(found) for name, found in of.items()} for split, of in metrics.items() if of},
        calibration={name: _calibration(fitted) for name, fitted in calibration.items()},
        thresholds=selection.get('thresholds', {}),
        predictions=_predictions(nodes['predictions']) if 'predictions' in nodes else None,
        scores=_scores(nodes['scores']) if 'scores' in nodes else None,
        selected={picked['frame_id']: picked['reason'] for picked in selection.get('selection', [])},
        rejected={refused['frame_id']: refused['reason'] for refused in selection.get('rejected', [])},
        pks={name: node.pk for name, node in nodes.items()},
    )


def _labels(nodes: Mapping[str, Any]) -> dict[str, int]:
    """Labelled frames by split: as evaluated, or, before that, as trained on."""
    if 'predictions' in nodes:
        splits = nodes['predictions'].get_array('split')
    elif 'dataset' in nodes:
        splits = nodes['dataset'].column('split')[nodes['dataset'].column('has_energy')]
    else:
        return {}
    counts = Counter(splits.tolist())
    return {split: counts[split] for split in SPLIT_ORDER if counts[split]}


def _errors(found: Mapping[str, Any]) -> Errors:
    members = tuple(float(value) for value in found.get('rmse_members') or ())
    return Errors(rmse=found.get('rmse'), mae=found.get('mae'), n=found.get('n', 0), members=members)


def _calibration(fitted: Mapping[str, Any]) -> CalibrationRecord:
    numbers = ('slope', 'fitted_slope', 'slope_error', 'r2', 'spearman', 'coverage')
    return CalibrationRecord(
        **{name: fitted.get(name) for name in numbers},
        n=fitted.get('n', 0),
        n_frames=fitted.get('n_frames', 0),
        trustworthy=bool(fitted.get('trustworthy', False)),
        reason=fitted.get('reason') or '',
        kind=fitted.get('kind') or 'linear',
        curve=from_dict(fitted) if 'curve' in fitted else None,
    )


PER_FRAME = ('split', 'origin', 'n_atoms', 'energy_ref', 'energy_pred', 'stress_ref', 'stress_pred', 'energy_deviation')
PER_ATOM = ('forces_ref', 'forces_pred', 'force_deviation')


def _predictions(node: orm.ArrayData) -> Predictions:
    """The arrays of an evaluation, without isolated atoms."""
    frames = ~node.get_array('isolated')
    atoms = np.repeat(frames, node.get_array('n_atoms'))
    columns = {name: node.get_array(name)[frames] for name in PER_FRAME}
    columns |= {name: node.get_array(name)[atoms] for name in PER_ATOM}
    offsets = np.concatenate([[0], np.cumsum(columns['n_atoms'])]).astype(np.int64)
    return Predictions(**columns, offsets=offsets)


def _scores(node: orm.ArrayData) -> Scores:
    return Scores(**{name: node.get_array(name) for name in Scores.__dataclass_fields__})


# Labels, stages, nodes.


def _failures(reports: Mapping[str, Mapping[str, Any]]) -> Iterator[Failure]:
    for labelling, report in reports.items():
        for failure in report['failures']:
            yield Failure(
                labelling=labelling,
                frame_id=failure['frame_id'],
                index=failure['index'],
                pk=failure.get('pk'),
                exit_status=failure['exit_status'],
                reason=failure['reason'],
            )


def _stages(node: orm.WorkChainNode) -> Iterator[Stage]:
    """The sub-work-chains in their order."""
    links = node.base.links.get_outgoing(link_type=LinkType.CALL_WORK).all()
    for link in sorted(links, key=lambda link: link.node.pk):
        kind, _, rest = link.link_label.partition('_')
        if kind in KINDS:
            yield Stage(
                label=link.link_label,
                kind=kind,
                part=_part(rest),
                pk=link.node.pk,
                seconds=wall_time(link.node),
                state=link.node.process_state.value if link.node.process_state else 'unknown',
            )


def _part(rest: str) -> str:
    """Part of the campaign from what follows the kind in the label of a stage."""
    if re.fullmatch(r'\d+', rest):
        return f'round {rest}'
    return 'test set' if rest == 'test' else 'start'


def wall_time(node: orm.ProcessNode) -> float:
    """Seconds from the start of a process to its end, or to now."""
    end = node.mtime if node.is_terminated else datetime.now(timezone.utc)
    return float((end - node.ctime).total_seconds())


def _outputs(made: Mapping[str, Any], rounds: Iterable[Round]) -> dict[str, int]:
    """PK of the latest of each kind of product."""
    latest: dict[str, int] = {}
    for round_ in rounds:
        latest.update({name: pk for name, pk in round_.pks.items() if name in ('dataset', 'committee', 'calibration')})
    names = ('results', 'dataset', 'committee', 'calibration')
    return latest | {name: made[name].pk for name in names if name in made}


def descendants(node: orm.ProcessNode) -> list[int]:
    """PKs of a process and of all that it called, at any depth, one query a level."""
    found, level = [node.pk], [node.pk]
    while level:
        callers, level = level, []
        for batch in _batches(callers):
            query = orm.QueryBuilder().append(orm.WorkflowNode, filters={'id': {'in': batch}}, tag='caller')
            query.append(orm.ProcessNode, with_incoming='caller', project='id')
            level += query.all(flat=True)
        found += level
    return found


def count_data(processes: list[int]) -> int:
    """Number of different data nodes that go into or come out of processes."""
    found: set[int] = set()
    for batch in _batches(processes):
        for relation in ('with_incoming', 'with_outgoing'):
            query = orm.QueryBuilder().append(orm.ProcessNode, filters={'id': {'in': batch}}, tag='process')
            query.append(orm.Data, project='id', **{relation: 'process'})
            found.update(query.all(flat=True))
    return len(found)


def _batches(values: list[int]) -> Iterator[list[int]]:
    for start in range(0, len(values), BATCH):
        yield values[start : start + BATCH]
