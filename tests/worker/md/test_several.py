"""Several runs with one start of the program, and runs that go on where others were interrupted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from aiida_alpot.worker.frames import FrameStore
from aiida_alpot.worker.md.several import (
    EARLIER,
    RESTART_LINK,
    RESTART_SCRIPT,
    OutOfTimeError,
    find_restart,
    is_finished,
    left_of,
    once,
    restart_step,
    script_of_run,
    set_aside,
)
from aiida_alpot.worker.md.trajectory import read_watch


def summary(folder):
    return json.loads((folder / 'md.json').read_text())


def in_folders(prepare, tmp_path, n, **settings):
    """Folders of n runs with seeds 1, 2, ..."""
    folders = [tmp_path / f'run_{i:04d}' for i in range(n)]
    for i, folder in enumerate(folders):
        folder.mkdir()
        prepare(folder=folder, seed=i + 1, **settings)
    return folders


def with_restart_script(prepare, folder, **settings):
    """Add the script that goes on."""
    script = (folder / 'in.lammps').read_text()
    prepare(folder=folder, restart_file=RESTART_LINK, **settings)
    (folder / 'in.lammps').rename(folder / RESTART_SCRIPT)
    (folder / 'in.lammps').write_text(script)


def test_one_failing_does_not_stop_the_others(prepare, drive, tmp_path, misbehaving):
    """Three runs: one is refused, one fails, one is as it is alone; started again, nothing runs anew."""
    folders = in_folders(prepare, tmp_path, 4)
    (folders[0] / 'driver.json').write_text('{}')
    prepare(folder=folders[1], committee=misbehaving('raise'))
    alone = tmp_path / 'alone'
    shutil.copytree(folders[2], alone)
    arguments = ('-in', 'in.lammps', '-folders', *(folder.name for folder in folders))
    outcome = drive(tmp_path, *arguments)
    assert [summary(folder)['reason'] for folder in folders] == ['bad_input', 'potential_error', *2 * ['completed']]
    assert outcome.returncode == 2 and 'run_0000: driver.json lacks' in outcome.stderr
    assert 'run_0001: the potential failed' in outcome.stderr
    drive(alone)
    ids = [
        FrameStore(sorted((path / 'frames').glob('*.h5'))).column('frame_id').tolist() for path in (folders[2], alone)
    ]
    assert ids[0] == ids[1] and len(ids[0]) == 4
    written = [(folder / 'md.json').stat().st_mtime_ns for folder in folders]
    assert drive(tmp_path, *arguments).returncode == 0
    assert [(folder / 'md.json').stat().st_mtime_ns for folder in folders] == written


def test_a_style_that_lammps_lacks_is_refused(prepare, drive, tmp_path):
    """Before the run; the next one is run."""
    folders = in_folders(prepare, tmp_path, 2)
    script = (folders[0] / 'in.lammps').read_text()
    (folders[0] / 'in.lammps').write_text(
        script.replace('thermo_style', 'fix plumed all plumed plumedfile x outfile y\nthermo_style')
    )
    outcome = drive(tmp_path, '-in', 'in.lammps', '-folders', 'run_0000', 'run_0001')
    if 'PLUMED' not in outcome.stderr:
        pytest.skip('this LAMMPS has PLUMED')
    assert [summary(folder)['reason'] for folder in folders] == ['bad_input', 'completed']
    assert "no fix style 'plumed'" in summary(folders[0])['message']


def test_what_was_interrupted_goes_on(prepare, drive, tmp_path):
    """From the folder of the earlier run, as if it had never been interrupted, up to the same step."""
    settings = {'n_steps': 40, 'ensemble': 'nvt'}
    whole = tmp_path / 'whole'
    prepare(folder=whole, **settings)
    drive(whole)
    first = tmp_path / 'first'
    prepare(folder=first, **{**settings, 'n_steps': 20})
    drive(first)
    second = tmp_path / 'second'
    prepare(folder=second, **settings)
    with_restart_script(prepare, second, **settings)
    (second / EARLIER).symlink_to(first)
    assert drive(tmp_path, '-in', 'in.lammps', '-folders', 'second').returncode == 0
    assert (summary(second)['first_step'], summary(second)['last_step']) == (20, 40)
    reference, found = read_watch(whole / 'watch.h5'), read_watch(second / 'watch.h5')
    rows = np.isin(reference['step'], found['step'])
    np.testing.assert_allclose(reference['potential_energy'][rows], found['potential_energy'], atol=1e-9)


def test_a_signal_leaves_the_others_for_the_next_start(prepare, launch, tmp_path):
    """And that one goes on with the interrupted run, whose table so far is kept."""
    settings = {'n_steps': 3000, 'sample_every': 1000, 'restart_every': 10, 'committee_every': 50}
    folders = in_folders(prepare, tmp_path, 2, **settings)
    for i, folder in enumerate(folders):
        with_restart_script(prepare, folder, seed=i + 1, **settings)
    process = launch(tmp_path, '-in', 'in.lammps', '-folders', 'run_0000', 'run_0001')
    while not (folders[0] / 'run.restart.b').exists():
        assert process.poll() is None, process.communicate()
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 15 and summary(folders[0])['reason'] == 'terminated'
    assert not (folders[1] / 'md.json').exists() and not is_finished(folders[0])
    done = summary(folders[0])['last_step']
    for folder in folders:  # not all of it again: the test is to be short
        for name in ('in.lammps', RESTART_SCRIPT):
            text = (folder / name).read_text()
            (folder / name).write_text(text.replace('run 3000 upto', f'run {done + 20} upto'))
        driver = json.loads((folder / 'driver.json').read_text())
        (folder / 'driver.json').write_text(json.dumps({**driver, 'n_steps': done + 20}))
    process = launch(tmp_path, '-in', 'in.lammps', '-folders', 'run_0000', 'run_0001')
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    assert [summary(folder)['reason'] for folder in folders] == ['completed', 'completed']
    assert 10 <= summary(folders[0])['first_step'] <= done
    assert (folders[0] / 'watch.000.h5').is_file() and summary(folders[1])['first_step'] == 0


def test_restart_files(prepare, drive, tmp_path):
    """The latest that is complete counts, that of an earlier run only where there is none."""
    prepare(n_steps=25, restart_every=10)
    drive(tmp_path)
    steps = {name: restart_step(tmp_path / name) for name in ('run.restart.a', 'run.restart.b', 'final.restart')}
    assert steps == {'run.restart.a': 10, 'run.restart.b': 20, 'final.restart': 25}
    assert find_restart(tmp_path) == tmp_path / 'final.restart'
    content = (tmp_path / 'final.restart').read_bytes()
    (tmp_path / 'final.restart').write_bytes(content[:-20])
    assert restart_step(tmp_path / 'final.restart') is None
    assert find_restart(tmp_path) == tmp_path / 'run.restart.b'
    for size in (0, 10, 30, 60):
        (tmp_path / 'final.restart').write_bytes(content[:size])
        assert restart_step(tmp_path / 'final.restart') is None
    later = tmp_path / 'later' / 'latest'
    later.mkdir(parents=True)
    (later / EARLIER).symlink_to(later.parent)
    (later.parent / EARLIER).symlink_to(tmp_path)
    assert find_restart(later).resolve() == tmp_path / 'run.restart.b'
    assert find_restart(tmp_path / 'nowhere') is None


def test_script_of_run(tmp_path, monkeypatch):
    """Without a restart file, or the script for it, a run begins anew."""
    monkeypatch.chdir(tmp_path)
    assert script_of_run(Path('in.lammps')) == Path('in.lammps')
    Path(RESTART_SCRIPT).write_text('')
    assert script_of_run(Path('in.lammps')) == Path('in.lammps')
    words = b'LammpS RestartT\x00'
    step = b'\x05\x00\x00\x00' + (7).to_bytes(8, 'little')
    Path('final.restart').write_bytes(words + bytes(8) + step + bytes(40) + words)
    for _ in range(2):
        assert script_of_run(Path('in.lammps')) == Path(RESTART_SCRIPT)
        assert Path(RESTART_LINK).resolve() == tmp_path / 'final.restart'


def test_time_is_shared():
    """What is left when a run begins is what it gets."""
    commands = ['units metal', 'timer timeout 100 every 1', 'run 10']
    assert left_of(commands, 0.0) == commands
    assert left_of(commands, 30.0)[1] == 'timer timeout 70 every 1'
    assert left_of(['run 10'], 1e6) == ['run 10']
    for elapsed in (100.0, 500.0):
        with pytest.raises(OutOfTimeError):
            left_of(commands, elapsed)


def test_potentials_are_loaded_once(tmp_path, monkeypatch):
    """By what the paths lead to, whatever the working folder."""
    calls = []
    load = once(lambda paths, **options: calls.append(paths) or len(calls))
    (tmp_path / 'a').mkdir()
    assert [load([tmp_path / 'm'], device='cpu'), load([str(tmp_path / 'a' / '..' / 'm')], device='cpu')] == [1, 1]
    monkeypatch.chdir(tmp_path / 'a')
    assert load(['../m'], device='cpu') == 1 and load(['../m'], device='cuda') == 2


def test_tables_are_set_aside(tmp_path):
    for text in 'ab':
        (tmp_path / 'watch.h5').write_text(text)
        set_aside(tmp_path / 'watch.h5')
    set_aside(tmp_path / 'watch.h5')
    assert [path.read_text() for path in sorted(tmp_path.glob('watch.*.h5'))] == ['a', 'b']
