"""A committee as an ASE calculator: one member drives, the others may say how far they agree."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from aiida_alpot.worker.acquisition.signals.committee import deviations
from aiida_alpot.worker.frames.frame import Frame
from aiida_alpot.worker.potentials.committee import Committee
from aiida_alpot.worker.potentials.predictions import Predictions

DEVIATIONS = ('max_force_deviation', 'mean_force_deviation', 'energy_deviation', 'force_deviation')
"""What is in ``results`` besides, where all members are evaluated."""


class CommitteeCalculator(Calculator):
    """Energy (eV), forces (eV/A) and stress (eV/A^3, ASE's sign) of one member of a committee.

    With ``deviations`` all members are evaluated at each call, in one pass over one neighbour list, and ``results``
    holds the largest and the mean force deviation (eV/A), the energy deviation (eV/atom) and the force deviation of
    each atom (shape (n,), eV/A) as well, see :func:`aiida_alpot.worker.acquisition.signals.committee.deviations`.

    :param driving_member: whose energy and forces these are.
    :raises IndexError: for a member that does not exist.
    :raises ValueError: for ``deviations`` of a committee of one.
    """

    implemented_properties: ClassVar[list[str]] = ['energy', 'free_energy', 'forces', 'stress']

    def __init__(self, committee: Committee, driving_member: int = 0, *, deviations: bool = False) -> None:
        super().__init__()
        if not 0 <= driving_member < committee.n_members:
            raise IndexError(
                f'`driving_member` is {driving_member}: the committee has members 0 to {committee.n_members - 1}'
            )
        if deviations and committee.n_members < 2:
            raise ValueError('a committee of one cannot disagree: give at least two members, or `deviations=False`')
        self.committee = committee
        self.driving_member = driving_member
        self._deviations = deviations

    def calculate(
        self, atoms: Atoms | None = None, properties: Any = ('energy',), system_changes: Any = all_changes
    ) -> None:
        """Evaluate the structure; called by ASE.

        :raises ValueError: for a structure with an element that the members do not know.
        :raises PropertyNotImplementedError: for the stress of a structure that has none, as it is not periodic.
        """
        super().calculate(atoms, properties, system_changes)
        frame = bare_frame(self.atoms)
        predictions = self.committee.evaluate([frame], None if self._deviations else [self.driving_member])
        row = self.driving_member if self._deviations else 0
        self.results = driving_results(predictions, row)
        if self._deviations:
            self.results.update(_disagreement(predictions))
        if 'stress' in properties and 'stress' not in self.results:
            raise PropertyNotImplementedError(
                'there is no stress: the structure has no periodic axis, or no cell along one of its other axes'
            )


def bare_frame(atoms: Atoms) -> Frame:
    """The structure alone as a frame, without labels and arrays."""
    return Frame(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc)


def driving_results(predictions: Predictions, row: int, index: int = 0) -> dict[str, Any]:
    """ASE's ``results`` of one frame by one member.

    :param row: of the member in the predictions.
    :param index: of the frame in the predictions.
    """
    energy = float(predictions.energy[row, index])
    start, stop = predictions.offsets[index], predictions.offsets[index + 1]
    results = {'energy': energy, 'free_energy': energy, 'forces': np.array(predictions.forces[row, start:stop])}
    stress = predictions.stress[row, index]
    if np.isfinite(stress).all():
        results['stress'] = full_3x3_to_voigt_6_stress(stress)
    return results


def _disagreement(predictions: Predictions) -> dict[str, Any]:
    found = deviations(predictions)
    return {
        'max_force_deviation': float(found.max_force[0]),
        'mean_force_deviation': float(found.mean_force[0]),
        'energy_deviation': float(found.energy[0]),
        'force_deviation': found.force,
    }
