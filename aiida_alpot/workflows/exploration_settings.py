"""What an exploration is asked for: conditions, start frames, bounds of the uncertainty, and what is refused."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from aiida import orm
from ase.data import chemical_symbols

from aiida_alpot.calculations.explore import STAND_INS
from aiida_alpot.calculations.md import SURROUNDINGS, md_settings
from aiida_alpot.data.pes import PESData
from aiida_alpot.worker.acquisition.calibration import from_dict
from aiida_alpot.worker.explorers import Explorer, make_explorer
from aiida_alpot.worker.explorers.job import Job
from aiida_alpot.worker.frames import Frame
from aiida_alpot.worker.frames.thin import ThinSettings
from aiida_alpot.worker.md.schedule import Condition, ScheduleSettings
from aiida_alpot.worker.md.settings import MDSettings, check_start, thickness
from aiida_alpot.worker.md.uncertainty import UncertaintySettings
from aiida_alpot.worker.options import boolean, build, choice, device, integer, number, unknown_name

STAGE = 'exploration'
MIN_ATOMS = 2
"""Molecular dynamics of a single atom samples nothing."""
TOLERANCE, ABSOLUTE = 'tolerance', 'eV/A'
UNITS = (TOLERANCE, ABSOLUTE)
WIDEN = ('converged', 'rounds')
START_FROM = ('drawn', 'uncertain')

CONDITIONS = (*(field.name for field in fields(ScheduleSettings)), 'widen', 'n_replicas', 'pressure_axes')
STARTS = ('start_from', 'start_origins', 'start_min_atoms', 'start_frames', 'same_starts')
JOBS = {'runs_per_job': 1, 'max_restarts': 5}
CHAIN = ('keep', 'explorers', *JOBS, 'options', 'max_concurrent')
"""Values of the protocol that are not settings of each trajectory."""

_ALIASES = {'temperature': 'temperatures', 'pressure': 'pressures', 'ensemble': 'ensembles'}
_OF_ENSEMBLE: dict[str, dict[str, Any]] = {
    'nve': {'thermostat': 'nose_hoover', 'thermostat_damping': None, 'temperature_end': None},
    'no barostat': {'barostat_damping': None, 'pressure_end': None},
}
"""Options that have no effect without a thermostat or a barostat, and what they are then."""
_NUMBERS = (
    *('timestep', 'n_steps', 'sample_every', 'committee_every', 'thermostat_damping', 'temperature_end'),
    *('barostat_damping', 'max_temperature', 'min_thickness', 'restart_every'),
)
_OWN_BOUNDS = ('unit', 'tolerance', 'at_least_held_out', 'calibrated')
_HEX = re.compile(r'[0-9a-f]{8,64}')


def in_words(exception: Exception, field: str = '') -> str:
    """What an exception says, by the name of the field in a campaign."""
    text = str(exception).rstrip('.')
    if field:
        return f'`{STAGE}.{field}`: {text}'
    text = re.sub(r'^unknown value of (`[\w.]+`): (.*?)\.? ', r'\1: unknown value \2. ', text)
    name = re.match(r'`(?:schedule\.)?(\w+)((?:\.\w+)*)`', text)
    if name is None:
        return f'`{STAGE}`: {text}'
    return f'`{STAGE}.{_ALIASES.get(name[1], name[1])}{name[2]}`{text[name.end() :]}'


# Conditions.


def schedule_settings(conditions: Mapping[str, Any]) -> ScheduleSettings:
    """What a round explores.

    :raises ValueError: for a value out of range.
    """
    own = {field.name for field in fields(ScheduleSettings)}
    return build(ScheduleSettings, {key: conditions[key] for key in own if key in conditions}, 'condition')


def of_condition(condition: Condition, conditions: Mapping[str, Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that a trajectory has of its own.

    Options of a thermostat or barostat are left out where the condition has none, and another one has.
    """
    values: dict[str, Any] = {'ensemble': condition.ensemble, 'temperature': condition.temperature}
    ensembles = conditions['ensembles']
    if condition.ensemble == 'npt':
        axes = conditions.get('pressure_axes')
        values['pressure'] = dict.fromkeys(axes, condition.pressure) if axes else condition.pressure
    elif 'npt' in ensembles:
        values.update(_OF_ENSEMBLE['no barostat'])
    if condition.ensemble == 'nve' and set(ensembles) != {'nve'}:
        values.update(_OF_ENSEMBLE['nve'])
    return {key: value for key, value in values.items() if key not in parameters or parameters[key] != value}


