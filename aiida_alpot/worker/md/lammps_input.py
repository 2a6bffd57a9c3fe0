"""Write the input of an MD run: LAMMPS' script and data file, and what the driver needs to know."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import atomic_masses, atomic_numbers, chemical_symbols

from aiida_alpot.worker.frames.frame import Frame
from aiida_alpot.worker.md.orientation import Orientation, orient

ENSEMBLES = ('nve', 'nvt', 'npt')
BAROSTATS = ('iso', 'aniso', 'tri')
FIX_ID = 'alpot'
SCRIPT_FILE, DATA_FILE, DRIVER_FILE = 'in.lammps', 'data.lammps', 'driver.json'
RESTART_FILE = 'final.restart'
BAR_PER_GPA = 1.0e4
_TILT_TOLERANCE = 1e-10


@dataclass(frozen=True)
class MDSettings:
    """Conditions of one MD run.

    :param ensemble: ``nve``, ``nvt`` or ``npt``, the latter two by Nose-Hoover chains.
    :param temperature: of the start velocities and the thermostat, K.
    :param pressure: of the barostat, GPa; along axes with vacuum it would not mean anything, and it acts on periodic
        axes only.
    :param barostat: what ``npt`` lets change: ``iso`` the volume (all periodic lengths by one factor), ``aniso``
        each periodic length by itself, ``tri`` also the angles between periodic axes.
    :param timestep: fs.
    :param n_steps: number of steps of the run.
    :param sample_every: a frame is kept at steps ``sample_every``, ``2 sample_every``, ...; not at step 0, which is
        known.
    :param committee_every: all members are evaluated at every so many steps, and wherever a frame is kept.
    :param seed: of the start velocities, in [0, 2**31).
    :param max_temperature: the run stops with an error above it, K; by default at 5 times the temperature, at least
        at 3000 K.
    :param max_deviation: the run ends, as ``halted``, where the largest deviation of the committee's forces exceeds it,
        eV/A: what follows would be the dynamics of a potential that does not know; ``None`` for no limit.
    :param thermostat_damping: relaxation time of the temperature, fs; by default 100 steps, as LAMMPS recommends.
    :param barostat_damping: relaxation time of the pressure, fs; by default 1000 steps, as LAMMPS recommends.
    :param restart_every: a restart file every so many steps (two files in turn); 0 for none but the last.
    :param max_seconds: the run stops cleanly after this wall time, s; 0 for no limit.
    :raises ValueError: for a value out of range.
    """

    ensemble: str = 'nvt'
    temperature: float = 300.0
    pressure: float = 0.0
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

    def __post_init__(self) -> None:
        self._require(self.ensemble in ENSEMBLES, 'ensemble', f'give one of {", ".join(ENSEMBLES)}')
        self._require(self.barostat in BAROSTATS, 'barostat', f'give one of {", ".join(BAROSTATS)}')
        self._require(0 < self.temperature < np.inf, 'temperature', 'give a positive number of kelvin')
        self._require(abs(self.pressure) < 1e4, 'pressure', 'give a number of GPa below 10000')
        self._require(0 < self.timestep <= 10, 'timestep', 'give femtoseconds in (0, 10]')
        for name in ('n_steps', 'sample_every', 'committee_every'):
            self._require(getattr(self, name) >= 1, name, 'give at least 1')
        for name in ('restart_every', 'max_seconds'):
            self._require(getattr(self, name) >= 0, name, 'give 0 (off) or more')
        self._require(0 <= self.seed < 2**31, 'seed', 'give an integer in [0, 2**31)')
        for name in ('thermostat_damping', 'barostat_damping'):
            self._require(getattr(self, name) is None or getattr(self, name) > 0, name, 'give positive femtoseconds')
        self._require(self.max_deviation is None or self.max_deviation > 0, 'max_deviation', 'give a positive eV/A')
        bound = self.max_temperature
        self._require(
            bound is None or bound > self.temperature,
            'max_temperature',
            f'give more than `temperature`, {self.temperature} K',
        )

    def _require(self, holds: bool, name: str, remedy: str) -> None:
        if not holds:
            raise ValueError(f'`{name}` is {getattr(self, name)!r}: {remedy}')

    @property
    def temperature_bound(self) -> float:
        """The temperature above which the run stops, K."""
        return max(5.0 * self.temperature, 3000.0) if self.max_temperature is None else self.max_temperature


@dataclass(frozen=True)
class LammpsInput:
    """The files of one MD run, as text.

    :param script: LAMMPS' commands.
    :param data: LAMMPS' data file with the start structure.
    :param driver: what :mod:`aiida_alpot.worker.md.driver` reads, JSON-serialisable.
    """

    script: str
    data: str
    driver: Mapping[str, Any]

    def write(self, directory: Path | str) -> Path:
        """Write ``in.lammps``, ``data.lammps`` and ``driver.json``; return the path of the script."""
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / DATA_FILE).write_text(self.data)
        (folder / DRIVER_FILE).write_text(json.dumps(dict(self.driver), indent=2, sort_keys=True) + '\n')
        (folder / SCRIPT_FILE).write_text(self.script)
        return folder / SCRIPT_FILE


def write_lammps_input(
    frame: Frame,
    settings: MDSettings,
    *,
    committee: Sequence[str],
    driving_member: int = 0,
    device: str = 'cpu',
    dtype: str = 'float64',
    elements: Sequence[str] | None = None,
    lineage: str = '',
    origin: str = 'md',
    metadata: Mapping[str, Any] | None = None,
    restart_file: str = '',
) -> LammpsInput:
    """Input of one MD run from one frame.

    :param committee: paths of the members, relative to the place of ``driver.json``.
    :param driving_member: which member gives the forces.
    :param elements: of the type map; by default those of the frame. Types are numbered by atomic number, always.
    :param lineage: of the frames that are sampled; by default one for this trajectory: ``<frame id, 16
        hex>:<origin>:<seed>``.
    :param metadata: goes into the metadata of each sampled frame, e.g. ``{'round': 2}``.
    :param restart_file: continue from this restart file up to ``n_steps`` steps in all; the start velocities, and
        the positions of ``frame``, are then not used.
    :raises ValueError: for a single atom, for ``npt`` without a periodic axis, for an element missing in
        ``elements``, for a driving member that does not exist.
    """
    if len(frame) < 2:
        raise ValueError('the start structure of an MD run has one atom: give a supercell of at least two atoms')
    if not 0 <= driving_member < len(committee):
        raise ValueError(f'`driving_member` is {driving_member}: the committee has members 0 to {len(committee) - 1}')
    types = type_map(frame, elements)
    oriented = orient(frame)
    driver = {
        'elements': list(types),
        'rotation': oriented.rotation.tolist(),
        'cell': frame.cell.tolist(),
        'origin': origin,
        'lineage': lineage or f'{frame.frame_id[:16]}:{origin}:{settings.seed}',
        'committee': [str(path) for path in committee],
        'driving_member': driving_member,
        'committee_every': settings.committee_every,
        'sample_every': settings.sample_every,
        'n_steps': settings.n_steps,
        'max_temperature': settings.temperature_bound,
        'max_deviation': settings.max_deviation,
        'device': device,
        'dtype': dtype,
        'metadata': dict(metadata or {}),
    }
    script = lammps_script(settings, types, frame.pbc, restart_file=restart_file)
    return LammpsInput(script, _data_file(frame, oriented, types, force_tilt=settings.barostat == 'tri'), driver)


def type_map(frame: Frame, elements: Sequence[str] | None = None) -> tuple[str, ...]:
    """Elements by LAMMPS type: sorted by atomic number, whatever the order of the atoms; the first is type 1."""
    present = {chemical_symbols[number] for number in frame.numbers.tolist()}
    wanted = present if elements is None else set(elements)
    if present - wanted:
        raise ValueError(
            f'the frame contains {", ".join(sorted(present - wanted))}, which `elements` leaves out: add it'
        )
    return tuple(sorted(wanted, key=lambda symbol: atomic_numbers[symbol]))


def lammps_data(frame: Frame, elements: Sequence[str] | None = None) -> str:
    """LAMMPS data file of a frame (``atom_style atomic``) in LAMMPS' orientation; atom i gets the ID i + 1."""
    return _data_file(frame, orient(frame), type_map(frame, elements), force_tilt=False)


