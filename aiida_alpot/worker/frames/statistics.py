"""What a data set looks like in numbers, read in chunks: memory does not grow with the set."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from ase.data import chemical_symbols

from .carry import first_of_equals
from .frame import ISOLATED_ATOM
from .store import FrameStore

CHUNK_ATOMS = 2**18
"""About this many atoms are read at a time."""


@dataclass
class Range:
    """Smallest, mean and largest of some numbers, added up as they come."""

    n: int = 0
    low: float = math.inf
    high: float = -math.inf
    total: float = 0.0

    def add(self, values: np.ndarray) -> None:
        """Take in more numbers, shape (k,); those that are not finite do not count."""
        values = values[np.isfinite(values)]
        if len(values):
            self.n += len(values)
            self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))
            self.total += float(values.sum())

    @property
    def mean(self) -> float:
        """Mean, NaN of nothing."""
        return self.total / self.n if self.n else math.nan


@dataclass
class Statistics:
    """Numbers on a data set.

    :param n_atoms: atoms a frame.
    :param volume_per_atom: of frames that are periodic along all axes, A^3.
    :param energy_per_atom: of frames with an energy, isolated atoms left out, eV.
    :param max_force: largest norm of the forces in each frame that has them, eV/A.
    :param pressure: minus a third of the trace of the stress, positive where the cell would expand, eV/A^3.
    :param isolated_atoms: energies of isolated atoms by symbol, eV.
    :param counts: number of frames by origin and split.
    :param n_structures: number of different structures.
    :param n_repeated: frames beyond the first of each structure and level of theory.
    """

    n_atoms: Range = field(default_factory=Range)
    volume_per_atom: Range = field(default_factory=Range)
    energy_per_atom: Range = field(default_factory=Range)
    max_force: Range = field(default_factory=Range)
    pressure: Range = field(default_factory=Range)
    isolated_atoms: dict[str, Range] = field(default_factory=dict)
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    n_structures: int = 0
    n_repeated: int = 0


def describe(store: FrameStore) -> Statistics:
    """Statistics of all frames of a store."""
    found = Statistics()
    for start, stop in _chunks(store.offsets):
        _add_chunk(found, store, start, stop)
    (origins, origin), (splits, split) = store.categories('origin'), store.categories('split')
    pairs, counts = np.unique(np.stack([origin, split], axis=1), axis=0, return_counts=True)
    for (i, j), count in zip(pairs.tolist(), counts.tolist(), strict=True):
        found.counts[origins[i], splits[j]] = count
    digests = store.digests()
    _, levels = store.categories('level_of_theory')
    found.n_structures = len(np.unique(first_of_equals(digests, np.zeros(len(store), dtype=np.int64))))
    found.n_repeated = len(store) - len(np.unique(first_of_equals(digests, levels)))
    return found


def _chunks(offsets: np.ndarray) -> Iterator[tuple[int, int]]:
    """Ranges of frames with about :data:`CHUNK_ATOMS` atoms each, and at least one frame."""
    start, n_frames = 0, len(offsets) - 1
    while start < n_frames:
        stop = int(np.searchsorted(offsets, offsets[start] + CHUNK_ATOMS, side='right')) - 1
        stop = min(n_frames, max(start + 1, stop))
        yield start, stop
        start = stop


def _add_chunk(found: Statistics, store: FrameStore, start: int, stop: int) -> None:
    sizes = store.column('n_atoms', start, stop)
    found.n_atoms.add(sizes.astype(np.float64))
    periodic = store.column('pbc', start, stop).all(axis=1)
    volumes = np.abs(np.linalg.det(store.column('cell', start, stop)))
    found.volume_per_atom.add((volumes / sizes)[periodic])
    energies = store.column('energy', start, stop)
    isolated = (store.column('origin', start, stop) == ISOLATED_ATOM) & (sizes == 1)
    found.energy_per_atom.add((energies / sizes)[~isolated])
    firsts = np.cumsum(sizes) - sizes
    if isolated.any():
        numbers = store.column('numbers', start, stop)[firsts[isolated]]
        for number, energy in zip(numbers.tolist(), energies[isolated], strict=True):
            found.isolated_atoms.setdefault(chemical_symbols[number], Range()).add(np.array([energy]))
    if store.has('forces', start, stop).any():
        norms = np.linalg.norm(store.column('forces', start, stop), axis=1)
        found.max_force.add(np.maximum.reduceat(norms, firsts))
    if store.has('stress', start, stop).any():
        found.pressure.add(-np.trace(store.column('stress', start, stop), axis1=1, axis2=2) / 3)