def kinds_of_settings(conditions: Mapping[str, Any], parameters: Mapping[str, Any]) -> list[MDSettings]:
    """Settings of one trajectory of each ensemble, at the highest temperature and the first pressure.

    :raises ValueError: for what cannot be.
    """
    hottest = max(conditions['temperatures'])
    return [
        settings_of(Condition(hottest, float(conditions['pressures'][0]), ensemble), conditions, parameters)
        for ensemble in conditions['ensembles']
    ]


def settings_of(
    condition: Condition, conditions: Mapping[str, Any], parameters: Mapping[str, Any], bounds: Any = None
) -> MDSettings:
    """Settings of a trajectory.

    :param bounds: of the uncertainty, eV/A.
    :raises ValueError: for what cannot be.
    """
    values = {**parameters, 'uncertainty': bounds}
    return md_settings(values, {'settings': of_condition(condition, conditions, values), 'seed': 0})


# Bounds of the uncertainty.


@dataclass(frozen=True)
class Bounds:
    """Bounds of the uncertainty as users write them.

    :param lower: of the expected force error, in ``unit``; ``None``: nothing is bounded by it, nor by ``upper``.
    :param upper: likewise.
    :param unit: ``tolerance`` or ``eV/A``.
    :param tolerance: of the force error, eV/A, of which they are multiples where that is their unit.
    :param at_least_held_out: quantile of the expected errors of held-out frames, by which the bounds are raised.
    :param calibrated: whether they are of the expected error, or of the deviation itself.
    :param others: the other fields of :class:`~aiida_alpot.worker.md.uncertainty.UncertaintySettings`.
    :raises ValueError: for a value out of range.
    """

    lower: float | None
    upper: float | None
    unit: str
    tolerance: float | None
    at_least_held_out: float | None
    calibrated: bool
    others: Mapping[str, Any]

    @classmethod
    def of(cls, values: Mapping[str, Any] | None) -> Bounds | None:
        """The bounds of the parameters of a chain; nothing where nothing is bounded."""
        if values is None:
            return None
        known = {field.name for field in fields(UncertaintySettings)} - {'calibration'}
        for name in values:
            if name not in (*known, *_OWN_BOUNDS):
                raise ValueError(unknown_name(name, [*known, *_OWN_BOUNDS], 'field'))
        lower = values.get('lower')
        if lower is None and values.get('grade_lower') is None:
            return None
        unit = choice('unit', values.get('unit', ABSOLUTE), UNITS)
        tolerance, share = values.get('tolerance'), values.get('at_least_held_out')
        if tolerance is not None:
            number('tolerance', tolerance, 0.0, exclusive=True)
        if share is not None:
            number('at_least_held_out', share, 0.0, 1.0)
        calibrated = boolean('calibrated', values.get('calibrated', True))
        others = {key: value for key, value in values.items() if key in known - {'lower', 'upper'}}
        upper = values.get('upper') if lower is not None else None
        UncertaintySettings(lower=lower, upper=upper, **others)
        return cls(lower, upper, unit, tolerance, share, calibrated, others)

    @property
    def needs_calibration(self) -> bool:
        """Whether an evaluation has to come first."""
        return self.lower is not None and self.calibrated

    def absolute(self, held_out: float | None = None) -> dict[str, Any]:
        """The fields of :class:`~aiida_alpot.worker.md.uncertainty.UncertaintySettings`.

        :param held_out: what is expected of held-out frames, eV/A: ``lower`` is not below it, and ``upper`` is raised
            by the same factor.
        :raises ValueError: without a tolerance where it is the unit.
        """
        if self.lower is None:
            return dict(self.others)
        if self.unit == TOLERANCE and self.tolerance is None:
            raise ValueError('`uncertainty.unit` is tolerance: give `uncertainty.tolerance`, or the bounds in eV/A')
        scale = self.tolerance if self.unit == TOLERANCE and self.tolerance is not None else 1.0
        scale *= max(1.0, (held_out or 0.0) / (self.lower * scale))
        return {
            **self.others,
            'lower': self.lower * scale,
            'upper': None if self.upper is None else self.upper * scale,
        }


