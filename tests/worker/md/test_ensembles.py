"""What the script makes LAMMPS do, by runs with a cheap potential: argon, smoothly cut, in numpy."""

import json
import re

import numpy as np
import pytest
from ase.build import bulk, fcc100
from ase.units import kB

from aiida_alpot.worker.frames.frame import Frame
from aiida_alpot.worker.md.driver import script_commands
from aiida_alpot.worker.md.lammps_input import write_lammps_input
from aiida_alpot.worker.md.lammps_library import open_lammps
from aiida_alpot.worker.md.settings import MDSettings

CUTOFF, EPSILON, SIGMA = 5.2, 0.0104, 3.4
LOW, HIGH = [True, True, False], [True, True, True]


def argon(positions, cell, periodic):
    """Energy, forces and virial of Lennard-Jones with a switch ``(1 - (r / rc)^2)^3``, nearest images."""
    vectors = positions[None] - positions[:, None]
    vectors -= np.rint(vectors @ np.linalg.inv(cell)) * periodic @ cell
    squares = (vectors**2).sum(axis=2) + 1e9 * np.eye(len(positions))
    inside = squares < CUTOFF**2
    squares = np.where(inside, squares, CUTOFF**2)
    powers, switch = (SIGMA**2 / squares) ** 3, 1.0 - squares / CUTOFF**2
    pair = 4 * EPSILON * (powers**2 - powers)
    slope = 4 * EPSILON * (-6 * powers**2 + 3 * powers) / squares * switch**3 - 3 * pair * switch**2 / CUTOFF**2
    slope = np.where(inside, slope, 0.0)  # by the square of the distance
    forces = 2.0 * np.einsum('ij,ijk->ik', slope, vectors)
    virial = -np.einsum('ij,ija,ijb->ab', slope, vectors, vectors)
    return 0.5 * (pair * switch**3 * inside).sum(), forces, virial


class Simulation:
    """One run of a script, its `fix external` served by a function."""

    def __init__(self, written, folder, potential=None):
        written.write(folder)
        self.lammps = open_lammps(['-log', str(folder / 'log.lammps'), '-screen', 'none'])
        self.potential = potential or argon
        self.boxes, self.steps, self.errors, self.types = [], [], [], []
        for command in script_commands(written.script):
            if command.startswith('run '):
                self.lammps.command('fix record all ave/time 10 1 10 c_thermo_temp c_thermo_press file record.dat')
            self.lammps.command(command)
            if 'external' in command.split():
                self.lammps.set_fix_external_callback('alpot', self.callback, None)
                self.lammps.fix_external_set_vector_length('alpot', 6)
        self.lammps.close()
        assert not self.errors
        self.log = (folder / 'log.lammps').read_text()
        record = np.loadtxt(folder / 'record.dat')
        self.record_steps, self.temperature, self.pressure = record[:, 0], record[:, 1], record[:, 2] * 1e-4

    def callback(self, _, step, n, tags, positions, forces):
        try:
            low, high, xy, yz, xz, periodic, _ = self.lammps.extract_box()
            lengths = np.subtract(high, low)
            cell = np.array([[lengths[0], 0, 0], [xy, lengths[1], 0], [xz, yz, lengths[2]]])
            types = self.lammps.numpy.extract_atom('type')[:n][np.argsort(tags)]
            if self.potential is argon:
                energy, forces[:], virial = argon(positions, cell, np.array(periodic, dtype=float))
            else:
                energy, virial = self.potential(types), np.zeros((3, 3))
                forces[:] = 0.0
            self.lammps.fix_external_set_energy_global('alpot', float(energy))
            order = [(0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2)]
            self.lammps.fix_external_set_virial_global('alpot', [float(virial[i]) for i in order])
            self.steps.append(step)
            self.boxes.append(cell)
            self.types.append(types.tolist())
        except BaseException as error:  # noqa: BLE001 -- ctypes swallows what leaves here
            self.errors.append(error)


