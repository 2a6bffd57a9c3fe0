"""Exploration by molecular dynamics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from aiida import orm
from aiida.engine import ExitCode, Process, while_

from aiida_alpot.calculations.functions import merge_datasets
from aiida_alpot.calculations.md import MDCalculation, prepare_md
from aiida_alpot.data.committee import CommitteeData
from aiida_alpot.data.pes import PESData
from aiida_alpot.worker.md.lammps_input import MDSettings
from aiida_alpot.worker.options import choice, device, integer, numbers
from aiida_alpot.worker.seeds import derive_seed
from aiida_alpot.workflows.codes import checked_concurrency, checked_options, load_checked_code
from aiida_alpot.workflows.fan_out import FanOutWorkChain, how_it_ended, validate_positive
from aiida_alpot.workflows.protocols import ProtocolMixin

CHAIN_KEYS = ('temperatures', 'n_replicas', 'start_origins', 'start_min_atoms', 'max_concurrent', 'options')
"""Values of the protocol that are not passed on to each trajectory."""

MIN_ATOMS = 2
"""Molecular dynamics of a single atom samples nothing."""

WALLTIME_SHARE = 0.9
"""Share of the job's walltime after which a run stops by itself, so that it can still write what it sampled."""


class ExplorationWorkChain(ProtocolMixin, FanOutWorkChain):
    """Trajectories at several temperatures, driven by one member of a committee and watched by all.

    Each of ``n_replicas`` trajectories at each temperature starts from a frame of ``structures`` drawn with the seed.
    What a trajectory sampled before it stopped is kept; the chain fails only where nothing at all was sampled.
    """

    STAGE = 'exploration'

    @classmethod
    def define(cls, spec: Any) -> None:
        super().define(spec)
        spec.input('committee', valid_type=CommitteeData, help='The committee that drives and watches.')
        spec.input('structures', valid_type=PESData, help='Frames that trajectories can start from.')
        spec.input('temperatures', valid_type=orm.List, validator=validate_temperatures, help='Temperatures, K.')
        spec.input(
            'n_replicas', valid_type=orm.Int, validator=validate_positive, help='Trajectories at each temperature.'
        )
        spec.input(
            'start_origins',
            valid_type=orm.List,
            help='Origins of the frames that trajectories start from; empty for any.',
        )
        spec.input(
            'start_min_atoms',
            valid_type=orm.Int,
            default=lambda: orm.Int(1),
            help='Smallest number of atoms of a frame that a trajectory starts from.',
        )
        spec.input('parameters', valid_type=orm.Dict, validator=validate_md, help='Settings of each trajectory.')
        spec.input('seed', valid_type=orm.Int, help='Seed from which the seed of each trajectory follows.')
        spec.expose_inputs(
            MDCalculation, namespace='md', exclude=('script', 'files', 'filenames', 'settings', 'committee')
        )
        spec.output('frames', valid_type=PESData, required=False, help='Sampled frames of all trajectories.')
        spec.output_namespace('deviations', valid_type=orm.ArrayData, help='Deviations by frame_id, by trajectory.')
        spec.output_namespace('summaries', valid_type=orm.Dict, help='Summary of each trajectory.')
        spec.exit_code(
            310, 'ERROR_NOTHING_SAMPLED', message='none of {n} trajectories gave a frame; the first: {first}'
        )
        spec.exit_code(
            311,
            'ERROR_NO_START',
            message='no frame to start from: of origins {origins} with at least {n} atoms there is none; '
            'change `start_origins` or `start_min_atoms`',
        )
        spec.exit_code(
            312,
            'ERROR_NOT_PERIODIC',
            message='`ensemble` is npt, but start frame {index} is not periodic along any axis: use nvt',
        )
        spec.outline(cls.choose_starts, while_(cls.has_tasks)(cls.run_tasks), cls.collect)

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
        """Builder with the inputs of a protocol; ``committee`` and ``structures`` are left to be set.

        :param code: the ``alpot-md`` code.
        :param options: ``metadata.options`` of the jobs.
        :raises ValueError: for an unknown option, a missing code or settings that make no sense.
        """
        inputs = cls.get_protocol_inputs(protocol, overrides)
        code = load_checked_code(code, 'alpot.md', 'codes.md')
        parameters = {key: value for key, value in inputs.items() if key not in CHAIN_KEYS}
        problem = check_md(parameters, inputs['temperatures'])
        if problem:
            raise ValueError(f'`exploration`: {problem}.')
        for name in ('n_replicas', 'start_min_atoms'):
            integer(f'exploration.{name}', inputs[name], 1)
        origins = inputs['start_origins']
        if not isinstance(origins, list) or not all(isinstance(origin, str) for origin in origins):
            raise ValueError(f'`exploration.start_origins`: must be a list of names, found {origins!r}; [] for any.')
        builder = cls.get_builder()
        builder.temperatures = orm.List([float(temperature) for temperature in inputs['temperatures']])
        builder.n_replicas = orm.Int(inputs['n_replicas'])
        builder.start_origins = orm.List(inputs['start_origins'])
        builder.start_min_atoms = orm.Int(inputs['start_min_atoms'])
        builder.parameters = orm.Dict(parameters)
        builder.seed = orm.Int(seed)
        job_options = checked_options(code, {**inputs['options'], **(options or {})}, 'exploration')
        builder.max_concurrent = orm.Int(
            checked_concurrency(code, inputs['max_concurrent'], 'exploration.max_concurrent', job_options)
        )
        builder.md.code = code
        builder.md.metadata.options = job_options
        return builder

    def choose_starts(self) -> ExitCode | None:
        """Draw the start frame of each trajectory."""
        origins, n_atoms = self.inputs.start_origins.get_list(), self.inputs.start_min_atoms.value
        candidates = start_frames(self.inputs.structures, origins, n_atoms)
        if len(candidates) == 0:
            return self.exit_codes.ERROR_NO_START.format(origins=origins, n=n_atoms)
        temperatures = [t for t in self.inputs.temperatures.get_list() for _ in range(self.inputs.n_replicas.value)]
        rng = np.random.default_rng(derive_seed(self.inputs.seed.value, 'starts'))
        starts = rng.choice(candidates, size=len(temperatures), replace=len(candidates) < len(temperatures))
        if self.inputs.parameters['ensemble'] == 'npt':
            with self.inputs.structures.open_store() as store:
                for start in starts.tolist():
                    if not store[start].pbc.any():
                        return self.exit_codes.ERROR_NOT_PERIODIC.format(index=start)
        self.ctx.trajectories = [
            {'temperature': t, 'start': int(start)} for t, start in zip(temperatures, starts, strict=True)
        ]
        self.ctx.n_tasks = len(temperatures)
        return None

    def build_task(self, index: int) -> tuple[type[Process], dict[str, Any]]:
        """One trajectory."""
        trajectory = self.ctx.trajectories[index]
        parameters = self.inputs.parameters.get_dict()
        parameters.update(temperature=trajectory['temperature'], lineage=f'md:{self.inputs.seed.value}:{index}')
        walltime = self.inputs.md.metadata.options.get('max_wallclock_seconds') or 0  # 0: the run has no limit
        parameters.setdefault('max_seconds', int(WALLTIME_SHARE * walltime))
        seed = orm.Int(derive_seed(self.inputs.seed.value, 'trajectory', index))
        files = prepare_md(
            self.inputs.structures, orm.Int(trajectory['start']), orm.Dict(parameters), self.inputs.committee, seed
        )
        inputs = self.exposed_inputs(MDCalculation, 'md')
        inputs.update(
            script=files['script'],
            files={'start': files['start'], 'driver': files['driver']},
            committee=self.inputs.committee,
        )
        return MDCalculation, inputs

    def collect(self) -> ExitCode | None:
        """All frames in one data set."""
        frames, deviations, summaries, reasons = {}, {}, {}, []
        for index, child in enumerate(self.children()):
            key = f'trajectory_{index:04d}'
            if 'frames' in child.outputs:
                frames[key] = child.outputs.frames
            if 'deviations' in child.outputs:
                deviations[key] = child.outputs.deviations
            if 'results' in child.outputs:
                summaries[key] = child.outputs.results
            if not child.is_finished_ok:
                reasons.append(how_it_ended(child))
                self.report(f'trajectory {index}: exit code {child.exit_status}: {reasons[-1]}')
        self.out('deviations', deviations)
        self.out('summaries', summaries)
        if not frames:
            return self.exit_codes.ERROR_NOTHING_SAMPLED.format(n=self.ctx.n_tasks, first=reasons[0])
        self.out('frames', merge_datasets(**frames))
        return None


