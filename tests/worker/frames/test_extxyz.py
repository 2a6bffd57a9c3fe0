import ase.io
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiida_alpot.worker.frames import Frame, read_extxyz, write_extxyz

texts = st.text(st.characters(exclude_categories=['Cs'], exclude_characters='\x00'), max_size=12)


@given(seed=st.integers(0, 10**6), n_atoms=st.integers(1, 5), labelled=st.booleans(), lineage=texts, note=texts)
def test_round_trip_to_the_last_bit(tmp_path, make_frame, assert_same_frame, seed, n_atoms, labelled, lineage, note):
    frame = make_frame(seed, n_atoms, labelled, lineage=lineage, split='test', metadata={'note': note, 'step': 3})
    assert write_extxyz([frame, frame], tmp_path / 'set.xyz') == 2
    for back in read_extxyz(tmp_path / 'set.xyz'):
        assert_same_frame(back, frame)


@pytest.mark.parametrize('pbc', [(False, False, False), (True, False, True)])
def test_periodicity_and_missing_cells(tmp_path, make_frame, assert_same_frame, pbc):
    cell = np.diag(np.where(pbc, 5.0, 0.0))
    frame = make_frame(1, cell=cell, pbc=pbc, stress=None)
    write_extxyz([frame], tmp_path / 'set.xyz')
    assert_same_frame(read_extxyz(tmp_path / 'set.xyz')[0], frame)


def test_keys_are_those_of_mace(tmp_path, make_frame):
    atom = Frame([14], np.zeros((1, 3)), np.zeros((3, 3)), [False] * 3, energy=-100.0, origin='isolated_atom')
    frame = make_frame(0)
    write_extxyz([atom, frame], tmp_path / 'set.xyz')
    first, second = ase.io.read(tmp_path / 'set.xyz', index=':')
    assert first.info['config_type'] == 'IsolatedAtom'
    assert first.info['REF_energy'] == -100.0
    assert 'config_type' not in second.info
    assert np.array_equal(second.arrays['REF_forces'], frame.forces)
    assert np.array_equal(second.info['REF_stress'].reshape(3, 3), frame.stress)
    assert second.calc is None


def test_labels_under_other_keys_are_not_taken(tmp_path, make_frame):
    write_extxyz([make_frame(0)], tmp_path / 'set.xyz', prefix='dft_')
    assert read_extxyz(tmp_path / 'set.xyz')[0].energy is None
    assert read_extxyz(tmp_path / 'set.xyz', prefix='dft_')[0].is_labelled


def test_voigt_stress_is_understood(tmp_path, make_frame):
    atoms = make_frame(0, labelled=False).to_atoms()
    atoms.info['REF_stress'] = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    ase.io.write(tmp_path / 'set.xyz', atoms)
    expected = [[1, 6, 5], [6, 2, 4], [5, 4, 3]]
    assert np.array_equal(read_extxyz(tmp_path / 'set.xyz')[0].stress, expected)


def test_broken_entry_is_named(tmp_path, make_frame):
    good, bad = make_frame(0).to_atoms(), make_frame(1).to_atoms()
    good.calc = bad.calc = None
    bad.info['REF_energy'] = float('nan')
    ase.io.write(tmp_path / 'set.xyz', [good, bad])
    with pytest.raises(ValueError, match=r'frame 1 of .*not finite'):
        read_extxyz(tmp_path / 'set.xyz')
