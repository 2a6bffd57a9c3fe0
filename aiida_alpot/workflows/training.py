"""Training of a committee."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from aiida import orm
from aiida.engine import ExitCode, Process, while_

from aiida_alpot.calculations.functions import assemble_committee, merge_training_results
from aiida_alpot.calculations.train import (
    TrainCalculation,
    misfit,
    problems_of_replay,
    requested_settings,
    validate_dataset,
)
from aiida_alpot.data.committee import CommitteeData
from aiida_alpot.data.pes import PESData
from aiida_alpot.data.potential import PotentialData
from aiida_alpot.worker.options import boolean, integer, unknown_name
from aiida_alpot.worker.registry import find, from_packages
from aiida_alpot.worker.seeds import derive_seed
from aiida_alpot.worker.training.check import TrainerNotInstalled, check_options
from aiida_alpot.worker.training.registry import GROUP, OWN
from aiida_alpot.worker.training.settings import TrainingSettings, parse_settings
from aiida_alpot.workflows.campaign_checks import OF_CAMPAIGN, check_warm_start
from aiida_alpot.workflows.codes import checked_concurrency, checked_options, load_checked_code
from aiida_alpot.workflows.fan_out import FanOutWorkChain, how_it_ended, validate_not_negative
from aiida_alpot.workflows.models import load_foundation, load_replay
from aiida_alpot.workflows.protocols import ProtocolMixin, load_yaml
from aiida_alpot.workflows.training_jobs import (
    first_jobs,
    following_job,
    outputs_of_members,
    warnings_of,
)

MIN_MEMBERS = 2
"""A committee of fewer members has no disagreement."""
MODELS = ('start', 'foundation', 'replay')
OF_CHAIN = ('n_members', 'packed', 'max_restarts', 'foundation', 'replay', 'options', 'max_concurrent')
"""What of the protocol is not for the program that trains."""


class TrainingWorkChain(ProtocolMixin, FanOutWorkChain):
    """Train a committee of models that differ in their seeds, all on the same splits, with one of the trainers.

    A job that the walltime, a signal or the failure of a node ended is followed by another, which goes on from its
    checkpoints, as long as epochs are done. What was trained is an output whatever happened to other members.
    """

    STAGE = 'training'

    @classmethod
    def define(cls, spec: Any) -> None:
        super().define(spec)
        spec.input('dataset', valid_type=PESData, help='Labelled frames with their splits.')
        spec.input('n_members', valid_type=orm.Int, validator=validate_n_members, help='Number of models.')
        spec.input('seed', valid_type=orm.Int, help='Seed from which the seed of each member follows.')
        spec.input(
            'packed',
            valid_type=orm.Bool,
            default=lambda: orm.Bool(True),
            help='Whether all members are trained side by side in one job, or each in a job of its own.',
        )
        spec.input(
            'max_restarts',
            valid_type=orm.Int,
            default=lambda: orm.Int(5),
            validator=validate_not_negative,
            help='Largest number of jobs that may go on with one that was interrupted.',
        )
        spec.expose_inputs(TrainCalculation, namespace='train', include=('code', 'parameters', 'metadata'))
        spec.expose_inputs(TrainCalculation, include=MODELS)
        spec.output('committee', valid_type=CommitteeData, required=False, help='The trained models.')
        spec.output_namespace('potentials', valid_type=PotentialData, dynamic=True, help='Each trained model.')
        spec.output('results', valid_type=orm.Dict, required=False, help='Errors, loss and attempts of each member.')
        spec.output_namespace(
            'curves', valid_type=orm.ArrayData, dynamic=True, help='Losses and errors by epoch of each member.'
        )
        spec.exit_code(
            310,
            'ERROR_TOO_FEW_MEMBERS',
            message='only {n} of {wanted} members were trained; the first failure: {reason}',
        )
        spec.exit_code(311, 'ERROR_UNUSABLE_DATASET', message='nothing can be learnt from the data set: {reason}')
        spec.outline(cls.plan_jobs, while_(cls.has_tasks)(cls.run_tasks, cls.continue_interrupted), cls.assemble)

    @classmethod
    def get_protocol_inputs(
        cls, protocol: str | None = None, overrides: Mapping[str, Any] | pathlib.Path | None = None
    ) -> dict[str, Any]:
        """See :meth:`ProtocolMixin.get_protocol_inputs`; of an architecture that is not the protocol's, the protocol
        has no options to give."""
        given = load_yaml(overrides.read_text()) if isinstance(overrides, pathlib.Path) else overrides
        inputs = super().get_protocol_inputs(protocol, given)
        own = super().get_protocol_inputs(protocol)['parameters']
        blocks = (given or {}).get('parameters') or {}
        for trainer, block in blocks.items():
            name = block.get('name') if isinstance(block, Mapping) else None
            if name is not None and name != own.get(trainer, {}).get('name', name):
                inputs['parameters'][trainer] = dict(block)
        return inputs

    @classmethod
    def get_builder_from_protocol(
        cls,
        code: orm.AbstractCode | str,
        dataset: PESData | None = None,
        *,
        seed: int = 0,
        protocol: str | None = None,
        overrides: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        start: CommitteeData | None = None,
    ) -> Any:
        """Builder with the inputs of a protocol.

        :param code: the ``alpot-train`` code.
        :param options: ``metadata.options`` of the training jobs.
        :param start: earlier committee whose members are gone on with.
        :raises ValueError: for an unknown option, one that the trainer refuses, a missing code, or a model that does
            not fit.
        """
        inputs = cls.get_protocol_inputs(protocol, overrides)
        _check_numbers(inputs)
        values = checked_settings(inputs)
        code = load_checked_code(code, 'alpot.train', 'codes.train')
        builder = cls.get_builder()
        if dataset is not None:
            builder.dataset = dataset
        builder.n_members = orm.Int(inputs['n_members'])
        builder.seed = orm.Int(seed)
        builder.packed = orm.Bool(inputs['packed'])
        builder.max_restarts = orm.Int(inputs['max_restarts'])
        job_options = checked_options(code, {**inputs['options'], **(options or {})}, 'training')
        builder.max_concurrent = orm.Int(
            checked_concurrency(code, inputs['max_concurrent'], 'training.max_concurrent', job_options)
        )
        builder.train.code = code
        builder.train.parameters = orm.Dict(values)
        builder.train.metadata.options = job_options
        models = {
            'start': start,
            'foundation': load_foundation(inputs['foundation'], 'training.foundation'),
            'replay': load_replay(inputs['replay'], 'training.replay'),
        }
        check_models(parse_settings(values), models, dataset)
        for name, node in models.items():
            if node is not None:
                builder[name] = node
        return builder

    # What is run.

    def plan_jobs(self) -> ExitCode | None:
        """Jobs for all members; nothing where nothing can be learnt."""
        settings = requested_settings(self.inputs.train.parameters)
        problem = validate_dataset(self.inputs.dataset, settings.properties)
        if problem:
            return self.exit_codes.ERROR_UNUSABLE_DATASET.format(reason=problem)
        self._warn_of_levels()
        self.ctx.jobs = first_jobs(self.inputs.n_members.value, self.inputs.packed.value)
        self.ctx.n_tasks = len(self.ctx.jobs)
        return None

    def _warn_of_levels(self) -> None:
        """Say where a model comes from labels that are no continuation of these."""
        levels = set(self.inputs.dataset.levels_of_theory)
        for name in ('start', 'foundation'):
            known = set(self.inputs[name].level_of_theory) if name in self.inputs else set()
            if known and known != levels:
                self.report(
                    f'`{name}` was trained on labels of {", ".join(sorted(known))}, and the data set is of '
                    f'{", ".join(sorted(levels))}: what it knows of energies counts little'
                )

    def build_task(self, index: int) -> tuple[type[Process], dict[str, Any]]:
        """One job."""
        job = self.ctx.jobs[index]
        inputs = self.exposed_inputs(TrainCalculation, 'train')
        inputs |= {name: self.inputs[name] for name in ('dataset', *MODELS) if name in self.inputs}
        inputs['members'] = orm.List([self._member(member) for member in job['members']])
        if job['parent'] is not None:
            inputs['parent_folder'] = orm.load_node(job['parent']).outputs.remote_folder
        return TrainCalculation, inputs

    def _member(self, index: int) -> dict[str, int]:
        """What tells a member from the others; one that an earlier committee does not have, starts anew."""
        member = {'index': index, 'seed': derive_seed(self.inputs.seed.value, 'member', index)}
        if 'start' in self.inputs and index < self.inputs.start.n_members:
            member['start'] = index
        return member

    def continue_interrupted(self) -> None:
        """For each job that was interrupted add one that goes on with it."""
        looked = self.ctx.setdefault('looked', [])
        for index, pk in enumerate(self.ctx.child_pks):
            if index in looked or not (child := orm.load_node(pk)).is_terminated:
                continue
            looked.append(index)
            following = following_job(self.ctx.jobs[index], child)
            if following is None or following['part'] > self.inputs.max_restarts.value:
                continue
            self.report(f'job {pk} was interrupted ({how_it_ended(child)}): another one goes on with it')
            self.ctx.jobs.append(following)
            self.ctx.n_tasks += 1

    # What it gave.

    def assemble(self) -> ExitCode | None:
        """Committee of the members that were trained."""
        children = self.children()
        for sentence in warnings_of(children):
            self.report(f'warning: {sentence}')
        made = {name: outputs_of_members(self.ctx.jobs, children, name) for name in ('potentials', 'curves')}
        for name, nodes in made.items():
            self.out(name, nodes)
        self._collect_results([child for child in children if 'results' in child.outputs])
        failed = self._failed(children)
        for child in failed[:10]:
            self.report(f'job {child.pk}: exit code {child.exit_status}: {how_it_ended(child)}')
        potentials, wanted = made['potentials'], self.inputs.n_members.value
        if len(potentials) < MIN_MEMBERS:
            return self.exit_codes.ERROR_TOO_FEW_MEMBERS.format(
                n=len(potentials), wanted=wanted, reason=how_it_ended(failed[0]) if failed else 'none'
            )
        if len(potentials) < wanted:
            self.report(f'the committee has {len(potentials)} of {wanted} members')
        self.out('committee', assemble_committee(**potentials))
        return None

    def _failed(self, children: Sequence[orm.ProcessNode]) -> list[orm.ProcessNode]:
        """Jobs that failed, and that no other went on with."""
        continued = {job['parent'] for job in self.ctx.jobs}
        return [child for child in children if not child.is_finished_ok and child.pk not in continued]

    def _collect_results(self, children: Sequence[Any]) -> None:
        found = {f'job_{number}': child.outputs.results for number, child in enumerate(children)}
        if len(found) == 1:
            self.out('results', found['job_0'])
        elif found:
            self.out('results', merge_training_results(**found))


def _check_numbers(inputs: Mapping[str, Any]) -> None:
    n_members = inputs['n_members']
    if not isinstance(n_members, int) or n_members < MIN_MEMBERS:
        raise ValueError(f'`training.n_members`: a committee needs at least {MIN_MEMBERS}, found {n_members!r}.')
    try:
        boolean('training.packed', inputs['packed'])
        integer('training.max_restarts', inputs['max_restarts'], 0)
        check_warm_start(inputs['warm_start'])
    except ValueError as exception:
        raise ValueError(f'{exception}.') from exception


def checked_settings(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a training from those of a protocol: of the trainers' own only those of the trainer that is asked for.

    They are compared with what the trainer takes, where it is installed here; else the job does it.

    :raises ValueError: for an option that is refused.
    """
    values = {name: value for name, value in inputs.items() if name not in OF_CHAIN}
    values['warm_start'] = {name: value for name, value in values['warm_start'].items() if name not in OF_CAMPAIGN}
    known = [*OWN, *from_packages(GROUP)]
    try:
        find(OWN, GROUP, values['trainer'], 'trainer')
        for name, of in inputs['parameters'].items():
            if name not in known:
                raise ValueError(unknown_name(name, known, 'trainer in `parameters`:'))
            if not isinstance(of, Mapping):
                raise ValueError(f'`parameters.{name}` is {of!r}, expected options of the trainer by name')
        values['parameters'] = dict(inputs['parameters'].get(values['trainer'], {}))
        parse_settings(values)
        check_options(values)
    except TrainerNotInstalled:
        pass  # it is on the machine that trains, where the job checks them before anything else
    except ValueError as exception:
        raise ValueError(f'`training`: {str(exception).rstrip(".")}.') from exception
    return values


def check_models(settings: TrainingSettings, models: Mapping[str, Any], dataset: PESData | None = None) -> None:
    """Check what can be told of models without loading them.

    :param models: ``start``, ``foundation`` and ``replay``, or nothing.
    :raises ValueError: naming the option.
    """
    elements = dataset.elements if dataset is not None else []
    for name in ('start', 'foundation'):
        misfits = models[name] is not None and misfit(models[name], settings, elements)
        if misfits:
            raise ValueError(f'`training.{name}`: {misfits}.')
    problem = next(problems_of_replay(models['replay'] is not None, models['foundation'] is not None, settings), None)
    if problem:
        raise ValueError(f'`training`: {problem}.')
    if settings.cutoff is None and models['foundation'] is None and models['start'] is None:
        raise ValueError('`training.cutoff`: is null, and there is no model to take it from; give it in A.')


def validate_n_members(node: orm.Int, _: Any) -> str | None:
    """Refuse a number that makes no committee."""
    return f'a committee needs at least {MIN_MEMBERS}, found {node.value}' if node.value < MIN_MEMBERS else None
