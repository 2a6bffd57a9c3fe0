"""Time and memory of one operation in a process of its own."""

from __future__ import annotations

import gc
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

T = TypeVar('T')


class Clock:
    """CPU and wall seconds of a block; of its own work, not of what is paused.

    :ivar cpu: seconds of this process, in user and kernel mode, all threads.
    :ivar wall: seconds that passed.
    """

    def __init__(self) -> None:
        self.cpu = 0.0
        self.wall = 0.0

    def __enter__(self) -> Clock:
        self._cpu, self._wall = time.process_time(), time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.cpu += time.process_time() - self._cpu
        self.wall += time.perf_counter() - self._wall

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What is done meanwhile does not count."""
        self.__exit__()
        try:
            yield
        finally:
            self.__enter__()

    def unpaid(self, items: Iterator[T]) -> Iterator[T]:
        """Items whose making does not count."""
        while True:
            with self.paused():
                item = next(items, None)
            if item is None:
                return
            yield item


def reset_peak() -> int:
    """Forget the highest memory so far, where the kernel allows it; the bytes in memory now."""
    gc.collect()
    # Where that is not allowed, the peak of the imports stays in: more than what was used, never less.
    with suppress(OSError):
        Path('/proc/self/clear_refs').write_text('5')
    return _status('VmRSS')


def peak() -> int:
    """Bytes that this process had in memory at most.

    Not ``ru_maxrss``: a process that is started inherits that of the one that started it.
    """
    return _status('VmHWM')


def _status(name: str) -> int:
    found = re.search(rf'^{name}:\s+(\d+) kB', Path('/proc/self/status').read_text(), re.MULTILINE)
    if found is None:
        raise RuntimeError(f'/proc/self/status has no {name}: memory is measured on Linux only')
    return int(found[1]) * 1024
