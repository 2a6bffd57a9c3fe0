"""What an evaluation is asked to do."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from aiida_alpot.worker.acquisition.calibration import MIN_FRAMES
from aiida_alpot.worker.acquisition.calibration.settings import CalibrationSettings
from aiida_alpot.worker.acquisition.gate import GateSettings
from aiida_alpot.worker.acquisition.representations import resolve
from aiida_alpot.worker.acquisition.selectors import Selector, Tolerance, make_selector, needs_features
from aiida_alpot.worker.acquisition.selectors.choose import ABOVE, CANDIDATES
from aiida_alpot.worker.acquisition.signals import Signal, make_signal
from aiida_alpot.worker.options import boolean, build, choice, device, integer, number

DTYPES = ('float64', 'float32')
Section = TypeVar('Section')


@dataclass(frozen=True)
class Choice:
    """Something of a registry, by name, with options; in a file a name alone, or an object with ``name`` and options.

    :param options: those that differ from the defaults.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, given: object, what: str) -> Choice:
        """A choice as it stands in a file.

        :raises ValueError: for anything else.
        """
        if isinstance(given, Choice):
            return given
        if isinstance(given, str):
            return cls(given)
        if isinstance(given, Mapping) and isinstance(given.get('name'), str):
            return cls(given['name'], {key: value for key, value in given.items() if key != 'name'})
        raise ValueError(f'`{what}` is {given!r}, expected a name, or an object with `name` and its options')


