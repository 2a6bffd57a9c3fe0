"""When a training has to stop before it is done: at the end of its walltime, or by a signal."""

from __future__ import annotations

import signal
import threading
import time
from typing import Any

WALLTIME, SIGNAL = 'walltime', 'signal'

GRACE = 10.0
"""Seconds that the members have between SIGTERM and SIGKILL. SLURM leaves 30 s for both of them and the report."""


class Stop:
    """A context in which SIGTERM and SIGINT are noted; whoever works in it asks for :attr:`reason` now and then.

    :param began: when the walltime began, by ``time.monotonic``; by default now.
    """

    def __init__(self, began: float | None = None) -> None:
        self._began = time.monotonic() if began is None else began
        self._signalled = False
        self._handlers: dict[int, Any] = {}
        self.grace = GRACE
        self._deadline: float | None = None

    def limit(self, max_seconds: float | None) -> None:
        """Set the walltime, as soon as it is known; ``None``: no limit.

        The members are stopped so much earlier that all has ended by then.
        """
        if max_seconds is not None:
            self.grace = min(GRACE, 0.1 * max_seconds)
            self._deadline = self._began + max_seconds - self.grace

    @property
    def seconds(self) -> float:
        """Time since it was made, s."""
        return time.monotonic() - self._began

    @property
    def reason(self) -> str | None:
        """:data:`WALLTIME` or :data:`SIGNAL`; ``None``: go on."""
        if self._signalled:
            return SIGNAL
        return WALLTIME if self._deadline is not None and time.monotonic() >= self._deadline else None

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():  # nowhere else may signals be caught
            for number in (signal.SIGTERM, signal.SIGINT):
                self._handlers[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _note(self, *_: object) -> None:
        self._signalled = True
