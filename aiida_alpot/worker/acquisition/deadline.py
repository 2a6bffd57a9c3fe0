"""When an evaluation has to stop: ahead of the walltime, or when it is told to by a signal."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

MARGIN = 1.5
"""The next chunk is taken to need so many times what the longest one so far has needed."""

GRACE = 20.0
"""Seconds for which a chunk may go on after SIGTERM. SLURM kills 30 s after it, unless it was configured otherwise."""

WALLTIME, SIGNAL = 'walltime', 'signal'
"""Why an evaluation was stopped."""


class OutOfTime(BaseException):
    """The evaluation stops here; what was kept until now stays. As KeyboardInterrupt, no `except Exception` takes it.

    :param reason: :data:`WALLTIME` or :data:`SIGNAL`.
    """

    def __init__(self, reason: str, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason


class Deadline:
    """A context in which SIGTERM and a walltime end the evaluation between two chunks of frames.

    :param max_seconds: walltime, counted from the making of this object, s; ``None``: no limit.
    :param clock: gives seconds.
    """

    def __init__(self, max_seconds: float | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.max_seconds = max_seconds
        self._clock = clock
        self._started = clock()
        self._chunk_started: float | None = None
        self._longest: float | None = None
        self._terminated = False
        self._handler: Any = None

    def __enter__(self) -> Deadline:
        if threading.current_thread() is threading.main_thread():  # nowhere else may signals be caught
            self._handler = signal.signal(signal.SIGTERM, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        if self._handler is not None:
            signal.signal(signal.SIGTERM, self._handler)

    @contextmanager
    def chunk(self) -> Iterator[None]:
        """Around the evaluation of a chunk and the writing of what came out.

        :raises OutOfTime: before it, if it would probably end after the walltime; after it, if a signal came meanwhile.
        """
        self._check_time()
        self._chunk_started = self._clock()
        try:
            yield
            self._longest = max(self._longest or 0.0, self._clock() - self._chunk_started)
        finally:
            self._chunk_started = None
        if self._terminated:
            raise _stopped_by_signal()

    def _check_time(self) -> None:
        """The first chunk is always evaluated: without it nothing is known about the time that it takes."""
        if self.max_seconds is None or self._longest is None:
            return
        elapsed, needed = self._clock() - self._started, MARGIN * self._longest
        if elapsed + needed > self.max_seconds:
            raise OutOfTime(
                WALLTIME,
                f'stopped after {elapsed:.0f} s ahead of `max_seconds` = {self.max_seconds:g} s, as the next frames '
                f'may take {needed:.0f} s',
            )

    def _on_signal(self, *_: object) -> None:
        """Wait for the chunk in hand where it ends soon, as far as one can tell; stop at once elsewhere."""
        again, self._terminated = self._terminated, True
        if not again and self._chunk_started is not None and self._longest is not None:
            left = self._longest - (self._clock() - self._chunk_started)
            if left < GRACE:
                return
        raise _stopped_by_signal()


def _stopped_by_signal() -> OutOfTime:
    return OutOfTime(SIGNAL, 'stopped by SIGTERM')
