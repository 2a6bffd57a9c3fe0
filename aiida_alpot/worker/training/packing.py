"""Members side by side: how many at a time, on which device, and what is watched while they train."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from aiida_alpot.worker.training.accelerators import Memory, cuda_memory, how_many_fit, places_of
from aiida_alpot.worker.training.members import Training
from aiida_alpot.worker.training.process import end
from aiida_alpot.worker.training.stopping import WALLTIME, Stop

POLL = 0.1
"""Seconds between two looks at the processes."""

TO_END = 5.0
"""Seconds that a member which has diverged has before it is killed."""

AskMemory = Callable[[Mapping[str, str]], Memory]
Say = Callable[[str], None]


def available_cores() -> int:
    """Number of cores that this process may use."""
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass
class Place:
    """A device, or all cores, and the members that are trained there.

    :param room: number of members that it takes at a time; ``None``: not known before the first has run an epoch.
    :param free: memory before the first, where that matters.
    """

    device: str
    environment: Mapping[str, str]
    room: int | None
    trainings: list[Training] = field(default_factory=list)
    free: Memory | None = None

    @property
    def has_room(self) -> bool:
        """Whether another member can begin here."""
        return len(self.trainings) < (1 if self.room is None else self.room)


class Packing:
    """Trains members side by side.

    :param device: of the settings.
    :param parallel: members at a time, on all devices together; ``None``: found out.
    :param ask_memory: tells the memory of an accelerator.
    :param say: is told what happens.
    """

    def __init__(
        self,
        trainings: Sequence[Training],
        device: str,
        parallel: int | None = None,
        cores: int | None = None,
        ask_memory: AskMemory = cuda_memory,
        say: Say = print,
    ) -> None:
        self._waiting = deque(trainings)
        self._ask_memory, self._say = ask_memory, say
        self._cores = cores or available_cores()
        self.at_most = min(parallel or self._cores, len(trainings)) or 1
        found = places_of(device)
        # Where nobody said how many, and the memory of an accelerator limits them, the first one shows what it takes.
        measured = parallel is None and found[0][0] == 'cuda' and self.at_most > len(found)
        self.places = [
            Place(name, environment, None if measured else -(-self.at_most // len(found)))
            for name, environment in found
        ]
        self.warnings: list[str] = []
        self.most = 0

    @property
    def threads(self) -> int:
        """Cores of each member: the same for all, whenever they begin, as it can change the last bits.

        ``OMP_NUM_THREADS``, where it is set, is the most: on cores that others use too, threads that wait for each
        other take several times as long as one alone.
        """
        allowed = os.environ.get('OMP_NUM_THREADS', '')
        share = max(1, self._cores // self.at_most)
        return min(share, int(allowed)) if allowed.isdecimal() and int(allowed) else share

    @property
    def _running(self) -> list[Training]:
        return [training for place in self.places for training in place.trainings]

    def run(self, stop: Stop) -> None:
        """Train all; afterwards each training has an outcome."""
        try:
            while (self._waiting or self._running) and stop.reason is None:
                self._begin()
                time.sleep(POLL)
                for place in self.places:
                    for training in list(place.trainings):
                        self._look_at(training, place)
                    self._measure(place)
        finally:
            # Also where something has failed: no process is left behind.
            end([training.process for training in self._running if training.process], stop.grace)
        self._stop_the_rest(stop)

    def _begin(self) -> None:
        for place in sorted(self.places, key=lambda place: len(place.trainings)):
            while self._waiting and place.has_room and len(self._running) < self.at_most:
                training = self._waiting.popleft()
                if place.room is None:
                    self._note_memory_before(place)
                n_warnings = len(training.warnings)
                training.start(place.environment, place.device, self.threads)
                for sentence in training.warnings[n_warnings:]:
                    self._say(sentence)
                if training.outcome is not None:
                    self._report(training)
                elif training.process is None:
                    self._waiting.appendleft(training)
                else:
                    place.trainings.append(training)
                    self.most = max(self.most, len(self._running))
                    self._say(_started(training, place, self.threads))

    def _look_at(self, training: Training, place: Place) -> None:
        assert training.process is not None
        before, n_warnings = training.epoch, len(training.warnings)
        diverged = ''
        if training.process.poll() is None:
            diverged = training.watch()
            step = max(1, training.task.settings.epochs // 10)
            if training.epoch // step > before // step:
                self._say(f'member {training.index}: epoch {training.epoch}')
            if not diverged:
                return
            end([training.process], TO_END)
        place.trainings.remove(training)
        training.conclude(diverged)
        for sentence in training.warnings[n_warnings:]:
            self._say(sentence)
        if training.outcome is None:
            self._waiting.appendleft(training)
            if training.attempts[-1].ended == 'out_of_memory' and place.trainings:
                place.room = len(place.trainings)  # those that are left have to do with what there is
        else:
            self._report(training)

    def _report(self, training: Training) -> None:
        assert training.outcome is not None
        outcome = training.outcome
        seconds = sum(attempt.seconds for attempt in outcome.attempts)
        after = f' after epoch {training.epoch} and {seconds:.1f} s'
        self._say(
            f'member {training.index}: {outcome.status}{after}' + (f': {outcome.message}' if outcome.message else '')
        )

    # The memory of accelerators.

    def _note_memory_before(self, place: Place) -> None:
        try:
            place.free = self._ask_memory(place.environment)
        except RuntimeError as error:
            self._one_at_a_time(place, error)

    def _measure(self, place: Place) -> None:
        """After the first epoch of the first member: see how many fit."""
        if place.room is not None or place.free is None or not self._waiting:
            return
        if any(training.epoch >= 1 for training in place.trainings):
            try:
                now = self._ask_memory(place.environment)
            except RuntimeError as error:
                self._one_at_a_time(place, error)
                return
            place.room = how_many_fit(place.free, now)
            taken = (place.free.free - now.free) / 2**30
            self._say(f'a member takes {taken:.2f} GiB of {now.total / 2**30:.0f} GiB: {place.room} fit')

    def _one_at_a_time(self, place: Place, error: Exception) -> None:
        place.room = 1
        self.warnings.append(
            f'the memory of the accelerator is not known ({error}), so members run one after the other'
        )

    # The end.

    def _stop_the_rest(self, stop: Stop) -> None:
        why = 'the time was up' if stop.reason == WALLTIME else 'a signal stopped it'
        for place in self.places:
            for training in place.trainings:
                training.stopped(why)
                self._report(training)
            place.trainings.clear()
        for training in self._waiting:
            training.stopped(why)
            self._report(training)
        self._waiting.clear()


def _started(training: Training, place: Place, threads: int) -> str:
    where = ', '.join(place.environment.values())
    what = 'goes on' if training._from_checkpoint else 'begins'
    return f'member {training.index}: {what} on {place.device}{" " + where if where else ""}, {threads} threads'
