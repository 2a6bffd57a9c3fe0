"""The conditions of one MD run, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, TypeVar

import numpy as np
from ase.data import atomic_numbers

from aiida_alpot.worker.frames.frame import Frame
from aiida_alpot.worker.md.bias import BiasSettings
from aiida_alpot.worker.md.interactions import Dispersion, Repulsion
from aiida_alpot.worker.md.uncertainty import UncertaintySettings
from aiida_alpot.worker.options import boolean, build, choice, integer, number
from aiida_alpot.worker.potentials.neighbours import complete_cell

ENSEMBLES = ('nve', 'nvt', 'npt')
BAROSTATS = ('iso', 'aniso', 'tri')
THERMOSTATS = ('nose_hoover', 'langevin', 'csvr')
COMPONENTS = ('xx', 'yy', 'zz', 'xy', 'xz', 'yz')
LONGEST_TIMESTEP, LONGEST_TIMESTEP_OF_HYDROGEN, LONGEST_TIMESTEP_AT_ALL = 5.0, 2.0, 10.0
"""fs. Velocity Verlet is unstable above 1/pi of the fastest period, 2.4 to 2.9 fs for H-H and O-H (7.6 to 9 fs), and
already drifts at two thirds of that."""

Options = TypeVar('Options')


@dataclass(frozen=True)
class Swaps:
    """Monte Carlo swaps of the species of two atoms, between the steps of the dynamics.

    Accepted by the Metropolis rule on the energy of the driving member, with whatever LAMMPS adds to it.

    :param elements: pairs of elements that change places, e.g. ``[[Cu, Au]]``.
    :param every: steps between attempts: LAMMPS tries at steps 1, 1 + ``every``, ...
    :param attempts: for each pair at each of these steps. Each costs one evaluation of the potential.
    :param temperature: of the Metropolis rule, K; by default that of the run at its start.
    :raises ValueError: for a value out of range.
    """

    elements: Sequence[Sequence[str]]
    every: int = 100
    attempts: int = 1
    temperature: float | None = None

    def __post_init__(self) -> None:
        integer('swaps.every', self.every, 1)
        integer('swaps.attempts', self.attempts, 1)
        if self.temperature is not None:
            number('swaps.temperature', self.temperature, 0.0, exclusive=True)
        pairs = self.elements if isinstance(self.elements, (list, tuple)) else ()
        if not pairs or not all(_is_pair(pair) for pair in pairs):
            raise ValueError(
                f'`swaps.elements` is {self.elements!r}: give pairs of two different elements, e.g. [[Cu, Au]]'
            )


def _is_pair(pair: object) -> bool:
    if not isinstance(pair, (list, tuple)) or len(pair) != 2 or pair[0] == pair[1]:
        return False
    return all(isinstance(symbol, str) and symbol in atomic_numbers for symbol in pair)


@dataclass(frozen=True)
class MDSettings:
    """Conditions of one MD run. Options that are mappings are given as such, or as the class that is named.

    :param ensemble: ``nve``, ``nvt`` or ``npt``.
    :param temperature: of the start velocities and the thermostat, K.
    :param temperature_end: of the thermostat at the end of the run, K, with a linear ramp; ``None`` for no ramp.
    :param thermostat: ``nose_hoover`` (chains), ``langevin`` or ``csvr`` (stochastic velocity rescaling, Bussi et al.,
        J. Chem. Phys. 126, 014101 (2007)).
    :param pressure: of the barostat, GPa. One number acts on all periodic axes; a mapping such as ``{x: 0, y: 1}``,
        with the barostats ``aniso`` and ``tri``, on these axes only, which must be periodic.
    :param pressure_end: of the barostat at the end of the run, GPa, with a linear ramp; one number, or a mapping with
        the axes of ``pressure``; ``None`` for no ramp.
    :param barostat: what ``npt`` lets change: ``iso`` the volume (all periodic lengths by one factor), ``aniso``
        each periodic length by itself, ``tri`` also the angles between periodic axes.
    :param timestep: fs.
    :param allow_long_timestep: a time step above 5 fs, or above 2 fs with hydrogen, is meant.
    :param n_steps: number of steps of the run.
    :param sample_every: a frame is kept at steps ``sample_every``, ``2 sample_every``, ...; not at step 0, which is
        known.
    :param committee_every: all members are evaluated at every so many steps, and wherever a frame is kept.
    :param seed: of the start velocities and of what else is random, in [0, 2**31).
    :param max_temperature: the run stops with an error above it, K; by default at 5 times the temperature, at least
        at 3000 K.
    :param max_deviation: the run ends, as ``halted``, where the largest deviation of the committee's forces exceeds it,
        eV/A: short for ``uncertainty: {lower: ..., on_crossing: halt}`` without a calibration. ``None`` for no limit.
    :param uncertainty: bounds on the expected force error,
        :class:`~aiida_alpot.worker.md.uncertainty.UncertaintySettings` without its calibration, which comes with the
        run; ``None`` for none.
    :param bias: drives the run to where the committee disagrees, :class:`~aiida_alpot.worker.md.bias.BiasSettings`
        without ``md_temperature``: ``{temperature: K, cap: K}``; it is off above ``uncertainty.lower`` unless it says
        otherwise.
    :param thermostat_damping: relaxation time of the temperature, fs; by default 100 steps, as LAMMPS recommends.
    :param barostat_damping: relaxation time of the pressure, fs; by default 1000 steps, as LAMMPS recommends.
    :param deformation: engineering strain rates, 1/ps, by component (``xx, yy, zz, xy, xz, yz``) in LAMMPS' axes: x
        along the first lattice vector, y in the plane of the first two. Atoms move with the cell. Periodic axes only.
    :param swaps: Monte Carlo swaps of species, :class:`Swaps`.
    :param dispersion: added by LAMMPS, :class:`~aiida_alpot.worker.md.interactions.Dispersion`.
    :param repulsion: of the cores, added by LAMMPS, :class:`~aiida_alpot.worker.md.interactions.Repulsion`. It counts
        twice where the committee has learnt it; that is for the user to know.
    :param plumed: PLUMED's input, passed through; atoms are numbered from 1 in the order of the start structure. The
        LAMMPS in use must have PLUMED.
    :param min_thickness: a cell whose parallel faces are nearer than this along a periodic axis is refused, A.
    :param restart_every: a restart file every so many steps (two files in turn); 0 for none but the last.
    :param max_seconds: the run stops cleanly after this wall time, s; 0 for no limit.
    :raises ValueError: for a value out of range, and for an option that would have no effect with the others.
    """

    ensemble: str = 'nvt'
    temperature: float = 300.0
    pressure: float | Mapping[str, float] = 0.0
    barostat: str = 'aniso'
    timestep: float = 1.0
    n_steps: int = 1000
    sample_every: int = 100
    committee_every: int = 10
    seed: int = 1
    max_temperature: float | None = None
    max_deviation: float | None = None
    thermostat_damping: float | None = None
    barostat_damping: float | None = None
    restart_every: int = 0
    max_seconds: int = 0
    thermostat: str = 'nose_hoover'
    temperature_end: float | None = None
    pressure_end: float | Mapping[str, float] | None = None
    deformation: Mapping[str, float] | None = None
    swaps: Swaps | Mapping[str, Any] | None = None
    dispersion: Dispersion | Mapping[str, Any] | None = None
    repulsion: Repulsion | Mapping[str, Any] | None = None
    plumed: str | None = None
    uncertainty: UncertaintySettings | Mapping[str, Any] | None = None
    bias: Mapping[str, Any] | None = None
    min_thickness: float = 3.0
    allow_long_timestep: bool = False

    def __post_init__(self) -> None:
        self._build_parts()
        self._check_ranges()
        self._check_ensemble()
        self._check_pressure()
        self._check_deformation()
        self._check_uncertainty()
        self._check_swaps()

    def _build_parts(self) -> None:
        """Mappings become the classes that check them."""
        for name, kind in (
            ('swaps', Swaps),
            ('dispersion', Dispersion),
            ('repulsion', Repulsion),
            ('uncertainty', UncertaintySettings),
        ):
            object.__setattr__(self, name, _part(kind, name, getattr(self, name)))

    def _check_ranges(self) -> None:
        self._require(self.ensemble in ENSEMBLES, 'ensemble', f'give one of {", ".join(ENSEMBLES)}')
        self._require(self.barostat in BAROSTATS, 'barostat', f'give one of {", ".join(BAROSTATS)}')
        self._require(self.thermostat in THERMOSTATS, 'thermostat', f'give one of {", ".join(THERMOSTATS)}')
        for name in ('temperature', 'temperature_end'):
            value = getattr(self, name)
            self._require(value is None or 0 < value < np.inf, name, 'give a positive number of kelvin')
        boolean('allow_long_timestep', self.allow_long_timestep)
        longest = LONGEST_TIMESTEP_AT_ALL if self.allow_long_timestep else LONGEST_TIMESTEP
        self._require(
            0 < self.timestep <= longest,
            'timestep',
            f'give femtoseconds in (0, {longest:g}]'
            + ('' if self.allow_long_timestep else f', or say `allow_long_timestep` ({LONGEST_TIMESTEP_AT_ALL:g} fs)'),
        )
        for name in ('n_steps', 'sample_every', 'committee_every'):
            self._require(getattr(self, name) >= 1, name, 'give at least 1')
        for name in ('restart_every', 'max_seconds'):
            self._require(getattr(self, name) >= 0, name, 'give 0 (off) or more')
        self._require(0 <= self.seed < 2**31, 'seed', 'give an integer in [0, 2**31)')
        for name in ('thermostat_damping', 'barostat_damping'):
            self._require(getattr(self, name) is None or getattr(self, name) > 0, name, 'give positive femtoseconds')
        self._require(self.max_deviation is None or self.max_deviation > 0, 'max_deviation', 'give a positive eV/A')
        self._require(0 <= self.min_thickness < np.inf, 'min_thickness', 'give 0 (any) or a length in Angstrom')
        bound, highest = self.max_temperature, max(self.temperature, self.temperature_end or 0.0)
        self._require(
            bound is None or bound > highest,
            'max_temperature',
            f'give more than `temperature` and `temperature_end`, {highest} K',
        )
        self._require(self.plumed is None or bool(self.plumed.strip()), 'plumed', "give PLUMED's input, or null")

    def _check_ensemble(self) -> None:
        """Refuse what would have no effect."""
        if self.ensemble == 'nve':
            for name, absent in (
                ('thermostat', 'nose_hoover'),
                ('temperature_end', None),
                ('thermostat_damping', None),
            ):
                self._require(getattr(self, name) == absent, name, 'there is no thermostat in nve: leave it out')
        if self.ensemble != 'npt':
            for name, nothing in (('pressure', 0.0), ('pressure_end', None), ('barostat_damping', None)):
                self._require(getattr(self, name) == nothing, name, f'there is no barostat in {self.ensemble}: use npt')

    def _check_pressure(self) -> None:
        for name in ('pressure', 'pressure_end'):
            value = getattr(self, name)
            values = value.values() if isinstance(value, Mapping) else [value if value is not None else 0.0]
            good = all(isinstance(p, (int, float)) and abs(p) < 1e4 for p in values)
            self._require(good, name, 'give a number of GPa below 10000, or one by axis')
        if not isinstance(self.pressure, Mapping):
            self._require(
                not isinstance(self.pressure_end, Mapping), 'pressure_end', 'give one number, as for `pressure`'
            )
            return
        self._require(bool(self.pressure) and set(self.pressure) <= set('xyz'), 'pressure', 'give axes among x, y, z')
        self._require(self.barostat != 'iso', 'barostat', 'pressures by axis need aniso or tri')
        if isinstance(self.pressure_end, Mapping):
            same = set(self.pressure_end) == set(self.pressure)
            self._require(same, 'pressure_end', f'give the axes of `pressure`, {", ".join(sorted(self.pressure))}')

    def _check_deformation(self) -> None:
        if self.deformation is None:
            return
        duration = self.n_steps * self.timestep / 1000.0
        for component, rate in self.deformation.items():
            choice('deformation', component, COMPONENTS)
            number(f'deformation.{component}', rate)
            if component[0] == component[1] and not 1.0 + rate * duration > 0.1:
                raise ValueError(
                    f'`deformation.{component}` is {rate} 1/ps: over {duration:g} ps the cell would shrink to less '
                    'than a tenth: lower the rate or the number of steps'
                )
        self._require(bool(self.deformation), 'deformation', 'give at least one component, or null')

    def _check_uncertainty(self) -> None:
        if self.max_deviation is not None and self.uncertainty is not None:
            raise ValueError('`max_deviation` is short for `uncertainty`: give one of them')
        bounds = self.uncertainty_bounds
        if bounds is not None and bounds.calibration is not None:
            raise ValueError('`uncertainty.calibration` comes with the run, not with its settings: leave it out')
        if bounds is not None and bounds.before_every is not None and bounds.before_every % self.committee_every:
            raise ValueError(
                f'`uncertainty.before_every` is {bounds.before_every}: give a multiple of `committee_every`, '
                f'{self.committee_every}, as the committee is evaluated then'
            )
        if self.bias is not None and 'md_temperature' in self.bias:
            raise ValueError('`bias.md_temperature` is the temperature of the run: leave it out')
        _ = self.bias_settings  # which checks the values

    def _check_swaps(self) -> None:
        if self.swaps is None:
            return
        if self.ensemble == 'nve':
            raise ValueError(
                '`swaps` need a thermostat, as each swap that is accepted heats or cools the run: use nvt or npt'
            )
        if self.plumed is not None:
            raise ValueError('`swaps` and `plumed`: PLUMED would take each trial for a step; switch one of them off')

    def _require(self, holds: bool, name: str, remedy: str) -> None:
        if not holds:
            raise ValueError(f'`{name}` is {getattr(self, name)!r}: {remedy}')

    @property
    def temperature_bound(self) -> float:
        """The temperature above which the run stops, K."""
        if self.max_temperature is not None:
            return self.max_temperature
        return max(5.0 * max(self.temperature, self.temperature_end or 0.0), 3000.0)

    @property
    def uncertainty_bounds(self) -> UncertaintySettings | None:
        """``uncertainty``, or what ``max_deviation`` is short for."""
        if self.max_deviation is not None:
            return UncertaintySettings(lower=self.max_deviation, on_crossing='halt')
        assert self.uncertainty is None or isinstance(self.uncertainty, UncertaintySettings)
        return self.uncertainty

    @property
    def bias_settings(self) -> BiasSettings | None:
        """The bias with the temperature of this run, and off where the run is where it was to be driven."""
        if self.bias is None:
            return None
        bounds = self.uncertainty_bounds
        values = {'off_above': None if bounds is None else bounds.lower, **self.bias}
        return build(BiasSettings, {**values, 'md_temperature': self.temperature}, 'option of `bias`')

    def pressure_axes(self, pbc: Sequence[bool] | np.ndarray) -> dict[str, tuple[float, float]]:
        """Axes on which the barostat acts, with their pressure at the start and at the end, GPa.

        :param pbc: shape (3,).
        :raises ValueError: where no axis is periodic, or one that is named is not.
        """
        if self.ensemble != 'npt':
            return {}
        periodic = [axis for axis, flag in zip('xyz', pbc, strict=True) if flag]
        if not periodic:
            raise ValueError(
                '`ensemble` is npt, but the structure is not periodic along any axis: use nvt, or make it periodic'
            )
        start = self.pressure if isinstance(self.pressure, Mapping) else dict.fromkeys(periodic, self.pressure)
        for axis in start:
            if axis not in periodic:
                raise ValueError(
                    f'`pressure` names the axis {axis}, along which the structure is not periodic: leave it out'
                )
        end = self.pressure_end
        if not isinstance(end, Mapping):
            end = start if end is None else dict.fromkeys(start, end)
        return {axis: (float(start[axis]), float(end[axis])) for axis in sorted(start)}


def _part(kind: type[Options], name: str, value: Any) -> Options | None:
    if value is None or isinstance(value, kind):
        return value
    if not isinstance(value, Mapping):
        raise ValueError(f'`{name}` is {value!r}: give a mapping of its options, or null')
    return build(kind, value, f'option of `{name}`')


def check_start(frame: Frame, settings: MDSettings) -> None:
    """Refuse a start structure that cannot run under these settings.

    :raises ValueError: for a single atom; a barostat or a deformation along an axis that is not periodic, or both on
        one axis; a cell thinner than ``min_thickness`` along a periodic axis, at the start or after the deformation; a
        time step too long for hydrogen; swaps of elements that the frame does not have.
    """
    if len(frame) < 2:
        raise ValueError('the start structure of an MD run has one atom: give a supercell of at least two atoms')
    barostat = settings.pressure_axes(frame.pbc)
    for component in settings.deformation or {}:
        for axis in sorted(set(component)):
            if not frame.pbc['xyz'.index(axis)]:
                raise ValueError(
                    f'`deformation` has {component}, but the structure is not periodic along {axis}: leave it out'
                )
            if axis in barostat:
                raise ValueError(
                    f'`deformation` has {component}, and the barostat acts on {axis} too: use nvt, or leave {axis} out '
                    'of `pressure` (which is then given by axis)'
                )
    _check_timestep(frame, settings)
    _check_thickness(frame, settings)
    present = set(frame.numbers.tolist())
    for pair in settings.swaps.elements if isinstance(settings.swaps, Swaps) else ():
        for symbol in pair:
            if atomic_numbers[symbol] not in present:
                raise ValueError(f'`swaps.elements` names {symbol}, of which the start structure has no atom')


def _check_timestep(frame: Frame, settings: MDSettings) -> None:
    if settings.allow_long_timestep or settings.timestep <= LONGEST_TIMESTEP_OF_HYDROGEN:
        return
    if 1 in frame.numbers:
        raise ValueError(
            f'`timestep` is {settings.timestep} fs, and the structure has hydrogen, whose vibrations take 8 to 11 fs: '
            f'give at most {LONGEST_TIMESTEP_OF_HYDROGEN:g} fs (1 or less is better), or say `allow_long_timestep`'
        )


def thickness(cell: np.ndarray, pbc: np.ndarray) -> np.ndarray:
    """Distance between the faces of a cell that face each other, A, shape (3,); inf along axes that are not periodic.

    :param cell: rows are lattice vectors, shape (3, 3), A.
    :param pbc: shape (3,).
    """
    full = complete_cell(np.asarray(cell, dtype=float), np.asarray(pbc, dtype=bool))
    return np.where(pbc, 1.0 / np.linalg.norm(np.linalg.inv(full), axis=0), inf)


def _check_thickness(frame: Frame, settings: MDSettings) -> None:
    found = thickness(frame.cell, frame.pbc)
    duration = settings.n_steps * settings.timestep / 1000.0
    for axis, name in enumerate('xyz'):
        rate = (settings.deformation or {}).get(2 * name, 0.0)
        least = float(found[axis] * min(1.0, 1.0 + rate * duration))
        if least < settings.min_thickness:
            raise ValueError(
                f'the cell is {least:.2f} A thin along its periodic axis {axis + 1}'
                + (' after the deformation' if least < found[axis] else '')
                + f', and `min_thickness` is {settings.min_thickness:g} A: use a supercell (atoms that are their own '
                'neighbours move together), or lower it'
            )
