"""``alpot-evaluate`` that is killed, told to stop, or out of time, and what the next run makes of it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aiida_alpot.worker.acquisition import evaluate as module
from aiida_alpot.worker.acquisition.evaluate import BAD_INPUT, OUT_OF_TIME
from aiida_alpot.worker.frames import Frame, write_shard

PROGRAM = """
import os, sys, time
from aiida_alpot.worker.acquisition import deadline, labelled
from aiida_alpot.worker.acquisition.kept import Store
from aiida_alpot.worker.acquisition.evaluate import main

labelled.CHUNK_FRAMES = 4
pause, add = float(os.environ['PAUSE']), Store.add

def slowly(self, keys, parts):
    add(self, keys, parts)
    time.sleep(pause)

Store.add = slowly
sys.exit(main(sys.argv[1:]))
"""
"""The program with chunks of four frames, and time between them."""

RESULTS = ('evaluation.json', 'scores.npz', 'predictions.npz')


def start(directory: Path, config: Mapping[str, Any], pause: float = 0.0) -> subprocess.Popen:
    directory.mkdir(exist_ok=True)
    (directory / 'config.json').write_text(json.dumps(config))
    return subprocess.Popen(
        [sys.executable, '-c', PROGRAM, 'config.json'],
        cwd=directory,
        env={**os.environ, 'OMP_NUM_THREADS': '1', 'PAUSE': str(pause)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(directory: Path, config: Mapping[str, Any], expected: int = 0) -> tuple[str, str]:
    """Output and errors of a run that ends by itself."""
    process = start(directory, config)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == expected, errors
    return output, errors


def stop(directory: Path, config: Mapping[str, Any], number: int, n_files: int) -> tuple[int, str]:
    """Send a signal once so many files are there: the code that the run ends with, and its errors."""
    process = start(directory, config, pause=0.3)
    give_up = time.monotonic() + 100
    while len(list(directory.glob('predictions/*/*.npz'))) < n_files and time.monotonic() < give_up:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(number)
    errors = process.communicate(timeout=60)[1]
    return process.returncode, errors


def counts(output: str) -> tuple[int, int]:
    """Frames that were evaluated and frames that were known, as the program prints them."""
    found = re.search(r'^evaluated: (\d+), kept: (\d+)$', output, flags=re.MULTILINE)
    assert found, output
    return int(found[1]), int(found[2])


def results(directory: Path) -> dict[str, bytes]:
    """Everything that an evaluation gives."""
    paths = [directory / name for name in RESULTS] + sorted((directory / 'selected').glob('*.h5'))
    return {str(path.relative_to(directory)): path.read_bytes() for path in paths}


def assert_close(left: Path, right: Path) -> None:
    """The same results up to rounding: the last bits of ASE's calculator depend on what it calculated before."""
    for name in ('scores.npz', 'predictions.npz'):
        with np.load(left / name) as a, np.load(right / name) as b:
            assert a.files == b.files
            for key in a.files:
                same = np.allclose(a[key], b[key], 1e-9, 1e-13, equal_nan=True) if a[key].dtype.kind == 'f' else None
                assert same if same is not None else np.array_equal(a[key], b[key]), key
    picks = [json.loads((at / 'evaluation.json').read_text())['selection'] for at in (left, right)]
    assert [pick['frame_id'] for pick in picks[0]] == [pick['frame_id'] for pick in picks[1]] and picks[0]


def assert_went_on(tmp_path: Path, config: Mapping[str, Any]) -> None:
    """A run in `stopped` goes on where it was, and has as many frames to do as an undisturbed one in `whole`."""
    total = sum(counts(run(tmp_path / 'whole', config)[0]))
    evaluated, kept = counts(run(tmp_path / 'stopped', config)[0])
    assert evaluated + kept == total and kept >= 8 and evaluated >= 4
    assert not list(tmp_path.glob('*/progress.json'))
    found = results(tmp_path / 'stopped')
    assert len(found) == 4
    assert counts(run(tmp_path / 'stopped', config)[0]) == (0, total)
    assert results(tmp_path / 'stopped') == found


@pytest.fixture
def config(tmp_path: Path, lj_files: Callable, dataset: list[Frame], make_argon: Callable) -> dict[str, Any]:
    """Lennard-Jones argon: 27 labelled frames and 20 of a pool."""
    return {
        'committee': [str(path) for path in lj_files(2)],
        'pool': [str(write_shard(make_argon(20, 5), tmp_path))],
        'dataset': [str(write_shard(dataset, tmp_path))],
        'tolerance': {'forces': 0.01},
        'max_select': 5,
        'gate': {'min_distance': 0.3},
        'seed': 1,
    }


