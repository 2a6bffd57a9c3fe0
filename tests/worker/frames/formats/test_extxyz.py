import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.io.extxyz import SPECIAL_3_3_KEYS

from aiida_alpot.worker.frames import Frame, LabelDeclaration, read_extxyz, write_extxyz
from aiida_alpot.worker.frames.formats.extxyz import TENSOR_KEYS

TOTAL = LabelDeclaration(level_of_theory='pbe', energies='total')


def read_text(path, text, **declared):
    path.write_text(text)
    return list(read_extxyz(path, LabelDeclaration(**declared)))


@pytest.fixture
def file(tmp_path):
    return tmp_path / 'set.xyz'


@pytest.mark.parametrize('pbc', [(False, False, False), (True, False, True)])
def test_periodicity_and_missing_cells(file, make_frame, assert_same_frame, pbc):
    cell = np.diag(np.where(pbc, 5.0, 0.0))
    frame = make_frame(1, cell=cell, pbc=pbc, stress=None)
    write_extxyz([frame], file)
    assert_same_frame(next(read_extxyz(file)), frame)


def test_tensor_keys_are_those_of_ase():
    assert {*TENSOR_KEYS, 'Lattice'} == SPECIAL_3_3_KEYS


def test_what_ase_writes_is_read_as_ase_reads_it(file, make_frame):
    rng = np.random.default_rng(0)
    for seed, pbc in enumerate([(True, True, True), (True, False, True), (False, False, False)]):
        atoms = make_frame(seed, labelled=False, pbc=pbc).to_atoms()
        atoms.info |= {'group': 'a b', 'step': 3, 'flag': True, 'list': [1.5, 2.5], 'nested': {'x': [1, 'y']}}
        atoms.arrays |= {'REF_forces': rng.normal(size=(4, 3)), 'tags2': np.arange(4), 'on': np.arange(4) > 1}
        atoms.info['REF_energy'] = -3.5
        ase.io.write(file, atoms)
        theirs = ase.io.read(file)
        (ours,) = read_extxyz(file, LabelDeclaration('pbe', 'total', array_keys=('tags2', 'on')))
        assert np.array_equal(ours.numbers, theirs.numbers) and np.array_equal(ours.positions, theirs.positions)
        assert np.array_equal(ours.cell, theirs.cell.array) and np.array_equal(ours.pbc, theirs.pbc)
        assert np.array_equal(ours.forces, theirs.arrays['REF_forces']) and ours.energy == -3.5
        assert np.array_equal(ours.arrays['tags2'], theirs.arrays['tags2'])
        assert np.array_equal(ours.arrays['on'], theirs.arrays['on'])
        assert ours.metadata == {'group': 'a b', 'step': 3, 'flag': True, 'list': [1.5, 2.5], 'nested': {'x': [1, 'y']}}


def test_asymmetric_tensors_are_written_as_ase_reads_them(file, make_frame):
    stress = np.arange(9.0).reshape(3, 3)
    write_extxyz([make_frame(0, stress=stress)], file, style='plain')
    from ase.io.extxyz import key_val_str_to_dict

    assert np.array_equal(key_val_str_to_dict(file.read_text().split('\n')[1])['stress'], stress)


def test_columns_do_not_clash_for_ase(file, make_frame):
    names = ('REF_forces', 'REF_forces0', 'pos0', 'a', 'a0', 'a1', 'energies', 'forces0', 'Z', 'move_mask', 'charge')
    arrays = {name: np.arange(8.0).reshape(4, 2) for name in names}
    write_extxyz([make_frame(0, arrays=arrays)], file)
    atoms = ase.io.read(file)
    assert atoms.calc is None and not atoms.constraints and atoms.arrays['REF_forces'].shape == (4, 3)
    assert {'a', 'a0_', 'a1_', 'pos0_', 'alpot_REF_forces', 'alpot_energies', 'alpot_Z'} < set(atoms.arrays)


