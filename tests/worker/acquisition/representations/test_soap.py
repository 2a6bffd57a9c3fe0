"""SOAP: against the overlap of densities that it is made for, and what must not change it."""

import sys

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from scipy.spatial.transform import Rotation

from aiida_alpot.worker.acquisition.representations.soap import SMOOTHING, soap, soap_per_atom
from aiida_alpot.worker.frames.frame import Frame

REASON = 'featomic is not installed: pip install "aiida-alpot[descriptors]"'
SMALL = {'r_cut': 4.0, 'n_max': 2, 'l_max': 2, 'sigma': 0.5}


@pytest.fixture
def installed() -> None:
    pytest.importorskip('featomic', reason=REASON)


def rattled(atoms: Atoms, seed: int = 0) -> Atoms:
    atoms = atoms.copy()
    atoms.rattle(0.1, seed=seed)
    return atoms


def all_rotations(l_max: int) -> tuple[np.ndarray, np.ndarray]:
    """Rotations and weights that average functions of degree 2 l_max exactly (products of two overlaps)."""
    turns = 2 * np.pi * np.arange(2 * l_max + 1) / (2 * l_max + 1)
    cosines, weights = np.polynomial.legendre.leggauss(l_max + 1)
    angles = [(a, np.arccos(c), b) for c in cosines for a in turns for b in turns]
    return Rotation.from_euler('ZYZ', angles).as_matrix(), np.repeat(weights / 2, len(turns) ** 2) / len(turns) ** 2


def coefficients(atoms: Atoms) -> np.ndarray:
    """Expansion of the densities about the first atom, all species, radial functions, l and m in one row."""
    import featomic

    calculator = featomic.SphericalExpansion(
        cutoff={'radius': SMALL['r_cut'], 'smoothing': {'type': 'ShiftedCosine', 'width': SMOOTHING}},
        density={'type': 'Gaussian', 'width': SMALL['sigma']},
        basis={
            'type': 'TensorProduct',
            'max_angular': SMALL['l_max'],
            'radial': {'type': 'Gto', 'max_radial': SMALL['n_max'] - 1},
        },
    )
    expansion = calculator.compute(atoms).keys_to_samples('center_type')
    found = {}
    for key, block in expansion.items():
        of_first = block.samples['atom'] == 0
        found[int(key['neighbor_type']), int(key['o3_lambda'])] = block.values[of_first][0].ravel()
    return np.concatenate([found[key] for key in sorted(found)])


