"""What is written for LAMMPS."""

import json
import re

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from aiida_alpot.worker.acquisition.calibration import linear
from aiida_alpot.worker.frames.frame import Frame
from aiida_alpot.worker.md.configuration import DriverConfiguration
from aiida_alpot.worker.md.lammps_input import lammps_data, lammps_script, type_map, write_lammps_input
from aiida_alpot.worker.md.settings import MDSettings


@pytest.fixture
def alloy():
    return Frame([52, 74, 42, 74], np.arange(12.0).reshape(4, 3), 12.0 * np.eye(3), [True, True, True])


def test_types_follow_the_atomic_number_whatever_the_order_of_the_atoms(alloy):
    """Peer defect 5."""
    shuffled = alloy.replace(numbers=[74, 52, 74, 42])
    for frame in (alloy, shuffled):
        assert type_map(frame) == ('Mo', 'Te', 'W')
        lines = lammps_data(frame).splitlines()
        masses = lines[lines.index('Masses') + 2 :][:3]
        assert masses == ['1 95.95 # Mo', '2 127.6 # Te', '3 183.84 # W']
        atoms = lines[lines.index('Atoms # atomic') + 2 :]
        assert [int(line.split()[1]) for line in atoms] == [{42: 1, 52: 2, 74: 3}[z] for z in frame.numbers.tolist()]
        written = write_lammps_input(frame, MDSettings(), committee=['a.model'])
        assert written.driver['elements'] == ['Mo', 'Te', 'W'] and '# types: Mo Te W' in written.script


def test_a_type_map_may_hold_more_elements(alloy):
    assert type_map(alloy, ['W', 'Te', 'H', 'Mo']) == ('H', 'Mo', 'Te', 'W')
    with pytest.raises(ValueError, match='contains Mo, which `elements` leaves out'):
        type_map(alloy, ['W', 'Te'])


def test_data_file_holds_all_digits_and_the_tilt():
    frame = Frame.from_atoms(bulk('Al'))
    data = lammps_data(frame)
    assert ' xy xz yz' in data
    assert ' xy xz yz' not in lammps_data(Frame.from_atoms(bulk('Al', cubic=True)))
    cubic = Frame.from_atoms(bulk('Si', cubic=True))
    rows = [line.split() for line in lammps_data(cubic).splitlines()[-8:]]
    np.testing.assert_array_equal([[float(word) for word in row[2:]] for row in rows], cubic.positions)


@pytest.mark.parametrize(
    ('pbc', 'barostat', 'words'),
    [
        ((1, 1, 1), 'iso', 'x 15000.0 15000.0 1.0 y 15000.0 15000.0 1.0 z 15000.0 15000.0 1.0 couple xyz'),
        ((1, 1, 1), 'aniso', 'x 15000.0 15000.0 1.0 y 15000.0 15000.0 1.0 z 15000.0 15000.0 1.0'),
        ((1, 1, 0), 'iso', 'x 15000.0 15000.0 1.0 y 15000.0 15000.0 1.0 couple xy'),
        ((1, 0, 0), 'iso', 'x 15000.0 15000.0 1.0'),
        ((0, 1, 1), 'tri', 'y 15000.0 15000.0 1.0 z 15000.0 15000.0 1.0 yz 0.0 0.0 1.0'),
    ],
)
def test_the_barostat_acts_on_periodic_axes_only(pbc, barostat, words):
    """Peer defect 4, for MD. Pressure goes from GPa to bar."""
    script = lammps_script(
        MDSettings(ensemble='npt', pressure=1.5, barostat=barostat), ['Si'], np.array(pbc, dtype=bool)
    )
    assert f'fix integrate all npt temp 300.0 300.0 0.1 {words}\n' in script
    assert f'boundary {" ".join("p" if periodic else "m" for periodic in pbc)}\n' in script


def test_ensembles_and_options():
    periodic = np.ones(3, dtype=bool)
    assert 'fix integrate all nve\n' in lammps_script(MDSettings(ensemble='nve'), ['Si'], periodic)
    script = lammps_script(
        MDSettings(timestep=2.0, thermostat_damping=50.0, restart_every=7, max_seconds=90), ['Si'], periodic
    )
    assert 'timestep 0.002\n' in script and 'fix integrate all nvt temp 300.0 300.0 0.05\n' in script
    assert 'restart 7 run.restart.a run.restart.b\n' in script and 'timer timeout 90 every 1\n' in script
    again = lammps_script(MDSettings(), ['Si'], periodic, restart_file='run.restart.a')
    assert 'read_restart run.restart.a\n' in again and 'velocity' not in again and 'read_data' not in again


