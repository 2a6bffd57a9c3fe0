import numpy as np
import pytest
from ase import units

from aiida_alpot.worker.frames import LabelDeclaration
from aiida_alpot.worker.frames.formats.declaration import (
    DIPOLE_UNITS,
    ENERGY_UNITS,
    FORCE_UNITS,
    LENGTH_UNITS,
    STRESS_UNITS,
    VOIGT_ORDERS,
)

GPA = {'stress_unit': 'GPa', 'stress_sign': 'pressure'}


def test_units_are_those_that_textbooks_give():
    assert ENERGY_UNITS['Ry'] == pytest.approx(13.605693, rel=1e-7)
    assert ENERGY_UNITS['Ha'] == pytest.approx(2 * ENERGY_UNITS['Ry'], rel=1e-12)
    assert ENERGY_UNITS['kcal/mol'] == pytest.approx(0.04336410, rel=1e-6)
    assert ENERGY_UNITS['kJ/mol'] == pytest.approx(ENERGY_UNITS['kcal/mol'] / 4.184, rel=1e-12)
    assert LENGTH_UNITS['Bohr'] == pytest.approx(0.529177211, rel=1e-8)
    assert FORCE_UNITS['Ha/Bohr'] == pytest.approx(51.4220675, rel=1e-7)
    assert FORCE_UNITS['kcal/mol/A'] == ENERGY_UNITS['kcal/mol']
    assert 1 / STRESS_UNITS['GPa'] == pytest.approx(160.21766, rel=1e-7)
    assert STRESS_UNITS['GPa'] == pytest.approx(10 * STRESS_UNITS['kbar'], rel=1e-12)
    assert STRESS_UNITS['GPa'] == pytest.approx(1e4 * STRESS_UNITS['bar'], rel=1e-12)
    assert STRESS_UNITS['GPa'] == pytest.approx(1e9 * STRESS_UNITS['Pa'], rel=1e-12)
    assert STRESS_UNITS['Ha/Bohr^3'] / STRESS_UNITS['GPa'] == pytest.approx(29421.02, rel=1e-6)
    assert STRESS_UNITS['Ry/Bohr^3'] == pytest.approx(STRESS_UNITS['Ha/Bohr^3'] / 2, rel=1e-12)
    assert DIPOLE_UNITS['Debye'] == pytest.approx(0.20819434, rel=1e-7)
    assert pytest.approx(units.Bohr) == DIPOLE_UNITS['e Bohr']


def test_orders_of_six_numbers():
    names = {'ase': 'xx yy zz yz xz xy', 'vasp': 'xx yy zz xy yz xz'}
    tensor = np.array(['xx', 'xy', 'xz', 'xy', 'yy', 'yz', 'xz', 'yz', 'zz'])
    for order, text in names.items():
        assert np.array_equal(np.array(text.split())[list(VOIGT_ORDERS[order])], tensor)


@pytest.mark.parametrize(
    ('given', 'message'),
    [
        ({'energies': 'absolute'}, r"unknown value of `energies`: 'absolute'.*total, relative"),
        ({'energy_unit': 'ev'}, r"`energy_unit`: 'ev'. Did you mean 'eV'"),
        ({'length_unit': 'bohr'}, r"Did you mean 'Bohr'"),
        ({'force_unit': 'Ha/bohr'}, r"Did you mean 'Ha/Bohr'"),
        ({'stress_unit': 'Gpa'}, r"Did you mean 'GPa'"),
        ({'stress_unit': 'GPa'}, r'either sign: add `stress_sign`.*tension.*pressure'),
        ({'stress_unit': 'kbar'}, r'add `stress_sign`'),
        ({'stress_sign': 'tension'}, r'without `stress_unit`'),
        ({'stress_unit': 'GPa', 'stress_sign': '+'}, r'`stress_sign`'),
        ({'dipole_unit': 'D'}, r'`dipole_unit`.*Debye'),
        ({'style': 'ase'}, r"`style`: 'ase'.*mace, plain, metatrain"),
        ({'missing': 'ignore'}, r'`missing`.*refuse, drop, keep'),
        ({'voigt_order': 'qe'}, r'`voigt_order`'),
        ({'energies': 'relative'}, r'needs `reference_energies`'),
        ({'energies': 'total', 'reference_energies': {'Si': -1.0}}, r'leave one of them out'),
        ({'energies': 'relative', 'reference_energies': {'Sj': -1.0}}, r"'Sj', expected symbols"),
        ({'energies': 'relative', 'reference_energies': {'Si': float('nan')}}, r'reference_energies\[Si\]'),
        ({'level_of_theory': 'PBE [520 eV'}, r'no level of theory'),
        ({'level_of_theory': 3}, r'`level_of_theory` is 3, expected a text'),
        ({'virials': 'yes'}, r'expected true or false'),
        ({'virials': True, **GPA}, r'leave one of them out'),
        ({'keys': {'virials': 'dft_virial'}, **GPA}, r'leave one of them out'),
        ({'keys': {'virials': 'a', 'stress': 'b'}}, r'both a stress and virials'),
        ({'virials': True, 'properties': ['energy']}, r'virials give the stress'),
        ({'keys': {'enrgy': 'E'}}, r"Did you mean 'energy'"),
        ({'keys': {'energy': ''}}, r'expected a text'),
        ({'keys': {'forces': 'F'}, 'properties': ['energy']}, r'none of the `properties`'),
        ({'properties': ['energies']}, r"Did you mean 'energy'"),
        ({'properties': 'energy'}, r'expected a list of names'),
        ({'array_keys': [3]}, r'expected a list of names'),
        ({'lineage_key': None}, r'`lineage_key` is None, expected a text'),
        ({'energy': 'total'}, r"unknown option of a label declaration 'energy'. Did you mean"),
    ],
)
def test_each_bad_value_is_named(given, message):
    with pytest.raises(ValueError, match=message):
        LabelDeclaration.from_dict(given)


def test_lists_become_immutable():
    declaration = LabelDeclaration.from_dict(
        {'properties': ['energy', 'forces'], 'metadata_keys': [], 'array_keys': []}
    )
    assert declaration.properties == ('energy', 'forces') and declaration.metadata_keys == ()
    assert declaration.takes('forces') and not declaration.takes('stress')
