"""One labelled (or not yet labelled) structure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress, voigt_6_to_full_3x3_stress

SPLITS = ('train', 'validation', 'test')

PROPERTIES = ('energy', 'forces', 'stress', 'charges', 'magmoms', 'dipole')
"""What a frame can be labelled with."""

ISOLATED_ATOM = 'isolated_atom'
"""Origin of the frames from which a trainer takes the energies of isolated atoms."""

ID_DECIMALS = 6
"""Positions and cells are rounded to this many decimals of an Angstrom before they are hashed."""

ID_OFFSET = 2e-6
"""Shift of the rounding grid in units of its spacing. It is larger than what the last bits of a length can do, so that
they do not decide about lengths half-way between two grid points, such as 5.43071 / 4; and so small that writing a
length with six decimals does not move it to another grid point."""

WRAP_EPS = 1.3304e-5
"""Fractional coordinates are wrapped into [-WRAP_EPS, 1 - WRAP_EPS): no number that people write, so that no atom lies
on the edge, where the last bit decides to which side it goes."""

LARGEST_LENGTH = 1e9
"""Lengths beyond this many Angstrom, 10 cm, are a mistake; the grid of the identity ends there, too."""

ARRAY_NAME = re.compile(r'[A-Za-z_][A-Za-z0-9_.-]*')
STRUCTURE = ('numbers', 'positions', 'cell', 'pbc')
PROVENANCE = ('lineage', 'origin', 'split', 'level_of_theory', 'metadata')
RESERVED_NAMES = (*STRUCTURE, *PROPERTIES, *PROVENANCE, 'arrays', 'n_atoms', 'frame_id', 'offsets', 'species', 'pos')
"""Names that a user's array cannot have: they mean something else here or in the files that frames are exported to."""


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
    :param charges: shape (n,), elementary charges.
    :param magmoms: collinear magnetic moments, shape (n,), Bohr magnetons.
    :param dipole: shape (3,), e A.
    :param lineage: what the frame descends from: frames of one lineage never fall into different splits.
    :param origin: the generator or the kind of exploration that made it, e.g. ``rattle`` or ``md``.
    :param split: one of :data:`SPLITS`, or empty where none is assigned yet.
    :param level_of_theory: fingerprint of the calculation the labels come from, empty where there are none.
    :param metadata: anything else about the frame, JSON-serialisable.
    :param arrays: anything else about the atoms: by name, arrays of floats, whole numbers or booleans, shape (n, ...).
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
    charges: np.ndarray | None = None
    magmoms: np.ndarray | None = None
    dipole: np.ndarray | None = None
    lineage: str = ''
    origin: str = ''
    split: str = ''
    level_of_theory: str = ''
    metadata: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._set('numbers', _whole_numbers('numbers', self.numbers))
        n = len(self.numbers)
        shapes = {'positions': (n, 3), 'cell': (3, 3), 'forces': (n, 3), 'stress': (3, 3), 'charges': (n,)}
        for name, shape in {**shapes, 'magmoms': (n,), 'dipole': (3,)}.items():
            if name in STRUCTURE or getattr(self, name) is not None:
                self._set(name, _floats(name, getattr(self, name), shape))
        self._set('pbc', _flags('pbc', self.pbc))
        if self.energy is not None:
            object.__setattr__(self, 'energy', _number('energy', self.energy))
        if self.arrays:
            arrays = {name: _user_array(name, self.arrays[name], n) for name in sorted(self.arrays, key=str)}
            object.__setattr__(self, 'arrays', arrays)
        self._validate()

    def _set(self, name: str, array: np.ndarray) -> None:
        array.setflags(write=False)
        object.__setattr__(self, name, array)

    def _validate(self) -> None:
        if len(self.numbers) == 0:
            raise ValueError('a frame needs at least one atom')
        if self.numbers.min() < 1 or self.numbers.max() > 118:
            raise ValueError(f'atomic numbers must lie in 1..118, found {sorted(set(self.numbers.tolist()))}')
        for name in ('positions', 'cell', *PROPERTIES):
            value = getattr(self, name)
            if value is not None and not np.all(np.isfinite(value)):
                raise ValueError(f'`{name}` holds values that are not finite: correct or drop this frame')
        for name in ('positions', 'cell'):
            if np.abs(getattr(self, name)).max() > LARGEST_LENGTH:
                raise ValueError(f'`{name}` holds lengths beyond {LARGEST_LENGTH:g} A: are they in another unit?')
        periodic = self.cell[self.pbc]
        if len(periodic) and np.linalg.matrix_rank(periodic, tol=10.0**-ID_DECIMALS) < len(periodic):
            raise ValueError('the lattice vectors along the periodic axes are not independent (singular cell)')
        for name in PROVENANCE[:-1]:
            if not isinstance(getattr(self, name), str):
                raise ValueError(f'`{name}` is {getattr(self, name)!r}, expected a text, empty for none')
        if self.split and self.split not in SPLITS:
            raise ValueError(f'`split` is {self.split!r}, expected one of {SPLITS} or empty')

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def is_labelled(self) -> bool:
        """Whether energy and forces are known."""
        return self.energy is not None and self.forces is not None

    @property
    def labels(self) -> dict[str, Any]:
        """The labels that it has, by their names in :data:`PROPERTIES`."""
        values = {name: getattr(self, name) for name in PROPERTIES}
        return {name: value for name, value in values.items() if value is not None}

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

        Along periodic axes the atoms are wrapped into the cell by ASE's ``Atoms.wrap``, to fractional coordinates in
        [-eps, 1 - eps) with :data:`WRAP_EPS`; positions and cell are rounded to 1e-6 A; the atoms are put into order of
        species and position. So neither whole lattice vectors nor the order of the atoms matter, nor does writing all
        lengths with six decimals. Rotated copies and other cells of the same crystal are other frames.
        """
        numbers, positions, order = self._canonical()
        cell = np.rint(self.cell * 10**ID_DECIMALS + ID_OFFSET).astype('<i8')
        digest = hashlib.sha256()
        for array in (numbers[order].astype('<i4'), cell, positions[order], self.pbc.astype('u1')):
            digest.update(array.tobytes())
        return digest.hexdigest()

    @property
    def canonical_order(self) -> np.ndarray:
        """Permutation of the atoms under which :attr:`frame_id` is taken, shape (n,).

        Of two frames with one ``frame_id``, atom ``a.canonical_order[i]`` of one is ``b.canonical_order[i]`` of the
        other: labels of atoms carry over through it.
        """
        return self._canonical()[2]

    def _canonical(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Numbers, positions on the grid, and the order of the atoms."""
        positions = np.rint(self._wrapped_positions() * 10**ID_DECIMALS + ID_OFFSET).astype('<i8')
        return self.numbers, positions, np.lexsort((*positions.T[::-1], self.numbers))

    def _wrapped_positions(self) -> np.ndarray:
        """Positions with fractional coordinates in [-eps, 1 - eps) along periodic axes, shape (n, 3), A."""
        if not self.pbc.any():
            return self.positions
        return Atoms(self.numbers, self.positions, cell=self.cell, pbc=self.pbc).get_positions(wrap=True, eps=WRAP_EPS)

    def replace(self, **changes: Any) -> Frame:
        """A copy with some fields changed."""
        return replace(self, **changes)

    def unlabelled(self) -> Frame:
        """A copy without labels and without level of theory."""
        return self.replace(**dict.fromkeys(PROPERTIES), level_of_theory='')

    @classmethod
    def from_atoms(cls, atoms: Atoms, *, labels: bool = False, **fields: Any) -> Frame:
        """Frame of an ASE structure.

        :param labels: take what :data:`PROPERTIES` names from the attached calculator's results. Off by default:
            readers of trajectories and dumps attach energies that nobody calculated.
        :param fields: lineage, origin, split, level_of_theory, metadata, arrays.
        """
        if labels and atoms.calc is not None:
            results = atoms.calc.results
            for name in PROPERTIES:
                if name != 'stress':
                    fields.setdefault(name, results.get(name))
            if results.get('stress') is not None:
                fields.setdefault('stress', voigt_6_to_full_3x3_stress(results['stress']))
        return cls(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, **fields)

    def to_atoms(self) -> Atoms:
        """ASE structure; labels come back through a single-point calculator, user arrays as arrays of the atoms."""
        return build_atoms(self.numbers, self.positions, self.cell, self.pbc, self.labels, self.arrays)


