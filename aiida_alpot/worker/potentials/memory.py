"""How much memory a batch may take, and an allocator that does not give it back in between."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

MEMORY_ON_CPU = 1.5 * 2.0**27
"""Bytes of a batch on a CPU. More is slower, not faster: the arrays leave the caches, and the operating system has to
clear new pages for them."""

FRACTION_ON_GPU = 0.5
MAXIMUM_ON_GPU = 2.0**33
"""A GPU is busy long before this, and arrays stay below the 2^31 elements that some kernels can index."""

_MAXIMUM_MMAP_THRESHOLD = 2**25
_MAXIMUM_TRIM_THRESHOLD = 2**31 - 1
_TOP_PAD = 2**28
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # of malloc.h


def check_device(device: str) -> None:
    """Refuse a GPU that is not there.

    :raises ValueError: for a GPU where torch finds none.
    """
    import torch

    if torch.device(device).type == 'cuda' and not torch.cuda.is_available():
        raise ValueError(
            f'`device` is {device!r}, but torch finds no such device here: use "cpu" or a CUDA build of torch'
        )


def memory_for_batches(device: torch.device) -> float:
    """Bytes that a batch may take on a device: half of what is free on a GPU, :data:`MEMORY_ON_CPU` elsewhere."""
    if device.type != 'cuda':
        return MEMORY_ON_CPU
    import torch

    free, _ = torch.cuda.mem_get_info(device)
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return min(FRACTION_ON_GPU * (free + unused), MAXIMUM_ON_GPU)


def keep_freed_memory() -> bool:
    """Let the C library keep memory that is freed, in place of giving it back to the operating system.

    Every batch allocates and frees the same hundreds of megabytes; getting them anew each time means page faults, which
    cost more than a third of the time of an evaluation on a CPU. This holds for the whole process, so it is for
    programs to call when they start and not for a library. It does what the environment variables
    ``MALLOC_MMAP_THRESHOLD_``, ``MALLOC_TRIM_THRESHOLD_`` and ``MALLOC_TOP_PAD_`` do.

    :return: whether the C library (glibc) took it; elsewhere nothing changes.
    """
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
    if mallopt is None:
        return False
    settings = (
        (_M_MMAP_THRESHOLD, _MAXIMUM_MMAP_THRESHOLD),
        (_M_TRIM_THRESHOLD, _MAXIMUM_TRIM_THRESHOLD),
        (_M_TOP_PAD, _TOP_PAD),
    )
    return all(mallopt(name, value) == 1 for name, value in settings)
