"""Batches that fit into the memory there is, and what is done where one does not."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from aiida_alpot.worker.potentials.neighbours import Neighbourhood

Result = TypeVar('Result')


@dataclass(frozen=True)
class Cost:
    """What a structure takes of the memory while it is evaluated.

    :param per_atom: bytes for each atom, above zero.
    :param per_edge: bytes for each pair of neighbours, both directions counted.
    """

    per_atom: float
    per_edge: float = 0.0

    def of(self, structure: Neighbourhood) -> float:
        """Bytes that one structure takes."""
        return self.per_atom * structure.n_atoms + self.per_edge * structure.n_edges

    def times(self, factor: float) -> Cost:
        """The cost of a pass that keeps so many times as much."""
        return Cost(factor * self.per_atom, factor * self.per_edge)


@dataclass
class Room:
    """What a batch may take; it shrinks when a batch turns out not to fit.

    :param memory: bytes.
    :param n_frames: largest number of structures, ``None``: any.
    """

    memory: float
    n_frames: int | None = None


def pack(structures: Iterable[Neighbourhood], cost: Cost, room: Room) -> Iterator[list[Neighbourhood]]:
    """Structures in order, in lists that fit; one that does not fit even alone comes alone.

    The room is looked at again for each structure, so that it may shrink on the way.
    """
    batch: list[Neighbourhood] = []
    used = 0.0
    for structure in structures:
        size = cost.of(structure)
        if batch and (used + size > room.memory or len(batch) == room.n_frames):
            yield batch
            batch, used = [], 0.0
        batch.append(structure)
        used += size
    if batch:
        yield batch


def halve_until_it_fits(
    batch: Sequence[Neighbourhood],
    evaluate: Callable[[Sequence[Neighbourhood]], Result],
    cost: Cost,
    room: Room,
) -> Iterator[Result]:
    """Evaluate a batch whole; where the memory runs out, in batches of half of what did not fit, and so on.

    :param evaluate: gives the result of at least one structure.
    :param room: shrinks with every failure, for the batches to come too.
    :return: results of the parts, in order.
    :raises MemoryError: if one structure does not fit even alone.
    """
    waiting = [list(batch)]
    while waiting:
        part = waiting.pop(0)
        result, complaint = _attempt(evaluate, part)
        if result is not None:
            yield result
            continue
        if len(part) == 1:
            raise MemoryError(_sentence(part[0], complaint))
        room.memory = min(room.memory, 0.5 * sum(cost.of(structure) for structure in part))
        rest = [structure for later in (part, *waiting) for structure in later]
        waiting = list(pack(rest, cost, room))


def _attempt(
    evaluate: Callable[[Sequence[Neighbourhood]], Result], part: Sequence[Neighbourhood]
) -> tuple[Result | None, str]:
    """The result, or ``None`` and what the library said when the memory ran out."""
    try:
        return evaluate(part), ''
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        complaint = str(error).strip().splitlines()
    # Only here is the traceback gone, and with it the tensors that its frames hold.
    gc.collect()
    return None, complaint[-1] if complaint else 'no further message'


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, on a GPU or in the main memory, inside TorchScript or not."""
    # By name: torch.OutOfMemoryError is not imported where no torch model is used.
    if isinstance(error, MemoryError) or type(error).__name__ == 'OutOfMemoryError':
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ('out of memory' in text or 'DefaultCPUAllocator' in text)


def _sentence(structure: Neighbourhood, complaint: str) -> str:
    return (
        f'a frame of {structure.n_atoms} atoms ({structure.frame.formula}) with {structure.n_edges} pairs of '
        f'neighbours does not fit into the memory even alone ({complaint}): leave it out, evaluate it in '
        'single precision or with fewer features, or use a device with more memory'
    )