def expected_of_held_out(
    calibration: Mapping[str, Any], predictions: Mapping[str, np.ndarray], share: float
) -> float | None:
    """Quantile of the largest expected force errors of held-out frames, eV/A; nothing where there is none.

    :param calibration: of the forces.
    :param predictions: arrays of an evaluation: ``split``, ``isolated``, ``origin``, ``max_force_deviation``.
    :param share: which quantile, 0 to 1.
    """
    deviation = predictions['max_force_deviation']
    wanted = (predictions['split'] == 'validation') & ~predictions['isolated'] & (deviation > 0)
    if not wanted.any():
        return None
    expected = from_dict(calibration).expected_error(deviation[wanted], predictions['origin'][wanted])
    finite = expected[np.isfinite(expected)]
    return float(np.quantile(finite, share)) if len(finite) else None


# Start frames.


def eligible(found: np.ndarray, n_atoms: np.ndarray, origins: Sequence[str], min_atoms: int) -> np.ndarray:
    """Indices of frames that trajectories can start from: of some origins, and with enough atoms.

    :param found: origin of each frame, shape (n,).
    :param n_atoms: number of atoms of each frame, shape (n,).
    :param origins: the origins to choose from; empty for any. A single atom has no dynamics, whatever is asked for.
    """
    wanted = np.isin(found, origins) if origins else np.ones(len(found), dtype=bool)
    return np.flatnonzero(wanted & (n_atoms >= max(min_atoms, MIN_ATOMS)))


def start_frames(structures: PESData, starts: Mapping[str, Any]) -> np.ndarray:
    """Indices of the frames of a data set that trajectories can start from, shape (n,).

    :raises ValueError: for an explicit list with frames that are not there.
    """
    if starts['start_frames'] is not None:
        return np.array(named_frames(structures, starts['start_frames']), dtype=np.int64)
    columns = structures.column('origin'), structures.column('n_atoms')
    return eligible(*columns, starts['start_origins'], starts['start_min_atoms'])


def named_frames(structures: PESData, names: Sequence[int | str]) -> list[int]:
    """Indices of frames that are named by index, or by the beginning of their ``frame_id``.

    :raises ValueError: for one that is not there, or not clear.
    """
    ids = structures.column('frame_id').astype(str) if any(isinstance(name, str) for name in names) else np.array([])
    found = []
    for name in names:
        if isinstance(name, str):
            hits = np.flatnonzero(np.char.startswith(ids, name))
            if len(set(ids[hits].tolist())) != 1:
                count = 'no' if len(hits) == 0 else 'more than one'
                raise ValueError(f'`start_frames` names {name}, and {count} frame_id of the data set begins with it')
            found.append(int(hits[0]))
        elif name < len(structures):
            found.append(name)
        else:
            raise ValueError(f'`start_frames` names frame {name}, and the data set has {len(structures)} frames')
    return found


def is_start(frame: Frame, settings: Iterable[MDSettings], elements: Sequence[str] | None = None) -> bool:
    """Whether a trajectory of each kind can start from a frame; a cell that is too thin is not looked at any further.

    :param elements: that the committee knows.
    :raises ValueError: for what is not a matter of size: axes, hydrogen, elements.
    """
    kinds = list(settings)
    if len(frame) < MIN_ATOMS or thickness(frame.cell, frame.pbc).min() < max(kind.min_thickness for kind in kinds):
        return False
    symbols = {chemical_symbols[number] for number in frame.numbers.tolist()}
    if elements is not None and not symbols <= set(elements):
        raise ValueError(
            f'`start_origins`: a start frame has {", ".join(sorted(symbols - set(elements)))}, which the committee, of '
            f'{", ".join(elements)}, does not know: choose others, or train on frames with it'
        )
    for kind in kinds:
        check_start(frame, kind)
    return True


# Everything together.


def check(inputs: Mapping[str, Any]) -> None:
    """Refuse values of the protocol that cannot be.

    :raises ValueError: naming the field as it is in a campaign.
    """
    parameters = {k: v for k, v in inputs.items() if k not in (*CONDITIONS, *STARTS, *CHAIN)}
    try:
        _check_chain(inputs)
        _check_numbers(parameters)
        device('device', inputs['device'])
        choice('dtype', inputs['dtype'], ('float64', 'float32'))
        schedule_settings(inputs)
    except (TypeError, ValueError) as exception:
        raise ValueError(f'{in_words(exception)}.') from exception
    check_bounds(inputs['uncertainty'])
    check_parameters(inputs, parameters)
    try:
        build(ThinSettings, inputs['keep'], 'field of `keep`')
    except ValueError as exception:
        raise ValueError(f'{in_words(exception)}.') from exception
    check_explorers(inputs['explorers'])