@dataclass(frozen=True)
class EvaluationConfig:
    """Settings of an evaluation, as in its JSON file.

    :param committee: files of the members, as many as the signal needs.
    :param tolerance: errors that the user accepts: ``forces`` in eV/A, and ``energy`` in eV/atom or null.
    :param pool: shards of the candidates; empty: only metrics and calibration.
    :param dataset: shards of what is labelled; empty: nothing to calibrate with.
    :param device: where torch computes, e.g. ``cpu`` or ``cuda``.
    :param dtype: ``float64`` or ``float32``.
    :param batch_size: frames evaluated at once, at least 1; ``None``: as many as fit into the memory.
    :param signal: the signal.
    :param calibration: the calibration; besides its own options ``by: origin`` fits one for each origin.
    :param min_calibration_frames: with fewer held-out frames the calibration is not trusted, at least 2.
    :param representation: features for selectors that need some, made by the first member.
    :param normalise: divide features by their lengths, so that their inner products are cosines.
    :param selector: the selector.
    :param candidates: what it may select: ``above_tolerance``, or ``all`` that passes the gate.
    :param max_select: largest number of frames to select, at least 1.
    :param quotas: largest number of frames to select of an origin, by its name.
    :param gate: see :class:`GateSettings`.
    :param seed: of what is drawn at random, at least 0.
    :param keep_predictions: keep what the committee says in the folder `predictions`, so that no frame is evaluated
        twice with the same models: not by the next evaluation there, and not after an interruption.
    :param earlier: working directories of other evaluations whose kept predictions are used.
    :param max_seconds: stop when the next frames would probably pass so many seconds, above 0, and keep what there is;
        ``None``: no limit.
    """

    committee: tuple[str, ...]
    tolerance: Tolerance
    pool: tuple[str, ...] = ()
    dataset: tuple[str, ...] = ()
    device: str = 'cpu'
    dtype: str = 'float64'
    batch_size: int | None = 32
    signal: Choice = Choice('committee')
    calibration: Choice = Choice('conformal')
    min_calibration_frames: int = MIN_FRAMES
    representation: Choice = Choice('activations')
    normalise: bool = True
    selector: Choice = Choice('threshold_random')
    candidates: str = ABOVE
    max_select: int = 10
    quotas: Mapping[str, int] = field(default_factory=dict)
    gate: GateSettings = field(default_factory=GateSettings)
    seed: int = 0
    keep_predictions: bool = True
    earlier: tuple[str, ...] = ()
    max_seconds: float | None = None

    def __post_init__(self) -> None:
        for name in ('committee', 'pool', 'dataset', 'earlier'):
            object.__setattr__(self, name, _paths(name, getattr(self, name)))
        for name in ('signal', 'calibration', 'representation', 'selector'):
            object.__setattr__(self, name, Choice.of(getattr(self, name), name))
        object.__setattr__(self, 'tolerance', _section(Tolerance, self.tolerance, 'tolerance'))
        object.__setattr__(self, 'gate', _section(GateSettings, self.gate, 'gate'))
        device('device', self.device)
        choice('dtype', self.dtype, DTYPES)
        choice('candidates', self.candidates, CANDIDATES)
        boolean('normalise', self.normalise)
        for name, low in (('min_calibration_frames', 2), ('max_select', 1), ('seed', 0)):
            integer(name, getattr(self, name), low)
        if self.batch_size is not None:
            integer('batch_size', self.batch_size, 1)
        if not isinstance(self.quotas, Mapping):
            raise ValueError(f'`quotas` is {self.quotas!r}, expected an object with a number for each origin')
        for origin, quota in self.quotas.items():
            integer(f'quotas.{origin}', quota, 0)
        self._check_keeping()
        self._check_inputs(self.make_signal())
        self.make_selector()
        self.calibration_settings()
        resolve({self.representation.name: self.representation.options})

    def make_signal(self) -> Signal:
        """The signal, not fitted yet."""
        return make_signal(self.signal.name, self.signal.options)

    def make_selector(self) -> Selector:
        """The selector."""
        return make_selector(self.selector.name, self.selector.options)

    def calibration_settings(self) -> CalibrationSettings:
        """How calibrations are fitted."""
        return CalibrationSettings.of(self.calibration.name, self.calibration.options, self.min_calibration_frames)

    @property
    def selector_features(self) -> dict[str, Mapping[str, Any]]:
        """What the selector needs of representations."""
        if not needs_features(self.selector.name):
            return {}
        return {self.representation.name: self.representation.options}

    def _check_keeping(self) -> None:
        boolean('keep_predictions', self.keep_predictions)
        if self.max_seconds is not None:
            number('max_seconds', self.max_seconds, 0.0, exclusive=True)
        for name, given in (('earlier', self.earlier), ('max_seconds', self.max_seconds)):
            if given and not self.keep_predictions:
                raise ValueError(
                    f'`{name}` is given, but `keep_predictions` is false, so nothing would be left of an evaluation '
                    f'that stops, or be taken over: leave out one of the two'
                )

    def _check_inputs(self, signal: Signal) -> None:
        if len(self.committee) < signal.min_members:
            raise ValueError(
                f'the signal {self.signal.name!r} needs a committee of at least {signal.min_members} members, found '
                f'{len(self.committee)}: train more, with different seeds'
            )
        if self.pool and not signal.gives_forces and self.tolerance.energy is None:
            raise ValueError(
                f'the signal {self.signal.name!r} says nothing about forces, and `tolerance.energy` is not given, so '
                'no frame could ever exceed the tolerance: give one in eV/atom'
            )
        if len(set(self.committee)) < len(self.committee):
            raise ValueError('`committee` names one file twice: copies of one member cannot disagree')
        if not self.pool and not self.dataset:
            raise ValueError('`pool` and `dataset` are both empty: there is nothing to evaluate')


def parse_config(given: Mapping[str, Any]) -> EvaluationConfig:
    """Settings from a mapping.

    :raises ValueError: for an unknown or missing setting or a value that cannot be.
    """
    return build(EvaluationConfig, given, 'setting')


def read_config(path: Path | str) -> EvaluationConfig:
    """Settings from a JSON file.

    :raises FileNotFoundError: if there is none.
    :raises ValueError: if it is no JSON object, or as :func:`parse_config`.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f'there is no file {path}: give the path of the JSON file with the settings')
    try:
        given = json.loads(Path(path).read_text(encoding='utf-8'))
    except ValueError as error:
        raise ValueError(f'{path} is not valid JSON: {error}') from error
    if not isinstance(given, dict):
        raise ValueError(f'{path} holds a JSON {type(given).__name__}, expected an object with the settings')
    return parse_config(given)


def _section(section: type[Section], given: object, name: str) -> Section:
    if isinstance(given, section):
        return given
    if not isinstance(given, Mapping):
        raise ValueError(f'`{name}` is {given!r}, expected an object with its settings')
    return build(section, given, f'setting of `{name}`')


def _paths(name: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
        raise ValueError(f'`{name}` is {value!r}, expected a list of paths')
    return tuple(value)
