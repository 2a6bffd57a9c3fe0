"""What is refused, and that every unit and sign comes out as a calculator says."""

import ase.io
import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.stress import full_3x3_to_voigt_6_stress

from aiida_alpot.worker.frames import LabelDeclaration, read_extxyz, read_frames, write_extxyz, write_frames

STATED = {'level_of_theory': 'EMT', 'energies': 'total'}


def entry(info='', forces='', n=1):
    """Text of one frame of hydrogen in a box; forces are (key, numbers)."""
    column = f':{forces[0]}:R:{len(forces[1].split())}' if forces else ''
    row = f'H 0 0 0 {forces[1]}' if forces else 'H 0 0 0'
    return f'1\nLattice="3 0 0 0 3 0 0 0 3" Properties=species:S:1:pos:R:3{column} {info}\n{row}\n' * n


BOTH = entry('REF_energy=-1.5', ('REF_forces', '1 2 3'))
NO_FORCES = entry('REF_energy=-1.5')
NO_ENERGY = entry('', ('REF_forces', '1 2 3'))
ISOLATED = '1\nREF_energy=-1.0 config_type=IsolatedAtom\nH 0 0 0\n'


@pytest.fixture
def read(tmp_path):
    def read(text, **declared):
        (tmp_path / 'set.xyz').write_text(text)
        return list(read_extxyz(tmp_path / 'set.xyz', LabelDeclaration(**declared)))

    return read


@pytest.fixture(scope='module')
def copper():
    """Strained, rattled copper with the labels of a real potential."""
    atoms = bulk('Cu', cubic=True)
    strain = np.array([[0.02, 0.01, 0], [0.01, -0.03, 0.005], [0, 0.005, 0.01]])
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
    atoms.rattle(0.1, seed=1)
    atoms.calc = EMT()
    atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()
    return atoms


def without_calculator(atoms, **info):
    copy = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    copy.info |= info
    return copy


# -- what has to be stated ---------------------------------------------------------------------------------------------


def test_one_message_says_all_that_is_missing(read):
    text = entry('energy=-1 stress="1 2 3 4 5 6 7 8 9" dipole="1 2 3"', ('forces', '1 2 3'))
    message = (
        r"frame 0 of .*It has energy \('energy'\), forces \('forces'\), stress \('stress'\), dipole \('dipole'\). "
        r'State: level_of_theory.*the file does not tell.*energies=.total.*isolated atoms.*reference_energies.*'
        r'stress_unit.*stress_sign.*dipole_unit.*properties=\(\)'
    )
    with pytest.raises(ValueError, match=message):
        read(text)
    assert read(text, properties=())[0].labels == {}
    assert set(read(text, **STATED, properties=('energy', 'forces'))[0].labels) == {'energy', 'forces'}
    stated = {**STATED, 'stress_unit': 'eV/A^3', 'dipole_unit': 'e A'}
    for name in stated:
        with pytest.raises(ValueError, match=f'State: {name}'):
            read(text, **{key: value for key, value in stated.items() if key != name})
    assert set(read(text, **stated)[0].labels) == {'energy', 'forces', 'stress', 'dipole'}


def test_structures_need_nothing(read):
    (frame,) = read(entry('group=a step=3'))
    assert not frame.labels and frame.level_of_theory == '' and frame.metadata == {'group': 'a', 'step': 3}


def test_two_sets_of_keys_are_refused(read):
    text = entry('REF_energy=-1 energy=-2', ('REF_forces', '1 2 3'))
    with pytest.raises(
        ValueError, match=r"REF_energy, REF_forces \(style 'mace'\) and energy \(style 'plain'\).*style="
    ):
        read(text, **STATED)
    assert read(text, style='mace', **STATED)[0].energy == -1
    (frame,) = read(text, style='plain', **STATED, properties=('energy',))
    assert frame.energy == -2 and frame.forces is None and frame.metadata == {}
    with pytest.raises(ValueError, match=r"frame 1 .*style 'plain'.*frames before it.*style 'mace'"):
        read(BOTH + entry('energy=-1', ('forces', '1 2 3')), **STATED)


