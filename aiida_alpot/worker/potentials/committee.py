"""What every kind of committee offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

from ase.data import atomic_numbers, chemical_symbols

from aiida_alpot.worker.frames.frame import Frame
from aiida_alpot.worker.potentials.predictions import Predictions, concatenate


class Committee(ABC):
    """Several potentials for the same elements with the same cutoff.

    :param elements: chemical symbols the members know, by atomic number.
    :param cutoff: radius of the neighbourhood that enters, A.
    :param n_members: number of members.
    :param batch_size: number of frames evaluated at once; it bounds the memory.
    """

    def __init__(self, elements: Sequence[str], cutoff: float, n_members: int, batch_size: int) -> None:
        if batch_size < 1:
            raise ValueError(f'`batch_size` is {batch_size}: give at least 1')
        self.elements: tuple[str, ...] = tuple(sorted(elements, key=lambda symbol: atomic_numbers[symbol]))
        self.cutoff = float(cutoff)
        self.n_members = n_members
        self.batch_size = batch_size

    def evaluate(self, frames: Sequence[Frame], members: Sequence[int] | None = None) -> Predictions:
        """Energies, forces and stresses of frames.

        :param members: which members, in the order of the rows of the result; by default all.
        :raises ValueError: for an element that the members do not know.
        :raises IndexError: for a member that does not exist.
        """
        chosen = tuple(range(self.n_members)) if members is None else tuple(members)
        for member in chosen:
            if not 0 <= member < self.n_members:
                raise IndexError(f'member {member} asked for: the committee has members 0 to {self.n_members - 1}')
        self._check_elements(frames)
        return concatenate([self._evaluate_batch(batch, chosen) for batch in self._batches(frames)], len(chosen))

    @abstractmethod
    def _evaluate_batch(self, frames: Sequence[Frame], members: tuple[int, ...]) -> Predictions:
        """Evaluate at least one frame in one go."""

    def _batches(self, frames: Sequence[Frame]) -> Iterator[Sequence[Frame]]:
        for start in range(0, len(frames), self.batch_size):
            yield frames[start : start + self.batch_size]

    def _check_elements(self, frames: Sequence[Frame]) -> None:
        known = {atomic_numbers[symbol] for symbol in self.elements}
        for index, frame in enumerate(frames):
            unknown = set(frame.numbers.tolist()) - known
            if unknown:
                symbols = ', '.join(chemical_symbols[number] for number in sorted(unknown))
                raise ValueError(
                    f'frame {index} contains {symbols}, but the committee was trained on '
                    f'{", ".join(self.elements)} only: '
                    'leave the frame out or train on structures with these elements'
                )
