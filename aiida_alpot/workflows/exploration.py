"""Exploration by molecular dynamics and other explorers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from aiida import orm
from aiida.engine import ExitCode, Process, while_

from aiida_alpot.calculations.exploration import collect_frames
from aiida_alpot.calculations.explore import ExploreCalculation
from aiida_alpot.calculations.md import MDCalculation, folder_name
from aiida_alpot.data.committee import CommitteeData
from aiida_alpot.data.pes import PESData
from aiida_alpot.worker.md.schedule import Condition, schedule
from aiida_alpot.worker.seeds import derive_seed
from aiida_alpot.workflows.codes import checked_concurrency, checked_options, load_checked_code
from aiida_alpot.workflows.exploration_jobs import EXPLORE, MD, add_part, following_job, lineage, results_of, rows_of
from aiida_alpot.workflows.exploration_settings import (
    CHAIN,
    CONDITIONS,
    JOBS,
    STARTS,
    Bounds,
    check,
    check_explorers,
    expected_of_held_out,
    is_start,
    kinds_of_settings,
    of_condition,
    schedule_settings,
    start_frames,
    validate_inputs,
    validate_jobs,
)
from aiida_alpot.workflows.fan_out import FanOutWorkChain, how_it_ended
from aiida_alpot.workflows.protocols import ProtocolMixin

WALLTIME_SHARE = 0.9
"""Share of the job's walltime after which a job stops by itself, so that it can still write what it sampled."""
OF_MD = ('parser_name', 'input_filename', 'output_filename')
"""Options of a job that other programs have of their own."""
OF_EXPLORERS = ('lower', 'upper')
"""Bounds that explorers other than dynamics have too."""


