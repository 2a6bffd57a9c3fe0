"""Walltime, signals, kills, and going on after them."""

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

from aiida_alpot.worker.training.program import main

from .conftest import prepare_job

SLOW = {'epochs': 30, 'parameters': {'pause': 0.1}}


@pytest.fixture
def started(linear, frames, tmp_path: Path):
    """Start a job as the console program; its processes are gone at the end."""
    running = []

    def start(name: str = 'job', **given) -> tuple[subprocess.Popen, Path]:
        folder = prepare_job(tmp_path, name, frames, **given)
        command = [sys.executable, '-m', 'aiida_alpot.worker.training.program', 'train.json']
        with (folder / 'job.out').open('w') as output:
            running.append(subprocess.Popen(command, cwd=folder, stdout=output, stderr=output))
        return running[-1], folder

    yield start
    for process in running:
        process.kill()
        process.wait()


def wait_until(there: Callable[[], bool], seconds: float = 30.0) -> None:
    until = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < until, 'waited in vain'
        time.sleep(0.02)


def epochs(folder: Path, index: int = 0) -> list[int]:
    path = folder / f'members/{index}/history.jsonl'
    lines = path.read_text().splitlines(keepends=True) if path.is_file() else []
    return [json.loads(line)['epoch'] for line in lines if line.endswith('\n')]


def processes_in(folder: Path) -> list[int]:
    """Processes whose working directory is in a folder."""
    found = []
    for entry in Path('/proc').iterdir():
        if entry.name.isdigit():
            try:
                if str(folder) in os.readlink(entry / 'cwd'):
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def report(folder: Path) -> dict:
    return json.loads((folder / 'training.json').read_text())


def statuses(folder: Path) -> list[str]:
    return [member['status'] for member in report(folder)['members'].values()]


def test_walltime_and_going_on(train) -> None:
    """What the time does not suffice for is done by later jobs; the result is that of a single one."""
    _, _, whole = train('whole', epochs=30)
    code, first, folder = train('first', max_seconds=2.5, **SLOW)
    assert code == 3 and first['stopped'] == 'walltime' and first['seconds'] < 2.5
    assert statuses(folder) == ['stopped', 'stopped'] and not (folder / 'models').exists()
    done = epochs(folder)[-1]
    assert 1 <= done < 30 and first['members']['0']['errors'] is None
    assert f'the time was up after epoch {done}' in first['members']['0']['message']
    assert np.load(folder / 'curves.npz')['0_epoch'].tolist() == list(range(done + 1))
    code, second, other = train('second', earlier=str(folder), **{**SLOW, 'parameters': {'pause': 0.1}})
    assert code == 0 and second['stopped'] is None
    assert epochs(other) == list(range(31)) and epochs(folder)[-1] == done, 'the earlier folder is left as it is'
    member = second['members']['0']
    assert member['resumed'] == 1 and [attempt['ended'] for attempt in member['attempts']] == ['stopped', 'trained']
    for index in (0, 1):
        expected = json.loads((whole / f'models/{index}.json').read_text())
        assert json.loads((other / f'models/{index}.json').read_text()) == expected


def test_no_time_at_all(train) -> None:
    code, content, folder = train(max_seconds=1e-3)
    assert code == 3 and statuses(folder) == ['stopped', 'stopped']
    assert content['members']['0']['message'] == 'the time was up before it began'


def test_members_that_wait_and_those_that_ignore_signals(train) -> None:
    """SIGKILL comes after a while; a member that had no turn is stopped, too."""
    code, content, folder = train(
        seeds=(1, 2, 3),
        faults=[{'what': 'hang', 'members': [0]}],
        max_seconds=4.0,
        epochs=50,
        parameters={'pause': 0.1},
    )
    assert code == 3 and statuses(folder) == ['stopped'] * 3 and content['seconds'] < 4.5
    assert content['members']['2']['message'] == 'the time was up before it began'
    assert processes_in(folder) == []