def test_one_style_is_found(read):
    assert read(entry('energy=-1 mtt_dipole="1 2 3"'), **STATED, dipole_unit='e A')[0].dipole.tolist() == [1, 2, 3]
    assert read(entry('energy=-1', ('charge', '1')), **STATED)[0].charges.tolist() == [1]
    assert read(entry('energy=-1', ('magmoms', '2')), **STATED)[0].magmoms.tolist() == [2]


def test_keys_are_taken_at_their_word(read):
    text = entry('dft_energy=-3 REF_energy=-1', ('dft_forces', '1 2 3'))
    (frame,) = read(text, **STATED, keys={'energy': 'dft_energy', 'forces': 'dft_forces'})
    assert frame.energy == -3 and frame.forces.tolist() == [[1, 2, 3]] and frame.metadata == {}
    (frame,) = read(text, **STATED, keys={'forces': 'dft_forces'}, style='mace')
    assert frame.energy == -1 and frame.forces.tolist() == [[1, 2, 3]]
    with pytest.raises(ValueError, match=r"no frame of .*set\.xyz has 'dft_stress'"):
        read(
            text, **STATED, keys={'energy': 'dft_energy', 'stress': 'dft_stress'}, stress_unit='eV/A^3', missing='keep'
        )


def test_labels_under_unknown_keys_are_not_overlooked(read):
    text = entry('dft_energy=-3', ('dft_forces', '1 2 3'))
    with pytest.raises(ValueError, match=r"'dft_energy', 'dft_forces' may be labels.*`keys`.*properties=\(\)"):
        read(text)
    with pytest.raises(ValueError, match=r'may be labels'):
        read(text, **STATED)
    assert read(text, properties=())[0].metadata == {'dft_energy': -3}


def test_the_free_energy_is_no_energy(read):
    text = entry('free_energy=-3', ('forces', '1 2 3'))
    with pytest.raises(
        ValueError, match=r"which of 'free_energy' is the energy.*`keys`.*'energy': 'free_energy'.*'forces': 'forces'"
    ):
        read(text, level_of_theory='EMT')
    (frame,) = read(text, **STATED, keys={'energy': 'free_energy', 'forces': 'forces'})
    assert frame.energy == -3
    assert read(text, level_of_theory='EMT', properties=('forces',))[0].energy is None
    both = read(entry('free_energy=-3 energy=-2', ('forces', '1 2 3')), **STATED)[0]
    assert both.energy == -2 and both.metadata == {}


def test_a_total_charge_is_no_label(read):
    frame = read(entry('REF_energy=-1 charge=-1', ('REF_forces', '1 2 3')), **STATED)[0]
    assert set(frame.labels) == {'energy', 'forces'} and frame.metadata == {'charge': -1}


def test_energies_of_atoms_are_not_that_of_the_frame(read):
    assert read(entry('energy=-1', ('energy', '-7')), **STATED)[0].energy == -1
    assert read(entry('e=-1', ('e', '-7')), **STATED, keys={'energy': 'e'})[0].energy == -1


def test_two_keys_of_one_label_are_refused(read):
    text = '1\nenergy=-1 Properties=species:S:1:pos:R:3:charge:R:1:charges:R:1\nH 0 0 0 1 2\n'
    with pytest.raises(ValueError, match=r"charges may be 'charges' or 'charge': say which with `keys`"):
        read(text, **STATED)
    assert read(text, **STATED, style='plain', keys={'charges': 'charge'})[0].charges.tolist() == [1]


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        (entry('REF_energy=nan'), r'energy under .REF_energy. holds values that are not finite'),
        (BOTH + entry('REF_energy=-1', ('REF_forces', '1 nan 3')), r'frame 1 of .*\(line 4\).*forces .*not finite'),
        (entry('REF_energy=None'), r"'REF_energy' is 'None', expected the numbers of the energy"),
        (entry('REF_energy=T'), r"'REF_energy' is True, expected the numbers"),
        (entry('REF_energy="1 2"'), r'the energy under .* has shape \(2,\)'),
        (entry('REF_energy=1', ('REF_forces', '1 2')), r'`forces` has shape \(1, 2\), expected \(1, 3\)'),
        (entry('REF_energy=1', ('REF_magmoms', '1 2 3')), r'`magmoms` has shape \(1, 3\)'),
        (entry('REF_energy=1 REF_stress="1 2 3"'), r'stress under .* has shape \(3,\), expected \(6,\), \(9,\)'),
        (entry('REF_energy=1 REF_stress="1 2 3 4 5 nan"'), r'not finite'),
    ],
)
def test_bad_numbers_are_named(read, text, message):
    with pytest.raises(ValueError, match=message):
        read(text, **STATED, stress_unit='eV/A^3')


