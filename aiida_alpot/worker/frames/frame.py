"""One labelled (or not yet labelled) structure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress, voigt_6_to_full_3x3_stress

SPLITS = ('train', 'validation', 'test')
ID_DECIMALS = 6
"""Positions and cells are rounded to this many decimals of an Angstrom before they are hashed."""

ID_OFFSET = 0.1303955989
"""Shift of the rounding grid in units of its spacing. Lengths that people write, such as 5.43071 / 4, would otherwise
lie exactly half-way between two grid points, where the last bit of a float decides."""


@dataclass(frozen=True, eq=False)
class Frame:
    """A structure with whatever labels it has, and where it comes from.

    :param numbers: atomic numbers, shape (n,), 1 to 118.
    :param positions: shape (n, 3), A.
    :param cell: lattice vectors as rows, shape (3, 3), A; a row of zeros where there is none.
    :param pbc: periodicity along each lattice vector, shape (3,).
    :param energy: total energy, eV, or ``None`` where it is not labelled; likewise
    :param forces: shape (n, 3), eV/A, and
    :param stress: shape (3, 3), eV/A^3, positive under tension (the sign of ASE).
    :param lineage: what the frame descends from: frames of one lineage never fall into different splits.
    :param origin: the generator or the kind of exploration that made it, e.g. ``rattle`` or ``md``.
    :param split: one of :data:`SPLITS`, or empty where none is assigned yet.
    :param level_of_theory: fingerprint of the calculation the labels come from, empty where there are none.
    :param metadata: anything else, JSON-serialisable.
    :raises ValueError: for shapes that do not fit, unknown species, a singular periodic cell,
        values that are not finite.
    """

    numbers: np.ndarray
    positions: np.ndarray
    cell: np.ndarray
    pbc: np.ndarray
    energy: float | None = None
    forces: np.ndarray | None = None
    stress: np.ndarray | None = None
    lineage: str = ''
    origin: str = ''
    split: str = ''
    level_of_theory: str = ''
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._coerce('numbers', np.int32, (-1,))
        n = len(self.numbers)
        self._coerce('positions', np.float64, (n, 3))
        self._coerce('cell', np.float64, (3, 3))
        self._coerce('pbc', np.bool_, (3,))
        if self.forces is not None:
            self._coerce('forces', np.float64, (n, 3))
        if self.stress is not None:
            self._coerce('stress', np.float64, (3, 3))
        if self.energy is not None:
            object.__setattr__(self, 'energy', float(self.energy))
        self._validate()

    def _coerce(self, name: str, dtype: type, shape: tuple[int, ...]) -> None:
        given = np.asarray(getattr(self, name))
        array: np.ndarray = np.array(given, dtype=dtype, copy=True)
        if dtype is np.int32 and not np.array_equal(array, given):
            raise ValueError(f'`{name}` must hold whole numbers, found {given.tolist()}')
        wanted = array.shape[:1] if shape == (-1,) else shape
        if array.shape != wanted or (shape == (-1,) and array.ndim != 1):
            raise ValueError(f'`{name}` has shape {array.shape}, expected {"(n,)" if shape == (-1,) else shape}')
        array.setflags(write=False)
        object.__setattr__(self, name, array)

    def _validate(self) -> None:
        if len(self.numbers) == 0:
            raise ValueError('a frame needs at least one atom')
        if self.numbers.min() < 1 or self.numbers.max() > 118:
            raise ValueError(f'atomic numbers must lie in 1..118, found {sorted(set(self.numbers.tolist()))}')
        for name in ('positions', 'cell', 'energy', 'forces', 'stress'):
            value = getattr(self, name)
            if value is not None and not np.all(np.isfinite(value)):
                raise ValueError(f'`{name}` holds values that are not finite: correct or drop this frame')
        periodic = self.cell[self.pbc]
        if len(periodic) and np.linalg.matrix_rank(periodic) < len(periodic):
            raise ValueError('the lattice vectors along the periodic axes are not independent (singular cell)')
        if self.split and self.split not in SPLITS:
            raise ValueError(f'`split` is {self.split!r}, expected one of {SPLITS} or empty')

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def is_labelled(self) -> bool:
        """Whether energy and forces are known."""
        return self.energy is not None and self.forces is not None

    @property
    def volume(self) -> float:
        """Volume of the cell, A^3; zero where the cell is not three-dimensional."""
        return float(abs(np.linalg.det(self.cell)))

    @property
    def formula(self) -> str:
        """Chemical formula in Hill order."""
        return self.to_atoms().get_chemical_formula()

    @property
    def frame_id(self) -> str:
        """SHA-256 of species, cell, positions and periodicity; labels and provenance do not enter.

        Periodic coordinates are wrapped into the cell; positions and cell are rounded to 1e-6 A; the atoms are put into
        order of species and position, so that neither the order of the atoms nor whole lattice vectors matter.
        """
        scale = 10**ID_DECIMALS
        cell = np.rint(self.cell * scale + ID_OFFSET).astype('<i8')
        positions = np.rint(self._wrapped_positions() * scale + ID_OFFSET).astype('<i8')
        order = np.lexsort((*positions.T[::-1], self.numbers))
        digest = hashlib.sha256()
        for array in (self.numbers[order].astype('<i4'), cell, positions[order], self.pbc.astype('u1')):
            digest.update(array.tobytes())
        return digest.hexdigest()

    def _wrapped_positions(self) -> np.ndarray:
        """Positions with fractional coordinates in [-eps, 1 - eps) along periodic axes, shape (n, 3), A."""
        if not self.pbc.any():
            return self.positions
        return Atoms(self.numbers, self.positions, cell=self.cell, pbc=self.pbc).get_positions(wrap=True, eps=1e-5)

    def replace(self, **changes: Any) -> Frame:
        """A copy with some fields changed."""
        return replace(self, **changes)

    def unlabelled(self) -> Frame:
        """A copy without labels and without level of theory."""
        return self.replace(energy=None, forces=None, stress=None, level_of_theory='')

    @classmethod
    def from_atoms(cls, atoms: Atoms, *, labels: bool = False, **fields: Any) -> Frame:
        """Frame of an ASE structure.

        :param labels: take energy, forces and stress from the attached calculator's results. Off by default: readers of
            trajectories and dumps attach energies that nobody calculated.
        :param fields: lineage, origin, split, level_of_theory, metadata.
        """
        if labels and atoms.calc is not None:
            results = atoms.calc.results
            fields.setdefault('energy', results.get('energy'))
            fields.setdefault('forces', results.get('forces'))
            if results.get('stress') is not None:
                fields.setdefault('stress', voigt_6_to_full_3x3_stress(results['stress']))
        return cls(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, **fields)

    def to_atoms(self) -> Atoms:
        """ASE structure; labels come back through a single-point calculator."""
        atoms = Atoms(self.numbers, self.positions, cell=self.cell, pbc=self.pbc)
        labels: dict[str, Any] = {}
        if self.energy is not None:
            labels['energy'] = self.energy
        if self.forces is not None:
            labels['forces'] = self.forces.copy()
        if self.stress is not None:
            labels['stress'] = full_3x3_to_voigt_6_stress(self.stress)
        if labels:
            atoms.calc = SinglePointCalculator(atoms, **labels)
        return atoms
