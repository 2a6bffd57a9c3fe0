"""``alpot-train TRAIN.json``: train the members of a committee side by side, from data that are prepared once.

``training.json`` says how each member ended, ``models`` and ``checkpoints`` hold what was made, ``curves.npz`` the
learning curves. The folder of a member, ``members/<i>``, keeps what its trainer wrote and, as soon as it has ended,
``state.json``. A job that was stopped, or killed, is gone on with by starting it again in its folder, or in a new one
that names it as ``earlier``.

=========  ==========================================================================================================
exit code  meaning
=========  ==========================================================================================================
0          all members are trained
1          some member is not; its status and message say why
2          bad input, refused before anything was trained, with a sentence on the standard error
3          the time was up or a signal came; the next start goes on
=========  ==========================================================================================================
"""

from __future__ import annotations

import argparse
import fcntl
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from aiida_alpot.worker.frames import FrameStore
from aiida_alpot.worker.training import errors, outcome
from aiida_alpot.worker.training.accelerators import check_device
from aiida_alpot.worker.training.check import check_installed
from aiida_alpot.worker.training.config import TrainConfig, read_config
from aiida_alpot.worker.training.data import Prepared, TrainingFrames, prepare, write_replay
from aiida_alpot.worker.training.members import Training
from aiida_alpot.worker.training.outcome import Outcome
from aiida_alpot.worker.training.packing import Packing
from aiida_alpot.worker.training.plain import write_json
from aiida_alpot.worker.training.registry import trainer_class
from aiida_alpot.worker.training.resampling import draw
from aiida_alpot.worker.training.resuming import bring_in, describe
from aiida_alpot.worker.training.stopping import SIGNAL, Stop
from aiida_alpot.worker.training.trainer import Member, Task, Trainer, TrainingFailed

ALL_TRAINED, SOME_NOT_TRAINED, BAD_INPUT, STOPPED = 0, 1, 2, 3
REPORT_FILE, LOCK_FILE = 'training.json', '.lock'
LOCK_SECONDS = 5.0
"""The members of a job that was killed are gone soon, but not at once."""


def main(argv: Sequence[str] | None = None, folder: Path | None = None) -> int:
    """The console program.

    :param folder: that everything is written into; by default the working folder.
    :return: exit code.
    """
    began = time.monotonic()
    parser = argparse.ArgumentParser(prog='alpot-train', description=(__doc__ or '').split('\n\n')[0])
    parser.add_argument('config', type=Path, metavar='TRAIN.json', help='what to train')
    arguments = parser.parse_args(argv)
    return train(arguments.config, (folder or Path.cwd()).resolve(), began)