# -- frames that lack labels -------------------------------------------------------------------------------------------


def test_missing_labels_are_refused_and_counted(read):
    with pytest.raises(ValueError, match=r'frame 2 .* no forces, which 2 of the 2 frames before it have.*drop.*keep'):
        read(BOTH * 2 + NO_FORCES, **STATED)
    with pytest.raises(ValueError, match=r'frame 3 .* has forces, which 3 of the 3 frames before it lack'):
        read(NO_FORCES * 3 + BOTH, **STATED)
    with pytest.raises(ValueError, match=r'frame 1 .* no energy, which 1 of the 1 frames before it have'):
        read(BOTH + NO_ENERGY, **STATED)
    with pytest.raises(ValueError, match=r"frame 0 .*no energy, although `energies` declares.*keys are: 'group'"):
        read(entry('group=a'), **STATED)
    assert len(read(NO_FORCES * 3, **STATED)) == 3 and len(read(NO_ENERGY * 3, level_of_theory='EMT')) == 3


def test_missing_labels_are_dropped_or_kept_when_asked(read):
    text = BOTH + NO_FORCES + NO_ENERGY + BOTH
    with pytest.warns(UserWarning, match=r'2 of the frames of .* lack energy or forces and were left out'):
        assert [set(frame.labels) for frame in read(text, missing='drop', **STATED)] == [{'energy', 'forces'}] * 2
    kept = read(text, missing='keep', **STATED)
    assert [set(frame.labels) for frame in kept] == [{'energy', 'forces'}, {'energy'}, {'forces'}, {'energy', 'forces'}]
    assert [frame.level_of_theory for frame in kept] == ['EMT'] * 4
    assert read(entry('group=a') + BOTH, missing='keep', **STATED)[0].level_of_theory == ''
    with pytest.raises(ValueError, match=r"all 2 frames of .*missing='drop' left them out"):
        read(NO_FORCES * 2, missing='drop', **STATED)
    assert len(read(NO_FORCES * 2, missing='drop', properties=('energy',), **STATED)) == 2
    with pytest.raises(ValueError, match=r'no frame of .* has an energy, although'):
        read(NO_ENERGY, missing='keep', **STATED)


def test_isolated_atoms_need_no_forces(read):
    for missing in ('refuse', 'drop'):
        frames = read(ISOLATED + BOTH + ISOLATED, missing=missing, **STATED)
        assert [frame.origin for frame in frames] == ['isolated_atom', 'import', 'isolated_atom']
    with pytest.raises(ValueError, match=r'frame 2 .* no energy'):
        read(ISOLATED + BOTH + ISOLATED.replace('REF_energy=-1.0 ', ''), **STATED)


