"""When an evaluation stops."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from aiida_alpot.worker.acquisition.deadline import GRACE, SIGNAL, WALLTIME, Deadline, OutOfTime


class Clock:
    """A clock that goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def chunk(deadline: Deadline, clock: Clock, seconds: float) -> None:
    with deadline.chunk():
        clock.now += seconds


def test_stops_before_a_chunk_that_would_pass_the_walltime() -> None:
    clock = Clock()
    deadline = Deadline(100.0, clock)
    for _ in range(4):
        chunk(deadline, clock, 20.0)  # before the last: 60 s are gone, 30 may follow
    with pytest.raises(OutOfTime, match=r'stopped after 80 s ahead of `max_seconds` = 100 s, .* may take 30 s') as stop:
        chunk(deadline, clock, 20.0)
    assert stop.value.reason == WALLTIME and clock.now == 1080.0


def test_the_longest_chunk_counts() -> None:
    clock = Clock()
    deadline = Deadline(100.0, clock)
    chunk(deadline, clock, 40.0)
    chunk(deadline, clock, 1.0)
    with pytest.raises(OutOfTime):
        chunk(deadline, clock, 1.0)


def test_the_first_chunk_is_always_evaluated() -> None:
    clock = Clock()
    deadline = Deadline(1.0, clock)
    clock.now += 50.0
    chunk(deadline, clock, 3.0)
    with pytest.raises(OutOfTime):
        chunk(deadline, clock, 3.0)


def test_no_limit() -> None:
    clock = Clock()
    deadline = Deadline(None, clock)
    for _ in range(3):
        chunk(deadline, clock, 1e9)


def test_a_signal_waits_for_a_chunk_that_ends_soon() -> None:
    clock, done = Clock(), []
    before = signal.getsignal(signal.SIGTERM)
    with Deadline(None, clock) as deadline:
        chunk(deadline, clock, 2 * GRACE)
        with pytest.raises(OutOfTime, match='stopped by SIGTERM') as stop, deadline.chunk():
            clock.now += 1.5 * GRACE
            os.kill(os.getpid(), signal.SIGTERM)
            done.append(True)
    assert done and stop.value.reason == SIGNAL
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize('known', [True, False])
def test_a_signal_does_not_wait_long_or_for_what_is_not_known(known: bool) -> None:
    clock, done = Clock(), []
    with Deadline(None, clock) as deadline:
        if known:
            chunk(deadline, clock, 2 * GRACE)
        with pytest.raises(OutOfTime), deadline.chunk():
            os.kill(os.getpid(), signal.SIGTERM)
            done.append(True)
    assert not done


def test_a_second_signal_does_not_wait() -> None:
    clock, done = Clock(), []
    with Deadline(None, clock) as deadline:
        chunk(deadline, clock, 1.0)
        with pytest.raises(OutOfTime), deadline.chunk():
            os.kill(os.getpid(), signal.SIGTERM)
            done.append(1)
            os.kill(os.getpid(), signal.SIGTERM)
            done.append(2)
    assert done == [1]


def test_a_signal_between_chunks_stops_at_once() -> None:
    with Deadline() as deadline:
        chunk(deadline, Clock(), 0.0)
        with pytest.raises(OutOfTime):
            os.kill(os.getpid(), signal.SIGTERM)


def test_no_except_exception_takes_it() -> None:
    assert not issubclass(OutOfTime, Exception)


def test_in_another_thread_signals_are_left_alone() -> None:
    before, failed = signal.getsignal(signal.SIGTERM), []

    def enter() -> None:
        try:
            with Deadline() as deadline, deadline.chunk():
                pass
        except ValueError as error:
            failed.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert not failed and signal.getsignal(signal.SIGTERM) is before