def test_large_whole_numbers_do_not_break_other_readers(file, make_frame):
    write_extxyz([make_frame(0, arrays={'id': np.array([1, 2**40, -5, 2**62])})], file)
    assert ase.io.read(file).arrays['id'].tolist() == ['1', str(2**40), '-5', str(2**62)]
    assert next(read_extxyz(file)).arrays['id'].tolist() == [1, 2**40, -5, 2**62]


def test_marks_of_isolated_atoms(file):
    atom = Frame([14], np.zeros((1, 3)), np.zeros((3, 3)), [False] * 3, energy=-100.0, origin='isolated_atom')
    write_extxyz([atom, atom.unlabelled(), atom.replace(origin='input')], file)
    marks = [atoms.info.get('config_type') for atoms in ase.io.read(file, ':')]
    assert marks == ['IsolatedAtom', None, None]  # MACE would take a marked atom without energy for one of energy 0
    assert [frame.origin for frame in read_extxyz(file)] == ['isolated_atom', 'isolated_atom', 'input']


def test_a_changed_file_is_a_foreign_one(file, make_frame):
    """ASE passes the record on while it rounds positions, and while other programs change the labels."""
    write_extxyz([make_frame(0, split='test', metadata={'a': 1})], file, style='plain')
    text = file.read_text()
    ase.io.write(file, ase.io.read(file))
    with pytest.raises(
        ValueError, match=r"energy \('energy'\).* was changed since.*level_of_theory.*energies.*stress_unit"
    ):
        list(read_extxyz(file))
    frame = next(read_extxyz(file, LabelDeclaration('scan', 'total', stress_unit='eV/A^3')))
    assert (frame.lineage, frame.origin, frame.split) == ('lineage-0', 'rattle', 'test')
    assert frame.level_of_theory == 'scan' and frame.metadata == {'a': 1}
    for old, new in (
        ('\nC ', '\nSi '),
        ('energy=-0.1', 'energy=-0.2'),
        ('\\"pbe\\"', '\\"scan\\"'),
        ('"style\\"', '"stile\\"'),
    ):
        assert old in text
        with pytest.raises(ValueError, match='was changed since'):
            read_text(file, text.replace(old, new, 1))
    file.write_text(text.replace('\\"test\\"', '\\"train\\"'))  # not about structure or labels
    assert next(read_extxyz(file)).split == 'train'


def test_plain_xyz_is_read_as_structures(file):
    text = '2\nwater without H, E: -5.3\nO 0 0 0\no 0 0 1.2\n1\n\nH 0 0 0\n\n \n'
    first, second = read_text(file, text)
    assert first.formula == 'O2' and not first.labels and not first.cell.any() and not first.pbc.any()
    assert first.metadata == {'comment': 'water without H, E: -5.3'} and second.metadata == {}
    assert first.lineage == first.frame_id[:16] and first.origin == 'import' and first.level_of_theory == ''


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('two\n\nH 0 0 0\n', r"frame 0 of .*set\.xyz \(line 1\): expected a number of atoms, found 'two'"),
        ('1\n\nH 0 0 0\n2\n\nH 0 0 0\n', r'frame 1 of .* \(line 4\): it is cut off: 1 of 2 atoms'),
        ('1\n\nH 0 0 0\n\n1\n\nH 0 0 0\n', r'line 4 of .* is empty although more follows'),
        ('1\n\nH 0 0\n', r"line 3 has 3 columns, expected 4: 'H 0 0'"),
        ('1\n\nH 0 0 0 7\n', r'line 3 has 5 columns, expected 4'),
        ('1\n\nH 0 0 x\n', r"column 'pos' holds something that is no number"),
        ('1\n\nH1 0 0 0\n', r"'H1' is no chemical symbol"),
        ('1\n\nX 0 0 0\n', r"'X' is no chemical symbol"),
        ('0\n\n', r'at least one atom'),
        ('1\nlattice="1 0 0 0 1 0 0 0 1"\nH 0 0 0\n', r"'lattice' means nothing.*'Lattice'"),
        ('1\nLattice="1 0 0 0 1 0"\nH 0 0 0\n', r'comment line .* not understood .*Lattice'),
        ('1\n= 5\nH 0 0 0\n', r'comment line .* not understood'),
        ('1\npbc="T F"\nH 0 0 0\n', r'pbc is .*expected T or F'),
        ('1\npbc=yes\nH 0 0 0\n', r'pbc is .*expected T or F'),
        ('1\nLattice="1 0 0 0 0 0 0 0 1"\nH 0 0 0\n', r'singular cell'),
        ('1\nProperties=species:S:1:pos:R\nH 0 0 0\n', r'Properties=.* not understood'),
        ('1\nProperties=species:S:1:pos:R:3:pos:R:3\nH 0 0 0 0 0 0\n', r'Properties=.* not understood'),
        ('1\nProperties=pos:R:3\n0 0 0\n', r"expected one column 'species'.*found none"),
        ('1\nProperties=species:S:1:pos:R:3:a:I:1\nH 0 0 0 1.5\n', r"'a' holds something that is no whole number"),
        ('1\nProperties=species:S:1:pos:R:3:a:L:1\nH 0 0 0 2\n', r"'a' holds something that is no T or F"),
    ],
)
def test_broken_entries_are_named(file, text, message):
    with pytest.raises(ValueError, match=message):
        read_text(file, text)


