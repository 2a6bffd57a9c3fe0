"""Small trainings with metatrain: copper with some gold, labelled by ASE's EMT potential."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT

from aiida_alpot.worker.frames import Frame, write_extxyz
from aiida_alpot.worker.potentials import Committee, load_committee
from aiida_alpot.worker.training.metatrain import MetatrainTrainer
from aiida_alpot.worker.training.settings import parse_settings
from aiida_alpot.worker.training.trainer import Member, Result, Task, TrainingData

PET = {
    'name': 'pet',
    'model': {
        'd_pet': 8,
        'd_head': 8,
        'd_node': 8,
        'd_feedforward': 8,
        'num_heads': 2,
        'num_attention_layers': 1,
        'num_gnn_layers': 1,
    },
}
SOAP_BPNN = {
    'name': 'soap_bpnn',
    'model': {'soap': {'max_angular': 2, 'max_radial': 2}, 'bpnn': {'num_neurons_per_layer': 8}},
}
REFERENCE = {'Cu': 0.4, 'Au': -0.3}


def make_frames(n: int, seed: int, without: Sequence[int] = ()) -> list[Frame]:
    """Rattled and strained cells of four atoms; those of ``without`` have an energy only."""
    rng = np.random.default_rng(seed)
    frames = []
    for index in range(n):
        atoms = bulk('Cu', 'fcc', 3.6 + 0.2 * rng.random(), cubic=True)
        atoms.numbers[rng.integers(4)] = 79
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.04 * rng.normal(size=(3, 3))), scale_atoms=True)
        atoms.positions += 0.1 * rng.normal(size=atoms.positions.shape)
        atoms.calc = EMT()
        labels: dict[str, Any] = {'energy': atoms.get_potential_energy()}
        if index not in without:
            labels |= {'forces': atoms.get_forces(), 'stress': atoms.get_stress(voigt=False)}
        frames.append(
            Frame(
                numbers=atoms.numbers,
                positions=atoms.positions,
                cell=atoms.cell.array,
                pbc=(True, True, True),
                level_of_theory='emt',
                origin='rattle',
                **labels,
            )
        )
    return frames


@dataclass
class Job:
    """A training of a committee with its trainer."""

    task: Task
    trainer: MetatrainTrainer
    validation: list[Frame]
    members: dict[int, Member] = field(default_factory=dict)

    def member(self, index: int = 0, **options: Any) -> Member:
        """A member, prepared."""
        folder = self.task.folder / 'members' / str(index)
        folder.mkdir(parents=True, exist_ok=True)
        options = {'seed': 11 + index, 'batch_size': self.task.settings.batch_size, **options}
        self.members[index] = Member(index=index, folder=folder, **options)
        self.trainer.prepare(self.task, self.members[index])
        return self.members[index]

    def start(self, index: int = 0) -> int:
        """Train a member in a process of its own, and do not wait for it: its number."""
        member = self.members[index]
        process = os.fork()
        if not process:
            try:
                os.chdir(member.folder)
                out = os.open('train.out', os.O_WRONLY | os.O_CREAT | os.O_APPEND)
                os.dup2(out, 1)
                os.dup2(out, 2)
                sys.stdout = sys.stderr = os.fdopen(1, 'w', buffering=1)  # not those of pytest
                self.trainer.run(self.task, member)
            finally:
                os._exit(99)
        return process

    def run(self, index: int = 0) -> int:
        """Train a member to its end: the exit code."""
        return os.waitstatus_to_exitcode(os.waitpid(self.start(index), 0)[1])

    def train(self, index: int = 0, **options: Any) -> Result:
        """Make a member and train it, which has to end well."""
        self.member(index, **options)
        code = self.run(index)
        assert code == 0, self.output(index)
        return self.trainer.result(self.task, self.members[index])

    def run_command(self, index: int = 0) -> None:
        """Train a member by its command, as a program of its own."""
        member = self.members[index]
        done = subprocess.run(
            self.trainer.command(self.task, member), cwd=member.folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def kill_after(self, epoch: int, index: int = 0) -> None:
        """Start the training of a member and kill it once it has written a checkpoint of this epoch or a later one."""
        process = self.start(index)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            found = (self.members[index].folder / 'outputs').glob('*/*/model_*.ckpt')
            if any(int(path.stem.partition('_')[2]) >= epoch for path in found):
                break
            time.sleep(0.01)
        os.kill(process, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL, self.output(index)

    def output(self, index: int = 0) -> str:
        """What a member has printed."""
        return (self.members[index].folder / 'train.out').read_text()


@pytest.fixture(scope='session', autouse=True)
def unoptimised() -> Iterator[None]:
    """TorchScript takes seconds for what it makes faster, and these models are evaluated a few times only."""
    import torch

    torch.set_num_threads(1)
    with torch.jit.optimized_execution(False):
        yield


@pytest.fixture(scope='session')
def make_job(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Job]:
    """Factory of jobs: ``make_job(architecture, foundation=None, without=(), **settings)``."""

    def make(
        architecture: dict[str, Any] = PET,
        *,
        foundation: Path | None = None,
        without: Sequence[int] = (),
        labels: dict[str, float] | None = None,
        **options: Any,
    ) -> Job:
        given = {
            'trainer': 'metatrain',
            'cutoff': 3.5,
            'epochs': 4,
            'batch_size': 4,
            'learning_rate': 0.003,
            'weights': {'energy': 1.0, 'forces': 10.0, 'stress': 2.0},
            'parameters': architecture,
        }
        settings = parse_settings({**given, **options})
        folder = tmp_path_factory.mktemp('job')
        train, validation = make_frames(12, 0, without), make_frames(4, 1)
        (folder / 'data').mkdir()
        write_extxyz(train, folder / 'data' / 'train.xyz')
        write_extxyz(validation, folder / 'data' / 'validation.xyz')
        data = TrainingData(
            train=folder / 'data' / 'train.xyz',
            validation=folder / 'data' / 'validation.xyz',
            n_train=len(train),
            n_validation=len(validation),
            elements=('Cu', 'Au'),
            reference_energies=REFERENCE,
            reference_source='isolated_atoms',
            n_labelled={'energy': 12, 'forces': 12 - len(without), 'stress': 12 - len(without)},
        )
        job = Job(Task(folder, settings, data, foundation), MetatrainTrainer(settings), validation)
        job.trainer.check_task(job.task)
        job.trainer.load(job.task)
        return job

    return make


@dataclass
class Trained:
    """A committee of two."""

    job: Job
    results: list[Result]

    @property
    def models(self) -> list[Path]:
        return [result.model for result in self.results]

    @cached_property
    def committee(self) -> Committee:
        """Loaded once."""
        return load_committee(self.models)


@pytest.fixture(scope='session')
def pet(make_job: Callable[..., Job]) -> Trained:
    """PET, float64; the second member by the command."""
    job = make_job(PET, epochs=12, learning_rate=0.01)
    job.train(0)
    job.member(1)
    job.run_command(1)
    return Trained(job, [job.trainer.result(job.task, job.members[index]) for index in range(2)])


@pytest.fixture(scope='session')
def soap_bpnn(make_job: Callable[..., Job]) -> Trained:
    """SOAP-BPNN, float32."""
    job = make_job(SOAP_BPNN, epochs=8, learning_rate=0.01, dtype='float32')
    return Trained(job, [job.train(index) for index in range(2)])
