"""The console program, run as a CalcJob runs it."""

import json
import signal
import time

import numpy as np
import pytest

from aiida_alpot.worker.potentials import load_committee


def test_a_run(prepare, drive, argon, lj_files):
    outcome = drive(prepare(ensemble='npt', barostat='tri', pressure=0.01))
    assert outcome.returncode == 0, outcome.stderr
    summary = outcome.summary
    assert summary['completed'] and summary['reason'] == 'completed' and summary['n_steps_done'] == 20
    assert (summary['n_frames'], summary['n_evaluations']) == (4, 21)
    assert summary['n_committee_evaluations'] == 13  # 0, 2, ... 20 and 5, 15
    assert summary['seconds_per_step'] > 0

    frames, deviations = outcome.frames, outcome.kept
    assert [frame.metadata['step'] for frame in frames] == [5, 10, 15, 20] == deviations['step'].tolist()
    assert [frame.frame_id for frame in frames] == deviations['kept'].tolist()
    assert {(frame.origin, frame.lineage, frame.metadata['round']) for frame in frames} == {
        ('md', f'{argon.frame_id[:16]}:md:1', 1)
    }
    assert not any(frame.is_labelled or frame.energy is not None for frame in frames)

    # Energies and deviations of the kept frames, which are back in the orientation of the start, evaluated anew.
    predictions = load_committee(lj_files()).evaluate(frames)
    np.testing.assert_allclose(predictions.energy[0], deviations['potential_energy'], atol=1e-9)
    spread = np.abs(predictions.energy[0] - predictions.energy[1]) / 2 / len(argon)
    np.testing.assert_allclose(spread, deviations['energy_deviation'], atol=1e-12)
    force_spread = np.linalg.norm(predictions.forces[0] - predictions.forces[1], axis=-1).reshape(4, -1) / 2
    np.testing.assert_allclose(force_spread.max(axis=1), deviations['max_force_deviation'], atol=1e-10)
    np.testing.assert_allclose(force_spread.mean(axis=1), deviations['mean_force_deviation'], atol=1e-10)

    # LAMMPS' own words about the same steps.
    rows = outcome.thermo[1:]
    assert rows[:, 0].tolist() == [5, 10, 15, 20]
    np.testing.assert_allclose(deviations['temperature'], rows[:, 1], rtol=1e-6)
    np.testing.assert_allclose(deviations['pressure'], rows[:, 4] * 1e-4, rtol=1e-6)
    np.testing.assert_allclose([frame.metadata['temperature'] for frame in frames], rows[:, 1], rtol=1e-6)
    np.testing.assert_allclose(deviations['max_force_deviation'], rows[:, 6], rtol=1e-6)


def test_frames_are_in_the_orientation_of_the_start(prepare, drive, argon):
    outcome = drive(prepare(n_steps=5))
    (frame,) = outcome.frames
    np.testing.assert_allclose(frame.cell, argon.cell, atol=1e-10)
    displacement = (frame.positions - argon.positions) @ np.linalg.inv(argon.cell)
    displacement = (displacement - np.rint(displacement)) @ argon.cell
    assert 1e-4 < np.linalg.norm(displacement, axis=1).max() < 0.3


def test_energy_does_not_drift(prepare, drive, lj_files):
    """2 ps of a smooth potential."""
    folder = prepare(
        ensemble='nve', n_steps=1000, sample_every=10, committee_every=1000, temperature=80.0, committee=lj_files(1)
    )
    rows = drive(folder).thermo
    slope = np.polyfit(0.002 * rows[:, 0], rows[:, 3], 1)[0]
    assert abs(2.0 * slope) / 32 < 1e-5  # eV/atom
    assert np.ptp(rows[:, 3]) / 32 < 2e-5


def test_same_seed_same_bytes_other_seed_other_frames(prepare, drive, tmp_path):
    shards = []
    for name, seed in (('a', 1), ('b', 1), ('c', 2)):
        (tmp_path / name).mkdir()
        shards.append(drive(prepare(tmp_path / name, seed=seed, n_steps=5)).summary['shards'])
    assert shards[0] == shards[1] != shards[2]


def test_restart_continues_as_if_nothing_had_happened(prepare, drive, tmp_path):
    for name in ('whole', 'first', 'second'):
        (tmp_path / name).mkdir()
    whole = drive(prepare(tmp_path / 'whole', ensemble='npt'))
    drive(prepare(tmp_path / 'first', ensemble='npt', n_steps=10))
    second = drive(prepare(tmp_path / 'second', ensemble='npt', restart_file='../first/final.restart'))
    assert (second.summary['first_step'], second.summary['n_steps_done'], second.summary['completed']) == (10, 10, True)
    assert second.kept['step'].tolist() == [15, 20]
    np.testing.assert_array_equal(second.thermo[1:], whole.thermo[3:])  # as printed
    np.testing.assert_allclose(second.kept['potential_energy'], whole.kept['potential_energy'][2:], atol=1e-9)


