import sqlite3

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.db import connect
from ase.io.trajectory import Trajectory

from aiida_alpot.worker.frames import LabelDeclaration, read_frames, write_frames
from aiida_alpot.worker.frames.level_of_theory import from_ase

TOTAL = LabelDeclaration(energies='total')
EMT_TOTAL = LabelDeclaration('EMT', 'total')


def write_foreign(path, atoms_list, **pairs):
    """What a user has who never heard of aiida-alpot."""
    if path.suffix == '.db':
        with connect(path) as database:
            for atoms in atoms_list:
                database.write(atoms, **pairs)
    else:
        with Trajectory(path, 'w') as trajectory:
            for atoms in atoms_list:
                atoms.info |= pairs
                trajectory.write(atoms)


def calculated(calculator, **changes):
    atoms = bulk('Cu', cubic=True)
    atoms.rattle(0.1, seed=1)
    atoms.set_cell(1.02 * atoms.cell, scale_atoms=True)
    atoms.calc = calculator
    atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()
    return atoms


@pytest.fixture(params=['set.db', 'set.traj'])
def path(request, tmp_path):
    return tmp_path / request.param


def test_labels_of_a_calculator_with_its_level_of_theory(path):
    atoms = calculated(LennardJones(epsilon=0.4, sigma=2.3, rc=5.0))
    write_foreign(path, [atoms, atoms], group='a')
    with pytest.raises(ValueError, match=r'(row 1|frame 0) of .*energy, forces|energies=.total'):
        list(read_frames(path))
    for frame in read_frames(path, declaration=TOTAL):
        assert frame.energy == atoms.get_potential_energy()
        assert np.array_equal(frame.forces, atoms.get_forces())
        assert np.array_equal(frame.stress, atoms.get_stress(voigt=False))
        assert frame.level_of_theory == str(from_ase('lennardjones', atoms.calc.todict()))
        assert frame.metadata == {'group': 'a'} and frame.lineage == frame.frame_id[:16]
    named = LabelDeclaration('LJ copper', 'total', lineage_key='group')
    assert {(frame.level_of_theory, frame.lineage) for frame in read_frames(path, declaration=named)} == {
        ('LJ copper', 'a')
    }


def test_other_parameters_are_another_level(path):
    write_foreign(path, [calculated(LennardJones(epsilon=x, sigma=2.3, rc=5.0)) for x in (0.4, 0.5)])
    assert len({frame.level_of_theory for frame in read_frames(path, declaration=TOTAL)}) == 2


def test_a_name_without_parameters_is_no_level(path):
    """Readers of output files leave the name of the program alone, whatever it was run with."""
    atoms = calculated(EMT())
    single = SinglePointCalculator(atoms, energy=-1.0)
    single.name = 'vasp'
    atoms.calc = single
    write_foreign(path, [atoms])
    with pytest.raises(ValueError, match=r"State: level_of_theory.*calculator 'vasp' without its parameters"):
        list(read_frames(path, declaration=TOTAL))
    assert next(read_frames(path, declaration=EMT_TOTAL)).energy == -1.0


def test_an_energy_that_nobody_calculated_is_no_label(path):
    """ASE attaches energy 0.0 to what it reads from a dump."""
    atoms = bulk('Cu')
    atoms.calc = SinglePointCalculator(atoms, energy=0.0)
    write_foreign(path, [atoms])
    with pytest.raises(ValueError, match=r"energies='total'"):
        list(read_frames(path))
    assert next(read_frames(path, declaration=LabelDeclaration(properties=()))).energy is None


def test_constraints_do_not_hide_forces(path):
    atoms = calculated(EMT())
    forces = atoms.get_forces()
    atoms.set_constraint(FixAtoms([0]))
    assert not atoms.get_forces()[0].any() and forces[0].any()
    write_foreign(path, [atoms])
    assert np.array_equal(next(read_frames(path, declaration=EMT_TOTAL)).forces, forces)


def test_a_result_of_another_structure_is_no_label(path):
    atoms = calculated(EMT())
    atoms.positions[0] += 0.1
    write_foreign(path, [atoms])
    assert not next(read_frames(path)).labels


def test_units_can_be_stated(path):
    atoms = calculated(EMT())
    write_foreign(path, [atoms])
    declared = LabelDeclaration('EMT', 'total', stress_unit='GPa', stress_sign='pressure')
    frame = next(read_frames(path, declaration=declared))
    assert frame.stress == pytest.approx(-atoms.get_stress(voigt=False) / 160.21766, rel=1e-6)


def test_moments_charges_and_what_ase_keeps(path):
    atoms = Atoms('Cu2', [[0, 0, 0], [0, 0, 2]], magmoms=[1, -1], tags=[3, 4])
    atoms.set_momenta(np.arange(6.0).reshape(2, 3))
    labels = {'energy': -1.0, 'charges': [0.5, -0.5], 'magmoms': [0.9, -0.9], 'dipole': [1.0, 2.0, 3.0]}
    atoms.calc = SinglePointCalculator(
        atoms, **{name: np.array(value) for name, value in labels.items()}, free_energy=-2.0
    )
    write_foreign(path, [atoms])
    declared = LabelDeclaration('x', 'total', array_keys=('tags', 'momenta', 'initial_magmoms'))
    frame = next(read_frames(path, declaration=declared))
    assert {name: np.asarray(value).tolist() for name, value in frame.labels.items()} == labels
    assert frame.arrays['tags'].tolist() == [3, 4] and frame.arrays['initial_magmoms'].tolist() == [1, -1]
    assert np.array_equal(frame.arrays['momenta'], atoms.get_momenta()) and frame.metadata == {}


