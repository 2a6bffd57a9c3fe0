"""The interface between the training of a committee and the program that trains one model of it."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import numpy as np

from aiida_alpot.worker.training.settings import TrainingSettings

ENERGY_KEY, FORCES_KEY, STRESS_KEY = 'REF_energy', 'REF_forces', 'REF_stress'
"""Names of the labels in the extended XYZ files, as :func:`aiida_alpot.worker.frames.write_extxyz` writes them."""


@dataclass(frozen=True)
class TrainingData:
    """The data of all members, written once.

    :param train: extended XYZ with the labels :data:`ENERGY_KEY` (eV, total), :data:`FORCES_KEY` (eV/A) and
        :data:`STRESS_KEY` (eV/A^3, positive under tension); isolated atoms are left out.
    :param validation: the same, of the frames by which an epoch is chosen.
    :param n_train: number of frames.
    :param elements: chemical symbols, by atomic number.
    :param reference_energies: energy of the isolated atom of each element, or what stands in for it, eV.
    :param reference_source: ``isolated_atoms`` or ``least_squares``.
    :param n_labelled: number of training frames that have a label, by property.
    :param warnings: sentences for the report, of what is doubtful.
    """

    train: Path
    validation: Path
    n_train: int
    n_validation: int
    elements: tuple[str, ...]
    reference_energies: Mapping[str, float]
    reference_source: str
    n_labelled: Mapping[str, int]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Task:
    """What all members of a committee have in common.

    :param folder: of the job; absolute.
    :param foundation: file of the model that all members are tuned from.
    :param replay: extended XYZ of frames that the foundation model was trained on.
    :param starts: files that members go on from, those of an earlier round; see :attr:`Member.start`.
    """

    folder: Path
    settings: TrainingSettings
    data: TrainingData
    foundation: Path | None = None
    replay: Path | None = None
    starts: tuple[Path, ...] = ()


@dataclass
class Member:
    """One model of a committee on its way.

    :param folder: its own; absolute. It is the working directory while it trains.
    :param start: file of the model of an earlier round that it goes on from: what :attr:`Result.checkpoint` was, or
        the model where there was none.
    :param indices: rows of :attr:`TrainingData.train` that it sees, possibly some of them more than once; ``None``:
        all, once.
    :param batch_size: that of the settings, or less after the memory did not suffice.
    :param learning_rate_factor: what the learning rate is multiplied by; less than 1 after a divergence.
    :param threads: cores that it may use.
    :param device: as torch names it; an accelerator that it is to have for itself comes by the environment.
    """

    index: int
    seed: int
    folder: Path
    start: Path | None = None
    indices: np.ndarray | None = None
    batch_size: int = 10
    learning_rate_factor: float = 1.0
    threads: int = 1
    device: str = 'cpu'


@dataclass(frozen=True)
class Epoch:
    """What a trainer has written of one epoch; ``None`` for what it does not say, nan for what is not finite.

    :param epoch: number of passes over the training frames so far; 0: before the first.
    :param train_loss: as the trainer defines it.
    :param loss: of the validation frames, which chooses the epoch.
    :param energy: RMSE of the validation frames, eV/atom.
    :param forces: RMSE of the components, eV/A.
    :param stress: RMSE of the components, eV/A^3.
    """

    epoch: int
    train_loss: float | None = None
    loss: float | None = None
    energy: float | None = None
    forces: float | None = None
    stress: float | None = None


@dataclass(frozen=True)
class Result:
    """What a trainer leaves when it has ended.

    :param model: file that :func:`aiida_alpot.worker.potentials.load_committee` reads.
    :param checkpoint: file from which a later training can start; ``None``: the model itself serves.
    :param epoch: the epoch that was chosen.
    :param loss_name: the loss that was used, in the trainer's words.
    :param loss_weights: weight of each property in it, as the trainer states it, not as it was asked for.
    :param hyper_parameters: all options that were in force, plain values.
    :param version: of the trainer.
    """

    model: Path
    epoch: int
    loss_name: str
    loss_weights: Mapping[str, float]
    checkpoint: Path | None = None
    hyper_parameters: Mapping[str, Any] = field(default_factory=dict)
    version: str = ''


class TrainingFailed(Exception):  # noqa: N818 -- it says what has happened, as OutOfTime does
    """A training ended without a model that can be used; the sentence says why."""


class CorruptCheckpoint(TrainingFailed):
    """The checkpoint that was to be gone on from cannot be read."""


class Trainer(ABC):
    """A program that trains a potential.

    An instance belongs to one job. Nothing here may import what is heavy when the module is imported: the checks of
    options are made where nothing of it is installed.
    """

    name: ClassVar[str]
    requires: ClassVar[str]
    """Name of the Python package that it needs."""
    checks_without_import: ClassVar[bool] = False
    """Whether :meth:`check_options` is made without importing torch; elsewhere it is made in a process of its own."""

    def __init__(self, settings: TrainingSettings) -> None:
        self.settings = settings

    @abstractmethod
    def check_options(self) -> None:
        """Compare the options with what the trainer itself says that it takes.

        :raises ValueError: for an option that it does not have, naming the nearest, or a value that it refuses; for an
            option that is set elsewhere, saying where; for what is asked of it that it cannot do.
        """

    def check_task(self, task: Task) -> list[str]:
        """Compare what is asked for with the data and the foundation model, before anything expensive.

        :return: sentences for the report, of what is doubtful.
        :raises ValueError: for what cannot be.
        """
        return []

    def load(self, task: Task) -> None:
        """Bring into memory what all members share; they are forked from this process.

        No accelerator may be touched here, and torch has to be kept to one thread.
        """
        return

    @abstractmethod
    def prepare(self, task: Task, member: Member) -> None:
        """Write what one member needs into its folder, where nothing, or its interrupted training, lies."""

    @abstractmethod
    def has_checkpoint(self, member: Member) -> bool:
        """Whether the folder of a member holds something to go on from after an interruption."""

    @abstractmethod
    def command(self, task: Task, member: Member) -> list[str]:
        """Program and arguments that train a member, or go on with it where there is a checkpoint."""

    def run(self, task: Task, member: Member) -> NoReturn:
        """Train a member: called in a process of its own, in the member's folder; it does not return.

        What it prints is kept. It ends with exit code 0 where it thinks that all went well.
        """
        command = self.command(task, member)
        os.execvp(command[0], command)

    @abstractmethod
    def history(self, member: Member) -> list[Epoch]:
        """The learning curve so far, of all attempts that went on from one another; called while it trains."""

    @abstractmethod
    def result(self, task: Task, member: Member) -> Result:
        """What was made.

        :raises TrainingFailed: where there is no model although the trainer ended well, or it cannot be read.
        """