@pytest.mark.parametrize(
    ('how', 'reason', 'code', 'said', 'steps'),
    [
        ('raise', 'potential_error', 20, 'failed at step 10: RuntimeError: a fault of the device, say', 9),
        ('nan', 'not_finite', 21, 'not finite at step 10', 9),
        ('kick', 'temperature', 22, 'above the bound of 3000 K', 10),
    ],
)
def test_failures_stop_the_run_and_keep_what_was_sampled(prepare, drive, misbehaving, how, reason, code, said, steps):
    outcome = drive(prepare(committee=misbehaving(how), n_steps=100000, restart_every=1000))
    summary = outcome.summary
    assert (summary['reason'], summary['exit_code'], outcome.returncode) == (reason, code, code)
    assert said in summary['message'] and said in outcome.stderr
    assert not summary['completed'] and summary['last_step'] == steps
    assert len(outcome.frames) == summary['n_frames'] == steps // 5
    assert np.isfinite(outcome.watch['temperature'][:-1]).all()  # the last step was not completed, perhaps
    assert np.isnan(outcome.watch['max_force_deviation']).all()  # a committee of one
    assert not (outcome.folder / 'final.restart').exists()  # of a state that is not right


def test_an_error_of_lammps_keeps_what_was_sampled(prepare, drive):
    folder = prepare()
    with (folder / 'in.lammps').open('a') as script:
        script.write('run 5\nno_such_command\nrun 100000\n')
    outcome = drive(folder)
    assert (outcome.returncode, outcome.summary['reason'], outcome.summary['n_frames']) == (24, 'lammps_error', 5)
    assert 'no_such_command' in outcome.summary['message']


def test_lost_atoms(prepare, drive, argon):
    folder = prepare(frame=argon.replace(pbc=[False] * 3), temperature=1000.0, n_steps=1000)
    text = (folder / 'in.lammps').read_text()
    (folder / 'in.lammps').write_text(text.replace('boundary m m m', 'boundary f f f'))
    outcome = drive(folder)
    assert (outcome.returncode, outcome.summary['reason']) == (23, 'lost_atoms')


def test_run_ends_where_the_committee_does_not_know(prepare, drive):
    """What was sampled until then is kept, and the script goes on after the run: the restart file is written."""
    quiet = drive(prepare(n_steps=60, sample_every=100)).watch['max_force_deviation']
    bound = float(np.sort(quiet)[-3])  # crossed, though not at once
    folder = prepare(n_steps=60, sample_every=1000, max_deviation=bound)
    outcome = drive(folder)
    assert (outcome.returncode, outcome.summary['reason'], outcome.summary['completed']) == (0, 'halted', False)
    crossed = 2 * int(np.argmax(quiet > bound))
    assert 0 < crossed == outcome.summary['n_steps_done'] < 60
    assert (folder / 'final.restart').is_file()
    # The frame that ended the run is kept, though it is none of every thousandth.
    (frame,) = outcome.frames
    assert frame.metadata['step'] == crossed and frame.metadata['why'] == 'uncertain'


def test_walltime(prepare, drive):
    outcome = drive(prepare(n_steps=1000000, max_seconds=1))
    assert (outcome.returncode, outcome.summary['reason']) == (0, 'walltime')
    assert 0 < outcome.summary['n_steps_done'] < 1000000 and (outcome.folder / 'final.restart').exists()


def test_a_signal_ends_the_run_cleanly(prepare, launch):
    folder = prepare(n_steps=1000000)
    process = launch(folder)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and ' 10 ' not in (
        log.read_text() if (log := folder / 'log.lammps').exists() else ''
    ):
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 15
    summary = json.loads((folder / 'md.json').read_text())
    assert summary['reason'] == 'terminated' and summary['n_frames'] >= 2 and (folder / 'final.restart').exists()


def test_mace_drives(mace_files, argon, prepare, drive):
    """The same potential with and without LAMMPS, with torch in the process and MPI found without help."""
    frame = argon.replace(numbers=[14, 42] * 16, positions=0.8 * argon.positions, cell=0.8 * argon.cell)
    files = mace_files(['C', 'Si', 'Mo'], n_members=2)
    outcome = drive(prepare(frame=frame, committee=files, n_steps=4, sample_every=2, timestep=0.5, temperature=300.0))
    assert outcome.returncode == 0, outcome.stderr
    frames = outcome.frames
    assert [frame.numbers.tolist() for frame in frames] == [[14, 42] * 16] * 2
    predictions = load_committee(files).evaluate(frames)
    np.testing.assert_allclose(predictions.energy[0], outcome.kept['potential_energy'], atol=1e-9)


@pytest.mark.parametrize(
    ('change', 'said'),
    [
        ({'elements': ['Kr']}, 'the committee knows Ar only'),
        ({'elements': ['Xx']}, 'one chemical symbol'),
        ({'committee': ['absent.json']}, 'no potential at'),
        ({'driving_member': 5}, 'driving_member'),
        ({'colour': 'red'}, 'keys among'),
        ({'rotation': [1.0]}, '`rotation`'),
    ],
)
def test_bad_input_is_refused_before_anything_runs(prepare, monkeypatch, capsys, change, said):
    from aiida_alpot.worker.md.driver import main

    folder = prepare()
    driver = {**json.loads((folder / 'driver.json').read_text()), **change}
    (folder / 'driver.json').write_text(json.dumps(driver))
    monkeypatch.chdir(folder)
    assert main(['-in', 'in.lammps']) == 2
    assert said in capsys.readouterr().err
    assert not (folder / 'md.json').exists() and not (folder / 'log.lammps').exists()
