"""What arrives in LAMMPS is what the committee says."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111

from aiida_alpot.worker.acquisition.signals.committee import deviations
from aiida_alpot.worker.frames.frame import Frame
from aiida_alpot.worker.md.configuration import DriverConfiguration
from aiida_alpot.worker.md.forces import CommitteeForces
from aiida_alpot.worker.md.lammps_input import MDSettings, write_lammps_input
from aiida_alpot.worker.md.lammps_library import open_lammps
from aiida_alpot.worker.md.script import script_commands
from aiida_alpot.worker.md.trajectory import Trajectory
from aiida_alpot.worker.potentials import load_committee


def structures():
    rng = np.random.default_rng(5)
    cubic = bulk('Si', cubic=True)
    cubic.numbers = [6, 42, 14, 42, 14, 14, 6, 42]  # three elements, neither in order of number nor of the alphabet
    triclinic = cubic.copy()
    triclinic.set_cell(cubic.cell.array @ (np.eye(3) + 0.1 * rng.normal(size=(3, 3))), scale_atoms=True)
    triclinic.rotate(40.0, (1.0, 1.0, 0.3), rotate_cell=True)
    left_handed = triclinic.copy()
    left_handed.set_cell(left_handed.cell.array[[0, 2, 1]])
    small = bulk('Si')
    small.numbers = [6, 14]
    skewed = small.copy()
    skewed.set_cell(np.array([[1, 0, 0], [2, 1, 0], [0, -1, 1]]) @ small.cell.array)  # far beyond a tilt of one half
    slab = fcc111('Si', (2, 2, 2), a=4.6, vacuum=5.0)
    slab.pbc = (True, True, False)
    molecule = Atoms('CSiMo', [[0.0, 0.0, 0.0], [2.3, 0.2, 0.0], [0.3, 2.6, 0.4]])
    found = {
        'cubic': cubic,
        'triclinic': triclinic,
        'left-handed': left_handed,
        'smaller than the cutoff': small,
        'skewed': skewed,
        'slab': slab,
        'molecule': molecule,
    }
    for atoms in found.values():
        atoms.positions += 0.1 * rng.normal(size=atoms.positions.shape)
    return found


@pytest.fixture(scope='module')
def committee(mace_files):
    return load_committee(mace_files(['C', 'Si', 'Mo'], n_members=2))


@pytest.fixture(scope='module')
def calculators(mace_files):
    from mace.calculators import MACECalculator

    paths = mace_files(['C', 'Si', 'Mo'], n_members=2)
    return [MACECalculator(model_paths=str(path), device='cpu', default_dtype='float64') for path in paths]


@pytest.fixture
def start(tmp_path, monkeypatch):
    """LAMMPS after a script's run of no steps, the committee attached."""
    monkeypatch.chdir(tmp_path)
    opened = []

    def run(frame, committee, settings=None, **options):
        written = write_lammps_input(frame, settings or MDSettings(min_thickness=0.0), committee=['a', 'b'], **options)
        written.write(tmp_path)
        lammps = open_lammps(['-log', 'none', '-screen', 'none'])
        opened.append(lammps)
        forces = CommitteeForces
        for command in script_commands(written.script):
            words = command.split()
            if words[0] in ('velocity', 'write_restart'):
                continue
            lammps.command('run 0' if words[0] == 'run' else command)
            if 'external' in words:
                trajectory = Trajectory(tmp_path / 'frames', tmp_path / 'watch.h5')
                configuration = DriverConfiguration(**written.driver)
                forces = CommitteeForces(lammps, words[1], committee, configuration, trajectory)
                forces.attach()
        assert forces.failure is None
        return lammps, np.array(written.driver['rotation'])

    yield run
    for lammps in opened:
        lammps.close()


@pytest.mark.parametrize('name', structures())
@pytest.mark.parametrize('member', [0, 1])
def test_energy_forces_and_stress_are_those_of_the_ase_calculator(committee, start, calculators, name, member):
    atoms = structures()[name]
    frame = Frame.from_atoms(atoms)
    lammps, rotation = start(frame, committee, driving_member=member)
    atoms.calc = calculators[member]
    assert lammps.get_thermo('pe') == pytest.approx(atoms.get_potential_energy(), abs=1e-8)
    forces = np.array(lammps.gather_atoms('f', 1, 3)).reshape(-1, 3) @ rotation
    np.testing.assert_allclose(forces, atoms.get_forces(), atol=1e-8)
    if name == 'molecule':
        return  # whose cell has no volume
    # LAMMPS' bar, whose last digits are those of older constants, and its volume: the box of a slab is its own.
    unit = lammps.extract_global('nktv2p') * frame.volume / lammps.get_thermo('vol')
    # For a slab ASE's calculator takes a volume of its own; ours is tested against derivatives elsewhere.
    expected = committee.evaluate([frame]).stress[member, 0] if name == 'slab' else atoms.get_stress(voigt=False)
    xx, yy, zz, xy, xz, yz = (lammps.get_thermo(f'p{axes}') for axes in ('xx', 'yy', 'zz', 'xy', 'xz', 'yz'))
    pressure = np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
    stress = rotation.T @ (-pressure / unit) @ rotation
    np.testing.assert_allclose(stress, expected, atol=1e-8)


def test_deviations_and_atomic_energies_arrive(committee, start):
    frame = Frame.from_atoms(structures()['triclinic'])
    lammps, _ = start(frame, committee)
    predictions = committee.evaluate([frame])
    expected = deviations(predictions)
    found = [lammps.extract_fix('alpot', 0, 1, index) for index in range(3)]
    np.testing.assert_allclose(found, [expected.max_force[0], expected.mean_force[0], expected.energy[0]], rtol=1e-8)
    lammps.command('compute atoms all pe/atom')
    lammps.command('thermo_modify norm no')
    lammps.command('compute total all reduce sum c_atoms')
    lammps.command('thermo_style custom step c_total')
    lammps.command('run 0')
    energies = np.array(lammps.gather('c_atoms', 1, 1))
    np.testing.assert_allclose(energies, predictions.atomic_energies[0], atol=1e-10)


def test_a_flip_of_the_tilt_is_no_change(committee, start):
    """LAMMPS exchanges lattice vectors while the cell is sheared; the energy is that of the sheared cell."""
    frame = Frame.from_atoms(structures()['cubic'])
    lammps, _ = start(frame, committee)
    lammps.command('change_box all triclinic')
    lammps.command('unfix integrate')
    lammps.command('fix shear all deform 1 xy delta 4.0 remap x')
    lammps.command('neigh_modify every 1 delay 0 check no')
    lammps.command('run 20')
    lammps.command('unfix shear')  # which acts at the end of a step, after the forces
    lammps.command('run 0')
    cell = frame.cell + np.array([[0, 0, 0], [4.0, 0, 0], [0, 0, 0]])
    sheared = frame.replace(cell=cell, positions=frame.positions @ np.linalg.inv(frame.cell) @ cell)
    assert lammps.extract_box()[2] < 0.0  # it did flip
    assert lammps.get_thermo('pe') == pytest.approx(committee.evaluate([sheared]).energy[0, 0], abs=1e-9)


@pytest.mark.parametrize('barostat', ['iso', 'aniso', 'tri'])
def test_barostats_accept_a_skewed_cell(committee, start, barostat):
    frame = Frame.from_atoms(structures()['skewed'])
    lammps, _ = start(frame, committee, MDSettings(ensemble='npt', barostat=barostat, timestep=0.5, min_thickness=0.0))
    lammps.command('run 5')
    assert lammps.extract_global('ntimestep') == 5
