"""``alpot-explore``: jobs, failures, interruptions, and what is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk

import aiida_alpot
from aiida_alpot.worker.explorers import random_structure
from aiida_alpot.worker.explorers.program import main
from aiida_alpot.worker.frames.frame import Frame
from aiida_alpot.worker.frames.shard import write_shard
from aiida_alpot.worker.seeds import derive_seed

from .conftest import read, summary

HOPS = {'explorer': 'basin_hopping', 'settings': {'n_hops': 4, 'temperature': 50.0, 'fmax': 0.005}, 'start': 1}


@pytest.fixture
def starts() -> list[Frame]:
    """A crystal off its lattice constant, and a cluster, both of argon."""
    atoms = bulk('Ar', 'fcc', 5.6, cubic=True)
    atoms.rattle(0.1, seed=1)
    cluster = random_structure({'Ar': 6}, (60.0, 80.0), 3, min_distance=1.4, periodic=False)
    return [Frame.from_atoms(atoms, lineage='crystal', origin='rattle'), cluster]


def test_a_job(explore, lj_files, starts) -> None:
    """Runs have their own folders, seeds, lineages; frames say where they come from, and carry no labels."""
    relaxation = {'explorer': 'relaxation', 'settings': {'relax_cell': True, 'every': 2}, 'start': 0}
    random = {
        'explorer': 'random_search',
        'settings': {'composition': {'Ar': 2}, 'volume': [35, 60], 'n': 2, 'min_distance': 1.2},
        'lineage': 'mine',
        'origin': 'search',
        'metadata': {'of': 'run'},
    }
    code, folder = explore(lj_files(), starts, runs=[relaxation, HOPS, random], seed=5, metadata={'round': 2})
    assert code == 0
    content = summary(folder)
    assert content['reason'] == 'completed' and content['n_finished'] == 3
    assert [run['explorer'] for run in content['runs']] == ['relaxation', 'basin_hopping', 'random_search']
    total = 0
    for index, origin in enumerate(['relaxation', 'basin_hopping', 'search']):
        run = summary(folder, index)
        frames = read(folder / f'run_{index:04d}', run['shards'])
        assert run['status'] == 'completed' and len(frames) == run['n_frames'] > 1
        assert run['seed'] == derive_seed(5, 'run', index) and run['n_members'] == 2
        assert sorted(path.name for path in (folder / f'run_{index:04d}').iterdir()) == ['explore.json', 'frames']
        total += len(frames)
        for frame in frames:
            assert frame.origin == origin and frame.lineage.startswith(run['lineage']) and not frame.labels
            assert frame.metadata['round'] == 2 and frame.metadata['explorer'] == content['runs'][index]['explorer']
            assert frame.metadata['max_force_deviation'] >= 0
    assert content['n_frames'] == total
    assert summary(folder, 0)['lineage'] == f'{starts[0].frame_id[:16]}:relaxation:{derive_seed(5, "run", 0)}'
    assert summary(folder, 2)['lineage'] == 'mine' and frames[0].metadata['of'] == 'run'
    relaxed = read(folder / 'run_0000', summary(folder, 0)['shards'])[-1]
    assert relaxed.volume ** (1 / 3) == pytest.approx(5.24, abs=0.1)


def test_equal_seeds_equal_bytes(explore, lj_files, starts) -> None:
    files = lj_files()
    names = []
    for folder, seed in (('one', 3), ('two', 3), ('three', 4)):
        _, target = explore(files, starts, folder, runs=[HOPS], seed=seed)
        names.append(summary(target, 0)['shards'])
    assert names[0] == names[1] != names[2]


def test_driving_member(explore, lj_files, starts) -> None:
    """Another driver relaxes to another lattice constant."""
    files = lj_files(sigma=3.4)
    other = json.loads(files[1].read_text())
    other['parameters']['sigma'] = 3.5
    files[1].write_text(json.dumps(other))
    run = {'explorer': 'relaxation', 'settings': {'relax_cell': True, 'fmax': 1e-3, 'max_stress': 0.01}, 'start': 0}
    _, folder = explore(files, starts, runs=[run, {**run, 'driving_member': 1}])
    volumes = [summary(folder, index)['results']['volume'] for index in (0, 1)]
    assert volumes[1] / volumes[0] == pytest.approx((3.5 / 3.4) ** 3, rel=0.02)


def test_one_failing_run_stops_no_other(explore, lj_files, starts, monkeypatch) -> None:
    from aiida_alpot.worker.explorers.basin_hopping import BasinHopping

    def fail(*_) -> None:
        raise ZeroDivisionError('by design')

    monkeypatch.setattr(BasinHopping, '_moved', fail)
    tight = {'explorer': 'relaxation', 'start': 0, 'limits': {'max_force': 1e-6}}
    relaxation = {'explorer': 'relaxation', 'start': 0, 'settings': {'every': 1}}
    code, folder = explore(lj_files(), starts, runs=[HOPS, tight, relaxation])
    assert code == 0
    found = [summary(folder, index) for index in range(3)]
    assert [run['status'] for run in found] == ['explorer_error', 'exploded', 'completed']
    assert 'ZeroDivisionError: by design' in found[0]['message']
    assert found[0]['n_frames'] == 1 and found[1]['n_frames'] == 0 and found[2]['n_frames'] > 1


def test_no_frames_at_all(explore, lj_files, starts, capsys) -> None:
    tight = {'explorer': 'relaxation', 'start': 0, 'limits': {'max_force': 1e-6}}
    code, folder = explore(lj_files(), starts, runs=[tight])
    assert code == 30 and summary(folder)['reason'] == 'no_frames'
    assert 'above `max_force`' in capsys.readouterr().err


def test_finished_runs_are_left_alone(explore, lj_files, starts, capsys) -> None:
    files = lj_files()
    _, folder = explore(files, starts, runs=[HOPS], seed=1)
    before = (folder / 'run_0000' / 'explore.json').stat().st_mtime_ns
    code, _ = explore(files, starts, runs=[HOPS], seed=1)
    assert code == 0 and (folder / 'run_0000' / 'explore.json').stat().st_mtime_ns == before
    code, _ = explore(files, starts, runs=[HOPS], seed=2)
    assert code == 2 and 'a run with other settings' in capsys.readouterr().err


def test_walltime(explore, lj_files, starts, monkeypatch) -> None:
    """What the time does not suffice for is done by later starts, with the bytes of one long one."""
    files = lj_files()
    runs = [HOPS, {'explorer': 'relaxation', 'start': 0}]
    _, whole = explore(files, starts, 'whole', runs=runs)
    reference = [summary(whole, index)['shards'] for index in (0, 1)]
    n_starts, previous = 0, 0
    clock = [0.0]
    monkeypatch.setattr(time, 'monotonic', lambda: clock.__setitem__(0, clock[0] + 0.01) or clock[0])
    while True:
        code, folder = explore(files, starts, 'short', runs=runs, max_seconds=1.0 + 0.5 * n_starts)
        assert code == 0
        n_starts += 1
        content = summary(folder)
        if content['reason'] == 'completed':
            break
        assert content['reason'] == 'walltime' and 'start again in this folder' in content['message']
        first = summary(folder, 0)
        assert first['status'] in ('walltime', 'completed')
        assert len(read(folder / 'run_0000', first['shards'])) == first['n_frames'] >= previous
        previous = first['n_frames']
    assert n_starts > 2
    assert [summary(folder, index)['shards'] for index in (0, 1)] == reference
    assert summary(folder, 0)['n_repeated'] + summary(folder, 1)['n_repeated'] > 0
    assert not list(folder.glob('run_*/journal.bin'))


def start_process(folder: Path) -> subprocess.Popen:
    path = os.pathsep.join(filter(None, [str(Path(aiida_alpot.__file__).parents[1]), os.environ.get('PYTHONPATH', '')]))
    return subprocess.Popen(
        [sys.executable, '-m', 'aiida_alpot.worker.explorers.program', 'job.json'],
        cwd=folder,
        env={**os.environ, 'PYTHONPATH': path, 'OMP_NUM_THREADS': '1'},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(condition: Callable[[], bool], process: subprocess.Popen) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, 'the run did not come so far'
        time.sleep(0.02)


def test_signals(explore, lj_files, starts, tmp_path: Path) -> None:
    """SIGTERM ends it in good order, SIGKILL in none; the start after both ends as if neither had been."""
    files = lj_files()
    run = {**HOPS, 'settings': {**HOPS['settings'], 'n_hops': 25}}
    job = {'runs': [run], 'seed': 7, 'batch_size': 2}
    _, whole = explore(files, starts, 'whole', **job)
    folder = tmp_path / 'broken'
    folder.mkdir()
    shard = write_shard(starts, folder / 'starts').relative_to(folder)
    content = {**job, 'committee': [str(path) for path in files], 'runs': [{**run, 'start': [str(shard), 1]}]}
    (folder / 'job.json').write_text(json.dumps(content))
    journal = folder / 'run_0000' / 'journal.bin'

    process = start_process(folder)
    wait_for(lambda: journal.is_file() and journal.stat().st_size > 20_000, process)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 15 and 'terminated' in stderr
    first = summary(folder, 0)
    assert first['status'] == 'terminated' and first['n_frames'] == len(read(folder / 'run_0000', first['shards'])) > 0

    size = journal.stat().st_size
    process = start_process(folder)
    wait_for(lambda: journal.stat().st_size > size + 20_000, process)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert summary(folder, 0)['status'] == 'running'

    assert main([str(folder / 'job.json')], folder=folder) == 0
    last, reference = summary(folder, 0), summary(whole, 0)
    assert last['shards'] == reference['shards'] and last['results'] == reference['results']
    assert last['n_evaluations'] == reference['n_evaluations'] and last['n_repeated'] > 100


def test_halts_on_the_calibrated_uncertainty(explore, lj_files, starts) -> None:
    """The bound is on the expected error; the frame that crosses it is the last one."""
    from aiida_alpot.worker.acquisition.calibration import linear

    rng = np.random.default_rng(1)
    deviation = rng.uniform(0.01, 1.0, 400)
    calibration = linear(deviation, 3.0 * deviation * rng.normal(size=400) ** 2, np.arange(400), 10, components=3)
    run = {'explorer': 'relaxation', 'settings': {'every': 1, 'fmax': 1e-4, 'optimizer': 'fire'}, 'start': 1}
    files = lj_files()
    _, free = explore(files, starts, 'free', runs=[run])
    frames = read(free / 'run_0000', summary(free, 0)['shards'])
    errors = calibration.expected_error(np.array([frame.metadata['max_force_deviation'] for frame in frames]))
    middle = float(np.sort(errors)[len(errors) // 2])
    for on_crossing in ('collect', 'halt'):
        bounds = {'lower': middle, 'calibration': calibration.as_dict(), 'on_crossing': on_crossing}
        _, folder = explore(files, starts, on_crossing, runs=[run], uncertainty=bounds)
        found = summary(folder, 0)
        kept = read(folder / 'run_0000', found['shards'])
        crossing = int(np.flatnonzero(errors > middle)[0])
        n_expected = len(frames) if on_crossing == 'collect' else crossing + 1
        assert [frame.frame_id for frame in kept] == [frame.frame_id for frame in frames[:n_expected]]
        for frame, error in zip(kept, errors, strict=False):
            assert frame.metadata['expected_force_error'] == pytest.approx(error, rel=1e-9)
            assert frame.metadata['uncertain'] == (error > middle)
        assert found['status'] == ('completed' if on_crossing == 'collect' else 'halted')
        assert found['highest_expected_force_error'] == pytest.approx(errors[:n_expected].max(), rel=1e-9)


def test_junk_is_not_kept(explore, lj_files, starts) -> None:
    """Above the upper bound the path ends, and the frame is only counted."""
    run = {'explorer': 'relaxation', 'settings': {'every': 1, 'fmax': 1e-4, 'optimizer': 'fire'}, 'start': 1}
    files = lj_files()
    _, free = explore(files, starts, 'free', runs=[run])
    frames = read(free / 'run_0000', summary(free, 0)['shards'])
    errors = np.array([frame.metadata['expected_force_error'] for frame in frames])
    rising = int(np.argmax(errors))
    upper = float(np.sort(errors)[-3])
    _, folder = explore(files, starts, 'bound', runs=[run], uncertainty={'lower': upper / 2, 'upper': upper})
    found = summary(folder, 0)
    first_above = int(np.flatnonzero(errors > upper)[0])
    assert first_above <= rising
    assert found['status'] == 'halted' and found['n_junk'] == 1 and 'above `upper`' in found['message']
    assert found['n_frames'] == first_above


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'comittee': []}, "Did you mean 'committee'"),
        ({'committee': ['missing.json']}, 'there is no potential at'),
        ({'committee': []}, 'empty or names one file twice'),
        ({'runs': []}, 'must list at least one run'),
        ({'runs': [{'explorer': 'relaxatoin', 'start': ['s', 0]}]}, "Did you mean 'relaxation'"),
        ({'runs': [{'explorer': 'relaxation', 'strat': ['s', 0]}]}, "run 0: .*Did you mean 'start'"),
        ({'runs': [{'explorer': 'relaxation'}]}, 'names 0 structures, this explorer takes 1'),
        ({'runs': [{'explorer': 'relaxation', 'start': ['s.h5', 0]}]}, 'which does not exist'),
        ({'runs': [{'explorer': 'relaxation', 'start': ['SHARD', 7]}]}, 'has frames 0 to 1'),
        ({'runs': [{'explorer': 'relaxation', 'start': 'SHARD'}]}, r'expected \[shard, index\]'),
        ({'runs': [{'explorer': 'neb', 'start': [['SHARD', 0], ['SHARD', 1]]}]}, 'same atoms in the same order'),
        ({'runs': [{'explorer': 'relaxation', 'start': ['SHARD', 0], 'driving_member': 2}]}, '`driving_member` is 2'),
        ({'uncertainty': {'lower': 0.1, 'on_crossing': 'rewind'}}, 'which only dynamics can do'),
        ({'uncertainty': {'lower': 0.3, 'upper': 0.2}}, '`upper` is 0.2'),
        ({'uncertainty': {'lower': 0.3, 'calibration': {'kind': 'linear'}}}, 'the stored calibration has no'),
        ({'limits': {'max_forces': 3}}, "Did you mean 'max_force'"),
        ({'max_seconds': 0}, '`max_seconds` is 0'),
        ({'device': 'gpu'}, '`device`'),
        (
            {'runs': [{'explorer': 'random_search', 'settings': {'composition': {'Kr': 2}, 'volume': [50, 60]}}]},
            r'run 0 \(`random_search`\) has Kr, but the committee knows Ar only',
        ),
    ],
)
def test_bad_input(lj_files, starts, tmp_path: Path, capsys, change: dict, message: str) -> None:
    """Refused before anything runs, with a sentence."""
    import re

    shard = str(write_shard(starts, tmp_path).name)
    job = {
        'committee': [path.name for path in lj_files()],
        'runs': [{'explorer': 'relaxation', 'start': [shard, 0]}],
        **change,
    }
    (tmp_path / 'job.json').write_text(json.dumps(job).replace('SHARD', shard))
    assert main([str(tmp_path / 'job.json')], folder=tmp_path) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not list(tmp_path.glob('run_*'))


def test_uncertainty_needs_a_committee(lj_files, starts, tmp_path: Path, capsys) -> None:
    shard = write_shard(starts, tmp_path).name
    job = {
        'committee': [lj_files()[0].name],
        'runs': [{'explorer': 'relaxation', 'start': [shard, 0]}],
        'uncertainty': {'lower': 0.1},
    }
    (tmp_path / 'job.json').write_text(json.dumps(job))
    assert main([str(tmp_path / 'job.json')], folder=tmp_path) == 2
    assert 'at least two members' in capsys.readouterr().err


def test_files_that_are_no_job(tmp_path: Path, capsys) -> None:
    assert main([str(tmp_path / 'job.json')]) == 2
    assert 'there is no file' in capsys.readouterr().err
    (tmp_path / 'job.json').write_text('{')
    assert main([str(tmp_path / 'job.json')]) == 2
    assert 'not valid JSON' in capsys.readouterr().err
    (tmp_path / 'job.json').write_text('[]')
    assert main([str(tmp_path / 'job.json')]) == 2
    assert 'expected an object' in capsys.readouterr().err


def test_the_console_program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from aiida_alpot.worker import commands

    monkeypatch.setattr(sys, 'argv', ['alpot-explore', str(tmp_path / 'none.json')])
    with pytest.raises(SystemExit) as error:
        commands.explore()
    assert error.value.code == 2