def _check_chain(inputs: Mapping[str, Any]) -> None:
    for name in ('n_replicas', 'start_min_atoms', 'runs_per_job'):
        integer(name, inputs[name], 1)
    integer('max_restarts', inputs['max_restarts'], 0)
    boolean('same_starts', inputs['same_starts'])
    choice('widen', inputs['widen'], WIDEN)
    choice('start_from', inputs['start_from'], START_FROM)
    origins, frames, axes = inputs['start_origins'], inputs['start_frames'], inputs['pressure_axes']
    if not isinstance(origins, list) or not all(isinstance(origin, str) for origin in origins):
        raise ValueError(f'`start_origins`: must be a list of names, found {origins!r}; [] for any')
    if frames is not None:
        _check_named(frames, inputs)
    if axes is not None:
        if not isinstance(axes, list) or not axes or not set(map(str, axes)) <= set('xyz'):
            raise ValueError(f'`pressure_axes` is {axes!r}: give axes among x, y, z, or null for all')
        if 'npt' not in inputs['ensembles']:
            raise ValueError('`pressure_axes` has no effect without the ensemble npt: leave it out')


def _check_named(frames: Any, inputs: Mapping[str, Any]) -> None:
    good = isinstance(frames, list) and frames
    for name in frames if good else ():
        is_index = isinstance(name, int) and not isinstance(name, bool) and name >= 0
        if not is_index and not (isinstance(name, str) and _HEX.fullmatch(name)):
            good = False
    if not good:
        raise ValueError(
            f'`start_frames` is {frames!r}: give indices of frames, or frame_ids (at least their first 8 digits)'
        )
    if inputs['start_from'] != 'drawn':
        raise ValueError(
            f'`start_from` is {inputs["start_from"]}, and `start_frames` says it already: give one of them'
        )


def _check_numbers(parameters: Mapping[str, Any]) -> None:
    known = {field.name for field in fields(MDSettings)}
    for name in parameters:
        if name not in known and name not in SURROUNDINGS:
            raise ValueError(unknown_name(name, known, 'parameter'))
    for name in _NUMBERS:
        value = parameters.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise ValueError(f'`{name}` is {value!r}: give a number')


def check_bounds(values: Mapping[str, Any] | None) -> None:
    """Refuse bounds of the uncertainty that cannot be.

    :raises ValueError: naming the field.
    """
    try:
        Bounds.of(values)
    except (TypeError, ValueError) as exception:
        text = re.sub(r'^`(\w+)` of `uncertainty`', r'`\1`', str(exception))
        name = re.match(r'`(\w+)`', text)
        words = f'`{STAGE}.uncertainty.{name[1]}`{text[name.end() :]}' if name else f'`{STAGE}.uncertainty`: {text}'
        raise ValueError(f'{words.rstrip(".")}.') from exception


def check_parameters(conditions: Mapping[str, Any], parameters: Mapping[str, Any]) -> None:
    """Refuse settings of trajectories that cannot be.

    :raises ValueError: naming the field.
    """
    bounds = Bounds.of(parameters.get('uncertainty'))
    resolved = None if bounds is None else replace(bounds, tolerance=bounds.tolerance or 1.0).absolute()
    try:
        for temperature in (min(conditions['temperatures']), max(conditions['temperatures'])):
            for ensemble in conditions['ensembles']:
                for pressure in conditions['pressures'] if ensemble == 'npt' else (0.0,):
                    condition = Condition(float(temperature), float(pressure), ensemble)
                    settings = settings_of(condition, conditions, parameters, resolved)
        if settings.sample_every > settings.n_steps:
            raise ValueError(
                f'`sample_every` is larger than `n_steps`, {settings.n_steps}, so no frame would be kept: lower it'
            )
        if not settings.restart_every:
            raise ValueError('`restart_every` is 0: runs that are interrupted could not go on; null is a tenth of all')
    except (TypeError, ValueError) as exception:
        raise ValueError(f'{in_words(exception)}.') from exception


