"""The training of one member: its attempts, what is done about those that fail, and how it ends."""

from __future__ import annotations

import shutil
import signal
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from aiida_alpot.worker.training import outcome as statuses
from aiida_alpot.worker.training.outcome import Attempt, Outcome, curve_of, not_trained, publish, result_fields
from aiida_alpot.worker.training.plain import read_json, write_json
from aiida_alpot.worker.training.process import Process
from aiida_alpot.worker.training.trainer import CorruptCheckpoint, Epoch, Member, Task, Trainer, TrainingFailed
from aiida_alpot.worker.training.watching import divergence, is_out_of_memory, last_words

OUTPUT, ATTEMPTS_FILE, FAILURE_FILE = 'train.out', 'attempts.json', 'failure.json'

LOWER_LEARNING_RATE = 0.1
"""What the learning rate is multiplied by after a divergence."""

WATCH_EVERY = 0.5
"""Seconds between two looks at a learning curve; more where a look takes long."""

TAIL = 20000
"""Bytes of the output that are looked at."""


def sentence_of(error: Exception) -> str:
    """What an exception says; with its name where it was not made to be read."""
    said = isinstance(error, TrainingFailed | ValueError | OSError) and str(error)
    return str(error) if said else f'{type(error).__name__}: {error}'


class Training:
    """One member on its way.

    :param task: that it shares with the others.
    :param member: with the batch size and learning rate that were asked for.
    """

    def __init__(self, task: Task, trainer: Trainer, member: Member) -> None:
        self.task, self.trainer, self.member = task, trainer, member
        self.outcome: Outcome | None = None
        self.process: Process | None = None
        self.attempts: list[Attempt] = []
        self.resumed = 0
        self.history: Sequence[Epoch] = ()
        self.warnings: list[str] = []
        self._began = self._watched = 0.0
        self._output_began = 0
        self._from_checkpoint = False
        self._recall()

    @property
    def index(self) -> int:
        """Of the member."""
        return self.member.index

    @property
    def epoch(self) -> int:
        """The last one that is recorded."""
        return self.history[-1].epoch if self.history else 0

    @property
    def output(self) -> Path:
        """What the trainer prints."""
        return self.member.folder / OUTPUT

    # Starting.

    def start(self, environment: Mapping[str, str], device: str, threads: int) -> None:
        """Begin, or go on, in a process of its own; where this cannot be, there is an outcome."""
        self.member.device, self.member.threads = device, threads
        folder = self.member.folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FAILURE_FILE).unlink(missing_ok=True)
        self.attempts.append(Attempt(self.member.learning_rate_factor, self.member.batch_size))
        self._began = self._watched = time.monotonic()
        self._output_began = self.output.stat().st_size if self.output.is_file() else 0
        try:
            self._from_checkpoint = self.trainer.has_checkpoint(self.member)
            self.trainer.prepare(self.task, self.member)
        except Exception as error:  # noqa: BLE001 -- what one member stumbles over must not end the others
            self._refused(error)
            return
        self.resumed += self._from_checkpoint
        self._remember()
        self.process = Process(self._run, folder, self.output, environment, threads)

    def _run(self) -> None:
        """What happens in the new process."""
        try:
            self.trainer.run(self.task, self.member)
        except TrainingFailed as error:
            traceback.print_exc()
            kind = statuses.CORRUPT_CHECKPOINT if isinstance(error, CorruptCheckpoint) else statuses.FAILED
            write_json(self.member.folder / FAILURE_FILE, {'status': kind, 'message': str(error)})
            raise SystemExit(1) from error

    def _refused(self, error: Exception) -> None:
        corrupt = isinstance(error, CorruptCheckpoint)
        if corrupt and self._from_checkpoint:
            self._begin_anew(str(error))
        else:
            self._end(statuses.CORRUPT_CHECKPOINT if corrupt else statuses.FAILED, sentence_of(error))

    # Watching.

    def watch(self) -> str:
        """Look at the learning curve, where it is time to.

        :return: how the training has diverged, or ''.
        """
        now = time.monotonic()
        if now < self._watched:
            return ''
        found = self._diverged()
        self._watched = time.monotonic() + max(WATCH_EVERY, 20 * (time.monotonic() - now))
        return found

    def _diverged(self) -> str:
        try:
            self.history = self.trainer.history(self.member)
        except Exception as error:  # noqa: BLE001 -- what a foreign parser stumbles over must not end a training
            sentence = f'the learning curve of member {self.index} cannot be read ({type(error).__name__}: {error})'
            if sentence not in self.warnings:
                self.warnings.append(sentence)
            return ''
        return divergence(self.history)

    # Ending.

    def stopped(self, why: str) -> None:
        """Note that it was stopped, or not begun, by our own doing."""
        if self.process is None:
            self._end(statuses.STOPPED, f'{why} before it began')
            return
        self.process = None
        self._diverged()
        self._end(statuses.STOPPED, f'{why} after epoch {self.epoch}; start the job again to go on')

    def conclude(self, diverged: str = '') -> None:
        """After its process: find out how it ended. There is an outcome, or it is to be started again.

        :param diverged: why it was ended, where it was.
        """
        assert self.process is not None and self.process.code is not None
        code, self.process = self.process.code, None
        sentence = self._diverged() or diverged
        words = self._words()
        failure = read_json(self.member.folder / FAILURE_FILE) or {}
        if sentence:
            self._after_divergence(sentence)
        elif code == 0:
            self._after_success(words)
        elif is_out_of_memory(code, words):
            self._after_out_of_memory()
        elif failure:
            self._after_failure(str(failure.get('status')), str(failure.get('message')))
        elif code == -signal.SIGTERM:
            self._end(statuses.STOPPED, f'SIGTERM ended it after epoch {self.epoch}; start the job again to go on')
        else:
            ended = f'signal {-code}' if code < 0 else f'exit code {code}'
            self._after_failure(statuses.FAILED, f'the trainer ended with {ended}; its last words: {last_words(words)}')

    def _after_divergence(self, sentence: str) -> None:
        self._close(statuses.DIVERGED)
        if self._count(statuses.DIVERGED) > 1:
            self._end(
                statuses.DIVERGED,
                f'{sentence}, also with {self.member.learning_rate_factor:g} times the learning rate: lower '
                '`learning_rate`, and look for wrong labels',
            )
            return
        self.member.learning_rate_factor *= LOWER_LEARNING_RATE
        self._set_aside()
        self._note(f'{sentence}; it begins anew with {self.member.learning_rate_factor:g} times the learning rate')

    def _after_out_of_memory(self) -> None:
        self._close(statuses.OUT_OF_MEMORY)
        size = self.member.batch_size
        if size == 1 or self._count(statuses.OUT_OF_MEMORY) > 1:
            self._end(
                statuses.OUT_OF_MEMORY,
                f'the memory does not suffice, even with a batch size of {size}: ask for more memory, train fewer '
                'members side by side (`parallel`), or make the model or the largest frames smaller',
            )
            return
        self.member.batch_size = size // 2
        self._note(f'out of memory at batch size {size}; it goes on with {self.member.batch_size}')

    def _after_failure(self, status: str, message: str) -> None:
        self._close(status)
        if status == statuses.CORRUPT_CHECKPOINT and self._from_checkpoint:
            self._begin_anew(message)
        else:
            self._end(status, message)

    def _begin_anew(self, message: str) -> None:
        """After an interruption left a checkpoint that cannot be gone on from."""
        if self.attempts[-1].ended == 'running':
            self._close(statuses.CORRUPT_CHECKPOINT)
        self._set_aside()
        self._note(f'{message}; it begins anew')

    def _after_success(self, words: str) -> None:
        try:
            result = self.trainer.result(self.task, self.member)
            if not result.model.is_file():
                raise TrainingFailed(f'there is no model {result.model.name}')
        except CorruptCheckpoint as error:
            self._after_failure(statuses.CORRUPT_CHECKPOINT, str(error))
            return
        except Exception as error:  # noqa: BLE001 -- as above
            if is_out_of_memory(0, words):
                self._after_out_of_memory()
            else:
                message = f'the trainer ended well, but {sentence_of(error)}; its last words: {last_words(words)}'
                self._after_failure(statuses.NO_MODEL, message)
            return
        missing = not_trained(result, self.task.settings.properties)
        status = statuses.PROPERTY_NOT_TRAINED if missing else statuses.TRAINED
        self._close(status)
        if missing:
            message = (
                f'{", ".join(missing)} was asked for, but is not in the loss that the trainer used '
                f'({result.loss_name}: {dict(result.loss_weights)}): correct the options of the trainer'
            )
            self._end(status, message, replace(self._outcome(status, message), result=result_fields(result)))
            return
        model, checkpoint = publish(self.member, result, self.task.folder)
        outcome = self._outcome(status, None)
        self._end(status, None, replace(outcome, result=result_fields(result), model=model, checkpoint=checkpoint))

    def _end(self, status: str, message: str | None, outcome: Outcome | None = None) -> None:
        if self.attempts and self.attempts[-1].ended == 'running':
            self._close(status)
        self.outcome = outcome or self._outcome(status, message)
        if status != statuses.STOPPED:
            self.outcome.write(self.member.folder)

    def _outcome(self, status: str, message: str | None) -> Outcome:
        indices = self.member.indices
        return Outcome(
            index=self.index,
            seed=self.member.seed,
            status=status,
            message=message,
            n_frames=self.task.data.n_train if indices is None else len(np.unique(indices)),
            attempts=tuple(self.attempts),
            resumed=self.resumed,
            curve=curve_of(self.history),
        )

    def _close(self, ended: str) -> None:
        """Note how the attempt in hand ended."""
        attempt = self.attempts[-1]
        attempt.ended, attempt.epochs = ended, self.epoch
        attempt.seconds = time.monotonic() - self._began
        self._remember()

    def _count(self, ended: str) -> int:
        return sum(attempt.ended == ended for attempt in self.attempts)

    def _note(self, sentence: str) -> None:
        self.warnings.append(f'member {self.index}: {sentence}')
        self._remember()

    # What a later start has to know.

    def _remember(self) -> None:
        attempts = [asdict(attempt) for attempt in self.attempts]
        factor, size = self.member.learning_rate_factor, self.member.batch_size
        known = {'attempts': attempts, 'resumed': self.resumed, 'learning_rate_factor': factor, 'batch_size': size}
        write_json(self.member.folder / ATTEMPTS_FILE, {**known, 'warnings': self.warnings})

    def _recall(self) -> None:
        """What an interrupted training of this member had come to."""
        file = self.member.folder / ATTEMPTS_FILE
        known = read_json(file)
        if known is None:
            return
        self.attempts = [Attempt(**attempt) for attempt in known['attempts']]
        self.resumed = int(known['resumed'])
        self.warnings = list(known['warnings'])
        self.member.learning_rate_factor = float(known['learning_rate_factor'])
        self.member.batch_size = int(known['batch_size'])
        self._diverged()
        if self.attempts and self.attempts[-1].ended == 'running':  # it was killed
            last = self.attempts[-1]
            last.ended, last.epochs = statuses.STOPPED, self.epoch
            if self.output.is_file():
                last.seconds = max(0.0, self.output.stat().st_mtime - file.stat().st_mtime)

    def _set_aside(self) -> None:
        """An empty folder, in which only what failed attempts printed is left, as ``train_0.out``, ``train_1.out``."""
        folder = self.member.folder
        number = len(list(folder.glob('train_*.out')))
        kept = {path.name: path.read_bytes() for path in folder.glob('train_*.out')}
        if self.output.is_file():
            kept[f'train_{number}.out'] = self.output.read_bytes()
        shutil.rmtree(folder)
        folder.mkdir()
        for name, content in kept.items():
            (folder / name).write_bytes(content)
        self.history = ()

    def _words(self) -> str:
        """The end of what the attempt in hand has printed."""
        if not self.output.is_file():
            return ''
        with self.output.open('rb') as stream:
            size = stream.seek(0, 2)
            stream.seek(max(self._output_began, size - TAIL))
            return stream.read().decode('utf-8', errors='replace')
