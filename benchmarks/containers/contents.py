"""What is put into the containers, and what has to come out again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

ATOMS = 64
BATCH = 1000

#: Bytes of one row of each array, and whether the rows are atoms; in eV, A, eV/A and eV/A^3.
ARRAYS: dict[str, tuple[int, bool]] = {
    'numbers': (1, True),
    'positions': (3 * 8, True),
    'cell': (9 * 8, False),
    'pbc': (3, False),
    'energy': (8, False),
    'forces': (3 * 8, True),
    'stress': (9 * 8, False),
}

#: Where the six independent components of a stress in the order of Voigt lie in the full tensor.
VOIGT = np.array([[0, 5, 4], [5, 1, 3], [4, 3, 2]])


def raw_bytes(size: int) -> int:
    """Bytes of the arrays themselves, with atomic numbers and periodicity in one byte each."""
    return size * sum(width * (ATOMS if per_atom else 1) for width, per_atom in ARRAYS.values())


def structures(size: int, seed: int) -> Iterator[Atoms]:
    """Made-up periodic structures of silicon and germanium with all labels, one by one."""
    rng = np.random.default_rng(seed)
    for start in range(0, size, BATCH):
        count = min(BATCH, size - start)
        numbers = rng.choice([14, 32], size=(count, ATOMS))
        positions = rng.uniform(0, 11, size=(count, ATOMS, 3))
        cells = 11 * np.eye(3) + rng.uniform(-0.5, 0.5, size=(count, 3, 3))
        energies = -5 * ATOMS + rng.normal(size=count)
        forces = rng.normal(size=(count, ATOMS, 3))
        stresses = rng.normal(scale=0.01, size=(count, 6))
        for i in range(count):
            atoms = Atoms(numbers[i], positions[i], cell=cells[i], pbc=True)
            atoms.calc = SinglePointCalculator(atoms, energy=float(energies[i]), forces=forces[i], stress=stresses[i])
            yield atoms


def to_arrays(atoms: Atoms) -> dict[str, Any]:
    """Structure and labels of ASE as arrays, with the stress in the order of Voigt."""
    return {
        'numbers': atoms.numbers.astype(np.uint8),
        'positions': atoms.positions,
        'cell': atoms.cell.array,
        'pbc': atoms.pbc,
        **{name: atoms.calc.results[name] for name in ('energy', 'forces', 'stress')},
    }


def to_batch(records: Iterable[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Arrays of several structures as one of each kind; those of the atoms one after the other."""
    records = list(records)
    batch: dict[str, np.ndarray] = {}
    for name, (_, per_atom) in ARRAYS.items():
        values = [record[name] for record in records]
        batch[name] = np.concatenate(values) if per_atom else np.array(values)
    batch['offsets'] = np.cumsum([0, *(len(record['numbers']) for record in records)])
    if batch['stress'].shape[1:] == (6,):
        batch['stress'] = batch['stress'][:, VOIGT]
    return batch


class Contents:
    """Sums over everything that was read or written, to compare."""

    def __init__(self) -> None:
        self.size = 0
        self.sums = dict.fromkeys(ARRAYS, 0.0)

    def add(self, item: Atoms | Mapping[str, np.ndarray]) -> None:
        """Count what is in a structure or in a batch."""
        batch = to_batch([to_arrays(item)]) if isinstance(item, Atoms) else item
        self.size += len(batch['energy'])
        for name in ARRAYS:
            self.sums[name] += float(np.abs(batch[name]).sum())

    def noted(self, structures: Iterable[Atoms]) -> Iterator[Atoms]:
        """The structures, counted as they pass."""
        for atoms in structures:
            self.add(atoms)
            yield atoms

    def as_list(self) -> list[float]:
        """The number of structures and the sum of each array."""
        return [self.size, *self.sums.values()]