def test_what_other_tools_find_in_ours(path, full_frame):
    arrays = {'tags': np.arange(4), 'momenta': np.arange(12.0).reshape(4, 3)}
    frame = full_frame(0, arrays=arrays, split='test', lineage='0012')
    write_frames([frame], path)
    if path.suffix == '.db':
        with connect(path) as database:
            assert database.count(lineage=12, split='test', level_of_theory='pbe', frame_id=frame.frame_id) == 1
            atoms = database.get_atoms()
    else:
        atoms = Trajectory(path)[0]
    assert atoms.get_potential_energy() == frame.energy
    assert np.array_equal(atoms.get_forces(), frame.forces)
    assert np.array_equal(atoms.get_stress(voigt=False), frame.stress)
    assert np.array_equal(atoms.get_charges(), frame.charges)
    assert np.array_equal(atoms.get_magnetic_moments(), frame.magmoms)
    assert np.array_equal(atoms.get_dipole_moment(), frame.dipole)
    assert np.array_equal(atoms.get_momenta(), arrays['momenta']) and atoms.get_tags().tolist() == [0, 1, 2, 3]


def test_ours_calculated_anew_is_foreign(path, make_frame):
    """ASE passes the record on to the file that the new labels go to."""
    frame = make_frame(0, numbers=[29] * 4, split='test', metadata={'a': 1})
    write_frames([frame], path)
    if path.suffix == '.db':
        with connect(path) as database:
            atoms = database.get_atoms()
            atoms.calc = EMT()
            atoms.get_potential_energy()
            database.update(1, atoms=atoms)
    else:
        atoms = Trajectory(path)[0]
        atoms.calc = EMT()
        atoms.get_potential_energy()
        with Trajectory(path, 'w') as trajectory:
            trajectory.write(atoms)
    with pytest.raises(ValueError, match=r'was changed since.*level_of_theory'):
        list(read_frames(path))
    back = next(read_frames(path, declaration=EMT_TOTAL))
    assert back.energy == atoms.calc.results['energy'] and back.level_of_theory == 'EMT'
    assert (back.lineage, back.origin, back.split) == ('lineage-0', 'rattle', 'test') and back.metadata == {'a': 1}


def test_two_energies_in_one_trajectory(tmp_path):
    atoms = calculated(EMT())
    atoms.info['energy'] = -7.0
    write_foreign(tmp_path / 'set.traj', [atoms])
    with pytest.raises(ValueError, match=r'frame 0 of .*: energy is one thing in `info` and another in the calculator'):
        list(read_frames(tmp_path / 'set.traj', declaration=EMT_TOTAL))


def test_labels_in_the_data_of_a_database(tmp_path):
    """Some collections keep their labels beside the calculator."""
    path = tmp_path / 'set.db'
    with connect(path) as database:
        for run in (1, 2):
            data = {'energy_dft': np.array([-3.0]), 'forces_dft': np.ones((1, 3)), 'note': 'x'}
            database.write(Atoms('H'), run=run, data=data)
    keys = {'energy': 'energy_dft', 'forces': 'forces_dft'}
    declared = LabelDeclaration('pbe', 'total', energy_unit='kcal/mol', keys=keys, lineage_key='run')
    frames = list(read_frames(path, declaration=declared))
    assert [frame.lineage for frame in frames] == ['1', '2'] and frames[0].metadata == {}
    assert frames[0].energy == pytest.approx(-3 * 0.0433641, rel=1e-6) and frames[0].forces.shape == (1, 3)
    assert next(read_frames(path, declaration=LabelDeclaration(metadata_keys=('note',)))).metadata == {'note': 'x'}


def test_more_rows_than_a_page_and_gaps_between_ids(tmp_path, make_frame):
    path = tmp_path / 'set.db'
    write_frames((make_frame(seed, 2) for seed in range(100)), path)
    connect(path).delete([1, 17, 50, 51, 100])
    lineages = [frame.lineage for frame in read_frames(path)]
    assert lineages == [f'lineage-{seed}' for seed in range(100) if seed + 1 not in (1, 17, 50, 51, 100)]


def test_other_sqlite_files_are_left_alone(tmp_path):
    path = tmp_path / 'set.db'
    with sqlite3.connect(path) as connection:
        connection.execute('CREATE TABLE mine (x INTEGER)')
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r'SQLite file but no database of ASE'):
        list(read_frames(path))
    assert path.read_bytes() == before


def test_an_empty_database_is_named(tmp_path):
    with connect(tmp_path / 'set.db') as database:
        database.delete([database.write(Atoms('H'))])
    with pytest.raises(ValueError, match=r'set\.db holds no frames'):
        list(read_frames(tmp_path / 'set.db'))