def test_driver_part(alloy, tmp_path):
    written = write_lammps_input(
        alloy, MDSettings(seed=4), committee=['a.model', 'b.model'], driving_member=1, metadata={'round': 2}
    )
    written.write(tmp_path)
    driver = json.loads((tmp_path / 'driver.json').read_text())
    assert driver['lineage'] == f'{alloy.frame_id[:16]}:md:4' and driver['metadata'] == {'round': 2}
    assert driver['max_temperature'] == 3000.0 and driver['driving_member'] == 1
    assert (tmp_path / 'in.lammps').read_text() == written.script


def test_noise_beside_the_integrator():
    periodic = np.ones(3, dtype=bool)
    script = lammps_script(MDSettings(thermostat='langevin', seed=3), ['Si'], periodic)
    assert 'fix integrate all nve\n' in script
    assert 'fix thermostat all langevin 300.0 300.0 0.1 ${noise} zero yes\n' in script
    settings = MDSettings(ensemble='npt', thermostat='csvr', temperature_end=600, pressure=1, pressure_end=2)
    script = lammps_script(settings, ['Si'], periodic)
    assert 'fix integrate all nph x 10000.0 20000.0 1.0 y' in script
    assert 'fix thermostat all temp/csvr 300.0 600.0 0.1 ${noise}\n' in script
    assert 'run 1000 upto start 0 stop 1000\n' in script
    assert 'run 1000 upto\n' in lammps_script(MDSettings(), ['Si'], periodic)


def test_pressures_by_axis():
    script = lammps_script(
        MDSettings(ensemble='npt', barostat='tri', pressure={'y': 1.0, 'x': 0.0}), ['Si'], np.ones(3, dtype=bool)
    )
    assert 'npt temp 300.0 300.0 0.1 x 0.0 0.0 1.0 y 10000.0 10000.0 1.0 xy 0.0 0.0 1.0\n' in script


def test_deformation_needs_a_cell_that_can_tilt(alloy):
    sheared = write_lammps_input(alloy, MDSettings(deformation={'xz': 0.1, 'yy': -0.2}), committee=['a.model'])
    assert 'fix deformation all deform 1 xz erate 0.1 y erate -0.2 units box remap x\n' in sheared.script
    assert '0.0 0.0 0.0 xy xz yz\n' in sheared.data
    stretched = write_lammps_input(alloy, MDSettings(deformation={'yy': -0.2}), committee=['a.model'])
    assert 'xy xz yz' not in stretched.data


def test_swaps_by_the_type_map(alloy):
    settings = MDSettings(swaps={'elements': [['W', 'Mo'], ['Te', 'W']], 'every': 50, 'attempts': 3}, temperature=900)
    script = write_lammps_input(alloy, settings, committee=['a.model']).script
    found = re.findall(r'fix (\w+) all atom/swap 50 3 (\d+) 900.0 ke yes types (\d) (\d)', script)
    assert [(name, i, j) for name, _, i, j in found] == [('swap_W_Mo', '3', '1'), ('swap_Te_W', '2', '3')]
    assert found[0][1] != found[1][1]
    with pytest.raises(ValueError, match='the types are Si only'):
        lammps_script(settings, ['Si'], np.ones(3, dtype=bool))


def test_plumed_is_passed_through(alloy, tmp_path):
    text = 'd: DISTANCE ATOMS=1,2\nMETAD ARG=d SIGMA=0.1 HEIGHT=1 PACE=100 LABEL=m\n'
    written = write_lammps_input(alloy, MDSettings(plumed=text), committee=['a.model'])
    lines = written.script.splitlines()
    place = lines.index('fix plumed all plumed plumedfile plumed.dat outfile plumed.out')
    assert lines[place - 1].startswith('fix integrate')
    written.write(tmp_path)
    assert (tmp_path / 'plumed.dat').read_text() == text
    again = write_lammps_input(alloy, MDSettings(plumed=text), committee=['a.model'], restart_file='final.restart')
    assert again.files['plumed.dat'] == 'RESTART\n' + text


