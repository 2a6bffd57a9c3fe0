"""How the training of a member ended, and the files that say so."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from aiida_alpot.worker.training.plain import plain, read_json, write_json
from aiida_alpot.worker.training.trainer import Epoch, Member, Result

TRAINED = 'trained'
DIVERGED = 'diverged'
OUT_OF_MEMORY = 'out_of_memory'
PROPERTY_NOT_TRAINED = 'property_not_trained'
NO_MODEL = 'no_model'
CORRUPT_CHECKPOINT = 'corrupt_checkpoint'
FAILED = 'failed'
STOPPED = 'stopped'

FOR_GOOD = (TRAINED, DIVERGED, PROPERTY_NOT_TRAINED, NO_MODEL, CORRUPT_CHECKPOINT)
"""Statuses that another job with the same input would come to again. What failed by the machine, or was stopped, is
tried again."""

STATE_FILE = 'state.json'
CURVE = ('epoch', 'train_loss', 'loss', 'energy', 'forces', 'stress')


@dataclass
class Attempt:
    """One run of the trainer.

    :param ended: status that it would have had, had there been no other.
    :param epochs: last epoch that it has reached.
    """

    learning_rate_factor: float
    batch_size: int
    ended: str = 'running'
    seconds: float = 0.0
    epochs: int = 0


@dataclass(frozen=True, eq=False)
class Outcome:
    """How the training of a member ended.

    :param message: sentence; ``None`` where there is nothing to say.
    :param model: relative to the folder of the job; likewise
    :param checkpoint: file that a later training starts from.
    :param resumed: how often it went on from a checkpoint.
    :param n_frames: number of distinct training frames that it has seen.
    :param curve: what the trainer said of each epoch, shape (n, 6), by :data:`CURVE`; nan for what it did not say.
    """

    index: int
    seed: int
    status: str
    message: str | None
    n_frames: int
    attempts: Sequence[Attempt] = ()
    resumed: int = 0
    curve: np.ndarray = field(default_factory=lambda: np.zeros((0, len(CURVE))))
    result: dict[str, Any] = field(default_factory=dict)
    model: str | None = None
    checkpoint: str | None = None

    @property
    def is_trained(self) -> bool:
        """Whether there is a model."""
        return self.status == TRAINED

    def entry(self) -> dict[str, Any]:
        """What ``training.json`` says of it, without the errors."""
        return {
            'index': self.index,
            'seed': self.seed,
            'status': self.status,
            'message': self.message,
            'model': self.model,
            'checkpoint': self.checkpoint,
            'epoch': self.result.get('epoch'),
            'n_epochs': int(self.curve[-1, 0]) if len(self.curve) else 0,
            'loss': self.result.get('loss'),
            'hyper_parameters': self.result.get('hyper_parameters', {}),
            'version': self.result.get('version', ''),
            'attempts': [asdict(attempt) for attempt in self.attempts],
            'resumed': self.resumed,
            'n_frames': self.n_frames,
            'curve': str(self.index),
        }

    def write(self, folder: Path) -> None:
        """Write it down in the folder of the member."""
        write_json(folder / STATE_FILE, {**self.entry(), 'result': self.result, 'curve': self.curve})

    @classmethod
    def read(cls, folder: Path) -> Outcome | None:
        """The outcome that a folder of a member tells of; ``None`` for none."""
        found = read_json(folder / STATE_FILE)
        if found is None:
            return None
        names = ('index', 'seed', 'status', 'message', 'n_frames', 'resumed', 'result', 'model', 'checkpoint')
        try:
            return cls(
                **{name: found[name] for name in names},
                attempts=[Attempt(**attempt) for attempt in found['attempts']],
                curve=np.array(found['curve'], dtype=float).reshape(-1, len(CURVE)),
            )
        except (KeyError, TypeError, ValueError):
            return None


def curve_of(history: Iterable[Epoch]) -> np.ndarray:
    """The learning curve as numbers, shape (n, 6)."""
    rows = [[getattr(epoch, name) for name in CURVE] for epoch in history]
    return np.array(rows, dtype=float).reshape(-1, len(CURVE))


def write_curves(path: Path, outcomes: Iterable[Outcome]) -> None:
    """Write the learning curves of all members, each number under ``<index>_<name>``."""
    arrays: dict[str, Any] = {
        f'{outcome.index}_{name}': outcome.curve[:, column] for outcome in outcomes for column, name in enumerate(CURVE)
    }
    np.savez(path, **arrays)


def not_trained(result: Result, properties: Sequence[str]) -> list[str]:
    """Properties that were asked for and have no weight in the loss that the trainer used."""
    weights = {name: result.loss_weights.get(name) for name in properties}
    return [name for name, weight in weights.items() if weight is None or not math.isfinite(weight) or weight <= 0]


def result_fields(result: Result) -> dict[str, Any]:
    """What a trainer says about what it made, as plain values."""
    return {
        'epoch': int(result.epoch),
        'loss': {'name': result.loss_name, 'weights': plain(result.loss_weights)},
        'hyper_parameters': plain(result.hyper_parameters),
        'version': result.version,
    }


def publish(member: Member, result: Result, folder: Path) -> tuple[str, str | None]:
    """Copy model and checkpoint to where they are fetched from.

    :param folder: of the job.
    :return: their paths relative to it.
    """
    model = _copy(result.model, folder, f'models/{member.index}{result.model.suffix}')
    if result.checkpoint is None:
        return model, None
    return model, _copy(result.checkpoint, folder, f'checkpoints/{member.index}{result.checkpoint.suffix}')


def _copy(source: Path, folder: Path, name: str) -> str:
    """A copy that is there complete or not at all."""
    target = folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f'.{target.name}')
    shutil.copyfile(source, temporary)
    os.replace(temporary, target)
    return name


def take_over(outcome: Outcome, earlier: Path, folder: Path) -> bool:
    """Copy the files of a member that an earlier job has trained.

    :return: whether they are all there.
    """
    names = [name for name in (outcome.model, outcome.checkpoint) if name is not None]
    if any(not (earlier / name).is_file() or not (earlier / name).stat().st_size for name in names):
        return False
    if earlier.resolve() != folder.resolve():
        for name in names:
            _copy(earlier / name, folder, name)
    return True
