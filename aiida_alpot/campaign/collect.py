"""Take the labels of pw.x calculations that are in the database into a data set."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from aiida import orm
from aiida.common.links import LinkType

from aiida_alpot.calculations.pw_frames import NotUsable, PwRun, frames_from_pw, level_of_run
from aiida_alpot.data.pes import PESData
from aiida_alpot.worker.frames import Frame, FrameStore, LevelOfTheory, check_one_level

CHUNK = 200
"""Calculations that one calculation function takes in: each brings about three links."""

PW_CALCULATION = 'aiida.calculations:quantumespresso.pw'
PW_BASE = 'aiida.workflows:quantumespresso.pw.base'
PW_RELAX = 'aiida.workflows:quantumespresso.pw.relax'
LABELLING = 'aiida.workflows:alpot.labelling'

SOURCES = {'extract_structures': 'frames', 'frames_to_structures': 'dataset'}
"""Calculation functions whose outputs ``frame_<index>`` are the structures of frames, and the input with the frames."""

NAMESPACES = {
    'structure': 'structures',
    'root': 'structures',
    'parameters': 'parameters',
    'theory': 'parameters',
    'kpoints': 'kpoints',
    'settings': 'settings',
    'trajectory': 'trajectories',
}
"""Where the nodes of a run go among the inputs of the calculation function."""


@dataclass(frozen=True)
class Found:
    """A calculation, and the data set and index of the frame that its structure was made of."""

    run: PwRun
    source: tuple[PESData, int] | None = None


@dataclass
class Collection:
    """What was taken from calculations.

    :param dataset: the frames, or nothing where there are none; stored.
    :param reports: account of each call of the calculation function, stored.
    """

    dataset: PESData | None = None
    reports: list[orm.Dict] = field(default_factory=list)

    @property
    def counts(self) -> dict[str, int]:
        """Number of calculations, of those used and skipped, and of frames, over all reports."""
        totals: Counter[str] = Counter()
        for report in self.reports:
            totals.update({key: value for key, value in report.get_dict().items() if key.startswith('n_')})
        return dict(totals)

    @property
    def reasons(self) -> dict[str, int]:
        """Number of calculations that were skipped for each reason, the most frequent first."""
        totals: Counter[str] = Counter()
        for report in self.reports:
            totals.update(report['reasons'])
        return dict(totals.most_common())


def collect_pw(
    processes: Iterable[Any],
    *,
    kpoints_distance: float | None = None,
    level_of_theory: str | None = None,
    allow_mixed_levels: bool = False,
) -> Collection:
    """Labelled frames of pw.x calculations, as the output of calculation functions that link to what they came from.

    What is taken of a calculation is said at :func:`~aiida_alpot.calculations.pw_frames.frames_from_pw`. A calculation
    that cannot be used is skipped; the reports say why, for each.

    :param processes: ``PwCalculation`` nodes, work chains that called some, and groups of both.
    :param kpoints_distance: 1/A, for calculations that were given a mesh, and not a distance by the ``PwBaseWorkChain``
        that called them; a mesh that is not what this distance gives is refused.
    :param level_of_theory: take only labels with this base of a level of theory.
    :param allow_mixed_levels: take labels of several levels into one data set.
    :raises ValueError: for no calculations, and for labels of several levels of theory unless that is asked for.
    """
    found, skipped = find_runs(processes, kpoints_distance)
    runs, levels = _with_level(found, skipped, level_of_theory)
    if not runs and not skipped:
        raise ValueError('there is no pw.x calculation (PwCalculation) among what was given, nor below it')
    if not allow_mixed_levels:
        _check_levels(levels)
    collection = Collection()
    for start in range(0, max(1, len(runs)), CHUNK):
        outputs = frames_from_pw(
            **_inputs(runs[start : start + CHUNK]),
            skipped=orm.List(skipped if start == 0 else []),
            allow_mixed_levels=orm.Bool(allow_mixed_levels),
            **({} if collection.dataset is None else {'dataset': collection.dataset}),
        )
        collection.reports.append(outputs['report'])
        collection.dataset = outputs.get('frames', collection.dataset)
    return collection


def find_runs(
    processes: Iterable[Any], kpoints_distance: float | None = None
) -> tuple[list[Found], list[dict[str, str]]]:
    """Calculations that can be looked at, by PK, and those that cannot, each with ``calculation`` and ``reason``."""
    found: list[Found] = []
    skipped: list[dict[str, str]] = []
    nodes = _calculations(processes, skipped)
    with ExitStack() as stack:
        origins = _Origins(stack)
        for start in range(0, len(nodes), CHUNK):
            chunk = nodes[start : start + CHUNK]
            around = _Surroundings(chunk)
            for node in chunk:
                try:
                    found.append(_find(node, kpoints_distance, around, origins))
                except NotUsable as exception:
                    skipped.append({'calculation': node.uuid, 'reason': str(exception)})
    return found, skipped


def _calculations(processes: Iterable[Any], skipped: list[dict[str, str]]) -> list[orm.CalcJobNode]:
    found: dict[int, orm.CalcJobNode] = {}
    for node in _flat(processes):
        below = node.called_descendants if isinstance(node, orm.WorkflowNode) else [node]
        jobs = {job.pk: job for job in below if getattr(job, 'process_type', None) == PW_CALCULATION}
        if not jobs:
            skipped.append({'calculation': node.uuid, 'reason': 'it is no pw.x calculation, and called none'})
        found.update(jobs)
    return [found[pk] for pk in sorted(found)]


def _flat(items: Iterable[Any]) -> Iterator[Any]:
    for item in items:
        if isinstance(item, orm.Group):
            yield from item.nodes
        else:
            yield item


def _linked(
    nodes: Iterable[orm.Node], direction: str, link_type: LinkType, label: str = ''
) -> dict[int, dict[str, Any]]:
    """What many nodes are linked to, by their PK and the label of the link, in one query.

    :param direction: ``incoming`` for what comes before the nodes, ``outgoing`` for what comes after.
    """
    pks = [node.pk for node in nodes]
    if not pks:
        return {}
    filters = {'type': link_type.value, **({'label': label} if label else {})}
    query = orm.QueryBuilder().append(orm.Node, filters={'id': {'in': pks}}, tag='node', project='id')
    side = {'with_outgoing' if direction == 'incoming' else 'with_incoming': 'node'}
    query.append(
        orm.Node, **side, tag='other', project='*', edge_tag='link', edge_filters=filters, edge_project='label'
    )
    linked: dict[int, dict[str, Any]] = {}
    for row in query.iterdict():
        linked.setdefault(row['node']['id'], {})[row['link']['label']] = row['other']['*']
    return linked


class _Surroundings:
    """The nodes around many calculations, by a query for each kind and not for each calculation."""

    def __init__(self, nodes: Sequence[orm.CalcJobNode]) -> None:
        self.inputs = _linked(nodes, 'incoming', LinkType.INPUT_CALC)
        self.trajectories = _linked(nodes, 'outgoing', LinkType.CREATE, 'output_trajectory')
        self.callers = _only(_linked(nodes, 'incoming', LinkType.CALL_CALC))
        callers = {caller.pk: caller for caller in self.callers.values()}.values()
        self.callers_inputs = _linked(callers, 'incoming', LinkType.INPUT_WORK)
        self.above = _only(_linked(callers, 'incoming', LinkType.CALL_WORK))
        structures = [inputs['structure'] for inputs in self.inputs.values() if 'structure' in inputs]
        self.creators = _linked(structures, 'incoming', LinkType.CREATE)


def _only(linked: Mapping[int, Mapping[str, Any]]) -> dict[int, Any]:
    return {pk: next(iter(nodes.values())) for pk, nodes in linked.items()}


def _find(node: orm.CalcJobNode, kpoints_distance: float | None, around: _Surroundings, origins: _Origins) -> Found:
    """The nodes of a calculation.

    :raises NotUsable: where it has not ended well.
    """
    if not node.is_terminated:
        raise NotUsable('it has not ended yet')
    if not node.is_finished:
        raise NotUsable(f'it was {node.process_state.value}')
    if node.exit_status:
        raise NotUsable(f'it ended with exit code {node.exit_status}: {node.exit_message}')
    inputs = around.inputs[node.pk]
    caller = around.callers.get(node.pk)
    above = None if caller is None else around.above.get(caller.pk)
    base = {}
    if caller is not None and caller.process_type == PW_BASE:
        base = around.callers_inputs.get(caller.pk, {})
    if 'kpoints_distance' in base:
        kpoints_distance = base['kpoints_distance'].value
    source = origins.source(around.creators.get(inputs['structure'].pk, {}))
    prefix = 'pseudos__'
    run = PwRun(
        uuid=node.uuid,
        **{name: inputs[name] for name in ('structure', 'parameters', 'kpoints')},
        pseudos={label[len(prefix) :]: found for label, found in inputs.items() if label.startswith(prefix)},
        trajectory=around.trajectories.get(node.pk, {}).get('output_trajectory'),
        settings=inputs.get('settings'),
        kpoints_distance=kpoints_distance,
        theory=origins.theory(above),
        frame=None if source is None else origins.frame(*source),
        root=origins.root(base, above),
    )
    return Found(run, source)


class _Origins:
    """What calculations have in common further up, looked up once."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._theories: dict[int, orm.Dict] = {}
        self._stores: dict[int, FrameStore] = {}

    def theory(self, above: orm.ProcessNode | None) -> orm.Dict | None:
        """Parameters that define the level of theory of a labelling.

        :param above: what called the work chain that called the calculation.
        """
        if above is None or above.process_type != LABELLING:
            return None
        if above.pk not in self._theories:
            self._theories[above.pk] = above.inputs.pw.pw.parameters
        return self._theories[above.pk]

    def source(self, creators: Mapping[str, orm.ProcessNode]) -> tuple[PESData, int] | None:
        """Frame that a structure was made of.

        :param creators: what created the structure, by the name of that output.
        """
        for label, creator in creators.items():
            match = re.fullmatch(r'frame_(\d+)', label)
            if match is not None and creator.process_label in SOURCES:
                return getattr(creator.inputs, SOURCES[creator.process_label]), int(match[1])
        return None

    def frame(self, dataset: PESData, index: int) -> Frame:
        """A frame of a data set, whose files stay open."""
        if dataset.pk not in self._stores:
            self._stores[dataset.pk] = self._stack.enter_context(dataset.open_store())
        return self._stores[dataset.pk][index]

    def root(self, base: Mapping[str, Any], above: orm.ProcessNode | None) -> orm.StructureData | None:
        """Structure that a relaxation started from, whose restarts are calculations of their own.

        :param base: inputs of the ``PwBaseWorkChain`` that called the calculation.
        """
        if above is not None and above.process_type == PW_RELAX:
            return above.inputs.structure
        return base.get('pw__structure')