def _data_file(frame: Frame, oriented: Orientation, types: Sequence[str], force_tilt: bool) -> str:
    cell, low = oriented.cell, oriented.low
    lines = ['LAMMPS data file written by aiida-alpot', '', f'{len(frame)} atoms', f'{len(types)} atom types', '']
    for axis, name in enumerate('xyz'):
        lines.append(f'{float(low[axis])!r} {float(low[axis] + cell[axis, axis])!r} {name}lo {name}hi')
    tilt = [float(cell[1, 0]), float(cell[2, 0]), float(cell[2, 1])]
    if force_tilt or max(map(abs, tilt)) > _TILT_TOLERANCE:
        lines.append('{!r} {!r} {!r} xy xz yz'.format(*tilt))
    lines += ['', 'Masses', '']
    lines += [f'{i} {atomic_masses[atomic_numbers[symbol]]} # {symbol}' for i, symbol in enumerate(types, start=1)]
    lines += ['', 'Atoms # atomic', '']
    type_of = {atomic_numbers[symbol]: i for i, symbol in enumerate(types, start=1)}
    for i, (number, (x, y, z)) in enumerate(
        zip(frame.numbers.tolist(), oriented.positions.tolist(), strict=True), start=1
    ):
        lines.append(f'{i} {type_of[number]} {x!r} {y!r} {z!r}')
    return '\n'.join(lines) + '\n'


