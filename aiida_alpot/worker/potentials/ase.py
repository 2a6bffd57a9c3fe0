"""Committees of ASE calculators.

A member is a JSON file such as::

    {"calculator": "ase.calculators.lj.LennardJones", "parameters": {"epsilon": 0.0104, "sigma": 3.4, "rc": 8.0},
     "elements": ["Ar"], "cutoff": 8.0}
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase.calculators.calculator import Calculator
from ase.data import atomic_numbers
from ase.stress import voigt_6_to_full_3x3_stress

from aiida_alpot.worker.acquisition.representations import Feature
from aiida_alpot.worker.potentials.committee import Committee
from aiida_alpot.worker.potentials.neighbours import Neighbourhood
from aiida_alpot.worker.potentials.predictions import Predictions

_KEYS = {'calculator', 'parameters', 'elements', 'cutoff'}


class ASECommittee(Committee):
    """Any ASE calculators, evaluated one frame and one member after the other.

    :param calculators: one a member.
    """

    kind = 'ASE calculators'

    def __init__(
        self, calculators: Sequence[Calculator], elements: Sequence[str], cutoff: float, batch_size: int | None = None
    ) -> None:
        super().__init__(elements, cutoff, len(calculators), batch_size)
        self._calculators = tuple(calculators)

    @classmethod
    def from_files(cls, paths: Sequence[Path], batch_size: int | None = None) -> ASECommittee:
        """Committee of the calculators described by JSON files.

        :raises ValueError: for a description that is not valid, or members that differ in elements or cutoff.
        """
        descriptions = [_read(path) for path in paths]
        first = descriptions[0]
        for path, description in zip(paths, descriptions, strict=True):
            for key in ('elements', 'cutoff'):
                if description[key] != first[key]:
                    raise ValueError(
                        f'the members of a committee must agree on their {key}: {paths[0].name} has {first[key]}, '
                        f'{path.name} has {description[key]}'
                    )
        calculators = [_calculator(path, description) for path, description in zip(paths, descriptions, strict=True)]
        return cls(calculators, first['elements'], first['cutoff'], batch_size)

    def _evaluate_batch(
        self, batch: Sequence[Neighbourhood], members: tuple[int, ...], features: Sequence[Feature]
    ) -> Predictions:
        frames = [structure.frame for structure in batch]
        offsets = np.concatenate([[0], np.cumsum([len(frame) for frame in frames])])
        energy = np.zeros((len(members), len(frames)))
        forces = np.zeros((len(members), offsets[-1], 3))
        stress = np.full((len(members), len(frames), 3, 3), np.nan)
        for i, frame in enumerate(frames):
            atoms = frame.unlabelled().to_atoms()
            for m, member in enumerate(members):
                calculator = self._calculators[member]
                energy[m, i] = calculator.get_potential_energy(atoms)
                forces[m, offsets[i] : offsets[i + 1]] = calculator.get_forces(atoms)
                if frame.pbc.any() and frame.volume > 1e-6:
                    stress[m, i] = voigt_6_to_full_3x3_stress(calculator.get_stress(atoms))
        volumes = np.array([frame.volume for frame in frames])
        return Predictions(energy, forces, stress, offsets, virial=-stress * volumes[:, None, None])


def _read(path: Path) -> dict[str, Any]:
    """Description of a calculator, with its elements in order of atomic number."""
    try:
        description = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f'{path} is not valid JSON ({error}): correct it') from error
    if not isinstance(description, dict) or set(description) - {'parameters'} != _KEYS - {'parameters'}:
        raise ValueError(f'{path} must be a JSON object with the keys {", ".join(sorted(_KEYS))}')
    unknown = [symbol for symbol in description['elements'] if symbol not in atomic_numbers]
    if unknown or not description['elements']:
        raise ValueError(f'`elements` in {path} must be a list of chemical symbols, found {description["elements"]}')
    if not description['cutoff'] > 0:
        raise ValueError(f'`cutoff` in {path} is {description["cutoff"]}: give a positive length in Angstrom')
    description['elements'] = sorted(description['elements'], key=lambda symbol: atomic_numbers[symbol])
    return description


def _calculator(path: Path, description: dict[str, Any]) -> Calculator:
    module, _, name = str(description['calculator']).rpartition('.')
    try:
        kind = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f'`calculator` in {path} is {description["calculator"]!r}, which cannot be imported ({error}): '
            'give the full name of a calculator class, e.g. ase.calculators.lj.LennardJones'
        ) from error
    return kind(**description.get('parameters', {}))