def check_explorers(explorers: Any) -> list[tuple[Explorer, Mapping[str, Any]]]:
    """The explorers that are asked for, each with what is written of it.

    :raises ValueError: naming the field.
    """
    if not isinstance(explorers, list):
        raise ValueError(f'`{STAGE}.explorers`: must be a list, found {explorers!r}.')
    made = []
    for index, given in enumerate(explorers):
        field = f'explorers.{index}'
        try:
            made.append((_explorer(given), given))
        except (TypeError, ValueError) as exception:
            raise ValueError(f'{in_words(exception, field)}.') from exception
    return made


def _explorer(given: Any) -> Explorer:
    known = ('explorer', 'settings', 'n_runs', 'start_frames', 'limits')
    if not isinstance(given, Mapping):
        raise ValueError(f'must be a mapping with `explorer`, found {given!r}')
    for name in given:
        if name not in known:
            raise ValueError(unknown_name(name, known, 'key'))
    integer('n_runs', given.get('n_runs', 1), 1)
    explorer = make_explorer(given.get('explorer'), given.get('settings', {}))
    build(Job, {**STAND_INS, 'limits': given.get('limits')}, 'setting')
    listed = given.get('start_frames')
    if explorer.n_starts > 1 and not listed:
        raise ValueError(
            f'`{given["explorer"]}` takes {explorer.n_starts} start structures that belong together: list them in '
            '`start_frames`, e.g. [[0, 1]]'
        )
    if listed is not None:
        rows = [row if isinstance(row, list) else [row] for row in listed]
        if not rows or any(len(row) != explorer.n_starts for row in rows):
            raise ValueError(
                f'`start_frames` is {listed!r}: give {explorer.n_starts} for each run of `{given["explorer"]}`'
            )
    return explorer


# Validators of the chain.


def validate_jobs(node: orm.Dict, _: Any) -> str | None:
    """Refuse numbers of runs and of jobs that cannot be."""
    values = node.get_dict()
    try:
        if set(values) != set(JOBS):
            raise ValueError(f'expected {", ".join(JOBS)}, found {", ".join(values) or "nothing"}')
        integer('runs_per_job', values['runs_per_job'], 1)
        integer('max_restarts', values['max_restarts'], 0)
    except ValueError as exception:
        return str(exception)
    return None


def validate_inputs(inputs: Mapping[str, Any], _: Any) -> str | None:
    """Refuse settings that make no sense, and bounds of the uncertainty that nothing is known for."""
    if not {'conditions', 'parameters', 'starts'} <= set(inputs):
        return None
    parameters = inputs['parameters'].get_dict()
    try:
        check_bounds(parameters.get('uncertainty'))
        schedule_settings(inputs['conditions'].get_dict())
        check_parameters(inputs['conditions'].get_dict(), parameters)
        explorers = check_explorers(inputs['explorers'].get_list() if 'explorers' in inputs else [])
    except (KeyError, TypeError, ValueError) as exception:
        return str(exception)
    if explorers and 'explore_code' not in inputs:
        return '`explorers` are asked for, and `explore_code` is missing: give the code of alpot-explore'
    if 'committee' not in inputs:
        return None  # a part of the inputs of a campaign, which hands on the rest
    return _missing(inputs, Bounds.of(parameters.get('uncertainty')))


def _missing(inputs: Mapping[str, Any], bounds: Bounds | None) -> str | None:
    """What the bounds of the uncertainty need and have not."""
    if bounds is None:
        return None
    if bounds.unit == TOLERANCE and bounds.lower is not None and bounds.tolerance is None:
        return '`uncertainty.unit` is tolerance: give `uncertainty.tolerance`, eV/A, or the bounds in eV/A'
    if bounds.others.get('grade_lower') is not None and 'active_set' not in inputs['md']:
        return '`uncertainty` bounds the extrapolation grade: give `md.active_set`'
    if not bounds.needs_calibration:
        return None
    if 'calibration' not in inputs:
        return (
            '`uncertainty` bounds the expected error, and `calibration` is missing: give that of an evaluation of this '
            'committee, or set `uncertainty.calibrated` to false'
        )
    if bounds.at_least_held_out is not None and 'predictions' not in inputs:
        return '`uncertainty.at_least_held_out` needs `predictions` of the evaluation: give them, or set it to null'
    return None
