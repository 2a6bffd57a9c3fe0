"""Labels of one frame for another: atoms in another order, shifted by lattice vectors."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from ase.build import bulk
from hypothesis import given
from hypothesis import strategies as st

from aiida_alpot.worker.frames import Frame
from aiida_alpot.worker.frames.carry import carry_labels, first_of_equals


def rearranged(frame: Frame, seed: int) -> tuple[Frame, np.ndarray]:
    """The structure with its atoms in another order and in other cells, without labels; and the permutation."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(frame))
    cells = rng.integers(-2, 3, size=(len(frame), 3)) * frame.pbc
    moved = frame.positions[order] + cells @ frame.cell
    fields = {'lineage': 'mine', 'origin': 'md', 'split': 'test', 'metadata': {'step': 3}}
    arrays = {'tag': np.arange(len(frame))}
    return Frame(frame.numbers[order], moved, frame.cell, frame.pbc, **fields, arrays=arrays), order


@given(st.integers(0, 10**6), st.integers(1, 30), st.tuples(*[st.booleans()] * 3))
def test_labels_go_to_their_atoms(
    make_frame: Callable[..., Frame], seed: int, n_atoms: int, pbc: tuple[bool, bool, bool]
) -> None:
    """Forces, charges and moments by the permutation; energy, stress, dipole as they are; the rest is the target's."""
    rng = np.random.default_rng(seed)
    extra = {'charges': rng.normal(size=n_atoms), 'magmoms': rng.normal(size=n_atoms), 'dipole': rng.normal(size=3)}
    source = make_frame(seed, n_atoms, pbc=pbc, **extra)
    target, order = rearranged(source, seed)
    carried = carry_labels(source, target)
    for name in ('forces', 'charges', 'magmoms'):
        assert np.array_equal(getattr(carried, name), getattr(source, name)[order]), name
    for name in ('stress', 'dipole'):
        assert np.array_equal(getattr(carried, name), getattr(source, name)), name
    assert carried.energy == source.energy and carried.level_of_theory == source.level_of_theory
    for name in ('numbers', 'positions', 'cell', 'pbc'):
        assert np.array_equal(getattr(carried, name), getattr(target, name)), name
    for name in ('lineage', 'origin', 'split', 'metadata'):
        assert getattr(carried, name) == getattr(target, name), name
    assert np.array_equal(carried.arrays['tag'], target.arrays['tag'])


def test_crystal_with_physical_forces() -> None:
    """A shifted atom of a supercell is pulled back, wherever it stands in the list and in whichever cell."""
    atoms = bulk('Si', cubic=True) * (2, 1, 1)
    atoms.positions[3] += [0.2, 0.0, 0.0]
    forces = np.zeros((16, 3))
    forces[3, 0] = -1.0
    source = Frame.from_atoms(atoms, energy=-1.0, forces=forces, level_of_theory='pbe')
    target, order = rearranged(source, 1)
    carried = carry_labels(source, target)
    pulled = int(np.flatnonzero(order == 3)[0])
    assert carried.forces is not None and carried.forces[pulled].tolist() == [-1.0, 0.0, 0.0]
    assert np.count_nonzero(carried.forces) == 1


def test_own_labels_are_replaced(make_frame: Callable[..., Frame]) -> None:
    """None is left over from what the target had, at whatever level that was."""
    source = make_frame(0, stress=None, charges=np.ones(4))
    target = make_frame(0, energy=5.0, magmoms=np.ones(4), level_of_theory='lda')
    carried = carry_labels(source, target)
    assert set(carried.labels) == {'energy', 'forces', 'charges'}
    assert carried.energy == source.energy and carried.level_of_theory == 'pbe'


def test_other_structures_are_refused(make_frame: Callable[..., Frame]) -> None:
    """Also with the same number of atoms."""
    with pytest.raises(ValueError, match='are not the same structure: labels are only carried over'):
        carry_labels(make_frame(0), make_frame(1))


def test_first_of_equals() -> None:
    """By identity and kind, the first counts."""
    digests = np.zeros((6, 32), dtype=np.uint8)
    digests[[1, 4, 5]] = 7
    assert first_of_equals(digests, ['', '', 'isolated', '', '', 'isolated']).tolist() == [0, 1, 2, 0, 1, 5]
    assert first_of_equals(digests[:1], ['']).tolist() == [0]
    assert first_of_equals(digests[:0], []).tolist() == []
