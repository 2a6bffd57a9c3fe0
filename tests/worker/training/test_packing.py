"""How many members are trained at a time, and where."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import numpy as np
import pytest

from aiida_alpot.worker.frames import FrameStore, write_shard
from aiida_alpot.worker.training import accelerators, members, packing
from aiida_alpot.worker.training.accelerators import Memory, check_device, how_many_fit, places_of
from aiida_alpot.worker.training.data import write_training_data
from aiida_alpot.worker.training.members import Training
from aiida_alpot.worker.training.packing import Packing
from aiida_alpot.worker.training.process import Process, ask, end
from aiida_alpot.worker.training.settings import parse_settings
from aiida_alpot.worker.training.stopping import Stop
from aiida_alpot.worker.training.trainer import Member, Task

GIB = 2**30


@pytest.fixture
def make_trainings(linear, frames, tmp_path: Path):
    """Members of one task: ``make_trainings(n, epochs=3, pause=0.1, **parameters)``."""
    from alpot_linear import LinearTrainer

    def make(n: int, epochs: int = 3, **parameters) -> list[Training]:
        settings = parse_settings({'trainer': 'linear', 'cutoff': 4.0, 'epochs': epochs, 'parameters': parameters})
        with FrameStore([write_shard(frames, tmp_path)]) as store:
            data = write_training_data(store, tmp_path / 'data', settings.properties)
        task, trainer = Task(tmp_path, settings, data), LinearTrainer(settings)
        trainer.load(task)
        folders = [tmp_path / f'members/{index}' for index in range(n)]
        return [Training(task, trainer, Member(index, index, folder)) for index, folder in enumerate(folders)]

    return make


class Gpu:
    """Memory of an accelerator on which each process of ours takes a share.

    :param used: by others.
    """

    def __init__(self, trainings: list[Training], taken: float, total: float = 80.0, used: float = 0.0) -> None:
        self.trainings, self.taken, self.total, self.used = trainings, taken * GIB, total * GIB, used * GIB
        self.asked: list[str | None] = []

    def __call__(self, environment) -> Memory:
        self.asked.append(environment.get('CUDA_VISIBLE_DEVICES'))
        here = [t for t in self.trainings if t.process is not None and t.process.poll() is None]
        return Memory(self.total - self.used - self.taken * len(here), self.total)


def words(training: Training) -> tuple[str, ...]:
    found = re.search(r'on (\w+) (\S+), threads (\d+)', training.output.read_text())
    assert found
    return found.groups()


def trained(trainings: list[Training]) -> bool:
    return all(training.outcome is not None and training.outcome.is_trained for training in trainings)


@pytest.mark.parametrize(
    ('n', 'cores', 'parallel', 'most', 'threads'),
    [(4, 2, None, 2, 1), (2, 8, None, 2, 4), (3, 8, None, 3, 2), (3, 2, 3, 3, 1), (3, 2, 1, 1, 2), (1, 2, 5, 1, 2)],
)
def test_on_cores(
    make_trainings, monkeypatch, n: int, cores: int, parallel: int | None, most: int, threads: int
) -> None:
    """As many at a time as there are cores, which they share; or as was asked for."""
    monkeypatch.delenv('OMP_NUM_THREADS', raising=False)
    trainings = make_trainings(n, pause=0.05)
    packed = Packing(trainings, 'cpu', parallel, cores=cores, say=lambda _: None)
    packed.run(Stop())
    assert packed.most == most and trained(trainings)
    assert [words(training) for training in trainings] == [('cpu', 'None', str(threads))] * n


def test_the_environment_limits_the_threads(make_trainings, monkeypatch) -> None:
    trainings = make_trainings(2)
    for given, expected in (('1', 1), ('3', 3), ('99', 4), ('', 4), ('0', 4), ('2,2', 4)):
        monkeypatch.setenv('OMP_NUM_THREADS', given)
        assert Packing(trainings, 'cpu', cores=8).threads == expected


def test_cores_of_this_process() -> None:
    assert packing.available_cores() == len(os.sched_getaffinity(0))


def test_the_next_begins_as_one_ends(make_trainings) -> None:
    """It does not wait for the others."""
    trainings, said = make_trainings(3, epochs=6, pause=0.2, faults=[{'what': 'crash', 'members': [0]}]), []
    Packing(trainings, 'cpu', 2, say=said.append).run(Stop())
    begins = next(row for row, line in enumerate(said) if line.startswith('member 2: begins'))
    ends = {line.split()[1]: row for row, line in enumerate(said) if ' after epoch ' in line}
    assert ends['0:'] < begins < ends['1:'] and trained(trainings[1:])


@pytest.mark.parametrize(
    ('taken', 'used', 'fit'),
    [(14.0, 0.0, 5), (14.0, 20.0, 3), (50.0, 0.0, 1), (0.5, 0.0, 6)],
)
def test_one_accelerator(make_trainings, monkeypatch, taken: float, used: float, fit: int) -> None:
    """After the first epoch of the first member it is known how many fit into 90 % of the memory."""
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '3')
    monkeypatch.setattr(members, 'WATCH_EVERY', 0.02)
    monkeypatch.setattr(packing, 'POLL', 0.02)
    trainings = make_trainings(6, pause=0.15)
    gpu, said = Gpu(trainings, taken, used=used), []
    packed = Packing(trainings, 'cuda', cores=16, ask_memory=gpu, say=said.append)
    packed.run(Stop())
    assert trained(trainings) and packed.most == fit and packed.warnings == []
    assert set(gpu.asked) == {'3'} and len(gpu.asked) == 2
    assert {words(training)[:2] for training in trainings} == {('cuda', '3')}
    started = [line for line in said if 'begins' in line or 'takes' in line]
    assert 'begins' in started[0] and f'{taken:.2f} GiB of 80 GiB: {fit if fit < 6 else 144} fit' in started[1]


def test_several_accelerators(make_trainings, monkeypatch) -> None:
    """Members are spread over those that the job has, each sees one; no memory is asked for where each has its own."""
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '3,GPU-5')
    trainings = make_trainings(2, pause=0.1)
    gpu = Gpu(trainings, 1.0)
    packed = Packing(trainings, 'cuda', cores=16, ask_memory=gpu, say=lambda _: None)
    packed.run(Stop())
    assert trained(trainings) and gpu.asked == [] and packed.most == 2
    assert sorted(words(training)[1] for training in trainings) == ['3', 'GPU-5']


def test_several_members_on_several_accelerators(make_trainings, monkeypatch) -> None:
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '0,1')
    trainings = make_trainings(6, pause=0.15)
    gpu = Gpu(trainings, 20.0)
    packed = Packing(trainings, 'cuda', 4, cores=16, ask_memory=gpu, say=lambda _: None)
    packed.run(Stop())
    assert trained(trainings) and packed.most == 4 and gpu.asked == [], 'how many was said'
    assert sorted(words(training)[1] for training in trainings[:4]) == ['0', '0', '1', '1']


def test_one_of_several_accelerators(monkeypatch) -> None:
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '4,7')
    assert places_of('cuda:1') == [('cuda', {'CUDA_VISIBLE_DEVICES': '7'})]
    assert places_of('cuda') == [('cuda', {'CUDA_VISIBLE_DEVICES': '4'}), ('cuda', {'CUDA_VISIBLE_DEVICES': '7'})]
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES')
    monkeypatch.setattr(accelerators, '_count', lambda kind: 2)
    assert places_of('cuda') == [('cuda', {'CUDA_VISIBLE_DEVICES': '0'}), ('cuda', {'CUDA_VISIBLE_DEVICES': '1'})]
    assert places_of('cpu') == [('cpu', {})] and places_of('mps') == [('mps', {})]


def test_a_memory_that_is_not_known(make_trainings, monkeypatch) -> None:
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '0')
    trainings = make_trainings(3)

    def fail(_) -> Memory:
        raise RuntimeError('no driver')

    packed = Packing(trainings, 'cuda', cores=8, ask_memory=fail, say=lambda _: None)
    packed.run(Stop())
    assert trained(trainings) and packed.most == 1
    assert packed.warnings == [
        'the memory of the accelerator is not known (no driver), so members run one after the other'
    ]


def test_out_of_memory_lets_no_other_begin(make_trainings, monkeypatch) -> None:
    """Where those that are there do not fit, fewer are trained at a time from then on."""
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '0')
    faults = [{'what': 'cuda_out_of_memory', 'members': [2], 'above_batch_size': 5, 'epoch': 1}]
    trainings = make_trainings(6, epochs=4, pause=0.15, faults=faults)
    packed = Packing(trainings, 'cuda', 3, cores=8, say=lambda _: None)
    packed.run(Stop())
    assert trained(trainings) and packed.most == 3 and packed.places[0].room == 2
    assert [attempt.batch_size for attempt in trainings[2].outcome.attempts] == [10, 5]


def test_how_many_fit() -> None:
    assert how_many_fit(Memory(80.0, 80.0), Memory(70.0, 80.0)) == 7
    assert how_many_fit(Memory(80.0, 80.0), Memory(80.0, 80.0)) == 1
    assert how_many_fit(Memory(10.0, 80.0), Memory(1.0, 80.0)) == 1


def test_devices(monkeypatch) -> None:
    check_device('cpu')
    monkeypatch.setattr(accelerators, '_count', lambda kind: 2)
    check_device('cuda')
    check_device('cuda:1')
    with pytest.raises(ValueError, match="`device` is 'cuda:2', but torch sees only 2 of them"):
        check_device('cuda:2')


# Processes.


def test_a_process(tmp_path: Path) -> None:
    def work() -> None:
        print(os.getcwd(), os.environ['MINE'], os.environ['OMP_NUM_THREADS'], flush=True)
        os.system('echo from a child')

    process = Process(work, tmp_path, tmp_path / 'out', {'MINE': 'yes'}, threads=3)
    while process.poll() is None:
        time.sleep(0.01)
    assert process.code == 0
    assert (tmp_path / 'out').read_text() == f'{tmp_path} yes 3\nfrom a child\n'


@pytest.mark.parametrize(('ending', 'code'), [(SystemExit(7), 7), (SystemExit('bye'), 1), (ValueError('no'), 1)])
def test_exit_codes(tmp_path: Path, ending: BaseException, code: int) -> None:
    def work() -> None:
        raise ending

    process = Process(work, tmp_path, tmp_path / 'out')
    while process.poll() is None:
        time.sleep(0.01)
    assert process.code == code
    assert code == 7 or str(ending) in (tmp_path / 'out').read_text()


def test_what_a_process_has_started_ends_with_it(tmp_path: Path) -> None:
    process = Process(lambda: os.system('sleep 60 & echo $! > number; wait'), tmp_path, tmp_path / 'out')
    while not (tmp_path / 'number').is_file() or not (tmp_path / 'number').read_text().strip():
        time.sleep(0.01)
    number = int((tmp_path / 'number').read_text())
    end([process], 2.0)
    assert process.code is not None and process.code < 0
    for _ in range(200):
        if not Path(f'/proc/{number}').exists() or ') Z ' in Path(f'/proc/{number}/stat').read_text():
            break
        time.sleep(0.01)
    else:
        raise AssertionError('it runs on')


def test_a_question_leaves_nothing_behind() -> None:
    def question() -> list[float]:
        os.environ['LEFT_BEHIND'] = 'yes'
        return np.arange(1e5).tolist()

    assert ask(question) == list(range(100000)) and 'LEFT_BEHIND' not in os.environ
    assert ask(lambda: os.environ['GIVEN'], {'GIVEN': '1'}) == '1'
    with pytest.raises(RuntimeError, match='KeyError: 3'):
        ask(lambda: {}[3])
    with pytest.raises(RuntimeError, match='without an answer'):
        ask(lambda: os._exit(1))
