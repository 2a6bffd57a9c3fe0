"""Start structures of a campaign: taken as people have them, and refused in a sentence where they make no sense."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from aiida import orm
from ase import Atoms
from ase.neighborlist import neighbor_list

from aiida_alpot.worker.frames import Frame

SAME_SPOT = 0.5
"""Atoms closer than this, in A, are taken for a mistake: no two nuclei of a solid or molecule are."""

PARTIALLY_OCCUPIED = 'has partially occupied sites; give an ordered structure.'


def checked_structures(structures: Any) -> dict[str, orm.StructureData]:
    """Start structures by a name that a link can carry.

    :param structures: one ``StructureData`` or ASE ``Atoms``, a sequence of them, or a mapping from names.
    :raises ValueError: where there is none, or two atoms of one stand on one spot.
    """
    if isinstance(structures, (orm.StructureData, Atoms)):
        structures = [structures]
    if isinstance(structures, Sequence):
        structures = {f'structure_{index}': structure for index, structure in enumerate(structures)}
    if not isinstance(structures, Mapping) or not structures:
        raise ValueError('`structures`: the list is empty; give at least one structure to start from.')
    checked: dict[str, orm.StructureData] = {}
    for name, structure in structures.items():
        problem = structure_problem(structure)
        if problem:
            raise ValueError(f'`structures.{name}`: {problem}')
        node = orm.StructureData(ase=structure) if isinstance(structure, Atoms) else structure
        checked[_link_label(str(name), checked)] = node
    return checked


def _link_label(name: str, taken: Mapping[str, Any]) -> str:
    """The name in letters, digits and underscores, numbered where another structure has it already."""
    label = re.sub(r'[\W_]+', '_', name, flags=re.ASCII).strip('_')
    if not label.isidentifier():
        label = f'structure_{label}'.rstrip('_')
    number, unique = 1, label
    while unique in taken:
        number += 1
        unique = f'{label}_{number}'
    return unique


def structure_problem(structure: Any) -> str | None:
    """What is wrong with a start structure, or nothing."""
    if isinstance(structure, orm.StructureData):
        if any(kind.is_alloy or kind.has_vacancies for kind in structure.kinds):
            return PARTIALLY_OCCUPIED
        structure = structure.get_ase()
    if not isinstance(structure, Atoms):
        return f'must be a StructureData or ASE Atoms, found {type(structure).__name__}.'
    if any(len(kinds) > 1 or min(kinds.values()) < 1 for kinds in structure.info.get('occupancy', {}).values()):
        return PARTIALLY_OCCUPIED  # ASE reads the first species of each site of a CIF file
    if len(structure) == 0:
        return 'has no atoms.'
    try:
        frame = Frame.from_atoms(structure)
    except ValueError as exception:
        return f'{exception}.'
    if frame.volume == 0.0:
        return 'has no three-dimensional cell, which pw.x needs; give it one, with vacuum where it is not periodic.'
    first, second, distance = neighbor_list('ijd', structure, SAME_SPOT)
    if len(distance):
        pair = f'{first[0]} and {second[0]}'
        return f'atoms {pair} are {distance[0]:.3f} A apart; remove one of them.'
    return None


def validate_structures(value: Mapping[str, orm.StructureData], _: Any) -> str | None:
    """Validator of a namespace of start structures."""
    for name, structure in (value or {}).items():
        problem = structure_problem(structure)
        if problem:
            return f'`{name}` {problem}'
    return None
