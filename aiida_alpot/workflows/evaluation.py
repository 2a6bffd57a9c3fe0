"""Evaluation of a committee on labelled frames and a pool."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiida import orm
from aiida.engine import ExitCode, ToContext, WorkChain

from aiida_alpot.calculations.evaluate import EvaluateCalculation
from aiida_alpot.worker.acquisition.config import parse_config
from aiida_alpot.workflows.codes import checked_options, load_checked_code
from aiida_alpot.workflows.fan_out import how_it_ended
from aiida_alpot.workflows.protocols import ProtocolMixin

STAND_INS = {'committee': ['0', '1'], 'dataset': ['0'], 'pool': [], 'seed': 0}
"""Settings that are only known when the chain runs, so that the others can be checked before."""


class EvaluationWorkChain(ProtocolMixin, WorkChain):
    """Calibrate the disagreement of a committee, measure its errors, and select from a pool what to label next."""

    STAGE = 'evaluation'

    @classmethod
    def define(cls, spec: Any) -> None:
        super().define(spec)
        spec.expose_inputs(EvaluateCalculation, exclude=('metadata', 'remote_folder'))
        spec.input_namespace('options', dynamic=True, non_db=True, help='`metadata.options` of the job.')
        spec.expose_outputs(EvaluateCalculation, exclude=('remote_folder', 'retrieved', 'remote_stash'))
        spec.exit_code(310, 'ERROR_EVALUATION_FAILED', message='the evaluation failed: {reason}')
        spec.outline(cls.evaluate, cls.collect)

    @classmethod
    def get_builder_from_protocol(
        cls,
        code: orm.AbstractCode | str,
        *,
        seed: int = 0,
        protocol: str | None = None,
        overrides: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Any:
        """Builder with the inputs of a protocol; ``committee``, ``dataset`` and ``pool`` are left to be set.

        :param code: the ``alpot-evaluate`` code.
        :param options: ``metadata.options`` of the job.
        :raises ValueError: for an unknown option, a missing code or a tolerance that is not above zero.
        """
        inputs = cls.get_protocol_inputs(protocol, overrides)
        if inputs['tolerance']['forces'] is None:
            raise ValueError('`evaluation.tolerance.forces`: give the force error that you accept, in eV/A.')
        job_options = inputs.pop('options')
        try:
            parse_config({**inputs, **STAND_INS})
        except ValueError as exception:
            raise ValueError(f'`evaluation`: {exception}.') from exception
        code = load_checked_code(code, 'alpot.evaluate', 'codes.evaluate')
        builder = cls.get_builder()
        builder.code = code
        builder.seed = orm.Int(seed)
        builder.parameters = orm.Dict(inputs)
        job = EvaluateCalculation.get_builder()
        job.metadata.options = checked_options(
            code, {**job_options, **(options or {})}, 'evaluation'
        )  # refuses unknown ones
        builder.options = job.metadata.options._inputs(prune=True)
        return builder

    def evaluate(self) -> Any:
        """Submit the evaluation."""
        inputs = self.exposed_inputs(EvaluateCalculation)
        inputs['metadata'] = {'options': dict(self.inputs.options), 'call_link_label': 'evaluate'}
        return ToContext(evaluation=self.submit(EvaluateCalculation, **inputs))

    def collect(self) -> ExitCode | None:
        """Pass on the outputs."""
        child = self.ctx.evaluation
        self.out_many(self.exposed_outputs(child, EvaluateCalculation))
        if not child.is_finished_ok:
            reason = how_it_ended(child)
            return self.exit_codes.ERROR_EVALUATION_FAILED.format(reason=reason)
        return None