def lammps_script(settings: MDSettings, types: Sequence[str], pbc: np.ndarray, *, restart_file: str = '') -> str:
    """LAMMPS' commands for a run; the potential comes in by ``fix external``, which the driver serves.

    :param types: elements by type.
    :param pbc: shape (3,).
    :raises ValueError: for ``npt`` without a periodic axis.
    """
    start = (
        [f'read_restart {restart_file}']
        if restart_file
        else [f'boundary {" ".join("p" if periodic else "m" for periodic in pbc)}', f'read_data {DATA_FILE}']
    )
    velocities = (
        []
        if restart_file
        else [
            f'velocity all create {settings.temperature!r} {max(settings.seed, 1)} mom yes '
            f'rot {"no" if any(pbc) else "yes"} dist gaussian'
        ]
    )
    restarts = [f'restart {settings.restart_every} run.restart.a run.restart.b'] if settings.restart_every else []
    halt = (
        [
            f'variable deviation equal f_{FIX_ID}[1]',
            f'fix halt all halt {settings.committee_every} v_deviation > {settings.max_deviation!r} error soft',
        ]
        if settings.max_deviation is not None
        else []
    )
    limit = [f'timer timeout {settings.max_seconds} every 1'] if settings.max_seconds else []
    return (
        '\n'.join(
            [
                f'# types: {" ".join(types)}',
                'units metal',
                'atom_style atomic',
                'atom_modify map yes',
                'newton on',
                *start,
                '# No pair interaction: forces come from the committee. The radius sets how far ghost atoms reach.',
                'pair_style zero 2.0 nocoeff',
                'pair_coeff * *',
                f'fix {FIX_ID} all external pf/callback 1 1',
                f'fix_modify {FIX_ID} energy yes virial yes',
                f'timestep {settings.timestep / 1000.0!r}',
                *velocities,
                _integrator(settings, pbc),
                f'thermo_style custom step temp pe etotal press vol f_{FIX_ID}[1] f_{FIX_ID}[2] f_{FIX_ID}[3]',
                f'thermo {settings.sample_every}',
                'thermo_modify flush yes lost error',
                *halt,
                *limit,
                *restarts,
                f'run {settings.n_steps} upto',
                f'write_restart {RESTART_FILE}',
            ]
        )
        + '\n'
    )


def _integrator(settings: MDSettings, pbc: np.ndarray) -> str:
    """The fix that moves the atoms; damping times in ps."""
    if settings.ensemble == 'nve':
        return 'fix integrate all nve'
    damping = (settings.thermostat_damping or 100.0 * settings.timestep) / 1000.0
    command = (
        f'fix integrate all {settings.ensemble} temp {settings.temperature!r} {settings.temperature!r} {damping!r}'
    )
    if settings.ensemble == 'nvt':
        return command
    if not any(pbc):
        raise ValueError(
            '`ensemble` is npt, but the structure is not periodic along any axis: use nvt, or make it periodic'
        )
    return f'{command} {_pressure(settings, pbc)}'


def _pressure(settings: MDSettings, pbc: np.ndarray) -> str:
    """The barostat's part of ``fix npt``, for periodic axes only; pressure in bar, damping time in ps."""
    damping = (settings.barostat_damping or 1000.0 * settings.timestep) / 1000.0
    pressure = settings.pressure * BAR_PER_GPA
    axes = ''.join(name for name, periodic in zip('xyz', pbc, strict=True) if periodic)
    words = [f'{axis} {pressure!r} {pressure!r} {damping!r}' for axis in axes]
    if settings.barostat == 'iso' and len(axes) > 1:
        words.append(f'couple {"xyz" if len(axes) == 3 else axes}')
    if settings.barostat == 'tri':
        # No shear stress whatever the pressure.
        words += [f'{pair} 0.0 0.0 {damping!r}' for pair in ('yz', 'xz', 'xy') if set(pair) <= set(axes)]
    return ' '.join(words)