@pytest.mark.usefixtures('installed')
class TestRows:
    def test_inner_product_is_the_squared_overlap_averaged_over_rotations(self):
        """The definition, with the integral over all rotations done exactly by quadrature."""
        first, second = rattled(molecule('H2O'), 1), rattled(molecule('CH3OH'), 2)
        second.positions -= second.positions[0]
        first.symbols[0], elements = 'C', ['H', 'C', 'O']
        # Both have neighbours of all three species, so that the coefficients have one layout.
        first += Atoms('O', [[1.5, 1.5, 0.5]])
        a, b = (soap_per_atom([Frame.from_atoms(atoms)], elements, **SMALL)[0] for atoms in (first, second))
        overlaps, rotations = [], all_rotations(SMALL['l_max'])
        for rotation in rotations[0]:
            turned = second.copy()
            turned.positions = second.positions @ rotation.T
            overlaps.append(coefficients(first) @ coefficients(turned))
        assert a @ b == pytest.approx(np.sum(rotations[1] * np.square(overlaps)), rel=1e-8)

    def test_invariant_under_rotation_translation_and_permutation(self, turned):
        atoms = [rattled(molecule('CH3CH2OH')), rattled(bulk('NaCl', 'rocksalt', a=5.6).repeat((2, 1, 1)))]
        frames = [Frame.from_atoms(one) for one in atoms]
        elements = ['H', 'C', 'O', 'Na', 'Cl']
        rows = soap(frames, elements, **SMALL)
        shift = np.array([0.4, -1.3, 7.0])
        moved = [turned(frame).replace(positions=turned(frame).positions + shift) for frame in frames]
        np.testing.assert_allclose(soap(moved, elements, **SMALL), rows, atol=1e-9 * rows.max())
        assert np.abs(rows[0] - rows[1]).max() > 1e-2 * rows.max()

    def test_a_crystal_and_its_supercell(self):
        crystal = rattled(bulk('NaCl', 'rocksalt', a=5.6))
        frames = [Frame.from_atoms(one) for one in (crystal, crystal.repeat((2, 3, 1)))]
        one, two = soap(frames, ['Na', 'Cl'], **SMALL)
        np.testing.assert_allclose(one, two, rtol=1e-9, atol=1e-12)
        atoms = soap_per_atom(frames, ['Na', 'Cl'], **SMALL)
        assert atoms.shape == (2 + 12, 3 * 4 * 3)
        np.testing.assert_allclose(atoms[:2].mean(axis=0), one, rtol=1e-12)
        np.testing.assert_allclose(atoms[2:], np.tile(atoms[:2], (6, 1)), rtol=1e-9, atol=1e-12)

    def test_elements_that_are_not_there_have_zeros(self):
        row = soap([Frame.from_atoms(bulk('Si'))], ['Si', 'C', 'H'], **SMALL)[0].reshape(6, -1)
        assert np.abs(row).max(axis=1).astype(bool).tolist() == [False] * 5 + [True]
        np.testing.assert_array_equal(row[5], soap([Frame.from_atoms(bulk('Si'))], ['Si'], **SMALL)[0])

    def test_length_for_the_defaults(self):
        assert soap([Frame.from_atoms(molecule('CH4'))], ['H', 'C', 'N', 'O']).shape == (1, 10 * 64 * 7)

    @pytest.mark.parametrize('pbc', [(True, True, False), (False, True, False), (True, False, True)])
    def test_periodic_along_some_axes_only(self, pbc):
        """Like the molecule cut out of a large supercell along the periodic axes; the cell along others is free."""
        atoms = rattled(
            Atoms('HO', [[0.2, 0.1, 0.3], [0.9, 1.0, 1.1]], cell=[[2.5, 0, 0], [0.4, 2.6, 0], [0.1, 0.3, 3]])
        )
        atoms.pbc = pbc
        wide = atoms.copy()
        wide.cell[[axis for axis in range(3) if not pbc[axis]]] *= 1.7
        cluster = atoms.repeat([9 if periodic else 1 for periodic in pbc])
        centre = len(cluster) // 2 - len(cluster) // 2 % 2
        cluster.pbc = False
        found = soap_per_atom([Frame.from_atoms(one) for one in (atoms, wide)], ['H', 'O'], **SMALL)
        expected = soap_per_atom([Frame.from_atoms(cluster)], ['H', 'O'], **SMALL)[centre : centre + 2]
        np.testing.assert_allclose(found[:2], expected, rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(found[2:], expected, rtol=1e-8, atol=1e-10)

    def test_no_frames(self):
        assert soap([], ['Si'], **SMALL).shape == soap_per_atom([], ['Si'], **SMALL).shape == (0, 12)

    def test_does_not_jump_at_the_cutoff(self):
        pairs = [Frame.from_atoms(Atoms('H2', [[0, 0, 0], [0, 0, 4.0 + shift]])) for shift in (-1e-6, 1e-6)]
        rows = soap(pairs, ['H'], **SMALL)
        np.testing.assert_allclose(rows[0], rows[1], atol=1e-9)


def test_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, 'featomic', None)
    with pytest.raises(
        ImportError, match=r'the representation `soap` needs the package featomic.*pip install featomic'
    ):
        soap([Frame.from_atoms(bulk('Si'))], ['Si'])


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'elements': ['O', 'H']}, 'frame 0 contains C, but SOAP is to know H, O only'),
        ({'elements': ['Q']}, r"`elements` of SOAP is \['Q'\], expected a list of chemical symbols"),
        ({'elements': []}, 'expected a list of chemical symbols'),
        ({'r_cut': 0.3}, '`r_cut` is 0.3'),
        ({'sigma': 0}, '`sigma` is 0'),
        ({'n_max': 0}, '`n_max` is 0'),
        ({'l_max': -1}, '`l_max` is -1'),
    ],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        soap([Frame.from_atoms(molecule('CH4'))], ['C', 'H', 'O'], **options)
