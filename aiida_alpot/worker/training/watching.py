"""Whether a training goes wrong, told from what it has written so far."""

from __future__ import annotations

import math
import signal
from collections.abc import Iterator, Sequence

from aiida_alpot.worker.training.trainer import Epoch

ABOVE_LOWEST = 1e3
ABOVE_FIRST = 10.0
EPOCHS_IN_A_ROW = 2


def divergence(history: Sequence[Epoch]) -> str:
    """How a training has diverged, as the start of a sentence; '' where it has not.

    It has where a loss (of training or validation) is not finite, or explodes: where it is more than
    :data:`ABOVE_LOWEST` times the lowest so far and more than :data:`ABOVE_FIRST` times the first, in
    :data:`EPOCHS_IN_A_ROW` epochs one after the other. The first epochs, single bad epochs and the step in the loss
    where its weights change (Stage Two of MACE, from a low loss to one that is below that of the start) are no
    divergence.
    """
    for name, losses in _losses(history):
        first, lowest, row = None, math.inf, 0
        for epoch, loss in losses:
            if not math.isfinite(loss):
                return f'the {name} loss is not finite at epoch {epoch}'
            size = abs(loss)
            first = size if first is None else first
            row = row + 1 if size > ABOVE_LOWEST * lowest and size > ABOVE_FIRST * first else 0
            if row >= EPOCHS_IN_A_ROW:
                return f'the {name} loss has exploded to {loss:.3g} at epoch {epoch}, from {lowest:.3g} at its lowest'
            lowest = min(lowest, size)
    return ''


def _losses(history: Sequence[Epoch]) -> Iterator[tuple[str, list[tuple[int, float]]]]:
    yield 'training', [(epoch.epoch, epoch.train_loss) for epoch in history if epoch.train_loss is not None]
    yield 'validation', [(epoch.epoch, epoch.loss) for epoch in history if epoch.loss is not None]


OUT_OF_MEMORY_WORDS = (
    'OutOfMemoryError',
    'CUDA out of memory',
    'HIP out of memory',
    'CUDA error: out of memory',
    'CUBLAS_STATUS_ALLOC_FAILED',
    'DefaultCPUAllocator',
    'MemoryError',
    'Cannot allocate memory',
)


def is_out_of_memory(code: int, output: str) -> bool:
    """Whether a process that failed did so for want of memory.

    :param code: exit code; minus SIGKILL is how the kernel ends what takes too much.
    :param output: last of what it printed.
    """
    return code == -signal.SIGKILL or any(words in output for words in OUT_OF_MEMORY_WORDS)


def last_words(output: str, characters: int = 400) -> str:
    """The last lines that say something."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return ' / '.join(lines[-3:])[-characters:] or 'it printed nothing'