def _with_level(
    found: Sequence[Found], skipped: list[dict[str, str]], wanted: str | None
) -> tuple[list[Found], Counter[str]]:
    """The runs whose labels have a level of theory, the one that is wanted, and how many there are of each."""
    usable, levels = [], Counter[str]()
    for entry in found:
        try:
            level, _ = level_of_run(entry.run)
            if wanted is not None and level.base != wanted:
                raise NotUsable(f'its level of theory is {level.base}, and {wanted} was asked for')
        except NotUsable as exception:
            skipped.append({'calculation': entry.run.uuid, 'reason': str(exception)})
        else:
            usable.append(entry)
            levels[str(level)] += 1
    return usable, levels


def _check_levels(levels: Counter[str]) -> None:
    try:
        check_one_level(levels)
    except ValueError as exception:
        bases: Counter[str] = Counter()
        for level, count in levels.items():
            bases[LevelOfTheory.parse(level).base] += count
        found = ', '.join(
            f'{base} of {count} calculation{"" if count == 1 else "s"}' for base, count in bases.most_common()
        )
        raise ValueError(f'{exception}. Found: {found}. Choose one, or allow mixed levels.') from exception


def _inputs(found: Sequence[Found]) -> dict[str, Any]:
    """Inputs of the calculation function: each node once, and which run has which."""
    nodes: dict[str, dict[str, orm.Data]] = {}
    keys: dict[int, str] = {}

    def key(namespace: str, node: orm.Data) -> str:
        if node.pk not in keys:
            known = nodes.setdefault(namespace, {})
            keys[node.pk] = f'{namespace}_{len(known)}'
            known[keys[node.pk]] = node
        return keys[node.pk]

    entries = []
    for run, source in ((entry.run, entry.source) for entry in found):
        entry: dict[str, Any] = {'uuid': run.uuid, 'kpoints_distance': run.kpoints_distance}
        for name, namespace in NAMESPACES.items():
            node = getattr(run, name)
            entry[name] = None if node is None else key(namespace, node)
        entry['pseudos'] = {kind: key('pseudos', node) for kind, node in run.pseudos.items()}
        entry['source'] = None if source is None else [key('sources', source[0]), source[1]]
        entries.append(entry)
    return {'runs': orm.List(entries), **nodes}