@pytest.mark.parametrize(('separate', 'number'), [(False, signal.SIGTERM), (True, signal.SIGINT)])
def test_a_signal(started, separate: bool, number: int) -> None:
    process, folder = started(**{**SLOW, 'parameters': {'pause': 0.1, 'separate': separate}})
    wait_until(lambda: len(epochs(folder)) > 1 and len(epochs(folder, 1)) > 1)
    process.send_signal(number)
    assert process.wait(20) == 3
    assert report(folder)['stopped'] == 'signal' and statuses(folder) == ['stopped', 'stopped']
    assert processes_in(folder) == []


@pytest.mark.parametrize('separate', [False, True])
def test_a_killed_job_leaves_nothing_behind_and_is_gone_on_with(started, separate: bool) -> None:
    """One member is done, one on its way and one waits when it happens: the first is taken over as it is."""
    given = {'seeds': (1, 2, 3), 'faults': [{'what': 'hang', 'members': [1], 'epoch': 4}], 'epochs': 6}
    process, first = started('first', **given, parameters={'separate': separate})
    wait_until(lambda: (first / 'members/0/state.json').is_file() and epochs(first, 1)[-1:] == [3])
    process.kill()
    process.wait()
    wait_until(lambda: not processes_in(first), 5.0)
    assert not (first / 'training.json').exists()
    # The fault is a setting as any other: the earlier job is made to have been one without.
    description = json.loads((first / 'job.json').read_text())
    description['settings']['parameters'] = {'faults': []}
    (first / 'job.json').write_text(json.dumps(description))
    again, second = started('second', seeds=(1, 2, 3), epochs=6, earlier='../first')
    assert again.wait(60) == 0, (second / 'job.out').read_text()
    content = report(second)
    assert statuses(second) == ['trained'] * 3
    assert 'member 0: trained by an earlier job' in (second / 'job.out').read_text()
    assert (second / 'models/0.json').read_bytes() == (first / 'models/0.json').read_bytes()
    assert [content['members'][index]['resumed'] for index in '012'] == [0, 1, 0] or (
        # the third had begun when the first had ended
        content['members']['2']['resumed'] == 1
    )
    assert all(content['members'][index]['errors'] is not None for index in '012')
    for index in range(3):
        assert epochs(second, index) == list(range(7))
        assert np.load(second / 'curves.npz')[f'{index}_epoch'].tolist() == list(range(7))


