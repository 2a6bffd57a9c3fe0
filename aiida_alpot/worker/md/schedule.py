r"""Temperatures, pressures and ensembles of a round of exploration, wider from stage to stage.

A potential that does not know much yet is best explored near what it knows; as rounds converge, it has to hold further
out. A schedule is a pure function of its settings and of a stage, counted from 0: what a stage is, the caller decides,
e.g. the number of rounds so far in which nothing was found to be labelled, or of all rounds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from aiida_alpot.worker.md.settings import ENSEMBLES
from aiida_alpot.worker.options import choice, integer, number, numbers
from aiida_alpot.worker.seeds import derive_seed

MODES = ('grid', 'ranges')


@dataclass(frozen=True)
class Condition:
    """Of one trajectory: K, GPa (0 where the ensemble has no barostat), and the ensemble."""

    temperature: float
    pressure: float
    ensemble: str


@dataclass(frozen=True)
class ScheduleSettings:
    r"""What a round explores.

    In a **grid** each temperature is combined with each pressure and each ensemble; at stage s of S the first
    :math:`\lceil (s + 1) n / S \rceil` of the n temperatures take part, and as many of the pressures in the same way,
    in the order in which they are given. In **ranges** ``n_conditions`` points are a Latin hypercube: each of
    ``n_conditions`` slices of equal width of the temperatures, and of the pressures, has one point, drawn in it with
    the seed; ensembles take turns. ``temperatures`` and ``pressures`` are then the lowest and the highest value of the
    last stage, and at stage s the range goes from ``start`` the share :math:`(s + 1) / S` of the way to them.

    :param temperatures: K.
    :param pressures: GPa.
    :param ensembles: ``nve``, ``nvt``, ``npt``; without a barostat a pressure has no meaning, and each temperature
        occurs once.
    :param mode: ``grid`` or ``ranges``.
    :param n_stages: number of stages until all of it is explored; 1: from the beginning.
    :param n_conditions: number of conditions, for ``ranges``.
    :param start_temperature: where ranges widen from, K; by default the lowest.
    :param start_pressure: where ranges widen from, GPa; by default 0, or the bound nearest to it.
    :raises ValueError: for a value out of range, or that has no effect in this mode.
    """

    temperatures: Sequence[float] = (300.0,)
    pressures: Sequence[float] = (0.0,)
    ensembles: Sequence[str] = ('npt',)
    mode: str = 'grid'
    n_stages: int = 1
    n_conditions: int | None = None
    start_temperature: float | None = None
    start_pressure: float | None = None

    def __post_init__(self) -> None:
        choice('schedule.mode', self.mode, MODES)
        integer('schedule.n_stages', self.n_stages, 1)
        temperatures = numbers('schedule.temperatures', self.temperatures, 0.0, math.inf, exclusive=True)
        pressures = numbers('schedule.pressures', self.pressures, -1e4, 1e4)
        for name in ('temperatures', 'pressures', 'ensembles'):
            values = list(getattr(self, name))
            if not values or len(set(values)) < len(values):
                raise ValueError(f'`schedule.{name}` is {values}: give at least one value, and each once')
        for ensemble in self.ensembles:
            choice('schedule.ensembles', ensemble, ENSEMBLES)
        if 'npt' not in self.ensembles and any(pressures):
            raise ValueError(
                f'`schedule.pressures` is {list(pressures)}: there is no barostat without the ensemble npt'
            )
        if self.mode == 'ranges':
            self._check_ranges(temperatures, pressures)
        else:
            for name in ('n_conditions', 'start_temperature', 'start_pressure'):
                if getattr(self, name) is not None:
                    raise ValueError(f'`schedule.{name}` has no effect on a grid: leave it out, or set `mode: ranges`')

    def _check_ranges(self, temperatures: Sequence[float], pressures: Sequence[float]) -> None:
        if self.n_conditions is None:
            raise ValueError('`schedule.n_conditions` is missing: say how many points to draw from the ranges')
        integer('schedule.n_conditions', self.n_conditions, 1)
        for name, values in (('temperature', temperatures), ('pressure', pressures)):
            if len(values) > 2 or list(values) != sorted(values):
                raise ValueError(f'`schedule.{name}s` is {list(values)}: give the lowest and the highest, or one value')
            start = getattr(self, f'start_{name}')
            if start is not None:
                number(f'schedule.start_{name}', start, values[0], values[-1])


def schedule(stage: int, settings: ScheduleSettings, seed: int = 0) -> tuple[Condition, ...]:
    """Conditions of a stage; the same for the same stage, settings and seed.

    :param stage: from 0; from ``n_stages - 1`` on all of it is explored.
    :param seed: of what is drawn; each stage draws anew.
    :raises ValueError: for a negative stage.
    """
    integer('stage', stage, 0)
    share = min((stage + 1) / settings.n_stages, 1.0)
    if settings.mode == 'grid':
        return _grid(settings, share)
    return _ranges(settings, share, np.random.default_rng(derive_seed(seed, 'schedule', stage)))


def _grid(settings: ScheduleSettings, share: float) -> tuple[Condition, ...]:
    """Each temperature with each ensemble, and with each pressure where there is a barostat."""
    temperatures, pressures = (
        values[: math.ceil(share * len(values) - 1e-9)] for values in (settings.temperatures, settings.pressures)
    )
    return tuple(
        Condition(float(temperature), float(pressure), ensemble)
        for ensemble in settings.ensembles
        for pressure in (pressures if ensemble == 'npt' else (0.0,))
        for temperature in temperatures
    )


def _ranges(settings: ScheduleSettings, share: float, rng: np.random.Generator) -> tuple[Condition, ...]:
    assert settings.n_conditions is not None
    coldest, low = settings.temperatures[0], settings.pressures[0]
    nearest = min(max(0.0, low), settings.pressures[-1])
    starts = (
        coldest if settings.start_temperature is None else settings.start_temperature,
        nearest if settings.start_pressure is None else settings.start_pressure,
    )
    columns = []
    for values, start in zip((settings.temperatures, settings.pressures), starts, strict=True):
        bottom, top = (start + share * (bound - start) for bound in (values[0], values[-1]))
        places = (rng.permutation(settings.n_conditions) + rng.random(settings.n_conditions)) / settings.n_conditions
        columns.append(bottom + (top - bottom) * places)
    return tuple(
        Condition(float(temperature), float(pressure) if ensemble == 'npt' else 0.0, ensemble)
        for temperature, pressure, ensemble in zip(*columns, _turns(settings), strict=True)
    )


def _turns(settings: ScheduleSettings) -> list[str]:
    """Ensembles in turn, one a condition."""
    assert settings.n_conditions is not None
    return [settings.ensembles[index % len(settings.ensembles)] for index in range(settings.n_conditions)]
