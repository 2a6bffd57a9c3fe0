"""What LAMMPS adds to the committee, against formulas written down here."""

import itertools
from importlib.resources import files

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.data import covalent_radii
from ase.units import Bohr, Hartree

from aiida_alpot.worker.frames.frame import Frame
from aiida_alpot.worker.md.interactions import (
    D2_COEFFICIENTS,
    D3_FUNCTIONALS,
    Dispersion,
    Repulsion,
    check_styles,
    pair_commands,
)
from aiida_alpot.worker.md.lammps_input import lammps_data, type_map
from aiida_alpot.worker.md.lammps_library import open_lammps


@pytest.fixture
def add(tmp_path, monkeypatch):
    """Energy (eV) and forces (eV/A) that the pair styles add, beside a `fix external` that says 7 eV and no force."""
    monkeypatch.chdir(tmp_path)
    opened = []

    def run(frame, **parts):
        lammps = open_lammps(['-log', 'none', '-screen', 'none'])
        opened.append(lammps)
        (tmp_path / 'data').write_text(lammps_data(frame))
        lammps.commands_list(
            [
                'units metal',
                'atom_modify map yes',
                f'boundary {" ".join("p" if periodic else "m" for periodic in frame.pbc)}',
                'read_data data',
                *pair_commands(type_map(frame), **parts),
                'fix alpot all external pf/callback 1 1',
                'fix_modify alpot energy yes virial yes',
            ]
        )

        def callback(_, step, n, tags, positions, forces):
            forces[:] = 0.0
            lammps.fix_external_set_energy_global('alpot', 7.0)

        lammps.set_fix_external_callback('alpot', callback, None)
        lammps.command('run 0')
        return lammps.get_thermo('pe') - 7.0, np.array(lammps.gather_atoms('f', 1, 3)).reshape(-1, 3)

    yield run
    for lammps in opened:
        lammps.close()


def distances(frame, cutoff):
    """Atoms i, j and the distance of all pairs of a cell with its images, each pair twice."""
    reach = range(-6, 7)
    for shift in itertools.product(*[reach if periodic else (0,) for periodic in frame.pbc]):
        vectors = frame.positions[None] + np.array(shift) @ frame.cell - frame.positions[:, None]
        lengths = np.linalg.norm(vectors, axis=2)
        for i, j in np.argwhere((lengths > 1e-9) & (lengths < cutoff)):
            yield i, j, lengths[i, j]


def test_d2_is_the_sum_of_its_formula_over_all_images(add):
    """In a cell that is far smaller than the cutoff."""
    atoms = bulk('Si', cubic=True)
    atoms.numbers[::3] = 8
    atoms.rattle(0.1, seed=1)
    frame = Frame.from_atoms(atoms)
    energy, _ = add(frame, dispersion=Dispersion('d2', cutoff=12.0))
    expected = 0.0
    for i, j, r in distances(frame, 12.0):
        (c6_i, radius_i), (c6_j, radius_j) = (D2_COEFFICIENTS[frame.numbers[k]] for k in (i, j))
        c6 = np.sqrt(c6_i * c6_j) * 1e6 / 96485.33212331  # J nm^6 / mol -> eV A^6
        expected -= 0.5 * 0.75 * c6 / r**6 / (1.0 + np.exp(-20.0 * (r / (radius_i + radius_j) - 1.0)))
    assert energy == pytest.approx(expected, rel=1e-7) and expected < -0.5


def naive_d3(frame, a1=0.4289, s8=0.7875, a2=4.4407):
    """D3 with Becke-Johnson damping, two-body terms, of a molecule; eV. Tables of Grimme et al., in atomic units."""
    with np.load(str(files('metatomic.torch') / 'data' / 'dftd3_parameters.npz')) as tables:
        radii, ratios, c6_reference, cn_reference = (tables[key] for key in ('rcov', 'r4r2', 'c6', 'cn_ref'))
    pairs = [(i, j, r / Bohr) for i, j, r in distances(frame, 50.0)]
    z = frame.numbers
    coordination = np.zeros(len(z))
    for i, j, r in pairs:
        coordination[i] += 1.0 / (1.0 + np.exp(-16.0 * ((radii[z[i]] + radii[z[j]]) / r - 1.0)))
    energy = 0.0
    for i, j, r in pairs:
        known = (cn_reference[z[i]][:, None] >= 0) & (cn_reference[z[j]][None] >= 0)
        apart = (coordination[i] - cn_reference[z[i]][:, None]) ** 2 + (coordination[j] - cn_reference[z[j]][None]) ** 2
        weights = np.where(known, np.exp(-4.0 * apart), 0.0)
        c6 = (weights * c6_reference[z[i], z[j]]).sum() / weights.sum()
        c8 = 3.0 * c6 * ratios[z[i]] * ratios[z[j]]
        damping = a1 * np.sqrt(c8 / c6) + a2
        energy -= 0.5 * (c6 / (r**6 + damping**6) + s8 * c8 / (r**8 + damping**8))
    return energy * Hartree


