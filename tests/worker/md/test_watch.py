"""Runs that are watched: calibrated bounds, junk, grades, dumps and a bias."""

import numpy as np
import pytest

from aiida_alpot.worker.acquisition.calibration import linear
from aiida_alpot.worker.acquisition.extrapolation import choose_active_sets, save_active_sets
from aiida_alpot.worker.frames.shard import hash_file
from aiida_alpot.worker.potentials import load_committee


def calibration(slope):
    deviation = np.random.default_rng(0).uniform(0.1, 1.0, size=100)
    return linear(deviation, slope * deviation, np.arange(100), 10, components=3).as_dict()


def test_the_bound_is_on_the_calibrated_error(prepare, drive, tmp_path):
    plain = drive(prepare(tmp_path / 'plain', n_steps=60, sample_every=20)).watch
    bound = 4.0 * float(np.quantile(plain['max_force_deviation'], 0.8))
    uncertainty = {'lower': bound, 'on_crossing': 'collect', 'keep_before': 1}
    driver = {'uncertainty': {**uncertainty, 'calibration': calibration(4.0)}}
    outcome = drive(prepare(n_steps=60, sample_every=20, driver=driver))
    assert outcome.summary['completed'], outcome.stderr
    watch = outcome.watch
    np.testing.assert_array_equal(watch['max_force_deviation'], plain['max_force_deviation'])
    np.testing.assert_allclose(watch['expected_force_error'], 4.0 * watch['max_force_deviation'], rtol=1e-6)
    crossed = watch['step'][watch['expected_force_error'] > bound]
    why = {frame.metadata['step']: frame.metadata['why'] for frame in outcome.frames}
    assert [step for step, reason in why.items() if reason == 'uncertain'] == crossed.tolist()
    assert set(why) >= {20, 40, 60} and why[crossed[0] - 2] in ('before', 'interval')
    assert outcome.summary['highest_expected_force_error'] == watch['expected_force_error'].max()
    for frame in outcome.frames:
        assert frame.metadata['expected_force_error'] == watch['expected_force_error'][frame.metadata['step'] // 2]
        assert np.isfinite([frame.metadata['temperature'], frame.metadata['pressure']]).all()
    # What LAMMPS prints of it.
    rows = {int(row[0]): row for row in outcome.thermo}
    assert rows[40][9] == pytest.approx(watch['expected_force_error'][20], rel=1e-6) and np.isnan(rows[40][10])


def test_junk_ends_a_run_that_collects_and_is_not_kept(prepare, drive):
    driver = {'uncertainty': {'lower': 1e-9, 'upper': 1e-8}}
    outcome = drive(prepare(sample_every=2, driver=driver))
    assert (outcome.returncode, outcome.summary['reason'], outcome.summary['n_junk']) == (0, 'halted', 1)
    assert not (outcome.folder / 'frames').exists() and 'above `upper`' in outcome.summary['message']
    assert outcome.watch['kept'].tolist() == ['']


def test_what_led_to_junk_is_kept(prepare, drive, tmp_path):
    plain = drive(prepare(tmp_path / 'plain', n_steps=60, sample_every=100)).watch
    bound = float(np.quantile(plain['max_force_deviation'], 0.82))
    crossed = 2 * int(np.argmax(plain['max_force_deviation'] > bound))
    uncertainty = {'lower': (1.0 - 1e-9) * bound, 'upper': bound, 'keep_before': 2}
    outcome = drive(prepare(n_steps=60, sample_every=100, driver={'uncertainty': uncertainty}))
    assert outcome.summary['n_junk'] == 1 and outcome.summary['last_step'] == crossed
    frames = outcome.frames
    assert [frame.metadata['step'] for frame in frames] == [crossed - 4, crossed - 2]
    assert {frame.metadata['why'] for frame in frames} == {'before'}
    assert outcome.kept['kept'].tolist() == [frame.frame_id for frame in frames]
    assert outcome.watch['step'].tolist() == list(range(0, crossed + 1, 2))


def test_deviations_of_atoms_are_in_dumps(prepare, drive, lj_files):
    folder = prepare(n_steps=10)
    script = (folder / 'in.lammps').read_text()
    dump = 'dump d all custom 10 atoms.dump id x y z d_deviation\ndump_modify d sort id format float %.12g\nrun '
    (folder / 'in.lammps').write_text(script.replace('\nrun ', f'\n{dump}', 1))
    outcome = drive(folder)
    rows = [line.split() for line in (folder / 'atoms.dump').read_text().split('ITEM: ATOMS')[-1].splitlines()[1:]]
    forces = load_committee(lj_files()).evaluate(outcome.frames[-1:]).forces
    expected = np.linalg.norm(forces[0] - forces[1], axis=1) / 2
    np.testing.assert_allclose([float(row[4]) for row in rows], expected, rtol=1e-6)
    assert expected.max() == pytest.approx(outcome.watch['max_force_deviation'][-1])


@pytest.fixture
def alloy(argon):
    return argon.replace(numbers=[14, 42] * 16, positions=0.8 * argon.positions, cell=0.8 * argon.cell)


@pytest.mark.parametrize('member', [0, 1])
def test_extrapolation_grades(prepare, drive, alloy, mace_files, tmp_path, member):
    """Against active sets of the start and of its like, for whichever member they are of."""
    files = mace_files(['C', 'Si', 'Mo'], n_members=2)
    rng = np.random.default_rng(2)
    known = [alloy.replace(positions=alloy.positions + 0.02 * rng.normal(size=(32, 3))) for _ in range(4)]
    committee = load_committee(files)
    features = committee.evaluate(known, [member], features=('activations_per_atom',)).features['activations_per_atom']
    sets = choose_active_sets(
        features,
        np.tile(alloy.numbers, 4),
        model_hash=hash_file(files[member]),
        representation='activations_per_atom',
    )
    save_active_sets(sets, tmp_path / 'active.npz')
    settings = {'frame': alloy, 'committee': files, 'temperature': 300.0, 'timestep': 0.5, 'n_steps': 6}
    outcome = drive(
        prepare(**settings, sample_every=2, driver={'active_set': 'active.npz', 'uncertainty': {'grade_lower': 1e-3}})
    )
    assert outcome.returncode == 0, outcome.stderr
    frames = outcome.frames
    found = committee.evaluate(frames, [member], features=('activations_per_atom',)).features['activations_per_atom']
    grades = sets.grade_atoms(found, np.tile(alloy.numbers, len(frames))).grade.reshape(-1, 32).max(axis=1)
    np.testing.assert_allclose(outcome.kept['grade'], grades, rtol=1e-6)
    np.testing.assert_allclose([frame.metadata['grade'] for frame in frames], grades, rtol=1e-6)
    assert {frame.metadata['why'] for frame in frames} == {'uncertain'}
    np.testing.assert_allclose(committee.evaluate(frames).energy[0], outcome.kept['potential_energy'], atol=1e-9)


def test_an_active_set_of_another_model_is_refused(prepare, drive, alloy, mace_files, tmp_path):
    sets = choose_active_sets(
        np.random.default_rng(0).normal(size=(60, 4)), np.repeat([14, 42], 30), model_hash='0' * 64, representation='a'
    )
    save_active_sets(sets, tmp_path / 'active.npz')
    committee = mace_files(['C', 'Si', 'Mo'], n_members=2)
    outcome = drive(prepare(frame=alloy, committee=committee, driver={'active_set': 'active.npz'}))
    assert outcome.returncode == 2 and 'grades would mean nothing' in outcome.stderr


def test_a_bias_drives_and_is_noted(prepare, drive, lj_files):
    """After the burn-in the total energy with the bias is conserved, and the rows say what was subtracted."""
    bias = {'temperature': 20.0, 'cap': 40.0, 'md_temperature': 40.0, 'burn_in': 20}
    settings = {'ensemble': 'nve', 'n_steps': 200, 'sample_every': 20, 'timestep': 1.0, 'committee_every': 1}
    outcome = drive(prepare(**settings, driver={'bias': bias}))
    assert outcome.summary['completed'], outcome.stderr
    watch, rows = outcome.watch, outcome.thermo
    assert outcome.summary['bias']['tau'] > 0
    assert (watch['bias_energy'][:20] == 0).all() and np.abs(watch['bias_energy'][21:]).max() > 1e-4
    steps = rows[:, 0].astype(int)
    np.testing.assert_allclose(rows[:, 2], (watch['potential_energy'] - watch['bias_energy'])[steps], atol=1e-6)
    assert np.ptp(rows[2:, 3]) / 32 < 1e-6
    # The run goes on with the same bias.
    on = {**bias, **outcome.summary['bias']}
    (outcome.folder / 'on').mkdir()
    again = drive(
        prepare(
            outcome.folder / 'on', **{**settings, 'n_steps': 210}, restart_file='../final.restart', driver={'bias': on}
        )
    )
    assert again.thermo[0, 2] == pytest.approx(rows[-1, 2], abs=1e-6)


@pytest.mark.parametrize(
    ('driver', 'said'),
    [
        ({'uncertainty': {'lower': 0.0}}, '`lower`'),
        ({'uncertainty': {'lower': 1.0, 'higher': 2.0}}, 'higher'),
        ({'uncertainty': {'lower': 1.0, 'before_every': 3}}, 'multiple of `committee_every`'),
        ({'uncertainty': {'grade_lower': 1.0}}, 'active_set'),
        ({'bias': {'temperature': 1.0}}, '`bias`'),
        ({'seed': -1}, '`seed`'),
        ({'active_set': 'absent.npz'}, 'absent.npz'),
        ({'max_deviation': 1.0}, 'keys among'),
    ],
)
def test_bad_input(prepare, monkeypatch, capsys, driver, said):
    from aiida_alpot.worker.md.driver import main

    folder = prepare(driver=driver)
    monkeypatch.chdir(folder)
    assert main(['-in', 'in.lammps']) == 2
    assert said in capsys.readouterr().err and not (folder / 'md.json').exists()


def test_a_single_member_cannot_be_bounded(prepare, monkeypatch, capsys, lj_files):
    from aiida_alpot.worker.md.driver import main

    for driver in ({'uncertainty': {'lower': 1.0}}, {'bias': {'temperature': 1.0, 'cap': 1.0, 'md_temperature': 1.0}}):
        folder = prepare(committee=lj_files(1), driver=driver)
        monkeypatch.chdir(folder)
        assert main(['-in', 'in.lammps']) == 2 and 'two' in capsys.readouterr().err
