"""There and back again: LAMMPS' orientation."""

import numpy as np
import pytest
from ase.build import bulk, fcc111, graphene, molecule

from aiida_alpot.worker.frames.frame import Frame
from aiida_alpot.worker.md.orientation import orient, restore


def structures():
    left_handed = bulk('Si')
    left_handed.set_cell(left_handed.cell.array[[1, 0, 2]])
    slab = fcc111('Al', (2, 1, 2), vacuum=6.0)
    slab.pbc = (True, True, False)
    slab.rotate(20.0, 'y', rotate_cell=True)
    turned = graphene(vacuum=None)
    turned.set_cell(turned.cell.array[[0, 2, 1]])
    turned.pbc = (True, False, True)
    return {
        'cubic': bulk('Si', cubic=True),
        'fcc primitive': bulk('Al'),
        'hexagonal': bulk('Ti'),
        'left-handed': left_handed,
        'slab': slab,
        'sheet without a third vector': turned,
        'molecule': molecule('CH3CH2OH'),
    }


@pytest.mark.parametrize('name', structures())
def test_round_trip(name):
    atoms = structures()[name]
    frame = Frame.from_atoms(atoms)
    oriented = orient(frame)
    assert np.diag(oriented.cell).min() > 0 and not np.triu(oriented.cell, 1).any()
    positions, cell = restore(
        oriented.positions + np.where(frame.pbc, [0.1, 0.2, 0.3], 0.0),  # a barostat moves the corner of the box
        oriented.cell,
        oriented.low + np.where(frame.pbc, [0.1, 0.2, 0.3], 0.0),
        frame.pbc,
        oriented.rotation,
        frame.cell,
    )
    np.testing.assert_allclose(positions, frame.positions, atol=1e-12)
    np.testing.assert_allclose(cell, frame.cell, atol=1e-12)


@pytest.mark.parametrize('name', structures())
def test_box_is_one_that_lammps_accepts(name):
    frame = Frame.from_atoms(structures()[name])
    oriented = orient(frame)
    # A tilt between two axes needs both to be periodic.
    for i, j in ((1, 0), (2, 0), (2, 1)):
        assert (frame.pbc[i] and frame.pbc[j]) or abs(oriented.cell[i, j]) < 1e-12
    free = ~frame.pbc
    high = oriented.low + np.diag(oriented.cell)
    assert (oriented.positions[:, free] > oriented.low[free]).all() and (oriented.positions[:, free] < high[free]).all()


def test_aligned_cells_are_left_as_they_are():
    frame = Frame.from_atoms(bulk('Si', cubic=True))
    np.testing.assert_array_equal(orient(frame).rotation, np.eye(3))
    np.testing.assert_array_equal(orient(frame).positions, frame.positions)


def test_strong_tilts_are_exchanged_within_the_lattice():
    cell = np.array([[1, 0, 0], [2, 1, 0], [-3, 2, 1]]) @ bulk('Si').cell.array
    frame = Frame([14, 14], [[0.0, 0.0, 0.0], [1.3, 1.3, 1.3]], cell, [True] * 3)
    oriented = orient(frame)
    tilts = [oriented.cell[i, j] / oriented.cell[j, j] for i, j in ((1, 0), (2, 0), (2, 1))]
    assert np.abs(tilts).max() <= 0.5 + 1e-6
    change = oriented.cell @ oriented.rotation @ np.linalg.inv(cell)
    np.testing.assert_allclose(change, np.rint(change), atol=1e-10)
    assert np.linalg.det(change) == pytest.approx(1.0, abs=1e-10)