@pytest.fixture
def simulate(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(frame, potential=None, restart_file='', **settings):
        options = {'timestep': 2.0, 'temperature': 30.0, 'committee_every': 10, 'sample_every': 100, **settings}
        written = write_lammps_input(frame, MDSettings(**options), committee=['a', 'b'], restart_file=restart_file)
        return Simulation(written, tmp_path, potential)

    return run


@pytest.fixture(scope='module')
def crystal():
    return Frame.from_atoms(bulk('Ar', 'fcc', 5.3, cubic=True).repeat(2))


@pytest.fixture(scope='module')
def slab():
    atoms = fcc100('Ar', (4, 4, 2), a=5.3, vacuum=6.0)
    atoms.pbc = LOW
    return Frame.from_atoms(atoms)


def test_the_potential_is_its_own_derivative(crystal):
    rng = np.random.default_rng(0)
    positions, periodic = crystal.positions + 0.1 * rng.normal(size=(32, 3)), np.ones(3)
    _, forces, virial = argon(positions, crystal.cell, periodic)
    step = np.zeros((32, 3))
    step[3, 1] = 1e-5
    energies = [argon(positions + sign * step, crystal.cell, periodic)[0] for sign in (1, -1)]
    assert forces[3, 1] == pytest.approx(-(energies[0] - energies[1]) / 2e-5, abs=1e-8)
    strain = np.eye(3)
    strain[0, 1] += 1e-5
    sheared = argon(positions @ strain, crystal.cell @ strain, periodic)[0]
    strain[0, 1] -= 2e-5
    back = argon(positions @ strain, crystal.cell @ strain, periodic)[0]
    assert virial[0, 1] == pytest.approx(-(sheared - back) / 2e-5, abs=1e-7)


@pytest.mark.parametrize('thermostat', ['nose_hoover', 'langevin', 'csvr'])
def test_thermostats_reach_the_temperature_and_its_fluctuations(simulate, crystal, thermostat):
    run = simulate(crystal, thermostat=thermostat, thermostat_damping=100.0, n_steps=6000)
    found = run.temperature[60:]
    assert found.mean() == pytest.approx(30.0, rel=0.06)
    assert found.std() / found.mean() == pytest.approx(np.sqrt(2 / 93), rel=0.3)  # canonical, 93 degrees of freedom


@pytest.mark.parametrize('thermostat', ['nose_hoover', 'langevin', 'csvr'])
def test_barostats_reach_the_pressure_with_each_thermostat(simulate, crystal, thermostat):
    run = simulate(
        crystal, ensemble='npt', barostat='aniso', pressure=0.3, thermostat=thermostat, barostat_damping=500.0,
        n_steps=4000,
    )  # fmt: skip
    assert run.pressure[100:].mean() == pytest.approx(0.3, abs=0.05)
    assert run.temperature[100:].mean() == pytest.approx(30.0, rel=0.12)
    assert np.mean([np.linalg.det(box) for box in run.boxes[1000:]]) < 0.97 * crystal.volume


@pytest.mark.parametrize('barostat', ['iso', 'aniso', 'tri'])
def test_a_barostat_never_touches_the_vacuum_of_a_slab(simulate, slab, barostat):
    run = simulate(slab, ensemble='npt', barostat=barostat, n_steps=600, barostat_damping=300.0)
    boxes = np.array(run.boxes)
    assert np.ptp(boxes[:, 0, 0]) > 0.05 and np.ptp(boxes[:, 1, 1]) > 0.05
    assert (boxes[:, 2, :2] == 0.0).all()  # xz and yz
    assert (np.ptp(boxes[:, 1, 0]) > 1e-3) == (barostat == 'tri')
    ratio = boxes[:, 0, 0] / boxes[:, 1, 1]
    assert (np.ptp(ratio) < 1e-9) == (barostat == 'iso')
    # The third axis is what shrink-wrapped boundaries leave: the atoms and their margin, never the cell of the frame.
    assert np.ptp(boxes[:, 2, 2]) < 2.0


def test_pressure_by_axis(simulate, crystal):
    run = simulate(crystal, ensemble='npt', pressure={'z': 0.4}, n_steps=800, barostat_damping=300.0)
    boxes = np.array(run.boxes)
    assert np.ptp(boxes[:, 0, 0]) == np.ptp(boxes[:, 1, 1]) == 0.0
    assert boxes[-1, 2, 2] < boxes[0, 2, 2] - 0.1


def test_ramps(simulate, crystal):
    run = simulate(
        crystal, ensemble='npt', temperature_end=10.0, pressure_end=0.6, thermostat='csvr', thermostat_damping=50.0,
        barostat_damping=300.0, n_steps=4000,
    )  # fmt: skip
    assert run.temperature[-40:].mean() == pytest.approx(11.0, rel=0.15)  # of the last tenth
    assert run.temperature[180:220].mean() == pytest.approx(20.0, rel=0.15)
    assert run.pressure[-40:].mean() == pytest.approx(0.57, abs=0.06)


def test_a_ramp_goes_on_after_a_restart(simulate, crystal):
    """And the noise of a thermostat is not that of the first part once more."""
    options = {'thermostat': 'langevin', 'thermostat_damping': 20.0, 'temperature_end': 3.0}
    first = simulate(crystal, **options, n_steps=1000)
    second = simulate(crystal, **options, n_steps=2000, restart_file='final.restart')
    # 16.5 K in the middle of a ramp from 30 to 3 K, 30 K at the start of one.
    assert second.temperature[:10].mean() < 20.0
    assert second.temperature[-10:].mean() < 6.0
    assert second.record_steps[0] >= 1000
    seeds = [re.search(r'fix thermostat all langevin \S+ \S+ \S+ (\d+)', run.log)[1] for run in (first, second)]
    assert seeds[0] != seeds[1]


@pytest.mark.parametrize(('component', 'row', 'column'), [('xx', 0, 0), ('zz', 2, 2), ('xy', 1, 0), ('yz', 2, 1)])
def test_deformation_reaches_the_strain(simulate, crystal, component, row, column):
    """0.1 ps at 0.4 / ps; a shear by component moves the top of the cell by that much of its height."""
    run = simulate(crystal, deformation={component: 0.4}, n_steps=50, thermostat='csvr')
    change = run.boxes[-1] - run.boxes[0]
    expected = np.zeros((3, 3))
    expected[row, column] = 0.04 * crystal.cell[row, row] * 49 / 50  # it acts at the end of a step, after the forces
    np.testing.assert_allclose(change, expected, atol=1e-9)


def test_deformation_beside_a_barostat_on_another_axis(simulate, crystal):
    run = simulate(crystal, ensemble='npt', pressure={'x': 0.0}, deformation={'zz': -0.2}, n_steps=100)
    change = run.boxes[-1] - run.boxes[0]
    assert change[2, 2] == pytest.approx(-0.2 * 0.2 * crystal.cell[2, 2] * 0.99)
    assert change[0, 0] != 0.0 and change[1, 1] == 0.0


@pytest.fixture(scope='module')
def mixture():
    """Three argon and one krypton, far apart."""
    positions = [[1, 1, 1], [6, 1, 1], [1, 6, 1], [1, 1, 6]]
    return Frame([36, 18, 18, 18], np.array(positions, dtype=float), 10.0 * np.eye(3), HIGH)


def test_swaps_follow_boltzmann(simulate, mixture):
    """Krypton on the first atom is better by kT ln 3: as likely there as on the three others together."""
    gain = kB * 300.0 * np.log(3.0)
    run = simulate(
        mixture, lambda types: -gain * (types[0] == 2), temperature=300.0, n_steps=20000, thermostat='langevin',
        swaps={'elements': [['Ar', 'Kr']], 'every': 10}, max_temperature=1e9,
    )  # fmt: skip
    of_step = dict(zip(run.steps, run.types, strict=True))  # the last evaluation of a step is the accepted state
    first = np.mean([types[0] == 2 for types in of_step.values()])
    assert first == pytest.approx(0.5, abs=0.05)
    assert all(sorted(types) == [1, 1, 1, 2] for types in run.types)


def test_a_swap_that_costs_too_much_is_never_accepted(simulate, mixture):
    run = simulate(
        mixture, lambda types: 10.0 * (types[0] != 2), temperature=300.0, n_steps=500,
        swaps={'elements': [['Kr', 'Ar']], 'every': 10, 'attempts': 3},
    )  # fmt: skip
    of_step = dict(zip(run.steps, run.types, strict=True))
    assert all(types[0] == 2 for types in of_step.values())
    assert any(types[0] != 2 for types in run.types)  # it was tried


OCCUPATION = """
from ase.calculators.calculator import Calculator, all_changes
import numpy as np

class Occupation(Calculator):
    implemented_properties = ['energy', 'forces', 'stress']

    def calculate(self, atoms=None, properties=None, system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.results = {
            'energy': 10.0 * (atoms.numbers[0] != 36), 'forces': np.zeros((len(atoms), 3)), 'stress': np.zeros(6)
        }
"""


def test_frames_of_the_driver_are_accepted_states(mixture, tmp_path, drive):
    """At every step a swap is tried, and at every step a frame is kept."""
    (tmp_path / 'occupation.py').write_text(OCCUPATION)
    member = {'calculator': 'occupation.Occupation', 'elements': ['Ar', 'Kr'], 'cutoff': 3.0}
    (tmp_path / 'member.json').write_text(json.dumps(member))
    settings = MDSettings(
        n_steps=30, sample_every=1, committee_every=1, swaps={'elements': [['Ar', 'Kr']], 'every': 1, 'attempts': 2}
    )
    write_lammps_input(mixture, settings, committee=['member.json']).write(tmp_path)
    outcome = drive(tmp_path)
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.summary['n_evaluations'] > 90  # trials among them
    assert [frame.metadata['step'] for frame in outcome.frames] == list(range(1, 31))
    assert all(frame.numbers[0] == 36 for frame in outcome.frames)
    assert (outcome.watch['potential_energy'] == 0.0).all()


def test_a_deformation_goes_on_after_a_restart(simulate, crystal):
    """Engineering strain counts from the very first cell."""
    options = {'deformation': {'xx': 0.5, 'xy': -0.3}, 'thermostat': 'csvr'}
    simulate(crystal, **options, n_steps=100)
    run = simulate(crystal, **options, n_steps=200, restart_file='final.restart')
    assert run.steps[0] == 100
    assert run.boxes[-1][0, 0] == pytest.approx(crystal.cell[0, 0] * (1 + 0.5 * 0.4 * 199 / 200))
    assert run.boxes[-1][1, 0] == pytest.approx(-crystal.cell[1, 1] * 0.3 * 0.4 * 199 / 200)


def test_a_run_with_added_interactions_continues_as_if_nothing_had_happened(simulate, crystal):
    options = {'dispersion': {'method': 'd2', 'cutoff': 6.0}, 'repulsion': {}, 'ensemble': 'nve'}
    whole = simulate(crystal, **options, n_steps=40)
    simulate(crystal, **options, n_steps=20)
    second = simulate(crystal, **options, n_steps=40, restart_file='final.restart')
    np.testing.assert_allclose(second.temperature[-2:], whole.temperature[-2:], rtol=1e-5)
    bare = simulate(crystal, ensemble='nve', n_steps=40)
    assert abs(bare.temperature[-1] - whole.temperature[-1]) > 0.01
