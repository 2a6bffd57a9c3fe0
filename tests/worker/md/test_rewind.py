"""Back to the last safe frame, with new velocities."""

import numpy as np
import pytest

from aiida_alpot.worker.md.lammps_atoms import LammpsAtoms
from aiida_alpot.worker.md.lammps_library import open_lammps
from aiida_alpot.worker.md.rewind import rewind

SCRIPT = """units metal
atom_style atomic
atom_modify map yes
boundary p p p
lattice fcc 5.35
region box prism 0 2 0 2 0 2 0.3 0.1 -0.2
create_box 2 box
create_atoms 1 box
set group all type/fraction 2 0.5 123
mass 1 39.95
mass 2 83.8
pair_style lj/cut 7.0
pair_coeff * * 0.0104 3.4
fix alpot all external pf/callback 1 1
timestep 0.002
velocity all create 300.0 12345 mom yes
fix integrate all npt temp 300 300 0.1 tri 0 0 1.0
thermo_modify norm no"""


@pytest.fixture
def lammps():
    found = open_lammps(['-log', 'none', '-screen', 'none'])
    yield found
    found.close()


def snapshot_of(lammps, step):
    atoms = LammpsAtoms(lammps, 'alpot', np.array([0, 18, 36]))
    n = lammps.get_natoms()
    return atoms.read(step, lammps.numpy.extract_atom('id')[:n], lammps.numpy.extract_atom('x')[:n])


def test_positions_cell_and_species_come_back_and_velocities_are_new(lammps):
    for command in SCRIPT.splitlines():
        lammps.command(command)
    lammps.set_fix_external_callback('alpot', lambda *_: None, None)
    lammps.command('run 20')
    snapshot = snapshot_of(lammps, 20)
    energy = lammps.get_thermo('pe')
    lammps.command('run 200')  # atoms are wrapped and sorted on the way
    lammps.command('set atom 1*5 type 2')
    assert abs(lammps.get_thermo('pe') - energy) > 1e-3
    velocities = []
    for number in (1, 1, 2):
        rewind(lammps, snapshot, 250.0, 7, number, ['fix integrate all npt temp 300 300 0.1 tri 0 0 1.0'])
        lammps.command('run 0')
        assert lammps.get_thermo('pe') == pytest.approx(energy, abs=1e-9)
        assert lammps.get_thermo('temp') == pytest.approx(250.0)
        velocities.append(np.array(lammps.gather_atoms('v', 1, 3)))
    np.testing.assert_array_equal(velocities[0], velocities[1])
    assert np.abs(velocities[0] - velocities[2]).max() > 0.1
    low, high, xy, yz, xz, *_ = lammps.extract_box()
    np.testing.assert_allclose(low, snapshot.low)
    np.testing.assert_allclose(
        [*np.subtract(high, low), xy, xz, yz], snapshot.cell[np.tril_indices(3)][[0, 2, 5, 1, 3, 4]]
    )
    np.testing.assert_array_equal(np.array(lammps.gather_atoms('type', 0, 1)), snapshot.types)
    assert lammps.extract_global('ntimestep') == 220
    lammps.command('run 50')


@pytest.mark.parametrize('ensemble', ['nvt', 'npt'])
def test_a_run_goes_back_and_reaches_its_end(prepare, drive, ensemble, tmp_path):
    """The bound is crossed now and then: the run goes on from below it until it has gone back too often, or is done."""
    settings = {'n_steps': 60, 'sample_every': 100, 'ensemble': ensemble}
    quiet = drive(prepare(**settings)).watch['max_force_deviation']
    bound = float(np.quantile(quiet, 0.9))
    first = 2 * int(np.argmax(quiet > bound))
    uncertainty = {'lower': bound, 'on_crossing': 'rewind', 'max_rewinds': 3, 'keep_before': 2}
    outcomes = []
    for name in ('first', 'again'):
        outcomes.append(drive(prepare(tmp_path / name, **settings, max_seconds=600, uncertainty=uncertainty)))
    outcome = outcomes[0]
    summary, frames = outcome.summary, outcome.frames
    assert outcome.returncode == 0 and summary['n_rewinds'] >= 1, outcome.stderr
    assert summary['reason'] in ('completed', 'halted')
    assert summary['completed'] == (summary['last_step'] == 60)
    if summary['reason'] == 'halted':
        assert summary['n_rewinds'] == 3 and 'max_rewinds' in summary['message']
    uncertain = [frame for frame in frames if frame.metadata['why'] == 'uncertain']
    assert uncertain[0].metadata['step'] == first
    before = [frame.metadata['step'] for frame in frames if frame.metadata['why'] == 'before']
    assert [first - 4, first - 2] == before[:2]
    watch = outcome.watch
    assert set(watch['kept']) - {''} == {frame.frame_id for frame in frames}
    # After the crossing the run is near the frame that was safe, not near the one that was not.
    steps = watch['step'].tolist()
    assert steps == sorted(set(steps)) and watch['max_force_deviation'][steps.index(first)] > bound
    np.testing.assert_array_equal(outcomes[1].watch['potential_energy'], watch['potential_energy'])
    assert (outcome.folder / 'final.restart').is_file()
