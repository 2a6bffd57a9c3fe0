"""A potential to take away."""

import pytest

from aiida_alpot.worker.md import MDSettings, export_lammps
from aiida_alpot.worker.md.configuration import DriverConfiguration
from aiida_alpot.worker.md.lammps_input import lammps_data


def test_the_exported_folder_runs_where_it_is_put(lj_files, argon, tmp_path, drive):
    settings = MDSettings(temperature=40.0, n_steps=4, sample_every=2)
    export_lammps(tmp_path / 'first', lj_files(), ['Ar'], frame=argon, settings=settings)
    moved = (tmp_path / 'first').rename(tmp_path / 'moved')
    for path in tmp_path.glob('*.json'):
        path.unlink()  # the folder needs nothing outside
    script = moved / 'in.lammps'
    script.write_text(script.read_text().replace('run 4 upto', 'run 6 upto'))  # the script alone says how long it is
    outcome = drive(moved)
    assert outcome.returncode == 0, outcome.stderr
    assert len(outcome.frames) == 3
    assert 'alpot-md -in in.lammps' in (moved / 'README.md').read_text()


def test_without_a_structure_the_user_brings_one(lj_files, argon, tmp_path, drive):
    folder = tmp_path / 'export'
    export_lammps(folder, lj_files(), ['Ar'], settings=MDSettings(temperature=40.0, n_steps=2, sample_every=1))
    assert not (folder / 'data.lammps').exists()
    assert 'to be supplied by you' in (folder / 'README.md').read_text()
    (folder / 'data.lammps').write_text(lammps_data(argon))
    assert drive(folder).summary['completed']


def test_a_folder_in_use_is_left_alone(lj_files, tmp_path):
    with pytest.raises(FileExistsError, match='not empty'):
        export_lammps(tmp_path, lj_files(), ['Ar'])


def test_bounds_bias_and_active_set_are_exported(lj_files, argon, tmp_path):
    """With a structure and without one, and what the run needs of files is in the folder."""
    (tmp_path / 'set.npz').write_bytes(b'grades')
    settings = MDSettings(
        uncertainty={'lower': 0.3}, bias={'temperature': 30.0, 'cap': 100.0}, committee_every=5, sample_every=20, seed=9
    )
    for name, frame in (('with', argon), ('without', None)):
        folder = tmp_path / name
        export_lammps(folder, lj_files(), ['Ar'], frame=frame, settings=settings, active_set=tmp_path / 'set.npz')
        driver = DriverConfiguration.read(folder / 'driver.json')
        assert (driver.committee_every, driver.sample_every, driver.seed, driver.n_steps) == (5, 20, 9, None)
        assert driver.bounds.lower == 0.3 and driver.bias.cap == 100.0
        assert driver.active_set == str(folder / 'active_set.npz')
        assert (folder / 'active_set.npz').read_bytes() == b'grades'
        assert 'what extrapolation is measured against' in (folder / 'README.md').read_text()
    with pytest.raises(ValueError, match='needs a committee that can disagree'):
        export_lammps(tmp_path / 'one', lj_files(n_members=1), ['Ar'], settings=settings)
