"""Two MPI ranks give what one gives."""

import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest

MPIEXEC = Path(sys.prefix) / 'bin' / 'mpiexec'

pytestmark = pytest.mark.skipif(not MPIEXEC.is_file(), reason='needs the mpiexec of the `mpich` wheel')


@pytest.fixture
def two_ranks(drive, launch):
    """Run the driver on two ranks."""
    return lambda folder, *arguments: drive(folder, *arguments, before=(str(MPIEXEC), '-n', '2'))


def same(one, two):
    np.testing.assert_array_equal(one.thermo, two.thermo)  # as printed
    assert [frame.metadata['step'] for frame in one.frames] == [frame.metadata['step'] for frame in two.frames]
    for a, b in zip(one.frames, two.frames, strict=True):
        np.testing.assert_allclose(a.positions, b.positions, atol=1e-9)
    for name, column in one.watch.items():
        if name != 'kept':
            np.testing.assert_allclose(column, two.watch[name], rtol=1e-7, atol=1e-9, err_msg=name)


@pytest.mark.parametrize('ensemble', ['nve', 'nvt', 'npt'])
def test_the_same_thermo(prepare, drive, two_ranks, tmp_path, ensemble):
    settings = {'ensemble': ensemble, 'barostat': 'tri', 'n_steps': 40, 'temperature': 80.0}
    one = drive(prepare(tmp_path / 'one', **settings))
    two = two_ranks(prepare(tmp_path / 'two', **settings))
    assert two.returncode == 0 and two.summary['n_frames'] == 8, two.stderr
    assert '1 by 1 by 2 MPI' in (tmp_path / 'two/log.lammps').read_text()
    same(one, two)


def test_mace_rewinds_and_dumps(prepare, drive, two_ranks, tmp_path, argon, mace_files):
    """Atoms of two species that move between the ranks, with deviations of atoms and a rewind."""
    frame = argon.replace(numbers=[14, 42] * 16, positions=0.8 * argon.positions, cell=0.8 * argon.cell)
    settings = {'frame': frame, 'committee': mace_files(['C', 'Si', 'Mo'], n_members=2), 'timestep': 0.5}
    settings |= {'temperature': 300.0, 'n_steps': 30}
    deviation = drive(prepare(tmp_path / 'quiet', **settings)).watch['max_force_deviation']
    bound = 1.001 * float(np.maximum.accumulate(deviation)[len(deviation) // 2])
    outcomes = []
    for name in ('one', 'two'):
        uncertainty = {'lower': bound, 'on_crossing': 'rewind', 'keep_before': 1, 'max_rewinds': 1}
        folder = prepare(tmp_path / name, **settings, uncertainty=uncertainty)
        script = (folder / 'in.lammps').read_text()
        dump = 'dump d all custom 5 atoms.dump id x d_deviation\ndump_modify d sort id\nrun '
        (folder / 'in.lammps').write_text(script.replace('\nrun ', f'\n{dump}', 1))
        outcomes.append((drive if name == 'one' else two_ranks)(folder))
    assert outcomes[1].returncode == 0, outcomes[1].stderr
    assert outcomes[0].summary['n_rewinds'] == outcomes[1].summary['n_rewinds']
    same(*outcomes)
    rows = [
        np.array(
            [line.split() for line in (outcome.folder / 'atoms.dump').read_text().splitlines() if line.count(' ') == 2]
        )
        for outcome in outcomes
    ]
    np.testing.assert_allclose(*(table[1:].astype(float) for table in rows), rtol=1e-4, atol=1e-6)


def test_restarts_go_between_numbers_of_ranks(prepare, drive, two_ranks, tmp_path):
    whole = drive(prepare(tmp_path / 'whole', ensemble='npt'))
    two_ranks(prepare(tmp_path / 'first', ensemble='npt', n_steps=10))
    second = drive(prepare(tmp_path / 'second', ensemble='npt', restart_file='../first/final.restart'))
    np.testing.assert_allclose(second.thermo[1:, :6], whole.thermo[3:, :6], rtol=1e-7)


def test_a_failure_on_all_ranks_has_its_exit_code(prepare, two_ranks, misbehaving):
    outcome = two_ranks(prepare(committee=misbehaving('nan'), n_steps=1000))
    assert outcome.returncode == 21 and outcome.summary['reason'] == 'not_finite'
    assert len(outcome.frames) == 1


def test_a_failure_on_one_rank_ends_all(prepare, two_ranks, misbehaving):
    outcome = two_ranks(prepare(committee=misbehaving('one rank'), n_steps=1000))
    assert outcome.returncode == 20 and 'another MPI rank failed' in outcome.summary['message']


def test_a_signal_ends_all_ranks_at_the_same_step(prepare, launch):
    folder = prepare(n_steps=1000000)
    process = launch(folder, '-in', 'in.lammps', '-screen', 'none', before=(str(MPIEXEC), '-n', '2'))
    log, deadline = folder / 'log.lammps', time.monotonic() + 60
    while time.monotonic() < deadline and ' 10 ' not in (log.read_text() if log.exists() else ''):
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and not (folder / 'md.json').exists():
        time.sleep(0.1)
    assert '"terminated"' in (folder / 'md.json').read_text() and (folder / 'final.restart').exists()
