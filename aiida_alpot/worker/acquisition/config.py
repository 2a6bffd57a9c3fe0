"""What an evaluation is asked to do."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from aiida_alpot.worker.acquisition.calibration import CALIBRATIONS, MIN_FRAMES
from aiida_alpot.worker.acquisition.gate import GateSettings
from aiida_alpot.worker.acquisition.selectors import SELECTORS, Tolerance
from aiida_alpot.worker.acquisition.signals import SIGNALS
from aiida_alpot.worker.options import build, choice, device, integer

DTYPES = ('float64', 'float32')
Section = TypeVar('Section')


@dataclass(frozen=True)
class EvaluationConfig:
    """Settings of an evaluation, as in its JSON file.

    :param committee: files of the members, at least two.
    :param tolerance: errors that the user accepts: ``forces`` in eV/A, and ``energy`` in eV/atom or null.
    :param pool: shards of the candidates; empty: only metrics and calibration.
    :param dataset: shards of what is labelled; empty: nothing to calibrate with.
    :param device: where torch computes, e.g. ``cpu`` or ``cuda``.
    :param dtype: ``float64`` or ``float32``.
    :param batch_size: frames evaluated at once, at least 1.
    :param signal: name of the signal.
    :param calibration: name of the calibration.
    :param min_calibration_frames: with fewer held-out frames the calibration is not trusted, at least 2.
    :param selector: name of the selector.
    :param max_select: largest number of frames to select, at least 1.
    :param gate: see :class:`GateSettings`.
    :param seed: of what is drawn at random, at least 0.
    """

    committee: tuple[str, ...]
    tolerance: Tolerance
    pool: tuple[str, ...] = ()
    dataset: tuple[str, ...] = ()
    device: str = 'cpu'
    dtype: str = 'float64'
    batch_size: int = 32
    signal: str = 'committee'
    calibration: str = 'linear'
    min_calibration_frames: int = MIN_FRAMES
    selector: str = 'threshold_random'
    max_select: int = 10
    gate: GateSettings = field(default_factory=GateSettings)
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ('committee', 'pool', 'dataset'):
            object.__setattr__(self, name, _paths(name, getattr(self, name)))
        object.__setattr__(self, 'tolerance', _section(Tolerance, self.tolerance, 'tolerance'))
        object.__setattr__(self, 'gate', _section(GateSettings, self.gate, 'gate'))
        device('device', self.device)
        choice('dtype', self.dtype, DTYPES)
        choice('signal', self.signal, SIGNALS)
        choice('calibration', self.calibration, CALIBRATIONS)
        choice('selector', self.selector, SELECTORS)
        for name, low in (('batch_size', 1), ('min_calibration_frames', 2), ('max_select', 1), ('seed', 0)):
            integer(name, getattr(self, name), low)
        self._check_inputs()

    def _check_inputs(self) -> None:
        if len(self.committee) < 2:
            raise ValueError(
                f'the signal {self.signal!r} needs a committee of at least two members, found {len(self.committee)}: '
                'train more, with different seeds'
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