# -- units and signs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('style', ['mace', 'plain', 'metatrain'])
def test_plain_files_agree_with_a_real_calculator(tmp_path, copper, style):
    """What ASE writes of a calculator, imported, exported and read by ASE again."""
    ase.io.write(tmp_path / 'emt.xyz', copper)
    (frame,) = read_extxyz(tmp_path / 'emt.xyz', LabelDeclaration('EMT', 'total', stress_unit='eV/A^3'))
    assert frame.energy == pytest.approx(copper.get_potential_energy(), rel=1e-9)
    assert frame.forces == pytest.approx(copper.get_forces(), abs=1e-8)
    assert frame.stress == pytest.approx(copper.get_stress(voigt=False), abs=1e-9)
    write_extxyz([frame], tmp_path / 'ours.xyz', style=style)
    back = ase.io.read(tmp_path / 'ours.xyz')
    if style == 'mace':
        assert back.calc is None and back.info['REF_energy'] == frame.energy
        assert np.array_equal(back.info['REF_stress'].reshape(3, 3), frame.stress)
        assert np.array_equal(back.arrays['REF_forces'], frame.forces)
    else:
        assert back.get_potential_energy() == frame.energy
        assert np.array_equal(back.get_forces(), frame.forces)
        assert np.array_equal(back.get_stress(), full_3x3_to_voigt_6_stress(frame.stress))


@pytest.mark.parametrize(
    ('unit', 'size'),
    [('GPa', units.GPa), ('kbar', units.GPa / 10), ('bar', units.bar), ('Pa', units.Pascal), ('eV/A^3', 1.0)],
)
@pytest.mark.parametrize(('sign', 'factor'), [('tension', 1), ('pressure', -1)])
def test_pressures_of_other_programs(tmp_path, copper, unit, size, sign, factor):
    stress = copper.get_stress(voigt=False)
    atoms = without_calculator(copper, REF_energy=1.0, REF_stress=(factor * stress / size).ravel())
    ase.io.write(tmp_path / 'set.xyz', atoms)
    (frame,) = read_extxyz(tmp_path / 'set.xyz', LabelDeclaration(**STATED, stress_unit=unit, stress_sign=sign))
    assert frame.stress == pytest.approx(stress, rel=1e-12)


def test_a_stretched_crystal_is_under_tension(tmp_path):
    atoms = bulk('Cu', a=3.9)
    atoms.calc = EMT()
    pressure = -np.trace(atoms.get_stress(voigt=False)) / 3 / units.GPa
    assert pressure < -10
    atoms = without_calculator(atoms, REF_energy=0.0, REF_stress=[pressure] * 3 + [0.0] * 3)
    ase.io.write(tmp_path / 'set.xyz', atoms)
    (frame,) = read_extxyz(tmp_path / 'set.xyz', LabelDeclaration(**STATED, stress_unit='GPa', stress_sign='pressure'))
    assert np.trace(frame.stress) > 0


@pytest.mark.parametrize(('order', 'indices'), [('ase', [0, 1, 2, 3, 4, 5]), ('vasp', [0, 1, 2, 5, 3, 4])])
def test_six_numbers_in_two_orders(tmp_path, copper, order, indices):
    voigt = copper.get_stress()
    ase.io.write(tmp_path / 'set.xyz', without_calculator(copper, REF_energy=1.0, REF_stress=voigt[indices]))
    (frame,) = read_extxyz(tmp_path / 'set.xyz', LabelDeclaration(**STATED, stress_unit='eV/A^3', voigt_order=order))
    assert frame.stress == pytest.approx(copper.get_stress(voigt=False), rel=1e-12)


def test_virials_only_when_asked(tmp_path, copper):
    stress, volume = copper.get_stress(voigt=False), copper.get_volume()
    path = tmp_path / 'set.xyz'
    for key in ('virial', 'virials'):
        ase.io.write(path, without_calculator(copper, energy=1.0, **{key: -stress * volume}))
        with pytest.raises(ValueError, match=f'State: `virials`, to make the stress of {key!r}'):
            list(read_extxyz(path, LabelDeclaration(**STATED)))
        assert next(read_extxyz(path, LabelDeclaration(**STATED, properties=('energy',)))).stress is None
        (frame,) = read_extxyz(path, LabelDeclaration(**STATED, virials=True))
        assert frame.stress == pytest.approx(stress, rel=1e-12)
    ase.io.write(
        path, without_calculator(copper, REF_energy=1.0, dft_virial=(-stress * volume / units.Hartree).ravel())
    )
    declared = LabelDeclaration(**STATED, style='mace', keys={'virials': 'dft_virial'}, energy_unit='Ha')
    (frame,) = read_extxyz(path, declared)
    assert frame.stress == pytest.approx(stress, rel=1e-12) and frame.energy == units.Hartree
    ase.io.write(path, without_calculator(copper, energy=1.0, virial=np.eye(3), stress=stress))
    (frame,) = read_extxyz(path, LabelDeclaration(**STATED, stress_unit='eV/A^3'))
    assert frame.stress == pytest.approx(stress, rel=1e-12)


