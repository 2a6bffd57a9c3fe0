"""Write the input of an MD run: LAMMPS' script and data file, and what the driver needs to know."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import atomic_masses, atomic_numbers, chemical_symbols

from aiida_alpot.worker.frames.frame import Frame
from aiida_alpot.worker.md.ensembles import is_sheared, motion_commands, run_command
from aiida_alpot.worker.md.interactions import Dispersion, Repulsion, pair_commands
from aiida_alpot.worker.md.orientation import Orientation, orient
from aiida_alpot.worker.md.settings import MDSettings, check_start

FIX_ID = 'alpot'
SCRIPT_FILE, DATA_FILE, DRIVER_FILE, PLUMED_FILE = 'in.lammps', 'data.lammps', 'driver.json', 'plumed.dat'
RESTART_FILE = 'final.restart'
EXPECTED_ERROR, GRADE, N_WATCHED = 4, 5, 6
"""Places in the vector of the fix: ``f_alpot[1]`` to ``[6]`` are the largest and the mean force deviation (eV/A), the
energy deviation (eV/atom), the expected force error (eV/A), the extrapolation grade and the bias energy (eV)."""
_TILT_TOLERANCE = 1e-10


@dataclass(frozen=True)
class LammpsInput:
    """The files of one MD run, as text.

    :param script: LAMMPS' commands.
    :param data: LAMMPS' data file with the start structure.
    :param driver: what :mod:`aiida_alpot.worker.md.driver` reads, JSON-serialisable.
    :param files: what else the script reads, by name.
    """

    script: str
    data: str
    driver: Mapping[str, Any]
    files: Mapping[str, str] = field(default_factory=dict)

    def write(self, directory: Path | str) -> Path:
        """Write ``in.lammps``, ``data.lammps``, ``driver.json`` and ``files``; return the path of the script."""
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / DATA_FILE).write_text(self.data)
        (folder / DRIVER_FILE).write_text(json.dumps(dict(self.driver), indent=2, sort_keys=True) + '\n')
        for name, text in self.files.items():
            (folder / name).write_text(text)
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
    calibration: Mapping[str, Any] | None = None,
    active_set: str | None = None,
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
    :param calibration: of the force deviations, as its ``as_dict`` gives it; the bounds of ``settings.uncertainty`` are
        then expected errors. With ``max_deviation``, or no bounds, there is nothing to calibrate, and it is refused.
    :param active_set: path of a stored extrapolation active set, relative as the members; gives a grade for each frame.
    :raises ValueError: for what :func:`~aiida_alpot.worker.md.settings.check_start` refuses, for an element missing in
        ``elements``, for a driving member that does not exist, for a committee of one that is to watch, for a
        calibration that nothing would use, for bounds on the grade without an active set.
    """
    check_start(frame, settings)
    if not 0 <= driving_member < len(committee):
        raise ValueError(f'`driving_member` is {driving_member}: the committee has members 0 to {len(committee) - 1}')
    check_watch(settings, len(committee), calibration, active_set)
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
        **watch_entries(settings, calibration, active_set),
        'device': device,
        'dtype': dtype,
        'metadata': dict(metadata or {}),
    }
    script = lammps_script(settings, types, frame.pbc, restart_file=restart_file)
    return LammpsInput(
        script, data_text(frame, settings, types), driver, script_files(settings, is_restart=bool(restart_file))
    )


def watch_entries(
    settings: MDSettings, calibration: Mapping[str, Any] | None = None, active_set: str | None = None
) -> dict[str, Any]:
    """What ``driver.json`` says about watching and biasing: ``uncertainty``, ``active_set``, ``bias``, ``seed``."""
    bounds, bias = settings.uncertainty_bounds, settings.bias_settings
    return {
        'uncertainty': None if bounds is None else {**asdict(bounds), 'calibration': calibration},
        'active_set': active_set,
        'bias': None if bias is None else asdict(bias),
        'seed': settings.seed,
    }


def check_watch(
    settings: MDSettings,
    n_members: int,
    calibration: Mapping[str, Any] | None = None,
    active_set: str | None = None,
) -> None:
    """Refuse bounds and biases that nobody can measure, and a calibration or active set that nobody would use.

    :raises ValueError: see :func:`write_lammps_input`.
    """
    bounds = settings.uncertainty_bounds
    bounds_error = bounds is not None and bounds.lower is not None
    if n_members < 2 and (bounds_error or settings.bias is not None):
        name = 'bias' if settings.bias is not None else 'max_deviation' if settings.max_deviation else 'uncertainty'
        raise ValueError(f'`{name}` needs a committee that can disagree, and this one has one member: give two or more')
    if calibration is not None and (settings.uncertainty is None or not bounds_error):
        raise ValueError(
            'a calibration is given, but nothing is bounded by the expected error: set `uncertainty`'
            + (' in place of `max_deviation`' if settings.max_deviation is not None else '')
        )
    if bounds is not None and bounds.grade_lower is not None and active_set is None:
        raise ValueError('`uncertainty` bounds the extrapolation grade, which needs an active set: give `active_set`')


