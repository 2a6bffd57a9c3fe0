"""What every kind of committee offers."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from ase.data import atomic_numbers, chemical_symbols

from aiida_alpot.worker.acquisition.representations import Feature, resolve
from aiida_alpot.worker.frames.frame import Frame
from aiida_alpot.worker.potentials.batches import Cost, Room, halve_until_it_fits, pack
from aiida_alpot.worker.potentials.following import Follower
from aiida_alpot.worker.potentials.neighbours import Neighbourhood
from aiida_alpot.worker.potentials.predictions import Predictions, concatenate

Features = Sequence[str] | Mapping[str, Mapping[str, Any]]


class Committee(ABC):
    """Several potentials for the same elements with the same cutoff.

    :param elements: chemical symbols the members know, by atomic number.
    :param cutoff: radius of the neighbourhood that enters, A.
    :param n_members: number of members.
    :param batch_size: largest number of frames evaluated at once, ``None``: as many as fit into the memory.
    :param memory: bytes that a batch may take, ``None``: found out.
    """

    kind: ClassVar[str] = 'potentials'

    def __init__(
        self,
        elements: Sequence[str],
        cutoff: float,
        n_members: int,
        batch_size: int | None = None,
        memory: float | None = None,
    ) -> None:
        if batch_size is not None and batch_size < 1:
            raise ValueError(f'`batch_size` is {batch_size}: give at least 1')
        if memory is not None and not memory > 0:
            raise ValueError(f'`memory` is {memory}: give a positive number of bytes')
        self.elements: tuple[str, ...] = tuple(sorted(elements, key=lambda symbol: atomic_numbers[symbol]))
        self.cutoff = float(cutoff)
        self.n_members = n_members
        self.batch_size = batch_size
        self.memory = memory

    def evaluate(
        self, frames: Sequence[Frame], members: Sequence[int] | None = None, features: Features = ()
    ) -> Predictions:
        """Energies, forces and stresses of frames by all members, and representations of them, in one pass.

        Neighbour lists are made once for all members. Frames are evaluated in batches that fit into the memory; where
        one does not, it is halved. What is predicted as NaN is given as NaN.

        :param members: which members, in the order of the rows of the result; by default all.
        :param features: names of representations, or their options by name. They are made of the first of the members.
        :raises ValueError: for an element that the members do not know, for a representation that is unknown or that
            these potentials cannot give, for options that it does not have.
        :raises IndexError: for a member that does not exist.
        :raises MemoryError: for a frame that does not fit into the memory even alone.
        """
        chosen = tuple(range(self.n_members)) if members is None else tuple(members)
        for member in chosen:
            if not 0 <= member < self.n_members:
                raise IndexError(f'member {member} asked for: the committee has members 0 to {self.n_members - 1}')
        self._check_elements(frames)
        asked = resolve(features)
        of_model = [feature for feature in asked if feature.representation.of_recording is not None]
        self._check_features(of_model, chosen[0] if chosen else 0)
        numbers = np.concatenate([frame.numbers for frame in frames]) if len(frames) else np.zeros(0, dtype=np.int32)
        predictions = replace(self._evaluate_in_batches(frames, chosen, of_model), numbers=numbers)
        return self._with_features_of_frames(predictions, frames, asked)

    def _evaluate_in_batches(
        self, frames: Sequence[Frame], members: tuple[int, ...], features: Sequence[Feature]
    ) -> Predictions:
        def evaluate(batch: Sequence[Neighbourhood]) -> Predictions:
            return self._evaluate_batch(batch, members, features)

        if len(frames) == 1:  # as at each step of molecular dynamics: nothing to pack
            room, cost = Room(math.inf), Cost(1.0)
        else:
            room, cost = Room(self.memory or self._memory(), self.batch_size), self._cost_of(features)
        parts: list[Predictions] = []
        for batch in pack((self._neighbourhood(frame) for frame in frames), cost, room):
            parts += halve_until_it_fits(batch, evaluate, cost, room)
        return concatenate(parts, len(members))

    def _with_features_of_frames(
        self, predictions: Predictions, frames: Sequence[Frame], asked: Sequence[Feature]
    ) -> Predictions:
        """Predictions with those representations that need no model, all in the order in which they were asked for."""
        if not asked:
            return predictions
        found = predictions.features
        values = {
            feature.name: found[feature.name] if feature.name in found else feature.of_frames(frames, self.elements)
            for feature in asked
            if feature.name in found or feature.representation.of_frames is not None
        }
        return replace(predictions, features=values)

    @abstractmethod
    def _evaluate_batch(
        self, batch: Sequence[Neighbourhood], members: tuple[int, ...], features: Sequence[Feature]
    ) -> Predictions:
        """Evaluate at least one frame in one go, with those features that are made of the model."""

    def _neighbourhood(self, frame: Frame) -> Neighbourhood:
        """A frame with what all members share; without pairs where the potentials find their neighbours themselves."""
        return Neighbourhood.without(frame)

    def _memory(self) -> float:
        """Bytes that a batch may take."""
        return math.inf

    def _cost_of(self, features: Sequence[Feature]) -> Cost:
        """What a frame takes of the memory."""
        return Cost(1.0)

    def _check_features(self, features: Sequence[Feature], member: int) -> None:
        """Refuse features that these potentials cannot give."""
        impossible = [feature.name for feature in features if feature.name not in self.possible_features()]
        if impossible:
            possible = ', '.join(self.possible_features()) or 'none'
            raise ValueError(f'{self.kind} cannot give the features {", ".join(impossible)}: they give {possible}')

    def possible_features(self) -> tuple[str, ...]:
        """Names of the representations that can be made of these potentials."""
        return ()

    def evaluate_neighbourhood(self, structure: Neighbourhood, members: Sequence[int]) -> Predictions:
        """One frame whose neighbours are known already.

        :param members: which, in the order of the rows of the result.
        :raises MemoryError: where it does not fit into the memory.
        """

        def evaluate(batch: Sequence[Neighbourhood]) -> Predictions:
            return self._evaluate_batch(batch, tuple(members), ())

        (found,) = halve_until_it_fits([structure], evaluate, Cost(1.0), Room(math.inf))
        return replace(found, numbers=structure.frame.numbers)

    def follow(self) -> Follower:
        """What evaluates one structure that moves a little at a time, as in molecular dynamics."""
        return Follower(self)

    def check_numbers(self, numbers: np.ndarray, name: str = 'the structure') -> None:
        """Refuse elements that the members do not know.

        :param numbers: atomic numbers, shape (N,).
        :param name: of what has them.
        :raises ValueError: naming them.
        """
        unknown = set(numbers.tolist()) - {atomic_numbers[symbol] for symbol in self.elements}
        if unknown:
            symbols = ', '.join(chemical_symbols[number] for number in sorted(unknown))
            raise ValueError(
                f'{name} contains {symbols}, but the committee was trained on '
                f'{", ".join(self.elements)} only: '
                'leave the frame out or train on structures with these elements'
            )

    def _check_elements(self, frames: Sequence[Frame]) -> None:
        for index, frame in enumerate(frames):
            self.check_numbers(frame.numbers, f'frame {index}')