def test_virials_need_a_volume(read):
    with pytest.raises(ValueError, match=r'virials but no cell of three vectors'):
        read('1\nenergy=1 virial="1 0 0 0 1 0 0 0 1"\nH 0 0 0\n', **STATED, virials=True)


@pytest.mark.parametrize(('energy_unit', 'energy'), [('Ha', units.Hartree), ('kcal/mol', units.kcal / units.mol)])
@pytest.mark.parametrize(('length_unit', 'length'), [('A', 1.0), ('Bohr', units.Bohr)])
def test_energies_and_lengths(tmp_path, copper, energy_unit, energy, length_unit, length):
    atoms = Atoms(copper.numbers, copper.positions / length, cell=copper.cell.array / length, pbc=True)
    atoms.info |= {'REF_energy': copper.get_potential_energy() / energy, 'REF_dipole': np.array([1.0, 2.0, 3.0])}
    atoms.info['REF_stress'] = copper.get_stress()
    atoms.arrays['REF_forces'] = copper.get_forces() / (energy / length)
    ase.io.write(tmp_path / 'set.xyz', atoms)
    units_given = {
        'energy_unit': energy_unit,
        'length_unit': length_unit,
        'dipole_unit': 'Debye',
        'stress_unit': 'eV/A^3',
    }
    (frame,) = read_extxyz(tmp_path / 'set.xyz', LabelDeclaration(**STATED, **units_given))
    assert frame.energy == pytest.approx(copper.get_potential_energy(), rel=1e-12)
    assert frame.forces == pytest.approx(copper.get_forces(), abs=1e-6)  # ASE writes columns with eight decimals
    assert frame.positions == pytest.approx(copper.positions, abs=1e-8)
    assert frame.cell == pytest.approx(copper.cell.array, rel=1e-12)
    assert frame.stress == pytest.approx(copper.get_stress(voigt=False), rel=1e-12)
    assert frame.dipole == pytest.approx(np.array([1, 2, 3]) * units.Debye, rel=1e-12)
    # Imported lengths make a frame that the potential gives the same labels.
    again = frame.unlabelled().to_atoms()
    again.calc = EMT()
    assert again.get_potential_energy() == pytest.approx(frame.energy, abs=1e-6)


def test_forces_with_a_unit_of_their_own(read):
    """Molecular codes print positions in A beside gradients in Ha/Bohr."""
    (frame,) = read(BOTH, **STATED, energy_unit='Ha', force_unit='Ha/Bohr')
    assert frame.forces == pytest.approx(np.array([[1, 2, 3]]) * units.Hartree / units.Bohr, rel=1e-14)
    assert frame.energy == -1.5 * units.Hartree and frame.cell[0, 0] == 3


def test_relative_energies_come_back_to_the_scale_of_isolated_atoms(read):
    text = '3\nenergy=-2.0\nO 0 0 0\nH 0 0 1\nH 0 1 0\n'
    references = {'H': -13.5, 'O': -430.0, 'Si': -100.0}
    (frame,) = read(text, level_of_theory='pbe', energies='relative', reference_energies=references)
    assert frame.energy == pytest.approx(-2.0 - 430.0 - 27.0, rel=1e-14)
    hartree = read(text, level_of_theory='pbe', energies='relative', reference_energies=references, energy_unit='Ha')
    assert hartree[0].energy == pytest.approx(-2.0 * units.Hartree - 457.0, rel=1e-14)  # references are in eV
    with pytest.raises(ValueError, match=r'`reference_energies` has no H: add'):
        read(text, level_of_theory='pbe', energies='relative', reference_energies={'O': -430.0})


