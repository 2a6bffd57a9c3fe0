"""A potential to take away."""

import pytest

from aiida_alpot.worker.frames import FrameStore
from aiida_alpot.worker.md import MDSettings, export_lammps
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
    assert len(FrameStore([moved / outcome.summary['shard']])) == 3
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
