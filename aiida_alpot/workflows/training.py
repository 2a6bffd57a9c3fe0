"""Training of a committee."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiida import orm
from aiida.engine import ExitCode, Process, while_

from aiida_alpot.calculations.functions import assemble_committee
from aiida_alpot.calculations.mace_train import MaceTrainCalculation, validate_dataset, validate_parameters
from aiida_alpot.data.committee import CommitteeData
from aiida_alpot.data.pes import PESData
from aiida_alpot.data.potential import PotentialData
from aiida_alpot.worker.seeds import derive_seed
from aiida_alpot.workflows.codes import checked_concurrency, checked_options, load_checked_code
from aiida_alpot.workflows.fan_out import FanOutWorkChain, how_it_ended, validate_positive
from aiida_alpot.workflows.protocols import ProtocolMixin

MIN_MEMBERS = 2
"""A committee of fewer members has no disagreement."""


class TrainingWorkChain(ProtocolMixin, FanOutWorkChain):
    """Train a committee of MACE models that differ in their seeds, all on the same splits."""

    STAGE = 'training'

    @classmethod
    def define(cls, spec: Any) -> None:
        super().define(spec)
        spec.input('dataset', valid_type=PESData, help='Labelled frames with their splits.')
        spec.input('n_members', valid_type=orm.Int, validator=validate_positive, help='Number of models.')
        spec.input('seed', valid_type=orm.Int, help='Seed from which the seed of each member follows.')
        spec.expose_inputs(MaceTrainCalculation, namespace='mace', exclude=('dataset', 'seed'))
        spec.output('committee', valid_type=CommitteeData, help='The trained models.')
        spec.output_namespace('potentials', valid_type=PotentialData, help='Each trained model.')
        spec.output_namespace('results', valid_type=orm.Dict, help='Errors by epoch of each member.')
        spec.exit_code(
            310,
            'ERROR_TOO_FEW_MEMBERS',
            message='only {n} of {wanted} members were trained; the first failure: {reason}',
        )
        spec.exit_code(311, 'ERROR_UNUSABLE_DATASET', message='nothing can be learnt from the data set: {reason}')
        spec.outline(cls.count_members, while_(cls.has_tasks)(cls.run_tasks), cls.assemble)

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
    ) -> Any:
        """Builder with the inputs of a protocol.

        :param code: the ``mace_run_train`` code.
        :param options: ``metadata.options`` of the training jobs.
        :raises ValueError: for an unknown option or a missing code.
        """
        inputs = cls.get_protocol_inputs(protocol, overrides)
        n_members = inputs['n_members']
        if not isinstance(n_members, int) or n_members < MIN_MEMBERS:
            raise ValueError(f'`training.n_members`: a committee needs at least {MIN_MEMBERS}, found {n_members!r}.')
        problem = validate_parameters(orm.Dict(inputs['parameters']), None)
        if problem:
            raise ValueError(f'`training.parameters`: {problem}.')
        code = load_checked_code(code, 'alpot.mace_train', 'codes.mace_train')
        builder = cls.get_builder()
        if dataset is not None:
            builder.dataset = dataset
        builder.n_members = orm.Int(n_members)
        builder.seed = orm.Int(seed)
        job_options = checked_options(code, {**inputs['options'], **(options or {})}, 'training')
        builder.max_concurrent = orm.Int(
            checked_concurrency(code, inputs['max_concurrent'], 'training.max_concurrent', job_options)
        )
        builder.mace.code = code
        builder.mace.parameters = orm.Dict(inputs['parameters'])
        builder.mace.metadata.options = job_options
        return builder

    def count_members(self) -> ExitCode | None:
        """One task a member."""
        problem = validate_dataset(self.inputs.dataset, None)
        if problem:
            return self.exit_codes.ERROR_UNUSABLE_DATASET.format(reason=problem)
        self.ctx.n_tasks = self.inputs.n_members.value
        return None

    def build_task(self, index: int) -> tuple[type[Process], dict[str, Any]]:
        """Training of one member."""
        inputs = self.exposed_inputs(MaceTrainCalculation, 'mace')
        inputs['dataset'] = self.inputs.dataset
        inputs['seed'] = orm.Int(derive_seed(self.inputs.seed.value, 'member', index))
        return MaceTrainCalculation, inputs

    def assemble(self) -> ExitCode | None:
        """Committee of the members that were trained."""
        potentials, results, reasons = {}, {}, []
        for index, child in enumerate(self.children()):
            if 'results' in child.outputs:
                results[f'member_{index}'] = child.outputs.results
            if child.is_finished_ok:
                potentials[f'member_{index}'] = child.outputs.potential
            else:
                reasons.append(how_it_ended(child))
                self.report(f'member {index} was not trained, exit code {child.exit_status}: {reasons[-1]}')
        self.out('results', results)
        self.out('potentials', potentials)
        if len(potentials) < MIN_MEMBERS:
            return self.exit_codes.ERROR_TOO_FEW_MEMBERS.format(
                n=len(potentials), wanted=self.inputs.n_members.value, reason=reasons[0] if reasons else 'none'
            )
        self.out('committee', assemble_committee(**potentials))
        return None
