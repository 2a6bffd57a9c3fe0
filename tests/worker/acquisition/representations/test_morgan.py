"""Fingerprints, where RDKit is installed; their similarity everywhere."""

import sys

import numpy as np
import pytest
from ase.build import bulk, molecule

from aiida_alpot.worker.acquisition.representations.morgan import morgan, morgan_tanimoto, tanimoto, tanimoto_features
from aiida_alpot.worker.frames.frame import Frame

REASON = 'RDKit is not installed: pip install "aiida-alpot[descriptors]"'


def test_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, 'rdkit.Chem.rdFingerprintGenerator', None)
    with pytest.raises(ImportError, match=r'the representation `morgan` needs the package rdkit.*pip install rdkit'):
        morgan([Frame.from_atoms(molecule('CH4'))])


def test_crystals_are_refused():
    with pytest.raises(ValueError, match='frame 0 is periodic: fingerprints are for molecules'):
        morgan([Frame.from_atoms(bulk('Si'))])


def test_molecules():
    pytest.importorskip('rdkit', reason=REASON)
    ethanol = molecule('CH3CH2OH')
    distorted = ethanol.copy()
    distorted.rattle(0.03, seed=1)
    distorted.rotate(50, 'x')
    frames = [Frame.from_atoms(atoms) for atoms in (ethanol, distorted, molecule('CH3OH'), molecule('C6H6'))]
    bits = morgan(frames)
    assert bits.shape == (4, 2048) and set(np.unique(bits)) == {0, 1}
    similarity = tanimoto(bits, bits)
    assert similarity[0, 1] == 1.0 and 0 < similarity[0, 2] < 1 and similarity[0, 3] < similarity[0, 2]


def test_the_bits_are_those_of_rdkit():
    """Of molecules with single bonds only, from their formulas in SMILES: nothing of the geometry is left."""
    chem = pytest.importorskip('rdkit.Chem', reason=REASON)
    from rdkit.Chem.rdFingerprintGenerator import GetMorganGenerator

    generator = GetMorganGenerator(radius=2, fpSize=512)
    smiles = {'CH4': 'C', 'CH3OH': 'CO', 'CH3CH2OH': 'CCO', 'CH3OCH3': 'COC', 'C3H6_D3h': 'C1CC1', 'H2O': 'O'}
    expected = [generator.GetFingerprintAsNumPy(chem.AddHs(chem.MolFromSmiles(text))) for text in smiles.values()]
    found = morgan([Frame.from_atoms(molecule(name)) for name in smiles], radius=2, n_bits=512)
    np.testing.assert_array_equal(found, expected)


def test_tanimoto_is_that_of_rdkit():
    pytest.importorskip('rdkit', reason=REASON)
    from rdkit.DataStructs import BulkTanimotoSimilarity, CreateFromBitString

    names = ['CH4', 'CH3CH2OH', 'C6H6', 'CH3COOH', 'C5H5N', 'H2CO', 'CH3SH', 'LiH']
    bits = morgan([Frame.from_atoms(molecule(name)) for name in names])
    vectors = [CreateFromBitString(''.join(map(str, row))) for row in bits]
    expected = [BulkTanimotoSimilarity(vector, vectors) for vector in vectors]
    np.testing.assert_allclose(tanimoto(bits, bits), expected, rtol=1e-6)
    assert np.min(expected) < 0.2 and np.sort(expected, axis=None)[-9] < 1.0


def test_rows_for_selectors():
    pytest.importorskip('rdkit', reason=REASON)
    frames = [Frame.from_atoms(molecule(name)) for name in ('CH4', 'CH3CH2OH', 'C6H6', 'CH3COOH', 'C5H5N')]
    rows = morgan_tanimoto(frames, radius=2, size=2048, seed=3)
    exact = tanimoto(*2 * [morgan(frames, radius=2)])
    assert rows.shape == (5, 2048)
    assert (np.abs(rows @ rows.T - exact) <= 4.5 * np.sqrt((1 - exact**2) / 2048) + 1e-5).all()


def test_order_and_place_of_the_atoms_do_not_matter(turned):
    pytest.importorskip('rdkit', reason=REASON)
    frames = [Frame.from_atoms(molecule(name)) for name in ('CH3COOH', 'C5H5N')]
    np.testing.assert_array_equal(morgan([turned(frame) for frame in frames]), morgan(frames))


def test_tanimoto_by_hand():
    a = np.array([[1, 1, 0, 0], [0, 0, 0, 0]])
    b = np.array([[1, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]])
    np.testing.assert_allclose(tanimoto(a, b), [[1 / 3, 0.0, 0.5], [0.0, 1.0, 0.0]])


def test_features_have_tanimoto_as_inner_products():
    rng = np.random.default_rng(2)
    bits = (rng.random((12, 60)) < rng.uniform(0.1, 0.9, size=(12, 1))).astype(np.uint8)
    bits[3] = bits[4]
    bits[5] = 0
    size = 4096
    rows = tanimoto_features(bits, size, seed=1)
    exact = tanimoto(bits, bits)
    error = np.abs(rows @ rows.T - exact)
    assert (error <= 4.5 * np.sqrt((1 - exact**2) / size) + 1e-5).all()
    np.testing.assert_array_equal(rows, tanimoto_features(bits, size, seed=1))
    np.testing.assert_array_equal(rows[3], rows[4])