@pytest.fixture
def mace_config(tmp_path: Path, mace_files: Callable) -> dict[str, Any]:
    """Two tiny MACE models: 24 labelled frames and 20 of a pool."""

    def structures(n: int, seed: int) -> list[Frame]:
        rng = np.random.default_rng(seed)
        grid = np.stack(np.meshgrid(*[np.arange(2)] * 3, indexing='ij'), axis=-1).reshape(-1, 3) * 2.2
        cell, pbc = 4.4 * np.eye(3), (True, True, True)
        return [Frame([6, 14] * 4, grid + rng.normal(scale=0.2, size=(8, 3)), cell, pbc) for _ in range(n)]

    labelled = [
        frame.replace(energy=float(i), forces=np.full((8, 3), 0.1), split=['train', 'validation'][i % 2])
        for i, frame in enumerate(structures(24, 0))
    ]
    return {
        'committee': [str(path) for path in mace_files(['C', 'Si'])],
        'dataset': [str(write_shard(labelled, tmp_path / 'dataset'))],
        'pool': [str(write_shard(structures(20, 1), tmp_path / 'pool'))],
        'tolerance': {'forces': 1e-6},
        'gate': {'min_distance': 0.2, 'max_force': 1e9},
        'max_select': 6,
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ('changes', 'n_files'),
    [
        ({'selector': 'lcmd'}, 8),  # in the pool
        ({'signal': 'extrapolation_grade', 'dtype': 'float32'}, 2),  # while active sets are chosen
        ({'signal': 'extrapolation_grade', 'selector': 'k_center'}, 12),  # in the pool, where grades are kept
    ],
)
def test_killed(tmp_path: Path, mace_config: dict[str, Any], changes: dict[str, Any], n_files: int) -> None:
    """SIGKILL at any time: what was done is not done again, and the results are the same to the last bit."""
    config = {**mace_config, **changes}
    code, errors = stop(tmp_path / 'stopped', config, signal.SIGKILL, n_files)
    assert code == -signal.SIGKILL and 'alpot-evaluate' not in errors  # it had no time for a word
    assert not any((tmp_path / 'stopped' / name).exists() for name in RESULTS)
    progress = json.loads((tmp_path / 'stopped' / 'progress.json').read_text())
    assert progress['evaluated'] > 0 and 'stopped' not in progress
    assert_went_on(tmp_path, config)
    assert results(tmp_path / 'stopped') == results(tmp_path / 'whole')


def test_terminated(tmp_path: Path, config: dict[str, Any]) -> None:
    code, errors = stop(tmp_path / 'stopped', config, signal.SIGTERM, 3)
    assert code == OUT_OF_TIME
    assert re.fullmatch(
        r'alpot-evaluate: stopped by SIGTERM; \d+ frames were evaluated and 0 known before, and all are kept: '
        r'start it again in this directory, and it goes on from there\n',
        errors,
    )
    progress = json.loads((tmp_path / 'stopped' / 'progress.json').read_text())
    assert progress['stopped'] == 'signal' and progress['evaluated'] >= 8 and progress['kept'] == 0
    assert not any((tmp_path / 'stopped' / name).exists() for name in RESULTS)
    assert_went_on(tmp_path, config)
    assert_close(tmp_path / 'stopped', tmp_path / 'whole')


@pytest.mark.slow
def test_out_of_time_again_and_again(tmp_path: Path, config: dict[str, Any]) -> None:
    """A limit that no chunk fits into: each run evaluates one chunk, and all of them together everything."""
    limited, known = {**config, 'max_seconds': 1e-3}, 0
    for n in [4] * 6 + [3] + [4] * 4:  # 27 labelled frames, then those of the pool
        _, errors = run(tmp_path / 'stopped', limited, OUT_OF_TIME)
        assert 'ahead of `max_seconds` = 0.001 s' in errors and f'; {n} frames were evaluated and {known}' in errors
        progress = json.loads((tmp_path / 'stopped' / 'progress.json').read_text())
        assert progress == {'evaluated': n, 'kept': known, 'stopped': 'walltime'}
        known += n
    output, _ = run(tmp_path / 'stopped', limited)
    assert counts(output) == (4, 43)
    run(tmp_path / 'whole', config)
    assert_close(tmp_path / 'stopped', tmp_path / 'whole')


def test_another_selector_elsewhere_takes_over_what_is_known(tmp_path: Path, config: dict[str, Any]) -> None:
    run(tmp_path / 'first', config)
    other = {**config, 'selector': 'top_k', 'tolerance': {'forces': 0.02}}
    output, errors = run(tmp_path / 'second', {**other, 'earlier': ['../first']})
    assert counts(output) == (0, 47) and not errors
    run(tmp_path / 'alone', other)
    assert results(tmp_path / 'second') == results(tmp_path / 'alone')


def test_nothing_to_take_over(tmp_path: Path, config: dict[str, Any]) -> None:
    output, errors = run(tmp_path / 'first', {**config, 'earlier': ['../gone']})
    assert counts(output) == (47, 0)
    assert (
        errors
        == 'alpot-evaluate: ../gone holds no folder `predictions` with predictions: all frames are evaluated anew\n'
    )


def test_other_models_are_asked(tmp_path: Path, config: dict[str, Any]) -> None:
    run(tmp_path / 'first', config)
    turned = {**config, 'committee': config['committee'][::-1]}
    assert counts(run(tmp_path / 'first', turned)[0]) == (47, 0)
    assert counts(run(tmp_path / 'first', config)[0]) == (0, 47)


def test_nothing_is_kept_where_nothing_is_to_be(tmp_path: Path, config: dict[str, Any]) -> None:
    output, _ = run(tmp_path / 'first', {**config, 'keep_predictions': False})
    assert 'kept' not in output and not (tmp_path / 'first' / 'predictions').exists()
    run(tmp_path / 'whole', config)
    assert results(tmp_path / 'first') == results(tmp_path / 'whole')


def test_terminated_without_anything_kept(
    tmp_path: Path, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def terminate(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, 'evaluate', terminate)
    Path('config.json').write_text(json.dumps({**config, 'keep_predictions': False}))
    assert module.main(['config.json']) == OUT_OF_TIME
    assert capsys.readouterr().err == 'alpot-evaluate: stopped by SIGTERM; nothing was kept\n'


def test_refused_input_leaves_no_folder(tmp_path: Path, config: dict[str, Any]) -> None:
    run(tmp_path / 'first', {**config, 'pool': ['nowhere.h5']}, BAD_INPUT)
    assert [path.name for path in (tmp_path / 'first').iterdir()] == ['config.json']