# -- provenance --------------------------------------------------------------------------------------------------------


def test_level_of_theory_of_each_frame(read):
    declared = 'pw-0123456789abcdef[H:111111111111,Si:222222222222]'
    (frame,) = read(BOTH, level_of_theory=declared, energies='total')
    assert frame.level_of_theory == 'pw-0123456789abcdef[H:111111111111]'
    with pytest.raises(ValueError, match=r'frame 0 .*no pseudopotential of H'):
        read(BOTH, level_of_theory='pw-0123456789abcdef[Si:222222222222]', energies='total')


def test_lineage_origin_and_split(read):
    rows = ''.join(
        entry(f'REF_energy=-1 run={run} kind={kind} set={split}')
        for run, kind, split in (('7', 'md', 'train'), ('a b', 'x', 'val'), ('7', 'md', 'valid'), ('T', 'md', 'test'))
    )
    rows = rows.replace('run=a b', 'run="a b"')
    frames = read(ISOLATED + rows, **STATED, lineage_key='run', origin_key='kind', split_key='set', metadata_keys=())
    assert [frame.lineage for frame in frames][1:] == ['7', 'a b', '7', 'True']
    assert frames[0].lineage == frames[0].frame_id[:16] and frames[0].split == ''
    assert [frame.origin for frame in frames] == ['isolated_atom', 'md', 'x', 'md', 'md']
    assert [frame.split for frame in frames][1:] == ['train', 'validation', 'validation', 'test']
    assert all(frame.metadata == {} for frame in frames)
    assert read(rows, **STATED, origin='literature')[0].origin == 'literature'
    assert read(rows, **STATED, metadata_keys=('kind', 'none'))[1].metadata == {'kind': 'x'}
    for option in ('lineage_key', 'origin_key', 'split_key'):
        with pytest.raises(ValueError, match=rf"no 'none', which `{option}` names. Its keys are: 'REF_energy', 'run'"):
            read(rows, **STATED, **{option: 'none'})
    with pytest.raises(ValueError, match=r"'kind' is 'md', expected a split: one of train"):
        read(rows, **STATED, split_key='kind')
    with pytest.raises(ValueError, match=r"'run' is .*expected one word or number"):
        read(entry('REF_energy=-1 run="1 2"'), **STATED, lineage_key='run')


def test_metadata_has_what_is_left_and_no_predictions(read):
    text = entry(
        'REF_energy=-1 energy=-2 free_energy=-2 mtt_dipole="1 2 3" gap=nan name="a b" nested="_JSON {\\"x\\": [1]}"'
    )
    assert read(text, **STATED, style='mace')[0].metadata == {'gap': None, 'name': 'a b', 'nested': {'x': [1]}}


def test_user_arrays_are_named(read):
    text = '1\nREF_energy=-1 Properties=species:S:1:pos:R:3:momenta:R:3:label:S:1\nH 0 0 0 1 2 3 a\n'
    assert read(text, **STATED)[0].arrays == {}
    assert read(text, **STATED, array_keys=('momenta',))[0].arrays['momenta'].tolist() == [[1, 2, 3]]
    with pytest.raises(
        ValueError, match=r"no column 'mass', which `array_keys` names. Its columns are: 'momenta', 'label'"
    ):
        read(text, **STATED, array_keys=('mass',))
    with pytest.raises(ValueError, match=r"arrays\['label'\]` holds <U1"):
        read(text, **STATED, array_keys=('label',))


def test_an_imported_file_is_ours_from_then_on(read, tmp_path, assert_same_frame):
    frames = read(BOTH + NO_FORCES, **STATED, missing='keep')
    for name in ('a.xyz', 'a.db', 'a.traj', 'a.h5'):
        write_frames(frames, tmp_path / name)
        for back, frame in zip(read_frames(tmp_path / name), frames, strict=True):
            assert_same_frame(back, frame)
