import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator

from aiida_alpot.worker.frames import Frame


def silicon(**fields):
    return Frame.from_atoms(bulk('Si', a=5.43), **fields)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'numbers': [14, 0]}, '1..118'),
        ({'numbers': [14, 119]}, '1..118'),
        ({'numbers': [14, 14.5]}, 'whole numbers'),
        ({'numbers': [14]}, 'shape'),
        ({'energy': np.nan}, 'not finite'),
        ({'forces': np.full((2, 3), np.inf)}, 'not finite'),
        ({'forces': np.zeros((3, 3))}, 'shape'),
        ({'stress': np.zeros(6)}, 'shape'),
        ({'cell': np.ones((3, 3))}, 'singular'),
        ({'split': 'holdout'}, 'split'),
    ],
)
def test_bad_input_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        silicon().replace(**changes)


def test_empty_frame_is_refused():
    with pytest.raises(ValueError, match='at least one atom'):
        Frame.from_atoms(Atoms())


def test_arrays_are_copies_and_read_only():
    positions = np.zeros((1, 3))
    frame = Frame([14], positions, np.zeros((3, 3)), [False] * 3)
    positions += 1
    assert np.array_equal(frame.positions, np.zeros((1, 3)))
    with pytest.raises(ValueError, match='read-only'):
        frame.positions[0, 0] = 1


def test_labels_come_from_atoms_only_on_request():
    atoms = bulk('Si', a=5.43)
    stress = np.arange(6.0)
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0, forces=np.ones((2, 3)), stress=stress)
    assert Frame.from_atoms(atoms).energy is None
    frame = Frame.from_atoms(atoms, labels=True)
    assert frame.is_labelled
    back = frame.to_atoms()
    assert back.get_potential_energy() == -1.0
    assert np.array_equal(back.get_forces(), np.ones((2, 3)))
    assert np.array_equal(back.get_stress(), stress)
    assert not frame.unlabelled().is_labelled


class TestFrameId:
    def test_labels_and_provenance_do_not_enter(self):
        frame = silicon(lineage='a', origin='input')
        assert frame.frame_id == frame.replace(energy=1.0, lineage='b', origin='md', split='test').frame_id

    @pytest.mark.parametrize(
        ('a', 'noise'),
        # A quarter of the second lies half-way between two points of the grid.
        [(5.43, 1e-9), (5.43071, 1e-13), (5.431020511, 1e-9), (5.4307, 1e-9)],
    )
    def test_order_of_atoms_lattice_vectors_and_noise_do_not_matter(self, a, noise):
        rng = np.random.default_rng(0)
        atoms = bulk('Si', a=a, cubic=True)
        expected = Frame.from_atoms(atoms).frame_id
        for _ in range(50):
            shuffled = atoms[rng.permutation(len(atoms))]
            shuffled.positions += rng.integers(-3, 4, size=(len(atoms), 3)) @ atoms.cell.array
            shuffled.positions += rng.uniform(-noise, noise, size=(len(atoms), 3))
            assert Frame.from_atoms(shuffled).frame_id == expected

    def test_writing_six_decimals_does_not_matter(self):
        rng = np.random.default_rng(1)
        for _ in range(100):
            cell = 10 * np.eye(3) + rng.normal(size=(3, 3))
            atoms = Atoms('Si8', scaled_positions=rng.uniform(0.01, 0.99, size=(8, 3)), cell=cell, pbc=True)
            rounded = Atoms('Si8', atoms.positions.round(6), cell=cell.round(6), pbc=True)
            assert Frame.from_atoms(rounded).frame_id == Frame.from_atoms(atoms).frame_id

    def test_canonical_order_carries_labels_over(self):
        rng = np.random.default_rng(2)
        atoms = bulk('SiC', 'zincblende', a=4.36, cubic=True)
        atoms.rattle(0.1, seed=3)
        frame = Frame.from_atoms(atoms, forces=rng.normal(size=(8, 3)))
        order = rng.permutation(8)
        other = Frame.from_atoms(atoms[order])
        forces = np.empty((8, 3))
        forces[other.canonical_order] = frame.forces[frame.canonical_order]
        assert np.array_equal(forces, frame.forces[order])

    def test_structure_enters(self):
        atoms = bulk('Si', a=5.43)
        moved, other, strained = atoms.copy(), atoms.copy(), atoms.copy()
        moved.positions[0] += 1e-4
        other.numbers[0] = 6
        strained.set_cell(atoms.cell * 1.0001, scale_atoms=False)
        isolated = Atoms('Si2', positions=atoms.positions, cell=atoms.cell)
        ids = {Frame.from_atoms(x).frame_id for x in (atoms, moved, other, strained, isolated)}
        assert len(ids) == 5

    def test_images_along_open_axes_are_different_structures(self):
        atoms = bulk('Si', a=5.43)
        atoms.pbc = (True, True, False)
        shifted = atoms.copy()
        shifted.positions[0] += atoms.cell[2]
        assert Frame.from_atoms(atoms).frame_id != Frame.from_atoms(shifted).frame_id
