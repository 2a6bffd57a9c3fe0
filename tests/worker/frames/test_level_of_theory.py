import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones

from aiida_alpot.worker.frames.level_of_theory import LevelOfTheory, check_one_level, fingerprint, from_ase

SI, GE, H = 'a' * 32, 'b' * 32, 'c' * 32


@pytest.mark.parametrize(
    ('level', 'text'),
    [
        (LevelOfTheory('VASP PBE 520 eV'), 'VASP PBE 520 eV'),
        (LevelOfTheory('RI-MP2/6-311G(d), charge -1'), 'RI-MP2/6-311G(d), charge -1'),
        (
            LevelOfTheory('pw-0123456789abcdef', {'Si': SI, 'Ge': GE}),
            'pw-0123456789abcdef[Ge:bbbbbbbbbbbb,Si:aaaaaaaaaaaa]',
        ),
        (LevelOfTheory('pw-01', {'Si': SI}, 'isolated'), 'pw-01[Si:aaaaaaaaaaaa,+isolated]'),
        (LevelOfTheory('emt-01', treatment='isolated'), 'emt-01[+isolated]'),
    ],
)
def test_text_and_back(level, text):
    assert str(level) == text
    assert LevelOfTheory.parse(text) == level


@pytest.mark.parametrize(
    'text', ['', ' ', 'pbe[', 'pbe]', '[Si:aa]', 'pbe[]', 'pbe[Si]', 'pbe[+a,+b]', 'pbe\n', ' pbe', 'pbe [Si:a] ']
)
def test_what_is_no_level_is_refused(text):
    with pytest.raises(ValueError, match='level of theory'):
        LevelOfTheory.parse(text)


def test_a_frame_names_the_pseudopotentials_of_its_own_elements():
    """So a label bought for a campaign on Si answers in a campaign on Si and Ge."""
    campaign, other = LevelOfTheory('pw-01', {'Si': SI, 'Ge': GE}), LevelOfTheory('pw-01', {'Si': SI})
    assert str(campaign.of(['Si', 'Si'])) == str(other.of(['Si']))
    assert str(campaign.of(['Si'], 'isolated')) != str(campaign.of(['Si']))
    assert str(LevelOfTheory('VASP PBE').of(['Si'])) == 'VASP PBE'
    with pytest.raises(ValueError, match='no pseudopotential of H, O'):
        campaign.of(['O', 'Si', 'H'])


def test_order_of_settings_does_not_matter():
    assert fingerprint('pw', {'a': 1, 'b': {'c': 2.0, 'd': None}}) == fingerprint(
        'pw', {'b': {'d': None, 'c': 2.0}, 'a': 1}
    )
    assert fingerprint('pw', {'a': 1}) != fingerprint('pw', {'a': 2})
    assert fingerprint('pw', {'a': np.arange(3)}) == fingerprint('pw', {'a': [0, 1, 2]})


def test_level_of_an_ase_calculator():
    short, long = LennardJones(rc=4.0), LennardJones(rc=5.0)
    levels = [from_ase('lennardjones', calculator.parameters) for calculator in (short, long)]
    assert levels[0] != levels[1]
    assert levels[0] == from_ase('LennardJones', LennardJones(rc=4.0).parameters)
    assert levels[0].base.startswith('lennardjones-')
    atoms = bulk('Cu')
    atoms.calc = EMT()
    assert from_ase(atoms.calc.name, atoms.calc.parameters).base.startswith('emt-')


@pytest.mark.parametrize('name', [None, '', 'unknown'])
def test_calculator_without_a_name_is_refused(name):
    with pytest.raises(ValueError, match='declare their level of theory'):
        from_ase(name, {})


def test_levels_that_belong_together():
    check_one_level(
        ['pw-01[Si:aaaaaaaaaaaa]', 'pw-01[Ge:bbbbbbbbbbbb,Si:aaaaaaaaaaaa]', 'pw-01[Si:aaaaaaaaaaaa,+isolated]']
    )
    check_one_level([])
    check_one_level([''])


@pytest.mark.parametrize(
    ('levels', 'message'),
    [
        (['pbe', 'scan'], r'2 levels of theory \(pbe, scan\)'),
        (['pbe', ''], r'2 levels of theory \(pbe, unknown\)'),
        (['pw-01[Si:aa]', 'pw-02[Si:aa]'], 'pw-01, pw-02'),
        (['pw-01[Si:aa]', 'pw-01[Ge:bb,Si:cc]'], r'several pseudopotentials of Si \(MD5 aa, cc\)'),
    ],
)
def test_levels_that_do_not_are_named(levels, message):
    with pytest.raises(ValueError, match=message):
        check_one_level(levels)