def build_atoms(
    numbers: np.ndarray,
    positions: np.ndarray,
    cell: np.ndarray,
    pbc: np.ndarray,
    labels: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
) -> Atoms:
    """ASE structure with labels in a single-point calculator; everything is copied."""
    atoms = Atoms(numbers, positions, cell=cell, pbc=pbc)
    for name, array in arrays.items():
        atoms.set_array(name, array)
    if labels:
        results = {name: np.array(value) if np.ndim(value) else float(value) for name, value in labels.items()}
        if 'stress' in results:
            results['stress'] = full_3x3_to_voigt_6_stress(results['stress'])
        atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def _plain_array(name: str, given: Any, expected: str) -> np.ndarray:
    """What was given, as an array of numbers.

    :raises ValueError: for ragged rows and masked values.
    """
    if isinstance(given, np.ma.MaskedArray) and np.ma.is_masked(given):
        raise ValueError(f'`{name}` has masked values: give all of them, or leave `{name}` out')
    try:
        return np.asarray(given)
    except ValueError:
        raise ValueError(f'`{name}` has rows of different lengths, expected {expected}') from None


def _whole_numbers(name: str, given: Any) -> np.ndarray:
    array = _plain_array(name, given, '(n,) whole numbers')
    if array.dtype.kind not in 'iuf' or not np.all((np.abs(array) < 2**31) & (array == np.rint(array))):
        raise ValueError(f'`{name}` must hold whole numbers, found {array.tolist()}')
    if array.ndim != 1:
        raise ValueError(f'`{name}` has shape {array.shape}, expected (n,)')
    return array.astype(np.int32)