def train(path: Path, folder: Path, began: float | None = None, kind: type[Trainer] | None = None) -> int:
    """Train as a file says.

    :param folder: that everything is written into; absolute.
    :param began: when the walltime began, by ``time.monotonic``; by default now.
    :param kind: the trainer, where it is not the one of that name in the registry.
    :return: exit code.
    """
    stop = Stop(began)
    # Asking for accelerators in the usual way would leave them unusable in forked processes.
    os.environ.setdefault('PYTORCH_NVML_BASED_CUDA_CHECK', '1')
    with ExitStack() as stack:
        stack.enter_context(stop)
        try:
            stack.enter_context(alone_in(folder))
            config = read_config(path)
            stop.limit(config.max_seconds)
            job = make_job(config, folder, stack, kind)
            job.load(stop)
        except (ValueError, OSError, ImportError, TrainingFailed) as error:
            print(f'alpot-train: {error}', file=sys.stderr)
            return BAD_INPUT
        return job.run(stop)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold a folder: two trainings in one would write the same files.

    :raises ValueError: where another process holds it.
    """
    with open(folder / LOCK_FILE, 'w', encoding='utf-8') as stream:
        until = time.monotonic() + LOCK_SECONDS
        while not _lock(stream):
            if time.monotonic() > until:
                raise ValueError(
                    f'another alpot-train is running in {folder}: wait until it has ended, or take a folder of its own'
                )
            time.sleep(0.1)
        yield


def _lock(stream: IO[str]) -> bool:
    """Lock a file; false where another process has it."""
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:  # a file system without locks
        _say(f'warning: {stream.name} cannot be locked ({error}): do not start a second alpot-train there')
    return True


@dataclass(frozen=True, eq=False)
class Job:
    """A training whose input was found to be good.

    :param members: those that are still to be trained.
    :param done: outcomes of the others, by index.
    :param warnings: sentences for the report.
    """

    config: TrainConfig
    trainer: Trainer
    task: Task
    frames: TrainingFrames
    members: Sequence[Member]
    done: dict[int, Outcome]
    warnings: tuple[str, ...]

    def load(self, stop: Stop) -> None:
        """Bring into memory what the members share."""
        if self.members and stop.reason is None:
            self.trainer.load(self.task)

    def run(self, stop: Stop) -> int:
        """Train, and write the report.

        :return: exit code.
        """
        for index in self.done:
            _say(f'member {index}: {self.done[index].status} by an earlier job')
        trainings, warnings, most = self._train(stop)
        outcomes = {**self.done, **{training.index: _outcome(training) for training in trainings}}
        outcomes = {member.index: outcomes[member.index] for member in self.config.members}
        interrupted = any(found.status == outcome.STOPPED for found in outcomes.values())
        report = _Report(self, outcomes, [*self.warnings, *warnings], most)
        stopped = stop.reason or (SIGNAL if interrupted else None)
        report.write(stop.seconds, stopped)
        if stopped is None:
            report.evaluate(stop)
            stopped = stop.reason if report.errors is None and report.could_be_evaluated else None
            report.write(stop.seconds, stopped)
        trained = sum(found.is_trained for found in report.outcomes.values())
        _say(f'{trained} of {len(outcomes)} members are trained, {stop.seconds:.1f} s')
        if stopped is not None:
            return STOPPED
        return ALL_TRAINED if trained == len(outcomes) else SOME_NOT_TRAINED

    def _train(self, stop: Stop) -> tuple[list[Training], list[str], int]:
        trainings = [Training(self.task, self.trainer, member) for member in self.members]
        if not trainings:
            return [], [], 0
        settings = self.config.settings
        packing = Packing(trainings, settings.device, settings.parallel, say=_say)
        packing.run(stop)
        warnings = [sentence for training in trainings for sentence in training.warnings]
        return trainings, [*packing.warnings, *warnings], packing.most


class _Report:
    """What ``training.json`` and ``curves.npz`` say."""

    def __init__(self, job: Job, outcomes: dict[int, Outcome], warnings: list[str], parallel: int) -> None:
        self.job, self.outcomes, self.warnings, self.parallel = job, outcomes, warnings, parallel
        self.errors: errors.Errors | None = None
        self._rows: dict[int, int] = {}
        self.could_be_evaluated = True

    def evaluate(self, stop: Stop) -> None:
        """Find the errors of all members that are trained."""
        from aiida_alpot.worker.potentials import load_committee

        settings, folder = self.job.config.settings, self.job.task.folder
        trained = [index for index, found in self.outcomes.items() if found.is_trained]
        files = [folder / str(self.outcomes[index].model) for index in trained]
        self.could_be_evaluated = False
        if not trained:
            return
        try:
            committee = load_committee(files, device=settings.device, dtype=settings.dtype)
            self.errors = errors.evaluate(committee, self.job.frames, lambda: stop.reason is None)
            self._rows = {index: row for row, index in enumerate(trained)}
            self.could_be_evaluated = True
        except Exception as error:  # noqa: BLE001 -- whatever a foreign model does, what was trained is reported
            self.warnings.append(f'the errors could not be evaluated ({type(error).__name__}: {error})')
            self._refuse_unreadable(dict(zip(trained, files, strict=True)))

    def _refuse_unreadable(self, files: dict[int, Path]) -> None:
        settings = self.job.config.settings
        for index, path in files.items():
            why = errors.loads(path, settings.device, settings.dtype)
            if why:
                message = f'the model cannot be read as a potential ({why})'
                self.outcomes[index] = replace(
                    self.outcomes[index], status=outcome.NO_MODEL, message=message, model=None, checkpoint=None
                )
                self.outcomes[index].write(self.job.task.folder / 'members' / str(index))

    def write(self, seconds: float, stopped: str | None) -> None:
        """Write both files."""
        folder = self.job.task.folder
        outcome.write_curves(folder / 'curves.npz', self.outcomes.values())
        write_json(folder / REPORT_FILE, self._content(seconds, stopped))

    def _content(self, seconds: float, stopped: str | None) -> dict[str, Any]:
        data = self.job.task.data
        return {
            'stopped': stopped,
            'trainer': self.job.config.settings.trainer,
            'reference_energies': dict(data.reference_energies),
            'reference_source': data.reference_source,
            'warnings': self.warnings,
            'elements': data.elements,
            'n_train': data.n_train,
            'n_validation': data.n_validation,
            'parallel': self.parallel,
            'seconds': seconds,
            'committee': None if self.errors is None else self.errors.report(-1),
            'members': {str(index): self._member(index, found) for index, found in self.outcomes.items()},
        }

    def _member(self, index: int, found: Outcome) -> dict[str, Any]:
        row = self._rows.get(index)
        return {**found.entry(), 'errors': None if self.errors is None or row is None else self.errors.report(row)}


def make_job(config: TrainConfig, folder: Path, stack: ExitStack, kind: type[Trainer] | None = None) -> Job:
    """Check all that can be checked, and write the data.

    :param stack: closes the files.
    :param kind: the trainer, where it is not the one of that name in the registry.
    :raises ValueError: for what is refused.
    """
    settings = config.settings
    kind = kind or trainer_class(settings.trainer)
    check_installed(kind)
    trainer = kind(settings)
    check_device(settings.device)
    frames = TrainingFrames(stack.enter_context(FrameStore(config.dataset)), settings.properties)
    trainer.check_options()
    data = folder / 'data'
    prepared = prepare(frames, data, settings.properties)
    replay = None
    if config.replay:
        replay = data / 'replay.xyz'
        with FrameStore(config.replay) as store:
            write_replay(store, replay)
    foundation = config.foundation.resolve() if config.foundation else None
    starts = tuple(member.start.resolve() for member in config.members if member.start)
    task = Task(folder, settings, prepared.data, foundation, replay, starts)
    members = [_member(config, prepared, folder, number) for number in range(len(config.members))]
    warnings = (*prepared.data.warnings, *trainer.check_task(task))
    for sentence in warnings:
        _say(f'warning: {sentence}')
    done = bring_in(describe(config, task), config.earlier, folder)
    waiting = [member for member in members if member.index not in done]
    return Job(config, trainer, task, frames, waiting, done, warnings)


def _member(config: TrainConfig, prepared: Prepared, folder: Path, number: int) -> Member:
    given = config.members[number]
    return Member(
        index=given.index,
        seed=given.seed,
        folder=folder / 'members' / str(given.index),
        start=given.start.resolve() if given.start else None,
        indices=draw(config.settings.resampling, prepared.has, prepared.content, given.seed),
        batch_size=config.settings.batch_size,
    )


def _outcome(training: Training) -> Outcome:
    assert training.outcome is not None
    return training.outcome


def _say(sentence: str) -> None:
    print(sentence, flush=True)


if __name__ == '__main__':
    sys.exit(main())
