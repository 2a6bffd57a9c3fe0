"""A committee on one structure that moves a little at a time, as in molecular dynamics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from aiida_alpot.worker.frames.frame import Frame
from aiida_alpot.worker.potentials.neighbours import Neighbourhood, SkinList
from aiida_alpot.worker.potentials.predictions import Predictions

if TYPE_CHECKING:
    from aiida_alpot.worker.potentials.committee import Committee

SKIN = 0.5
"""What a neighbour list reaches beyond the cutoff while it is kept, A."""


class Follower:
    """Evaluates the same atoms again and again; what does not change between two calls is kept.

    This one makes a frame of every call and keeps nothing: for potentials that find their neighbours themselves.

    :param committee: the potentials.
    """

    def __init__(self, committee: Committee) -> None:
        self._committee = committee

    def evaluate(
        self,
        numbers: np.ndarray,
        positions: np.ndarray,
        cell: np.ndarray,
        pbc: np.ndarray,
        members: Sequence[int],
        with_virial: Sequence[int] | None = None,
    ) -> Predictions:
        """What members say about the structure of now, as :meth:`Committee.evaluate` says it of one frame.

        :param numbers: atomic numbers, shape (N,).
        :param positions: shape (N, 3), A.
        :param cell: shape (3, 3), A.
        :param pbc: shape (3,).
        :param members: which, in the order of the rows of the result.
        :param with_virial: members whose virial and stress are needed, by default all; those of others may be nan.
        :raises ValueError: for an element that the members do not know.
        :raises MemoryError: where the structure does not fit into the memory.
        """
        return self._committee.evaluate([Frame(numbers, positions, cell, pbc)], members)


class PairFollower(Follower):
    """For potentials that are given their neighbours: the list is kept, and cut at the cutoff at each call.

    :param committee: potentials that evaluate a :class:`Neighbourhood` with pairs.
    :param skin: what the neighbour list reaches beyond the cutoff, A.
    """

    def __init__(self, committee: Committee, skin: float = SKIN) -> None:
        super().__init__(committee)
        self._list = SkinList(committee.cutoff, skin)

    @property
    def n_searches(self) -> int:
        """How often neighbours were searched."""
        return self._list.n_searches

    def evaluate(
        self,
        numbers: np.ndarray,
        positions: np.ndarray,
        cell: np.ndarray,
        pbc: np.ndarray,
        members: Sequence[int],
        with_virial: Sequence[int] | None = None,
    ) -> Predictions:
        """See :meth:`Follower.evaluate`."""
        self._committee.check_numbers(numbers)
        at, full = self._list.follow(positions, cell, pbc)
        return self._committee.evaluate_neighbourhood(self._cut(Frame(numbers, at, cell, pbc), full), members)

    def _cut(self, frame: Frame, full: np.ndarray) -> Neighbourhood:
        """The frame with the pairs closer than the cutoff."""
        wide = Neighbourhood(frame, self._list.edges, self._list.shifts, full)
        vectors = wide.vectors
        near = np.einsum('ij,ij->i', vectors, vectors) < self._committee.cutoff**2
        return Neighbourhood(frame, wide.edges[:, near], wide.shifts[near], full)