def test_d3_is_its_formula(add):
    pytest.importorskip('metatomic.torch')
    atoms = Atoms('OCHHCOH', np.random.default_rng(4).normal(size=(7, 3)))
    atoms.positions *= 1.6
    frame = Frame.from_atoms(atoms)
    energy, forces = add(frame, dispersion=Dispersion('d3bj', cutoff=60.0, coordination_cutoff=30.0))
    assert energy == pytest.approx(naive_d3(frame), rel=3e-6)
    assert energy < -0.01
    step = np.zeros((7, 3))
    step[2, 1] = 1e-3
    options = {'dispersion': Dispersion('d3bj', cutoff=60.0, coordination_cutoff=30.0)}
    apart = [add(frame.replace(positions=frame.positions + sign * step), **options)[0] for sign in (1, -1)]
    assert forces[2, 1] == pytest.approx(-(apart[0] - apart[1]) / 2e-3, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize('functional', D3_FUNCTIONALS)
def test_lammps_knows_the_functionals_of_d3(add, functional):
    frame = Frame.from_atoms(Atoms('SiO', [[0, 0, 0], [0, 0, 2.0]]))
    assert add(frame, dispersion=Dispersion('d3bj', functional))[0] < 0.0


def zbl_force(numbers, r):
    """Minus the derivative of the unswitched ZBL energy, eV/A."""
    coefficients = np.array([0.18175, 0.50986, 0.28022, 0.02817])
    exponents = np.array([3.19980, 0.94229, 0.40290, 0.20162])
    length = 0.46850 / (numbers[0] ** 0.23 + numbers[1] ** 0.23)

    def energy(r):
        return 14.399645 * numbers[0] * numbers[1] / r * (coefficients * np.exp(-exponents * r / length)).sum()

    return -(energy(r + 1e-5) - energy(r - 1e-5)) / 2e-5


@pytest.mark.parametrize(('symbols', 'numbers'), [('SiSi', (14, 14)), ('SiO', (14, 8)), ('OO', (8, 8))])
def test_zbl_acts_between_the_radii_of_each_pair(add, symbols, numbers):
    """With a third atom far away, so that there always are two elements and three pairs of them."""
    length = covalent_radii[list(numbers)].sum()

    def push(r):
        positions = [[0, 0, 0], [0, 0, r], [0, 20, 0], [0, 30, 0]]
        energy, forces = add(Frame.from_atoms(Atoms(symbols + 'SiO', positions)), repulsion=Repulsion())
        assert np.abs(forces[2:]).max() == 0.0
        return energy, forces[1, 2]

    assert push(0.71 * length) == (0.0, 0.0)
    assert push(0.35 * length)[1] == pytest.approx(zbl_force(numbers, 0.35 * length), rel=1e-4)
    energy, force = push(0.69 * length)
    assert 0.0 < force < 0.3 * zbl_force(numbers, 0.69 * length) and energy > 0.0
    between = [push(0.55 * length + step)[0] for step in (1e-4, -1e-4)]
    assert push(0.55 * length)[1] == pytest.approx(-(between[0] - between[1]) / 2e-4, rel=1e-5)


def test_dispersion_and_repulsion_add_up(add):
    frame = Frame.from_atoms(Atoms('SiOSi', [[0, 0, 0], [0, 0, 1.0], [0, 3.0, 0]]))
    both = add(frame, dispersion=Dispersion('d2'), repulsion=Repulsion())[0]
    alone = add(frame, dispersion=Dispersion('d2'))[0], add(frame, repulsion=Repulsion())[0]
    assert both == pytest.approx(sum(alone)) and alone[0] < 0 < alone[1]
    assert add(frame)[0] == 0.0


@pytest.mark.parametrize(
    ('kind', 'options', 'said'),
    [
        (Dispersion, {'method': 'd4'}, '`dispersion.method`'),
        (Dispersion, {'method': 'd2', 'functional': 'pbesol'}, '`dispersion.functional`'),
        (Dispersion, {'method': 'd3bj', 'functional': 'lda'}, '`dispersion.functional`'),
        (Dispersion, {'method': 'd2', 'cutoff': 0.0}, '`dispersion.cutoff`'),
        (Repulsion, {'style': 'born'}, '`repulsion.style`'),
        (Repulsion, {'inner': 0.8}, '`repulsion.outer`'),
        (Repulsion, {'inner': -0.1}, '`repulsion.inner`'),
    ],
)
def test_settings_out_of_range_are_refused(kind, options, said):
    with pytest.raises(ValueError, match=said):
        kind(**options)


def test_what_d2_does_not_know_is_refused():
    with pytest.raises(ValueError, match='no parameters for W'):
        pair_commands(['Si', 'W'], dispersion=Dispersion('d2'))


def test_styles_that_the_lammps_in_use_lacks_are_refused():
    lammps = open_lammps(['-log', 'none', '-screen', 'none'])
    try:
        check_styles(['units metal', *pair_commands(['Si'], Dispersion('d3bj'), Repulsion())], lammps.has_style)
        check_styles(['fix a all temp/csvr 1 1 1 1', 'fix b all atom/swap 1 1 1 1.0 types 1 2'], lammps.has_style)
        with pytest.raises(RuntimeError, match=r"no fix style 'plumed'.*package PLUMED"):
            check_styles(['fix plumed all plumed plumedfile plumed.dat'], lambda category, name: name != 'plumed')
        with pytest.raises(RuntimeError, match="no pair style 'no/such'"):
            check_styles(['pair_style no/such 1.0'], lammps.has_style)
    finally:
        lammps.close()
