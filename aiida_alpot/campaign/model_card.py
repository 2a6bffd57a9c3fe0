"""The card that goes with a committee: what it was trained on, how wrong it is, and where it can be believed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from aiida import orm

from aiida_alpot.data.committee import CommitteeData
from aiida_alpot.data.pes import PESData
from aiida_alpot.data.potential import PotentialData
from aiida_alpot.worker.frames.statistics import Range, describe

FILE = 'MODEL_CARD.md'
UNITS = {'energy': 'eV/atom', 'forces': 'eV/Å', 'stress': 'eV/Å³'}


def model_card(committee: CommitteeData) -> str:
    """Model card in Markdown, with what the database knows of a stored committee.

    What is not known, as of a committee that was brought in, is said to be so.
    """
    training, dataset = trained_by(committee), trained_on(committee)
    sections = [
        _title(committee),
        _model(committee),
        _data(committee, dataset),
        _errors(training, last_evaluation(committee, 'metrics')),
        _calibration(last_evaluation(committee, 'calibration')),
        _validity(committee, dataset),
        _options(committee),
    ]
    return '\n'.join(line for section in sections for line in [*section, ''])


# What the database knows.


def trained_by(committee: CommitteeData) -> dict[str, Any]:
    """What the training of the members told; of several jobs what the first told."""
    creator = committee.creator
    links = None if creator is None else creator.base.links.get_incoming(node_class=PotentialData)
    jobs = [node.creator for node in links.all_nodes() if node.creator is not None] if links else []
    found = next((job.outputs.results for job in jobs if 'results' in job.outputs), None)
    return {} if found is None else found.get_dict()


def trained_on(committee: CommitteeData) -> PESData | None:
    """The data set that a committee was trained on, where the database has one of its content."""
    if committee.data_hash is None:
        return None
    query = orm.QueryBuilder().append(PESData, filters={'attributes.content_hash': committee.data_hash})
    return query.order_by({PESData: 'id'}).first(flat=True)


def last_evaluation(committee: CommitteeData, name: str) -> dict[str, Any]:
    """An output of the last evaluation of a committee; empty where there was none."""
    query = orm.QueryBuilder()
    query.append(CommitteeData, filters={'uuid': committee.uuid}, tag='committee')
    query.append(orm.CalcJobNode, with_incoming='committee', tag='job')
    query.append(orm.Dict, with_incoming='job', edge_filters={'label': name}, tag='made')
    found = query.order_by({'made': [{'id': {'order': 'desc'}}]}).first(flat=True)
    return {} if found is None else found.get_dict()


# What is said of it.


def _title(committee: CommitteeData) -> Iterator[str]:
    kind = committee.architecture or committee.trainer
    yield f'# Model card: {committee.n_members} potentials of {kind} for {" ".join(committee.elements)}'


def _model(committee: CommitteeData) -> Iterator[str]:
    seeds = ', '.join('unknown' if seed is None else str(seed) for seed in committee.seeds)
    yield from table(
        ('model', ''),
        [
            ('trainer', f'{committee.trainer} {committee.trainer_version or ""}'.strip()),
            ('architecture', committee.architecture or 'not known'),
            ('elements', ' '.join(committee.elements)),
            ('cutoff', f'{committee.cutoff:g} Å'),
            ('precision', committee.dtype),
            ('seeds', seeds),
            ('node', f'{committee.pk} ({committee.uuid})'),
            *((name, f'SHA-256 `{digest}`') for name, digest in _files(committee)),
        ],
    )


def _files(committee: CommitteeData) -> Iterator[tuple[str, str]]:
    yield from zip(committee.member_filenames, committee.member_hashes, strict=True)


def _data(committee: CommitteeData, dataset: PESData | None) -> Iterator[str]:
    yield '## Data\n'
    levels = ', '.join(f'`{level}`' for level in committee.level_of_theory) or 'not known'
    energies = ', '.join(f'{symbol} {energy:.4f}' for symbol, energy in committee.reference_energies.items())
    rows = [('level of theory', levels), ('energies of isolated atoms (eV)', energies or 'not known')]
    if dataset is None:
        rows.append(('data set', 'not in this database'))
    else:
        rows.append(('data set', f'node {dataset.pk}, content `{dataset.content_hash}`'))
        rows.append(('frames by split', ', '.join(f'{split} {count}' for split, count in dataset.splits.items())))
        rows.append(('frames by origin', ', '.join(f'{origin} {count}' for origin, count in dataset.origins.items())))
    yield from table(('data', ''), rows)


def _errors(training: Mapping[str, Any], metrics: Mapping[str, Any]) -> Iterator[str]:
    """RMSEs of the mean of the committee: those of the last evaluation, which has the test set, and by origin."""
    yield '## Errors\n'
    rows = [(split, 'all', *_rmse(of)) for split, of in metrics.items() if isinstance(of, Mapping)]
    known = {row[0] for row in rows}
    for split, origins in (training.get('committee') or {}).items():
        rows += [(split, origin, *_rmse(of)) for origin, of in origins.items() if origin != 'all' or split not in known]
    if not rows:
        yield 'Not known: the committee was not evaluated in this database.'
        return
    yield 'RMSE of the mean of the members; a training fits `train` and chooses the epoch by `validation`.\n'
    yield from table(('split', 'origin', *(f'{name} ({unit})' for name, unit in UNITS.items())), rows)


def _rmse(of: Mapping[str, Any]) -> list[str]:
    values = [(of.get(name) or {}).get('rmse') for name in UNITS]
    return ['–' if value is None else f'{value:.3g}' for value in values]


def _calibration(calibration: Mapping[str, Any]) -> Iterator[str]:
    yield '## Calibration of the uncertainty\n'
    forces = calibration.get('forces')
    if not forces:
        yield 'Not known: the disagreement of the members is no error.'
        return
    worth = 'it is trusted' if forces.get('trustworthy') else f'it is not trusted ({forces.get("reason")})'
    slope = forces.get('slope')
    factor = '' if slope is None else f' The expected error is about {slope:.3g} times the deviation.'
    yield (
        f'Force deviations are calibrated by `{forces.get("kind")}` on {forces.get("n_frames")} held-out frames; '
        f'{worth}, and the rule is: {forces.get("rule")}.{factor}'
    )


def _validity(committee: CommitteeData, dataset: PESData | None) -> Iterator[str]:
    yield '## Where it can be believed\n'
    yield f'Structures of {", ".join(committee.elements)} only, and like those that it was trained on:\n'
    if dataset is not None:
        with dataset.open_store() as store:
            found = describe(store)
        ranges = [
            ('atoms in a frame', found.n_atoms),
            ('volume of an atom (Å³)', found.volume_per_atom),
            ('energy (eV/atom)', found.energy_per_atom),
            ('largest force of a frame (eV/Å)', found.max_force),
            ('pressure (eV/Å³)', found.pressure),
        ]
        yield from table(('all frames of the data set', 'from', 'to'), [_range(*row) for row in ranges if row[1].n])
        yield ''
    yield (
        'Elsewhere watch the disagreement of the members (`f_alpot[1]` of `alpot-md`): where the expected force error '
        'exceeds what you accept, do not believe the result.'
    )


def _range(name: str, of: Range) -> tuple[str, str, str]:
    return (name, f'{of.low:.4g}', f'{of.high:.4g}')


def _options(committee: CommitteeData) -> Iterator[str]:
    if committee.hyper_parameters:
        yield '## Options of the training\n'
        yield f'```json\n{json.dumps(committee.hyper_parameters, indent=1, sort_keys=True)}\n```'


def table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """A table in Markdown."""
    for line in (heading, ['---'] * len(heading), *rows):
        yield f'| {" | ".join(line)} |'