def script_files(settings: MDSettings, *, is_restart: bool = False) -> dict[str, str]:
    """What the script reads beside the data file, by name."""
    if settings.plumed is None:
        return {}
    return {PLUMED_FILE: ('RESTART\n' if is_restart else '') + settings.plumed.rstrip() + '\n'}


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


def data_text(frame: Frame, settings: MDSettings, types: Sequence[str]) -> str:
    """LAMMPS data file of a start structure, with tilts where the run needs them."""
    return _data_file(frame, orient(frame), types, force_tilt=is_sheared(settings))


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
    :raises ValueError: for a barostat along an axis that is not periodic.
    """
    watched = ' '.join(f'f_{FIX_ID}[{index}]' for index in range(1, N_WATCHED + 1))
    commands = [
        *start_commands(types, pbc, restart_file),
        '# Forces come from the committee; a pair style without interactions sets how far ghost atoms reach.',
        *_pairs(settings, types),
        f'fix {FIX_ID} all external pf/callback 1 1',
        f'fix_modify {FIX_ID} energy yes virial yes',
        *dynamics_commands(settings, types, pbc, is_restart=bool(restart_file)),
        f'thermo_style custom step temp pe etotal press vol {watched}',
        *_halts(settings),
        *finish_commands(settings),
    ]
    return '\n'.join(commands) + '\n'


def start_commands(types: Sequence[str], pbc: np.ndarray, restart_file: str) -> list[str]:
    """Units, boundaries and atoms."""
    boundary = 'boundary ' + ' '.join('p' if periodic else 'm' for periodic in pbc)
    atoms = [f'read_restart {restart_file}'] if restart_file else [boundary, f'read_data {DATA_FILE}']
    return [
        f'# types: {" ".join(types)}',
        'units metal',
        'atom_style atomic',
        'atom_modify map yes',
        'newton on',
        *atoms,
    ]


def _pairs(settings: MDSettings, types: Sequence[str]) -> list[str]:
    dispersion, repulsion = settings.dispersion, settings.repulsion
    assert dispersion is None or isinstance(dispersion, Dispersion)
    assert repulsion is None or isinstance(repulsion, Repulsion)
    return pair_commands(types, dispersion, repulsion)


def dynamics_commands(settings: MDSettings, types: Sequence[str], pbc: np.ndarray, *, is_restart: bool) -> list[str]:
    """Time step, start velocities, and all that moves the atoms."""
    velocities = (
        f'velocity all create {float(settings.temperature)!r} {max(settings.seed, 1)} mom yes '
        f'rot {"no" if any(pbc) else "yes"} dist gaussian'
    )
    plumed = [f'fix plumed all plumed plumedfile {PLUMED_FILE} outfile plumed.out'] if settings.plumed else []
    return [
        f'timestep {settings.timestep / 1000.0!r}',
        *([] if is_restart else [velocities]),
        *motion_commands(settings, types, pbc),
        *plumed,
    ]


def _halts(settings: MDSettings) -> list[str]:
    """Where the run ends as ``halted``; a rewind is the driver's, and ends it only when there have been enough."""
    bounds = settings.uncertainty_bounds
    if bounds is None or bounds.on_crossing == 'rewind':
        return []
    lines = []
    for name, index, lower, upper in (
        ('error', EXPECTED_ERROR, bounds.lower, bounds.upper),
        ('grade', GRADE, bounds.grade_lower, bounds.grade_upper),
    ):
        bound = lower if bounds.on_crossing == 'halt' else upper
        if bound is not None:
            lines.append(f'variable {name} equal f_{FIX_ID}[{index}]')
            lines.append(f'fix halt_{name} all halt {settings.committee_every} v_{name} > {bound!r} error soft')
    return lines


def finish_commands(settings: MDSettings) -> list[str]:
    """Output, limits and the run itself."""
    return [
        f'thermo {settings.sample_every}',
        'thermo_modify flush yes lost error',
        *([f'timer timeout {settings.max_seconds} every 1'] if settings.max_seconds else []),
        *([f'restart {settings.restart_every} run.restart.a run.restart.b'] if settings.restart_every else []),
        run_command(settings),
        f'write_restart {RESTART_FILE}',
    ]