def _floats(name: str, given: Any, shape: tuple[int, ...]) -> np.ndarray:
    array = _plain_array(name, given, f'shape {shape}')
    if array.dtype.kind not in 'iuf':
        raise ValueError(f'`{name}` holds {array.dtype}, expected real numbers of shape {shape}')
    if array.shape != shape:
        raise ValueError(f'`{name}` has shape {array.shape}, expected {shape}')
    return np.array(array, dtype=np.float64, order='C', copy=True)


def _flags(name: str, given: Any) -> np.ndarray:
    array = _plain_array(name, given, 'shape (3,)')
    if array.shape != (3,):
        raise ValueError(f'`{name}` has shape {array.shape}, expected (3,)')
    if array.dtype.kind not in 'biu' or not np.all(array == array.astype(np.bool_)):
        raise ValueError(f'`{name}` is {array.tolist()}, expected true or false for each lattice vector')
    return array.astype(np.bool_)


def _number(name: str, given: Any) -> float:
    array = _plain_array(name, given, 'one number')
    if array.ndim or array.dtype.kind not in 'iuf':
        raise ValueError(f'`{name}` is {given!r}, expected one number')
    return float(array)


def _user_array(name: Any, given: Any, n_atoms: int) -> np.ndarray:
    """A user's array as float64, int64 or bool, read-only.

    :raises ValueError: for a name, shape or kind that cannot be kept, and for values that are not finite.
    """
    if not isinstance(name, str) or not ARRAY_NAME.fullmatch(name) or name in RESERVED_NAMES or name[:4] == 'has_':
        raise ValueError(
            f'`arrays` has an entry {name!r}: names start with a letter, hold letters, digits, `_`, `.` and `-`, do '
            f'not start with `has_` and are none of {", ".join(RESERVED_NAMES)}'
        )
    array = _plain_array(f'arrays[{name!r}]', given, f'shape ({n_atoms}, ...)')
    dtype = {'f': np.float64, 'i': np.int64, 'u': np.int64, 'b': np.bool_}.get(array.dtype.kind)
    if dtype is None:
        raise ValueError(f'`arrays[{name!r}]` holds {array.dtype}: only floats, whole numbers and booleans can be kept')
    if array.ndim < 1 or array.ndim > 4 or len(array) != n_atoms or 0 in array.shape:
        raise ValueError(f'`arrays[{name!r}]` has shape {array.shape}, expected ({n_atoms}, ...) with at most 4 axes')
    if array.dtype.kind == 'u' and array.max() > np.iinfo(np.int64).max:
        raise ValueError(f'`arrays[{name!r}]` holds numbers above 2^63 - 1')
    if not np.all(np.isfinite(array)):
        raise ValueError(f'`arrays[{name!r}]` holds values that are not finite: correct or drop this frame')
    copy: np.ndarray = np.array(array, dtype=dtype, order='C', copy=True)
    copy.setflags(write=False)
    return copy
