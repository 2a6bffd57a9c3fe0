"""Pair potentials as a sum of Gaussians of the distance, and ASE's calculator of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.neighborlist import neighbor_list
from ase.stress import full_3x3_to_voigt_6_stress


def pair_names(elements: Sequence[str]) -> list[tuple[str, str]]:
    """Unordered pairs of elements."""
    return [(a, b) for i, a in enumerate(elements) for b in elements[i:]]


class Basis:
    """Functions of the distance for each pair of elements, which go to zero at the cutoff."""

    def __init__(self, elements: Sequence[str], cutoff: float, n_basis: int) -> None:
        self.elements, self.cutoff, self.n_basis = list(elements), cutoff, n_basis
        self.pairs = {frozenset(pair): i for i, pair in enumerate(pair_names(self.elements))}
        self.centres = np.linspace(0.45 * cutoff, cutoff, n_basis)
        self.width = 1.2 * (self.centres[1] - self.centres[0])

    @property
    def size(self) -> int:
        """Number of coefficients."""
        return len(self.pairs) * self.n_basis

    def radial(self, r: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Functions and their derivatives, shape (p, n_basis) both."""
        x = (r[:, None] - self.centres) / self.width
        gauss, slope = np.exp(-(x**2)), -2 * x * np.exp(-(x**2)) / self.width
        smooth = (0.5 * (1 + np.cos(np.pi * r / self.cutoff)))[:, None]
        steep = (-0.5 * np.pi / self.cutoff * np.sin(np.pi * r / self.cutoff))[:, None]
        return gauss * smooth, slope * smooth + gauss * steep

    def design(self, atoms: Atoms) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Energy, forces and virial-like stress per coefficient, shapes (k,), (n, 3, k), (3, 3, k)."""
        i, j, r, vector = neighbor_list('ijdD', atoms, self.cutoff)
        symbols = atoms.get_chemical_symbols()
        kind = np.array([self.pairs[frozenset((symbols[a], symbols[b]))] for a, b in zip(i, j, strict=True)], dtype=int)
        energy = np.zeros(self.size)
        forces, strain = np.zeros((len(atoms), 3, self.size)), np.zeros((3, 3, self.size))
        if len(r):
            value, slope = self.radial(r)
            columns = kind[:, None] * self.n_basis + np.arange(self.n_basis)
            np.add.at(energy, columns, 0.5 * value)
            direction = vector / r[:, None]
            pull = direction[:, :, None] * slope[:, None, :]
            for axis in range(3):
                np.add.at(forces[:, axis], (i[:, None], columns), pull[:, axis])
                for other in range(3):
                    np.add.at(strain[axis, other], columns, 0.5 * pull[:, axis] * vector[:, other, None])
        volume = atoms.get_volume() if atoms.cell.rank == 3 else np.inf
        return energy, forces, strain / volume


class PairCalculator(Calculator):
    """ASE calculator of a trained model."""

    implemented_properties = ('energy', 'forces', 'stress')

    def __init__(self, elements, cutoff, n_basis, coefficients, reference_energies) -> None:
        super().__init__()
        self.basis = Basis(elements, cutoff, n_basis)
        self.coefficients = np.array(coefficients, dtype=float)
        self.reference_energies = reference_energies

    def calculate(self, atoms=None, properties=('energy',), system_changes=all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        energy, forces, stress = self.basis.design(atoms)
        reference = sum(self.reference_energies[symbol] for symbol in atoms.get_chemical_symbols())
        self.results = {
            'energy': float(energy @ self.coefficients) + reference,
            'forces': forces @ self.coefficients,
            'stress': full_3x3_to_voigt_6_stress(stress @ self.coefficients),
        }


class WrongForces(PairCalculator):
    """With forces that are no derivative of the energy."""

    def calculate(self, *arguments, **options) -> None:
        super().calculate(*arguments, **options)
        self.results['forces'] = 1.05 * self.results['forces']


class WrongStress(PairCalculator):
    """With a pressure in place of the stress."""

    def calculate(self, *arguments, **options) -> None:
        super().calculate(*arguments, **options)
        self.results['stress'] = -self.results['stress']