def start_frames(structures: PESData, origins: Sequence[str], min_atoms: int) -> np.ndarray:
    """Indices of the frames of a data set that trajectories can start from, shape (n,)."""
    return eligible(structures.column('origin'), structures.column('n_atoms'), origins, min_atoms)


def eligible(found: np.ndarray, n_atoms: np.ndarray, origins: Sequence[str], min_atoms: int) -> np.ndarray:
    """Indices of frames that trajectories can start from: of some origins, and with enough atoms.

    :param found: origin of each frame, shape (n,).
    :param n_atoms: number of atoms of each frame, shape (n,).
    :param origins: the origins to choose from; empty for any. A single atom has no dynamics, whatever is asked for.
    """
    wanted = np.isin(found, origins) if origins else np.ones(len(found), dtype=bool)
    return np.flatnonzero(wanted & (n_atoms >= max(min_atoms, MIN_ATOMS)))


def check_md(parameters: Mapping[str, Any], temperatures: Any) -> str | None:
    """What is wrong with the settings of the trajectories, or nothing."""
    fields = {key: value for key, value in parameters.items() if key not in ('device', 'dtype')}
    if not temperatures:
        return f'`temperatures` is {temperatures!r}: give at least one, in K'
    for name, value in fields.items():
        if not isinstance(value, (int, float, type(None))) and name not in ('ensemble', 'barostat'):
            return f'`{name}` is {value!r}: give a number'
    try:
        device('device', parameters.get('device'))
        choice('dtype', parameters.get('dtype'), ('float64', 'float32'))
        for temperature in numbers('temperatures', temperatures, 0.0, math.inf, exclusive=True):
            settings = MDSettings(**fields, temperature=temperature, seed=0)
            if settings.sample_every > settings.n_steps:
                return '`sample_every` is larger than `n_steps`, so no frame would be kept: lower it'
    except (TypeError, ValueError) as exception:
        return str(exception)
    return None


def validate_md(node: orm.Dict, _: Any) -> str | None:
    """Refuse settings that make no sense."""
    return check_md(node.get_dict(), [300.0])


def validate_temperatures(node: orm.List, _: Any) -> str | None:
    """Refuse an empty list and temperatures that are not above zero."""
    values = node.get_list()
    if not values or any(not value > 0 for value in values):
        return f'must be a list of temperatures above zero, in K, found {values}'
    return None