class ExplorationWorkChain(ProtocolMixin, FanOutWorkChain):
    """Trajectories at several conditions, driven by one member of a committee and watched by all; and other explorers.

    Each of ``n_replicas`` trajectories at each condition starts from a frame of ``structures``. A job that was
    interrupted is gone on with from its restart files. What a trajectory sampled before it stopped is kept; the chain
    fails only where nothing new was sampled. The account of all is in ``report``, what the committee said on the way
    in the outputs ``deviations`` of the jobs.
    """

    STAGE = 'exploration'

    @classmethod
    def define(cls, spec: Any) -> None:
        super().define(spec)
        spec.input('committee', valid_type=CommitteeData, help='The committee that drives and watches.')
        spec.input('structures', valid_type=PESData, help='Frames that trajectories can start from.')
        spec.input(
            'conditions',
            valid_type=orm.Dict,
            help='Temperatures, pressures and ensembles, and how they widen: see the protocol.',
        )
        spec.input('starts', valid_type=orm.Dict, help='Which frames trajectories start from: see the protocol.')
        spec.input('parameters', valid_type=orm.Dict, help='Settings of each trajectory, and `uncertainty`.')
        spec.input(
            'keep', valid_type=orm.Dict, default=lambda: orm.Dict({}), help='Frames that are kept: see the protocol.'
        )
        spec.input('explorers', valid_type=orm.List, required=False, help='Other explorers: see the protocol.')
        spec.input('seed', valid_type=orm.Int, help='Seed from which the seed of each trajectory follows.')
        spec.input(
            'jobs',
            valid_type=orm.Dict,
            default=lambda: orm.Dict(JOBS),
            validator=validate_jobs,
            help='`runs_per_job`: trajectories that one job runs after one another; `max_restarts`: largest number of '
            'jobs that may go on with one that was interrupted.',
        )
        spec.input(
            'stage',
            valid_type=orm.Int,
            default=lambda: orm.Int(0),
            validator=validate_not_negative,
            help='How far the conditions have widened, from 0.',
        )
        spec.input(
            'calibration',
            valid_type=orm.Dict,
            required=False,
            help='The output `calibration` of an evaluation of the committee: bounds are then of the expected error.',
        )
        spec.input(
            'predictions',
            valid_type=orm.ArrayData,
            required=False,
            help='The output `predictions` of the same evaluation, for `at_least_held_out`.',
        )
        spec.input(
            'scores',
            valid_type=orm.ArrayData,
            required=False,
            help='Output `scores` of an evaluation: trajectories start from the most uncertain frames, where asked to.',
        )
        spec.expose_inputs(
            MDCalculation,
            namespace='md',
            exclude=(
                *('script', 'files', 'filenames', 'settings', 'committee', 'structures', 'parameters', 'runs'),
                *('calibration', 'parent_folder'),
            ),
        )
        spec.input(
            'explore_code',
            valid_type=orm.AbstractCode,
            required=False,
            help='The code of alpot-explore, for `explorers`; its jobs have the options of those of `md`.',
        )
        spec.inputs.validator = validate_inputs
        spec.output('frames', valid_type=PESData, required=False, help='Sampled frames that are kept, without labels.')
        spec.output(
            'report', valid_type=orm.Dict, required=False, help='How each trajectory ended, what it gave, and the sums.'
        )
        spec.exit_code(
            310,
            'ERROR_NOTHING_SAMPLED',
            message='none of {n} trajectories gave a frame that is new; the first: {first}',
        )
        spec.exit_code(
            311,
            'ERROR_NO_START',
            message='no frame to start from: of origins {origins} with at least {n} atoms, and a cell that is not too '
            'thin, there is none; change `start_origins`, `start_min_atoms` or `min_thickness`',
        )
        spec.exit_code(312, 'ERROR_BAD_START', message='frame {index} cannot be a start: {reason}')
        spec.outline(cls.choose_starts, while_(cls.has_tasks)(cls.run_tasks, cls.continue_interrupted), cls.collect)

    @classmethod
    def get_builder_from_protocol(
        cls,
        code: orm.AbstractCode | str,
        *,
        seed: int = 0,
        protocol: str | None = None,
        overrides: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        tolerance: float | None = None,
        explore_code: orm.AbstractCode | str | None = None,
    ) -> Any:
        """Builder with the inputs of a protocol; ``committee`` and ``structures`` are left to be set.

        Where the bounds of the uncertainty are calibrated, as they are by default, ``calibration`` and ``predictions``
        of an evaluation are to be set, too.

        :param code: the ``alpot-md`` code.
        :param options: ``metadata.options`` of the jobs.
        :param tolerance: of the force error, eV/A; by default that of the evaluation's protocol of the same name.
        :param explore_code: the ``alpot-explore`` code, for ``explorers``.
        :raises ValueError: for an unknown option, a missing code or settings that make no sense.
        """
        inputs = cls.get_protocol_inputs(protocol, overrides)
        code = load_checked_code(code, 'alpot.md', 'codes.md')
        check(inputs)
        builder = cls.get_builder()
        builder.conditions = orm.Dict({name: inputs[name] for name in CONDITIONS})
        builder.starts = orm.Dict({name: inputs[name] for name in STARTS})
        parameters = {k: v for k, v in inputs.items() if k not in (*CONDITIONS, *STARTS, *CHAIN)}
        if parameters['uncertainty']['tolerance'] is None:
            own = _tolerance(protocol) if tolerance is None else tolerance
            parameters['uncertainty'] = {**parameters['uncertainty'], 'tolerance': own}
        builder.parameters = orm.Dict(parameters)
        builder.keep = orm.Dict(inputs['keep'])
        builder.seed = orm.Int(seed)
        builder.jobs = orm.Dict({name: inputs[name] for name in JOBS})
        job_options = checked_options(code, {**inputs['options'], **(options or {})}, 'exploration')
        builder.max_concurrent = orm.Int(
            checked_concurrency(code, inputs['max_concurrent'], 'exploration.max_concurrent', job_options)
        )
        builder.md.code = code
        builder.md.metadata.options = job_options
        if inputs['explorers']:
            builder.explorers = orm.List(inputs['explorers'])
            builder.explore_code = load_checked_code(explore_code, 'alpot.explore', 'codes.explore')
        return builder

    # What is run.

    def choose_starts(self) -> ExitCode | None:
        """Conditions, and the start frame of each trajectory."""
        conditions, seed = self.inputs.conditions.get_dict(), self.inputs.seed.value
        points = schedule(self.inputs.stage.value, schedule_settings(conditions), seed)
        self.ctx.conditions = [
            [point.temperature, point.pressure, point.ensemble]
            for point in points
            for _ in range(conditions['n_replicas'])
        ]
        self.ctx.bounds = self._bounds()
        n = len(self.ctx.conditions)
        try:
            found = self._starts(n + self._n_explorer_starts())
        except _BadStartError as refused:
            return self.exit_codes.ERROR_BAD_START.format(index=refused.index, reason=refused)
        if len(found) == 0:
            starts = self.inputs.starts.get_dict()
            return self.exit_codes.ERROR_NO_START.format(
                origins=starts['start_origins'] or 'any', n=starts['start_min_atoms']
            )
        self.ctx.starts = [found[index % len(found)] for index in range(n)]
        size = self.inputs.jobs['runs_per_job']
        self.ctx.jobs = [
            {'kind': MD, 'runs': list(range(first, min(first + size, n))), 'parent': None, 'part': 0, 'idle': 0}
            for first in range(0, n, size)
        ]
        exit_code = self._plan_explorers([found[index % len(found)] for index in range(n, n + len(found))])
        self.ctx.n_tasks = len(self.ctx.jobs)
        return exit_code

    def _starts(self, wanted: int) -> list[int]:
        """Frames that trajectories can start from, as many as are wanted and there are, the first ones first."""
        starts, structures = self.inputs.starts.get_dict(), self.inputs.structures
        try:
            candidates = start_frames(structures, starts)
        except ValueError as exception:
            raise _BadStartError('', str(exception)) from exception
        order = candidates
        if starts['start_frames'] is None:
            rng = np.random.default_rng(derive_seed(self.inputs.seed.value, 'starts'))
            order = candidates[rng.permutation(len(candidates))]
            if starts['start_from'] == 'uncertain':
                order = order[np.argsort(-self._errors()[order], kind='stable')]
        parameters = {**self.inputs.parameters.get_dict(), 'uncertainty': None}
        kinds = kinds_of_settings(self.inputs.conditions.get_dict(), parameters)
        found: list[int] = []
        with structures.open_store() as store:
            for index in order.tolist():
                if len(found) == wanted:
                    break
                try:
                    suits = is_start(store[index], kinds, self.inputs.committee.elements)
                except ValueError as exception:
                    raise _BadStartError(index, str(exception)) from exception
                if suits:
                    found.append(index)
                elif starts['start_frames'] is not None:
                    raise _BadStartError(index, 'it has one atom, or its cell is thinner than `min_thickness`')
        return found

    def _errors(self) -> np.ndarray:
        """Expected force error of each frame, -1 where it is not known, shape (n,), eV/A.

        From ``scores``, or as it was known when the frame was sampled.
        """
        with self.inputs.structures.open_store() as store:
            sampled = store.metadata('expected_force_error')
            ids = store.column('frame_id').astype(str).tolist()
        known = {}
        if 'scores' in self.inputs:
            scores = self.inputs.scores
            names = scores.get_array('frame_id').astype(str).tolist()
            known = dict(zip(names, scores.get_array('expected_force_error').tolist(), strict=True))
        errors = [known.get(name, -1.0 if error is None else error) for name, error in zip(ids, sampled, strict=True)]
        return np.nan_to_num(np.array(errors, dtype=float), nan=-1.0)

    def _bounds(self) -> dict[str, Any] | None:
        """Bounds of the uncertainty, eV/A, and a word about what they are worth."""
        bounds = Bounds.of(self.inputs.parameters.get_dict().get('uncertainty'))
        if bounds is None:
            return None
        held_out = None
        if bounds.needs_calibration:
            forces = self.inputs.calibration.get_dict()['forces']
            if not forces['trustworthy']:
                self.report(
                    f'the calibration is not trusted ({forces["reason"]}): its safer rule holds: {forces["rule"]}'
                )
            if bounds.at_least_held_out is not None:
                names = ('split', 'isolated', 'origin', 'max_force_deviation')
                arrays = {name: self.inputs.predictions.get_array(name) for name in names}
                held_out = expected_of_held_out(forces, arrays, bounds.at_least_held_out)
        elif bounds.lower is not None:
            self.report('the bounds of the uncertainty are of the deviation itself, which is no error: not calibrated')
        made = bounds.absolute(held_out)
        if bounds.lower is not None:
            self.report(f'bounds of the uncertainty: {made["lower"]:.3g} and {made["upper"] or np.inf:.3g} eV/A')
        return made

    def _n_explorer_starts(self) -> int:
        """How many start frames are to be drawn for explorers."""
        given = self.inputs.explorers.get_list() if 'explorers' in self.inputs else []
        return sum(
            of.get('n_runs', 1)
            for explorer, of in check_explorers(given)
            if explorer.n_starts == 1 and not of.get('start_frames')
        )

    def _plan_explorers(self, found: Sequence[int]) -> ExitCode | None:
        """One job for each explorer."""
        given = self.inputs.explorers.get_list() if 'explorers' in self.inputs else []
        drawn = list(found)
        for number, (explorer, of) in enumerate(check_explorers(given)):
            try:
                rows = rows_of(self.inputs.structures, of, explorer.n_starts, drawn)
                with self.inputs.structures.open_store() as store:
                    for row in rows[:1] if explorer.n_starts != 1 else rows:
                        explorer.check([store[index] for index in row])
            except ValueError as exception:
                return self.exit_codes.ERROR_BAD_START.format(
                    index=f'of explorers.{number}', reason=f'`{of["explorer"]}`: {exception}'
                )
            self.ctx.jobs.append(
                {'kind': EXPLORE, 'number': number, 'rows': rows, 'parent': None, 'part': 0, 'idle': 0}
            )
        return None

    def build_task(self, index: int) -> tuple[type[Process], dict[str, Any]]:
        """One job."""
        job = self.ctx.jobs[index]
        process = MDCalculation if job['kind'] == MD else ExploreCalculation
        inputs = self.exposed_inputs(MDCalculation, 'md')
        if job['kind'] == EXPLORE:
            options = {name: value for name, value in inputs['metadata']['options'].items() if name not in OF_MD}
            inputs = {'code': self.inputs.explore_code, 'metadata': {'options': options}}
        inputs |= {'committee': self.inputs.committee, 'structures': self.inputs.structures}
        if self.ctx.bounds is not None and self._is_calibrated():
            inputs['calibration'] = self.inputs.calibration
        runs = self._md_runs(job) if job['kind'] == MD else self._explorer_runs(job)
        inputs |= {'parameters': self._parameters(job), 'runs': orm.List(runs)}
        if job['parent'] is not None and 'remote_folder' in (parent := orm.load_node(job['parent'])).outputs:
            inputs['parent_folder'] = parent.outputs.remote_folder
        return process, inputs

    def _is_calibrated(self) -> bool:
        bounds = Bounds.of(self.inputs.parameters.get_dict().get('uncertainty'))
        return bounds is not None and bounds.needs_calibration

    def _parameters(self, job: Mapping[str, Any]) -> orm.Dict:
        """Settings of all runs of one kind, one node for all of its jobs."""
        name = job['kind'] if job['kind'] == MD else f'{EXPLORE}_{job["number"]}'
        pks = self.ctx.setdefault('parameter_pks', {})
        if name not in pks:
            values = self._md_parameters() if job['kind'] == MD else self._explorer_parameters(job)
            pks[name] = orm.Dict(values).store().pk
        return orm.load_node(pks[name])

    @property
    def _max_seconds(self) -> int:
        """Time that a job takes at most; 0: it has no limit."""
        walltime = self.inputs.md.metadata.options.get('max_wallclock_seconds') or 0
        return int(WALLTIME_SHARE * walltime)

    def _md_parameters(self) -> dict[str, Any]:
        values = {'max_seconds': self._max_seconds, **self.inputs.parameters.get_dict()}
        return {**values, 'uncertainty': self.ctx.bounds}

    def _explorer_parameters(self, job: Mapping[str, Any]) -> dict[str, Any]:
        values = self.inputs.parameters.get_dict()
        bounds = None
        if self.ctx.bounds is not None and self.ctx.bounds.get('lower') is not None:
            collects = self.ctx.bounds.get('on_crossing') == 'collect'
            bounds = {name: self.ctx.bounds[name] for name in OF_EXPLORERS}
            bounds['on_crossing'] = 'collect' if collects else 'halt'
        return {
            'device': values['device'],
            'dtype': values['dtype'],
            'uncertainty': bounds,
            'limits': self.inputs.explorers.get_list()[job['number']].get('limits'),
            'max_seconds': self._max_seconds or None,
        }

    def _md_runs(self, job: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The trajectories of a job."""
        conditions, parameters = self.inputs.conditions.get_dict(), self.inputs.parameters.get_dict()
        seed, runs = self.inputs.seed.value, []
        for place, index in enumerate(job['runs']):
            run: dict[str, Any] = {
                'start': self.ctx.starts[index],
                'seed': derive_seed(seed, 'trajectory', index),
                'lineage': lineage(MD, seed, index),
                'settings': of_condition(Condition(*self.ctx.conditions[index]), conditions, parameters),
            }
            if job['parent'] is not None:
                before = job['earlier'][place]
                run['earlier'] = folder_name(before)
                bias = results_of(orm.load_node(job['parent']), before).get('bias')
                run |= {'bias': bias} if bias and bias.get('tau') is not None else {}
            runs.append(run)
        return runs

    def _explorer_runs(self, job: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The runs of one explorer."""
        of, seed = self.inputs.explorers.get_list()[job['number']], self.inputs.seed.value
        name, number = of['explorer'], job['number']
        seeds = [derive_seed(seed, 'explorer', number, index) for index in range(len(job['rows']))]
        return [
            {
                'explorer': name,
                'settings': of.get('settings', {}),
                'starts': row,
                'seed': own,
                'driving_member': derive_seed(own, 'driving member') % self.inputs.committee.n_members,
                'lineage': lineage(f'{name}{number}', seed, index),
                'origin': name,
            }
            for index, (row, own) in enumerate(zip(job['rows'], seeds, strict=True))
        ]

    # What goes on.

    def continue_interrupted(self) -> None:
        """For each job that was interrupted add one that goes on with it."""
        looked = self.ctx.setdefault('looked', [])
        for index, pk in enumerate(self.ctx.child_pks):
            if index in looked or not (child := orm.load_node(pk)).is_terminated:
                continue
            looked.append(index)
            following = following_job(self.ctx.jobs[index], child, self._has_plumed())
            if following is None or following['part'] > self.inputs.jobs['max_restarts']:
                continue
            self.report(f'job {pk} was interrupted ({how_it_ended(child)}): another one goes on with it')
            self.ctx.jobs.append(following)
            self.ctx.n_tasks += 1

    def _has_plumed(self) -> bool:
        return self.inputs.parameters.get_dict().get('plumed') is not None

    # What it gave.

    def collect(self) -> ExitCode | None:
        """All frames in one data set, and the account of all trajectories."""
        children = self.children()
        frames = {f'job_{i:04d}': child.outputs.frames for i, child in enumerate(children) if 'frames' in child.outputs}
        account = {'bounds': self.ctx.bounds, 'calibration': self._worth(), 'stage': self.inputs.stage.value}
        rows = list(self._rows(children).values())
        made = collect_frames(
            orm.Dict({**account, 'trajectories': rows}), self.inputs.keep, self.inputs.structures, **frames
        )
        self.out('report', made['report'])
        failed = [child for child in children if not child.is_finished_ok]
        for child in failed[:10]:
            self.report(f'job {child.pk}: exit code {child.exit_status}: {how_it_ended(child)}')
        if 'frames' not in made:
            first = how_it_ended(failed[0]) if failed else rows[0]['message']
            return self.exit_codes.ERROR_NOTHING_SAMPLED.format(n=len(rows), first=first)
        self.out('frames', made['frames'])
        counts = made['report']['counts']
        self.report(f'{counts["n_kept"]} of {counts["n_sampled"]} frames of {len(rows)} trajectories are kept')
        return None

    def _worth(self) -> dict[str, Any] | None:
        """What is known of the calibration in use."""
        if self.ctx.bounds is None or not self._is_calibrated():
            return None
        forces = self.inputs.calibration.get_dict()['forces']
        return {name: forces.get(name) for name in ('kind', 'trustworthy', 'reason', 'rule', 'slope', 'n_frames')}

    def _rows(self, children: Sequence[orm.ProcessNode]) -> dict[str, dict[str, Any]]:
        """The account of each trajectory, by its lineage; parts of one that was interrupted add up."""
        rows: dict[str, dict[str, Any]] = {}
        seed = self.inputs.seed.value
        for job, child in zip(self.ctx.jobs, children, strict=True):
            n = len(job['runs'] if job['kind'] == MD else job['rows'])
            for place in range(n):
                if job['kind'] == MD:
                    index = job['runs'][place]
                    temperature, pressure, ensemble = self.ctx.conditions[index]
                    what = {'temperature': temperature, 'pressure': pressure, 'ensemble': ensemble}
                    what |= {'start': self.ctx.starts[index], 'lineage': lineage(MD, seed, index)}
                else:
                    name = self.inputs.explorers.get_list()[job['number']]['explorer']
                    what = {'explorer': name, 'starts': job['rows'][place]}
                    what |= {'lineage': lineage(f'{name}{job["number"]}', seed, place)}
                row = rows.setdefault(what['lineage'], {**what, 'restarts': 0, 'pks': []})
                add_part(row, job['part'], child.pk, results_of(child, place) or {'message': how_it_ended(child)})
        return rows


class _BadStartError(ValueError):
    """A frame that no trajectory can start from."""

    def __init__(self, index: int | str, reason: str) -> None:
        super().__init__(reason)
        self.index = index


def _tolerance(protocol: str | None) -> float:
    """Tolerance of the evaluation."""
    from aiida_alpot.workflows.evaluation import EvaluationWorkChain

    return float(EvaluationWorkChain.get_protocol_inputs(protocol)['tolerance']['forces'])


def validate_not_negative(node: orm.Int, _: Any) -> str | None:
    """Refuse a number below zero."""
    return f'must be at least 0, found {node.value}' if node is not None and node.value < 0 else None
