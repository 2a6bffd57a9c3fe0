"""Neighbour lists against ASE's, for any cell and periodicity."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.neighborlist import primitive_neighbor_list

from aiida_alpot.worker.frames.frame import Frame
from aiida_alpot.worker.potentials.neighbours import SkinList, complete_cell, neighbour_edges

TRICLINIC = [[4.1, 0.3, -0.2], [1.5, 3.8, 0.4], [-0.9, 1.1, 5.0]]


def pairs(i, j, vectors):
    rows = np.column_stack([i, j, np.rint(vectors * 1e6)])
    return rows[np.lexsort(rows.T[::-1])]


@pytest.mark.parametrize('pbc', [(1, 1, 1), (1, 1, 0), (0, 1, 1), (0, 0, 1), (0, 0, 0)])
@pytest.mark.parametrize('swap', [False, True], ids=['right-handed', 'left-handed'])
@pytest.mark.parametrize('cutoff', [3.0, 7.5])
def test_same_pairs_as_ase(pbc, swap, cutoff):
    positions = np.random.default_rng(3).uniform(-2.0, 9.0, size=(7, 3))
    cell = np.array(TRICLINIC)[[1, 0, 2]] if swap else np.array(TRICLINIC)
    frame = Frame([14] * 7, positions, cell, pbc)
    edges, shifts, full = neighbour_edges(frame, cutoff)
    vectors = positions[edges[1]] - positions[edges[0]] + shifts @ full
    expected = primitive_neighbor_list('ijD', frame.pbc, cell, positions, cutoff)
    np.testing.assert_allclose(pairs(*edges, vectors), pairs(*expected), atol=1.0)
    assert len(edges[0]) > 0 or cutoff == 3.0


def test_cell_smaller_than_the_cutoff():
    frame = Frame.from_atoms(bulk('Si'))
    edges, shifts, _ = neighbour_edges(frame, 6.0)
    assert len(edges[0]) == len(primitive_neighbor_list('i', [True] * 3, frame.cell, frame.positions, 6.0))
    assert np.abs(shifts).max() > 1


def test_isolated_atom_without_cell_has_no_neighbours():
    edges, shifts, cell = neighbour_edges(Frame.from_atoms(Atoms('Si')), 5.0)
    assert edges.shape == (2, 0) and shifts.shape == (0, 3) and abs(np.linalg.det(cell)) > 0


@pytest.mark.parametrize('pbc', [(1, 1, 0), (1, 0, 1), (0, 1, 0), (0, 0, 0)])
def test_complete_cell_is_orthogonal_and_right_handed(pbc):
    cell = np.array([[0.0, 0.0, 3.0], [0.5, 2.0, 0.0], [0.0, 0.0, 0.0]])
    if pbc == (1, 0, 1):
        cell = cell[[0, 2, 1]]
    periodic = np.array(pbc, dtype=bool)
    full = complete_cell(cell, periodic)
    np.testing.assert_array_equal(full[periodic], cell[periodic])
    assert np.linalg.det(full) > 0
    for axis in np.flatnonzero(~periodic):
        np.testing.assert_allclose(full @ full[axis], np.eye(3)[axis], atol=1e-12)


def test_complete_cell_keeps_axes_that_are_aligned():
    np.testing.assert_array_equal(
        complete_cell(np.diag([3.0, 4.0, 20.0]), np.array([True, True, False])), np.diag([3.0, 4.0, 1.0])
    )


def vectors_within(found, cutoff):
    """Pairs of a skin list within the cutoff, as rows."""
    skin, positions, cell = found
    vectors = positions[skin.edges[1]] - positions[skin.edges[0]] + skin.shifts @ cell
    near = (vectors**2).sum(axis=1) < cutoff**2
    return pairs(*skin.edges[:, near], vectors[near])


@pytest.mark.parametrize('pbc', [(1, 1, 1), (1, 1, 0), (0, 0, 1), (0, 0, 0)])
@pytest.mark.parametrize('cutoff', [3.0, 7.5])
@pytest.mark.parametrize('strained', [False, True])
def test_a_list_that_is_kept_has_all_pairs(pbc, cutoff, strained):
    """Atoms walk and are wrapped, the cell is strained, and none within the cutoff is ever missed."""
    rng = np.random.default_rng(8)
    cell, periodic = np.array(TRICLINIC), np.array(pbc, dtype=bool)
    positions = rng.uniform(0.0, 4.0, size=(7, 3)) @ np.eye(3)
    skin = SkinList(cutoff, 0.6)
    n_steps = 60
    for step in range(n_steps):
        frame = Frame([14] * 7, positions, cell, pbc)
        followed = (skin, *skin.follow(positions, cell, periodic))
        edges, shifts, full = neighbour_edges(frame, cutoff)
        expected = pairs(*edges, positions[edges[1]] - positions[edges[0]] + shifts @ full)
        np.testing.assert_allclose(vectors_within(followed, cutoff), expected, atol=1.0)
        positions = positions + 0.02 * rng.normal(size=(7, 3)) + 0.5  # a common shift does not count
        if strained:
            strain = np.eye(3) + 0.003 * rng.normal(size=(3, 3))
            cell, positions = cell @ strain, positions @ strain
        if step % 3 == 0:
            positions = positions + (rng.integers(-1, 2, size=(7, 3)) * periodic) @ cell
        if step == 40 and periodic.all():  # another cell of the same lattice, as LAMMPS flips it
            cell = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 1]]) @ cell
    assert 2 <= skin.n_searches < n_steps / 2


def test_an_atom_at_half_of_the_skin_is_the_limit():
    cell, pbc = 10.0 * np.eye(3), np.ones(3, dtype=bool)
    positions = np.random.default_rng(0).uniform(0, 10, size=(6, 3))
    for distance, searches in ((0.249, 1), (0.251, 2)):
        skin = SkinList(4.0, 0.5)
        skin.follow(positions, cell, pbc)
        # Two atoms in opposite directions, so that the mean stays.
        skin.follow(positions + distance * np.array([[1, 0, 0], [-1, 0, 0], *4 * [[0, 0, 0]]]), cell, pbc)
        assert skin.n_searches == searches


def test_a_skin_that_cannot_be():
    with pytest.raises(ValueError, match='`skin`'):
        SkinList(4.0, 0.0)
