"""A small data set, and trainings of tiny MACE models on it, forked from this process."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.data import chemical_symbols

from aiida_alpot.worker.frames import Frame, write_extxyz
from aiida_alpot.worker.training.conformance import REFERENCE_ENERGIES, made_up_frames
from aiida_alpot.worker.training.mace import MaceTrainer
from aiida_alpot.worker.training.process import Process
from aiida_alpot.worker.training.settings import parse_settings
from aiida_alpot.worker.training.trainer import Member, Result, Task, TrainingData

PARAMETERS = {
    'model': 'ScaleShiftMACE',
    'num_channels': 16,
    'max_L': 0,
    'max_ell': 2,
    'correlation': 2,
    'radial_MLP': [8],
    'loss': 'stress',
    'num_radial_basis': 4,
}
"""A model that is trained for an epoch in a tenth of a second."""


def settings_of(**given: Any) -> dict[str, Any]:
    """Settings of a short training, with changes; those of ``parameters`` are added."""
    parameters = {**PARAMETERS, **given.pop('parameters', {})}
    usual = {'trainer': 'mace', 'cutoff': 4.0, 'epochs': 3, 'batch_size': 4, 'learning_rate': 0.02}
    return {**usual, **given, 'parameters': parameters}


@dataclasses.dataclass
class Run:
    """A training that has ended.

    :param code: exit code.
    :param printed: what it said.
    """

    trainer: MaceTrainer
    task: Task
    member: Member
    code: int | None
    printed: str

    @property
    def result(self) -> Result:
        """What the trainer says that it has made."""
        return self.trainer.result(self.task, self.member)

    @property
    def losses(self) -> list[float | None]:
        """Validation losses by epoch, that before training first."""
        return [epoch.loss for epoch in self.trainer.history(self.member)]


class Job:
    """A training in a folder of its own.

    :param task: of other data or models than usual.
    """

    def __init__(self, folder: Path, data: TrainingData, task: dict[str, Any] | None = None, **given: Any) -> None:
        self.folder = folder
        self.trainer = MaceTrainer(parse_settings(settings_of(**given)))
        self.task = Task(folder, self.trainer.settings, data, **(task or {}))

    def member(self, index: int = 0, seed: int = 1, **fields: Any) -> Member:
        """A member that has not begun."""
        folder = self.folder / 'members' / str(index)
        return Member(index, seed, folder, batch_size=self.trainer.settings.batch_size, **fields)

    def start(self, member: Member) -> Process:
        """Begin, or go on."""
        self.trainer.load(self.task)
        self.trainer.prepare(self.task, member)
        return Process(lambda: self.trainer.run(self.task, member), member.folder, member.folder / 'train.out')

    def finish(self, members: Sequence[Member]) -> list[Run]:
        """Train members, one after the other."""
        runs = []
        for member in members:
            process = self.start(member)
            while process.poll() is None:
                time.sleep(0.02)
            printed = (member.folder / 'train.out').read_text()
            runs.append(Run(self.trainer, self.task, member, process.code, printed))
        return runs


def write_data(
    folder: Path, train: Sequence[Frame], validation: Sequence[Frame], source: str = 'isolated_atoms'
) -> TrainingData:
    """Files as the core of the training writes them."""
    for name, frames in (('train', train), ('validation', validation)):
        write_extxyz(frames, folder / f'{name}.xyz')
    elements = tuple(chemical_symbols[number] for number in np.unique(np.concatenate([f.numbers for f in train])))
    return TrainingData(
        train=folder / 'train.xyz',
        validation=folder / 'validation.xyz',
        n_train=len(train),
        n_validation=len(validation),
        elements=elements,
        reference_energies={symbol: {**REFERENCE_ENERGIES, 'Ag': -60.0}[symbol] for symbol in elements},
        reference_source=source,
        n_labelled=dict.fromkeys(('energy', 'forces', 'stress'), len(train)),
    )


@pytest.fixture
def tiny_model() -> dict[str, Any]:
    """Options of mace_run_train for such a model."""
    return dict(PARAMETERS)


@pytest.fixture(scope='session')
def frames() -> dict[str, list[Frame]]:
    """Labelled frames by split."""
    made = [frame for frame in made_up_frames(12, 4, 0) if len(frame) > 1]
    return {split: [frame for frame in made if frame.split == split] for split in ('train', 'validation')}


@pytest.fixture(scope='session')
def data(frames: dict[str, list[Frame]], tmp_path_factory: pytest.TempPathFactory) -> TrainingData:
    """A data set of Cu and Au: 12 training and 4 validation frames."""
    return write_data(tmp_path_factory.mktemp('data'), frames['train'], frames['validation'])


@pytest.fixture(scope='session')
def new_job(data: TrainingData) -> Callable[..., Job]:
    """Factory of jobs: ``new_job(folder, task={...}, **settings)``."""

    def make(folder: Path, data: TrainingData = data, **given: Any) -> Job:
        return Job(folder, data, **given)

    return make


@pytest.fixture
def make_job(new_job: Callable[..., Job], tmp_path: Path) -> Callable[..., Job]:
    """The same, in a folder of the test: ``make_job(task={...}, **settings)``."""

    def make(name: str = 'job', **given: Any) -> Job:
        return new_job(tmp_path / name, **given)

    return make


@pytest.fixture(scope='session')
def new_data(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., TrainingData]:
    """Factory of data sets: ``new_data(train, validation, source='isolated_atoms')``."""

    def make(train: Sequence[Frame], validation: Sequence[Frame], source: str = 'isolated_atoms') -> TrainingData:
        return write_data(tmp_path_factory.mktemp('data'), train, validation, source)

    return make


@pytest.fixture(scope='session')
def foundation(new_job: Callable[..., Job], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A training from scratch whose model serves as the one that others go on from."""
    job = new_job(tmp_path_factory.mktemp('foundation'))
    return job.finish([job.member(seed=7)])[0]