def test_in_the_same_folder(started) -> None:
    """Without naming an earlier job."""
    process, folder = started(**SLOW)
    wait_until(lambda: len(epochs(folder)) > 2)
    process.kill()
    process.wait()
    again = subprocess.run(
        [sys.executable, '-m', 'aiida_alpot.worker.training.program', 'train.json'],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert again.returncode == 0, again.stderr
    assert 'member 0: goes on' in again.stdout and epochs(folder) == list(range(31))
    assert report(folder)['members']['0']['attempts'][0]['seconds'] > 0
    assert report(folder)['members']['0']['attempts'][0]['epochs'] >= 2


def test_what_is_done_is_not_done_again(train) -> None:
    _, first, folder = train('first')
    code, second, other = train('second', earlier=str(folder), parallel=1, max_seconds=600)
    assert code == 0 and second['members'] == first['members'] and second['committee'] == first['committee']
    assert not any((other / 'members' / index / 'train.out').stat().st_size == 0 for index in '01')
    assert second['parallel'] == 0


def test_a_model_that_got_lost_is_made_again(train) -> None:
    _, first, folder = train('first')
    (folder / 'models/0.json').unlink()
    code, second, other = train('second', earlier=str(folder))
    assert code == 0 and second['members']['0']['resumed'] == 1
    assert (other / 'models/0.json').is_file() and second['members']['1'] == first['members']['1']


def test_what_failed_for_good_is_not_tried_again_and_a_crash_is(train) -> None:
    faults = [{'what': 'nan', 'members': [0]}, {'what': 'crash', 'members': [1], 'epoch': 3}]
    _, first, folder = train('first', faults=faults)
    assert statuses(folder) == ['diverged', 'failed']
    code, second, other = train('second', faults=faults, earlier=str(folder))
    assert code == 1 and statuses(other) == ['diverged', 'failed']
    assert second['members']['0'] == first['members']['0']
    assert [len(content['members']['1']['attempts']) for content in (first, second)] == [1, 2]


def test_the_learning_rate_stays_low_after_an_interruption(train) -> None:
    faults = [{'what': 'nan', 'epoch': 1, 'above_factor': 0.5}]
    code, first, folder = train(
        'first', faults=faults, seeds=(1,), max_seconds=2.5, epochs=30, parameters={'pause': 0.1}
    )
    assert code == 3 and [attempt['ended'] for attempt in first['members']['0']['attempts']] == ['diverged', 'stopped']
    code, second, _ = train(
        'second', faults=faults, seeds=(1,), epochs=30, parameters={'pause': 0.1}, earlier=str(folder)
    )
    assert code == 0
    assert [a['learning_rate_factor'] for a in second['members']['0']['attempts']] == [1.0, 0.1, 0.1]


@pytest.mark.parametrize(
    ('given', 'words'),
    [
        ({'epochs': 7}, '`settings.epochs` was 5, is 7'),
        ({'weights': {'energy': 2.0}}, '`settings.weights.energy` was 1.0, is 2.0'),
        ({'seeds': (1, 3)}, '`members.1.seed` was 2, is 3'),
        ({'resampling': {'kind': 'bootstrap'}}, '`settings.resampling.kind`'),
    ],
)
def test_another_training_is_not_gone_on_with(train, capsys, given: dict, words: str) -> None:
    train('first')
    code, content, folder = train('second', earlier='../first', **given)
    sentence = capsys.readouterr().err
    assert code == 2 and content == {} and words in sentence and 'cannot be gone on with' in sentence
    assert not (folder / 'members').exists()


def test_other_data_are_another_training(train, frames, tmp_path: Path, capsys) -> None:
    train('first')
    folder = prepare_job(tmp_path, 'second', frames[1:], earlier='../first')
    assert main([str(folder / 'train.json')], folder) == 2
    assert '`data.train` was' in capsys.readouterr().err


def test_the_folder_of_another_training(train, capsys) -> None:
    train('first')
    code, _, _ = train('first', epochs=6)
    assert code == 2 and '`settings.epochs` was 5, is 6' in capsys.readouterr().err


def test_an_earlier_job_that_had_not_begun(train, tmp_path: Path) -> None:
    (tmp_path / 'empty').mkdir()
    code, content, _ = train(earlier='../empty')
    assert code == 0 and content['members']['0']['resumed'] == 0


def test_a_checkpoint_damaged_by_the_kill(train) -> None:
    """The training begins anew, and says so."""
    code, _, folder = train('first', seeds=(1,), max_seconds=2.0, **SLOW)
    assert code == 3
    (folder / 'members/0/checkpoint.json').write_text('{"epo')
    code, content, other = train('second', seeds=(1,), earlier=str(folder), **SLOW)
    assert code == 0
    member = content['members']['0']
    assert [attempt['ended'] for attempt in member['attempts']] == ['stopped', 'corrupt_checkpoint', 'trained']
    assert 'is damaged' in content['warnings'][0] and 'begins anew' in content['warnings'][0]
    assert epochs(other) == list(range(31)) and (other / 'members/0/train_0.out').is_file()


def test_a_member_that_somebody_else_terminates(train) -> None:
    """As a batch system does it, which signals all processes at once: the job can be gone on with."""
    code, content, folder = train(faults=[{'what': 'terminated', 'members': [1], 'epoch': 2}])
    assert code == 3 and content['stopped'] == 'signal' and statuses(folder) == ['trained', 'stopped']
    assert 'SIGTERM ended it' in content['members']['1']['message']


def test_a_signal_during_the_evaluation_of_errors(train, monkeypatch) -> None:
    """The members are trained; the next job takes them over and evaluates."""
    from aiida_alpot.worker.training import errors

    evaluate = errors.evaluate

    def interrupted(committee, frames, go_on):
        os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(committee, frames, go_on)

    monkeypatch.setattr(errors, 'evaluate', interrupted)
    code, content, folder = train('first')
    assert code == 3 and content['stopped'] == 'signal' and statuses(folder) == ['trained', 'trained']
    assert content['committee'] is None and content['members']['0']['errors'] is None
    monkeypatch.undo()
    code, content, _ = train('first')
    assert code == 0 and content['members']['0']['errors'] is not None
