"""Extended XYZ, the files that trainers read; every number survives to its last bit."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from ase.io import iread
from ase.stress import voigt_6_to_full_3x3_stress

from .frame import Frame
from .shard import dump_metadata

PROVENANCE = ('lineage', 'origin', 'split', 'level_of_theory')
INFO_KEY = 'alpot'
"""Comment-line key that carries lineage, origin, split, level of theory and metadata as JSON."""

ISOLATED_ATOM = 'isolated_atom'
"""Origin of the frames from which a trainer takes the energies of isolated atoms."""


def write_extxyz(frames: Iterable[Frame], path: Path | str, prefix: str = 'REF_') -> int:
    """Write frames as extended XYZ with the labels under MACE's keys, as they stream in.

    ``<prefix>energy`` in eV, ``<prefix>forces`` in eV/A, ``<prefix>stress`` as nine numbers in eV/A^3, positive under
    tension; each only where the frame has it. Single atoms of origin ``isolated_atom`` get
    ``config_type=IsolatedAtom``, from which MACE takes its E0s.

    :return: number of frames written.
    """
    count = 0
    with open(path, 'w', encoding='utf-8', newline='\n') as stream:
        for frame in frames:
            stream.write(_to_text(frame, prefix))
            count += 1
    return count


def read_extxyz(path: Path | str, prefix: str = 'REF_') -> list[Frame]:
    """Read frames from extended XYZ, with the labels under ``<prefix>energy``, ``<prefix>forces``, ``<prefix>stress``.

    Energies and forces under other keys are not taken for labels. A single atom with ``config_type=IsolatedAtom`` gets
    the origin ``isolated_atom``.

    :raises ValueError: where an entry makes no valid frame; the message says which.
    """
    frames = []
    for i, atoms in enumerate(iread(path, index=':', format='extxyz')):
        try:
            frames.append(_from_atoms(atoms, prefix))
        except ValueError as error:
            raise ValueError(f'frame {i} of {path}: {error}') from error
    return frames


def _numbers(values: np.ndarray) -> str:
    return ' '.join(map(repr, np.asarray(values, dtype=np.float64).ravel().tolist()))


def _to_text(frame: Frame, prefix: str) -> str:
    properties, columns = 'species:S:1:pos:R:3', [frame.positions]
    if frame.forces is not None:
        properties += f':{prefix}forces:R:3'
        columns.append(frame.forces)
    info = [f'Properties={properties}', f'pbc="{" ".join("FT"[int(flag)] for flag in frame.pbc)}"']
    if frame.cell.any():
        info.insert(0, f'Lattice="{_numbers(frame.cell)}"')
    if frame.energy is not None:
        info.append(f'{prefix}energy={frame.energy!r}')
    if frame.stress is not None:
        info.append(f'{prefix}stress="{_numbers(frame.stress)}"')
    if frame.origin == ISOLATED_ATOM and len(frame) == 1:
        info.append('config_type=IsolatedAtom')
    info.append(f'{INFO_KEY}="{_provenance(frame)}"')
    rows = np.hstack(columns).tolist()
    lines = [f'{chemical_symbols[z]} {" ".join(map(repr, row))}' for z, row in zip(frame.numbers, rows, strict=True)]
    return '\n'.join([str(len(frame)), ' '.join(info), *lines, ''])


def _provenance(frame: Frame) -> str:
    record: dict[str, Any] = {name: getattr(frame, name) for name in PROVENANCE if getattr(frame, name)}
    if frame.metadata:
        record['metadata'] = json.loads(dump_metadata(frame.metadata))
    text = json.dumps(record, sort_keys=True, separators=(',', ':'))
    return '_JSON ' + text.replace('\\', '\\\\').replace('"', '\\"')


def _from_atoms(atoms: Atoms, prefix: str) -> Frame:
    record = dict(atoms.info.get(INFO_KEY, {}))
    if atoms.info.get('config_type') == 'IsolatedAtom' and len(atoms) == 1:
        record.setdefault('origin', ISOLATED_ATOM)
    stress = atoms.info.get(f'{prefix}stress')
    if stress is not None:
        stress = np.asarray(stress, dtype=np.float64)
        stress = voigt_6_to_full_3x3_stress(stress) if stress.shape == (6,) else stress.reshape(3, 3)
    return Frame.from_atoms(
        atoms,
        energy=atoms.info.get(f'{prefix}energy'),
        forces=atoms.arrays.get(f'{prefix}forces'),
        stress=stress,
        **record,
    )