def test_windows_line_ends_and_atomic_numbers(file):
    file.write_bytes(b'1\r\nProperties=Z:I:1:pos:R:3 pbc=T Lattice="3 0 0 0 3 0 0 0 3"\r\n14 0 0 0\r\n')
    frame = next(read_extxyz(file))
    assert frame.numbers.tolist() == [14] and frame.pbc.all()


def test_metatrain_gets_every_label_of_every_frame(file, make_frame):
    alone = Frame([14], np.zeros((1, 3)), np.zeros((3, 3)), [False] * 3, energy=-3.0, origin='isolated_atom')
    full = make_frame(0, dipole=np.ones(3))
    for frames in ([alone, full], iter([alone, full])):
        assert write_extxyz(frames, file, style='metatrain') == 2
        first, second = ase.io.read(file, ':')
        assert np.isnan(first.calc.results['forces']).all() and np.isnan(first.calc.results['stress']).all()
        assert np.isnan(first.info['mtt_dipole']).all() and second.info['mtt_dipole'].tolist() == [1, 1, 1]
        assert np.array_equal(second.calc.results['forces'], full.forces)
        back = list(read_extxyz(file))
        assert set(back[0].labels) == {'energy'} and set(back[1].labels) == {'energy', 'forces', 'stress', 'dipole'}
    write_extxyz([alone, alone], file, style='metatrain')
    assert 'nan' not in file.read_text()


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'energy': None}, r'frame 1 has no energy'),
        ({'cell': np.zeros((3, 3)), 'pbc': [False] * 3}, r'frame 1 has a stress but no'),
    ],
)
def test_what_metatrain_cannot_take_is_refused(file, make_frame, changes, message):
    with pytest.raises(ValueError, match=message):
        write_extxyz([make_frame(0), make_frame(1, **changes)], file, style='metatrain')
    assert not file.exists()


def test_constraints_and_initial_values_of_ase_are_columns(file):
    from ase.constraints import FixAtoms

    atoms = Atoms('Si2', [[0, 0, 0], [0, 0, 2]], constraint=FixAtoms([0]), magmoms=[1, -1])
    ase.io.write(file, atoms)
    frame = next(read_extxyz(file, LabelDeclaration(array_keys=('move_mask', 'initial_magmoms'))))
    assert frame.arrays['move_mask'].tolist() == [False, True]
    assert frame.arrays['initial_magmoms'].tolist() == [1, -1] and frame.magmoms is None
