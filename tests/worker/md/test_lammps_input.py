"""What is written for LAMMPS."""

import json

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from aiida_alpot.worker.frames.frame import Frame
from aiida_alpot.worker.md.lammps_input import MDSettings, lammps_data, lammps_script, type_map, write_lammps_input


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


@pytest.mark.parametrize(
    ('name', 'value'),
    [
        ('ensemble', 'nph'),
        ('barostat', 'xyz'),
        ('temperature', 0.0),
        ('temperature', float('nan')),
        ('timestep', -1.0),
        ('timestep', 20.0),
        ('pressure', 1e9),
        ('n_steps', 0),
        ('sample_every', 0),
        ('committee_every', 0),
        ('restart_every', -1),
        ('seed', -1),
        ('seed', 2**31),
        ('max_temperature', 300.0),
        ('thermostat_damping', 0.0),
    ],
)
def test_settings_out_of_range_are_refused(name, value):
    with pytest.raises(ValueError, match=f'`{name}`'):
        MDSettings(**{name: value})


def test_starts_that_cannot_run_are_refused(alloy):
    with pytest.raises(ValueError, match='one atom'):
        write_lammps_input(Frame.from_atoms(Atoms('Si')), MDSettings(), committee=['a.model'])
    with pytest.raises(ValueError, match='not periodic along any axis'):
        write_lammps_input(alloy.replace(pbc=[False] * 3), MDSettings(ensemble='npt'), committee=['a.model'])
    with pytest.raises(ValueError, match='members 0 to 0'):
        write_lammps_input(alloy, MDSettings(), committee=['a.model'], driving_member=1)