@pytest.mark.parametrize(
    ('uncertainty', 'halts'),
    [
        ({'lower': 0.3, 'on_crossing': 'halt'}, ['v_error > 0.3']),
        ({'lower': 0.3, 'upper': 2.0, 'on_crossing': 'halt'}, ['v_error > 0.3']),
        ({'lower': 0.3, 'on_crossing': 'collect'}, []),
        ({'lower': 0.3, 'upper': 2.0, 'on_crossing': 'collect'}, ['v_error > 2.0']),
        ({'lower': 0.3, 'upper': 2.0, 'on_crossing': 'rewind'}, []),
        ({'grade_lower': 2.0, 'grade_upper': 9.0, 'on_crossing': 'halt'}, ['v_grade > 2.0']),
        ({'lower': 0.3, 'grade_lower': 2.0, 'grade_upper': 9.0}, ['v_grade > 9.0']),
    ],
)
def test_where_the_run_halts(alloy, uncertainty, halts):
    written = write_lammps_input(
        alloy, MDSettings(uncertainty=uncertainty), committee=['a.model', 'b.model'], active_set='set.npz'
    )
    found = re.findall(r'fix halt_\w+ all halt 10 (.*) error soft', written.script)
    assert found == halts
    for name, index in (('error', 4), ('grade', 5)):
        assert (f'variable {name} equal f_alpot[{index}]\n' in written.script) == any(f'v_{name}' in h for h in halts)


def test_what_the_driver_watches_and_biases(alloy):
    deviation = np.linspace(0.1, 2.0, 40)
    calibration = linear(deviation, 1.5 * deviation, np.arange(40)).as_dict()
    settings = MDSettings(
        seed=7,
        temperature=400.0,
        uncertainty={'lower': 0.3, 'upper': 2.0, 'keep_before': 2},
        bias={'temperature': 100.0, 'cap': 500.0},
    )
    written = write_lammps_input(
        alloy, settings, committee=['a.model', 'b.model'], calibration=calibration, active_set='set.npz'
    )
    driver = DriverConfiguration(**json.loads(json.dumps(written.driver)))
    assert driver.bounds.fitted.as_dict() == calibration
    assert (driver.bounds.lower, driver.bounds.upper, driver.bounds.keep_before) == (0.3, 2.0, 2)
    assert (driver.bias.md_temperature, driver.bias.off_above, driver.bias.cap) == (400.0, 0.3, 500.0)
    assert (driver.seed, driver.active_set) == (7, 'set.npz')
    plain = write_lammps_input(alloy, MDSettings(), committee=['a.model']).driver
    assert plain['uncertainty'] is None and plain['bias'] is None and plain['active_set'] is None


@pytest.mark.parametrize(
    ('settings', 'options', 'said'),
    [
        ({'max_deviation': 1.0}, {}, '`max_deviation` needs a committee'),
        ({'uncertainty': {'lower': 1.0}}, {}, '`uncertainty` needs a committee'),
        ({'bias': {'temperature': 1.0, 'cap': 1.0}}, {}, '`bias` needs a committee'),
        ({}, {'calibration': {}}, 'nothing is bounded by the expected error: set `uncertainty`'),
        ({'max_deviation': 1.0}, {'committee': ['a', 'b'], 'calibration': {}}, 'in place of `max_deviation`'),
        ({'uncertainty': {'grade_lower': 1.0}}, {'committee': ['a', 'b']}, 'give `active_set`'),
        ({'timestep': 3.0}, {'hydrogen': True}, 'has hydrogen'),
    ],
)
def test_what_nobody_could_measure_is_refused(alloy, settings, options, said):
    frame = alloy.replace(numbers=[1, 1, 8, 8]) if options.pop('hydrogen', False) else alloy
    with pytest.raises(ValueError, match=said):
        write_lammps_input(frame, MDSettings(**settings), **{'committee': ['a.model'], **options})


def test_starts_that_cannot_run_are_refused(alloy):
    with pytest.raises(ValueError, match='one atom'):
        write_lammps_input(Frame.from_atoms(Atoms('Si')), MDSettings(), committee=['a.model'])
    with pytest.raises(ValueError, match='not periodic along any axis'):
        write_lammps_input(alloy.replace(pbc=[False] * 3), MDSettings(ensemble='npt'), committee=['a.model'])
    with pytest.raises(ValueError, match='members 0 to 0'):
        write_lammps_input(alloy, MDSettings(), committee=['a.model'], driving_member=1)
