"""What every explorer offers, and how a run of one can end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from aiida_alpot.worker.explorers.watch import Watch
    from aiida_alpot.worker.frames.frame import Frame

COMPLETED, NOT_CONVERGED = 'completed', 'not_converged'
HALTED, EXPLODED, ENERGY_DROP, NOT_FINITE = 'halted', 'exploded', 'energy_drop', 'not_finite'
POTENTIAL_ERROR, EXPLORER_ERROR = 'potential_error', 'explorer_error'
WALLTIME, TERMINATED, RUNNING = 'walltime', 'terminated', 'running'

STATUSES = {
    COMPLETED: 'the explorer did all that it was asked for',
    NOT_CONVERGED: 'the explorer reached its largest number of steps first',
    HALTED: 'the committee is too unsure: the uncertainty crossed a bound',
    EXPLODED: 'a force, the volume or a length went beyond its bound',
    ENERGY_DROP: 'the energy fell further than a real one can',
    NOT_FINITE: 'positions, energy or forces were not finite',
    POTENTIAL_ERROR: 'the evaluation of the potential raised an exception',
    EXPLORER_ERROR: 'the explorer itself raised an exception',
    WALLTIME: 'the time was up; the next start goes on',
    TERMINATED: 'a signal ended the run; the next start goes on',
    RUNNING: 'the run goes on, or was killed; the next start goes on',
}
"""Status of a run -> what it means."""

UNFINISHED = (WALLTIME, TERMINATED, RUNNING)
"""Statuses of runs that the next start goes on with."""

OF_THE_PATH = (HALTED, EXPLODED, ENERGY_DROP, NOT_FINITE)
"""Ends that concern one path through the structures: an explorer of several may give up the path and take the next."""

OF_A_MOVE = (EXPLODED, NOT_FINITE)
"""Ends that may be the fault of one random move: an explorer may take it back and try another one."""


class EndedError(Exception):
    """The run, or the path that it is on, must stop.

    :param status: one of :data:`STATUSES`.
    :param message: a sentence for people.
    """

    def __init__(self, status: str, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Outcome:
    """How an explorer ended by itself.

    :param status: ``completed`` or ``not_converged``.
    :param message: a sentence.
    :param results: what it found, JSON-serialisable: energies in eV, lengths in A, pressures in GPa.
    """

    status: str
    message: str
    results: Mapping[str, Any] = field(default_factory=dict)


class Explorer(ABC):
    """Something that leads from start structures to new ones; a subclass is a dataclass, whose fields are its settings.

    It moves atoms by the forces of ``watch.calculator`` (or ``watch.evaluate`` for several structures at once), and
    hands every candidate to ``watch.keep``. It writes no file, reads no clock and draws all random numbers from
    ``seed``: an interrupted run is repeated from its start with the recorded forces, so it must do the same things
    again.
    :func:`aiida_alpot.worker.explorers.conformance.check_explorer` checks that.
    """

    n_starts: ClassVar[int] = 1
    """How many start structures it takes."""

    def check(self, starts: Sequence[Frame]) -> None:
        """Refuse start structures that do not suit, before anything runs.

        :raises ValueError: with the reason.
        """
        return None

    @property
    def elements(self) -> tuple[str, ...]:
        """Elements that it brings in by its settings, besides those of the start structures."""
        return ()

    @abstractmethod
    def explore(self, starts: Sequence[Frame], watch: Watch, seed: int) -> Outcome:
        """Explore from the start structures, as many as ``n_starts``.

        :param seed: of everything that is drawn, at least 0.
        :raises EndedError: as it comes from ``watch``; an explorer lets it through, or, for those of
            :data:`OF_THE_PATH`, gives up the path that it is on.
        """
