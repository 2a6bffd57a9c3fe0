"""Evaluation of a committee on labelled frames and a pool."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiida import orm
from aiida.engine import ExitCode, ToContext, WorkChain, while_

from aiida_alpot.calculations.evaluate import EvaluateCalculation
from aiida_alpot.worker.acquisition.config import parse_config
from aiida_alpot.worker.options import integer
from aiida_alpot.workflows.codes import checked_options, load_checked_code
from aiida_alpot.workflows.fan_out import how_it_ended, validate_not_negative
from aiida_alpot.workflows.protocols import ProtocolMixin

STAND_INS = {'committee': ['0', '1'], 'dataset': ['0'], 'pool': ['0'], 'seed': 0}
"""Settings that are only known when the chain runs, so that the others can be checked before."""


class EvaluationWorkChain(ProtocolMixin, WorkChain):
    """Calibrate the disagreement of a committee, measure its errors, and select from a pool what to label next.

    A job that the walltime ends is followed by another, which goes on where the first stopped.
    """

    STAGE = 'evaluation'

    @classmethod
    def define(cls, spec: Any) -> None:
        super().define(spec)
        spec.expose_inputs(EvaluateCalculation, exclude=('metadata', 'remote_folder'))
        spec.input(
            'max_restarts',
            valid_type=orm.Int,
            default=lambda: orm.Int(5),
            validator=validate_not_negative,
            help='Largest number of jobs that may follow one that the walltime ended.',
        )
        spec.input_namespace('options', dynamic=True, non_db=True, help='`metadata.options` of the job.')
        spec.expose_outputs(EvaluateCalculation, exclude=('retrieved', 'remote_stash', 'progress'))
        spec.exit_code(310, 'ERROR_EVALUATION_FAILED', message='the evaluation failed: {reason}')
        spec.exit_code(
            311,
            'ERROR_NO_PROGRESS',
            message='a job evaluated no frame before the walltime ended it: raise `max_wallclock_seconds`, or lower '
            '`batch_size` or the size of the frames (process {pk})',
        )
        spec.exit_code(
            312,
            'ERROR_TOO_MANY_RESTARTS',
            message='the walltime ended {n} jobs: raise `max_wallclock_seconds` or `max_restarts`, and give the output '
            '`remote_folder` as `parent_folder`, so that what was evaluated is not lost',
        )
        spec.outline(while_(cls.has_to_run)(cls.evaluate, cls.look), cls.collect)

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
        job_options, max_restarts = inputs.pop('options'), inputs.pop('max_restarts')
        integer('evaluation.max_restarts', max_restarts, 0)
        try:
            parse_config({**inputs, **STAND_INS})
        except ValueError as exception:
            raise ValueError(f'`evaluation`: {exception}.') from exception
        code = load_checked_code(code, 'alpot.evaluate', 'codes.evaluate')
        builder = cls.get_builder()
        builder.code = code
        builder.seed = orm.Int(seed)
        builder.parameters = orm.Dict(inputs)
        builder.max_restarts = orm.Int(max_restarts)
        job = EvaluateCalculation.get_builder()
        job.metadata.options = checked_options(
            code, {**job_options, **(options or {})}, 'evaluation'
        )  # refuses unknown ones
        builder.options = job.metadata.options._inputs(prune=True)
        return builder

    def has_to_run(self) -> bool:
        """Whether a first job, or another one, is needed."""
        return 'evaluation' not in self.ctx or was_stopped(self.ctx.evaluation)

    def evaluate(self) -> Any:
        """Submit the evaluation, or what is left of it."""
        inputs = self.exposed_inputs(EvaluateCalculation)
        n = self.ctx.setdefault('n_jobs', 0)
        self.ctx.n_jobs = n + 1
        inputs['metadata'] = {
            'options': dict(self.inputs.options),
            'call_link_label': f'evaluate_{n}' if n else 'evaluate',
        }
        if n:
            inputs['parent_folder'] = self.ctx.evaluation.outputs.remote_folder
        return ToContext(evaluation=self.submit(EvaluateCalculation, **inputs))

    def look(self) -> ExitCode | None:
        """Decide whether a job that the walltime ended is worth another."""
        job = self.ctx.evaluation
        if not was_stopped(job):
            return None
        evaluated = job.outputs.progress.get_dict()['evaluated'] if 'progress' in job.outputs else 0
        self.report(f'job {job.pk} evaluated {evaluated} frames: {how_it_ended(job)}')
        if evaluated and self.ctx.n_jobs <= self.inputs.max_restarts.value:
            return None
        self.out_many(self.exposed_outputs(job, EvaluateCalculation))
        if not evaluated:
            return self.exit_codes.ERROR_NO_PROGRESS.format(pk=job.pk)
        return self.exit_codes.ERROR_TOO_MANY_RESTARTS.format(n=self.ctx.n_jobs)

    def collect(self) -> ExitCode | None:
        """Pass on the outputs."""
        child = self.ctx.evaluation
        self.out_many(self.exposed_outputs(child, EvaluateCalculation))
        if not child.is_finished_ok:
            reason = how_it_ended(child)
            return self.exit_codes.ERROR_EVALUATION_FAILED.format(reason=reason)
        return None


def was_stopped(job: orm.CalcJobNode) -> bool:
    """Whether the walltime ended a job, and what it had evaluated is kept."""
    return job.exit_status == EvaluateCalculation.exit_codes.ERROR_WALLTIME.status
