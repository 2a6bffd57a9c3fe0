"""What of the accelerators can be used, asked for in throw-away processes: those who fork must not touch them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from aiida_alpot.worker.training.process import ask

FULL = 0.9
"""Share of the memory of an accelerator that is filled with members."""

VISIBLE = 'CUDA_VISIBLE_DEVICES'


@dataclass(frozen=True)
class Memory:
    """Memory of an accelerator, bytes."""

    free: float
    total: float


def check_device(device: str) -> None:
    """Refuse a device that torch does not see.

    :raises ValueError: saying what it sees.
    """
    if device == 'cpu':
        return
    try:
        count = ask(lambda: _count(device.partition(':')[0]))
    except RuntimeError as error:
        raise ValueError(f'`device` is {device!r}, but torch cannot be asked for it: {error}') from error
    number = int(device.partition(':')[2] or 0)
    if number >= count:
        found = f'only {count} of them' if count else 'none'
        raise ValueError(
            f'`device` is {device!r}, but torch sees {found} on this machine: ask for one in the resources of the job '
            '(e.g. `--gres=gpu:1`), install a torch that has it, or set `device: cpu`'
        )


def _count(kind: str) -> int:
    import torch

    if kind == 'mps':
        return int(torch.backends.mps.is_available())
    backend = getattr(torch, kind)
    return int(backend.device_count()) if backend.is_available() else 0


def places_of(device: str) -> list[tuple[str, dict[str, str]]]:
    """Where members can go: the device as they name it, and the variables by which they see that one alone.

    All devices that the job has are used for ``cuda``; one of them for ``cuda:1``, and for what is not CUDA.
    """
    kind, _, number = device.partition(':')
    if kind != 'cuda':
        return [(device, {})]
    listed = os.environ.get(VISIBLE)
    names = listed.split(',') if listed else [str(index) for index in range(ask(lambda: _count('cuda')))]
    chosen = [names[int(number)]] if number else names
    return [('cuda', {VISIBLE: name.strip()}) for name in chosen]


def cuda_memory(environment: Mapping[str, str]) -> Memory:
    """Memory of the one accelerator that is visible with these variables.

    :raises RuntimeError: where it cannot be found out.
    """
    free, total = ask(_cuda_memory, environment)
    return Memory(free, total)


def _cuda_memory() -> tuple[int, int]:
    import torch

    free, total = torch.cuda.mem_get_info(0)
    return int(free), int(total)


def how_many_fit(before: Memory, after: Memory) -> int:
    """Number of members that fit, from what is free before and after the first of them has settled; at least one."""
    taken = before.free - after.free
    room = before.free - (1.0 - FULL) * before.total
    return max(1, int(room / taken)) if taken > 0 else 1
