"""Random structure search: random structures, each relaxed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from aiida_alpot.worker.explorers.base import COMPLETED, NOT_CONVERGED, OF_THE_PATH, EndedError, Explorer, Outcome
from aiida_alpot.worker.explorers.minima import Minima
from aiida_alpot.worker.explorers.random_structures import check_composition, check_volume, random_structure
from aiida_alpot.worker.explorers.relax import RelaxSettings
from aiida_alpot.worker.explorers.relaxation import describe, enthalpy, relax_and_keep
from aiida_alpot.worker.explorers.watch import Watch
from aiida_alpot.worker.frames.frame import Frame
from aiida_alpot.worker.options import boolean, integer, number
from aiida_alpot.worker.seeds import derive_seed


@dataclass(frozen=True)
class RandomSearch(RelaxSettings, Explorer):
    """Make random structures and relax each; one that falls apart is given up, the others go on.

    Each structure is a lineage of its own: ``<lineage>:<k>``.

    :param composition: number of atoms by chemical symbol.
    :param volume: smallest and largest volume of the starts, A^3/atom.
    :param n: number of structures, at least 1.
    :param min_distance: smallest distance in the starts as a fraction of the sum of the covalent radii, in [0, 1.5].
    :param periodic: crystals; if not, clusters without a cell.
    :param relax_cell: relax the cell too (default true here; clusters have none).
    :param every: keep every n-th step (``interval``), at least 1; ``None``: none.
    :param keep_start: keep the random structures themselves (``start``).
    :param energy_tolerance: of copies of one minimum, eV/atom.
    :param tolerance: of their fingerprints, see :class:`Minima`.
    """

    relax_cell: bool = True
    composition: Mapping[str, int] = field(default_factory=dict)
    volume: Sequence[float] = ()
    n: int = 10
    min_distance: float = 0.6
    periodic: bool = True
    every: int | None = 10
    keep_start: bool = True
    energy_tolerance: float = 0.002
    tolerance: float = 0.05
    n_starts: ClassVar[int] = 0

    def __post_init__(self) -> None:
        if not self.periodic and not self.pressure:
            object.__setattr__(self, 'relax_cell', False)
        super().__post_init__()
        object.__setattr__(self, 'composition', check_composition(self.composition))
        object.__setattr__(self, 'volume', check_volume(self.volume))
        integer('n', self.n, 1, 100000)
        number('min_distance', self.min_distance, 0.0, 1.5)
        boolean('periodic', self.periodic)
        boolean('keep_start', self.keep_start)
        if self.every is not None:
            integer('every', self.every, 1)
        for name in ('energy_tolerance', 'tolerance'):
            number(name, getattr(self, name), 0.0)
        if not self.periodic and self.pressure:
            raise ValueError(f'`pressure` is {self.pressure} GPa, but clusters have no volume: leave it out')

    @property
    def elements(self) -> tuple[str, ...]:
        """Those of the composition."""
        return tuple(self.composition)

    def check(self, starts: Sequence[Frame]) -> None:
        """Make the first structure, to refuse a density that cannot be."""
        self._structure(0, 0)

    def explore(self, starts: Sequence[Frame], watch: Watch, seed: int) -> Outcome:
        """Relax all structures; the results list the end of each, and the distinct minima."""
        minima = Minima(self.energy_tolerance, self.tolerance)
        ends: list[dict[str, Any]] = []
        for k in range(self.n):
            ends.append(self._one(k, watch, derive_seed(seed, 'structure', k), minima))
        statuses = Counter(end['status'] for end in ends)
        results = {'structures': ends, **minima.summary()}
        text = ', '.join(f'{count} {status}' for status, count in sorted(statuses.items()))
        status = COMPLETED if statuses[COMPLETED] else statuses.most_common(1)[0][0]
        return Outcome(status, f'{self.n} structures: {text}; {len(minima)} distinct minima', results)

    def _structure(self, k: int, seed: int) -> Frame:
        return random_structure(
            self.composition, self.volume, seed, min_distance=self.min_distance, periodic=self.periodic
        )

    def _one(self, k: int, watch: Watch, seed: int, minima: Minima) -> dict[str, Any]:
        """Relax one structure."""
        end: dict[str, Any] = {'structure': k, 'status': COMPLETED}
        try:
            watch.path(str(k))
            atoms = watch.atoms(self._structure(k, seed))
            state = relax_and_keep(atoms, watch, self, self.every, self.keep_start, structure=k)
            watch.assess()
            end.update(n_steps=state.n_steps, **describe(atoms, self))
            if state.converged:
                end['minimum'] = minima.add(atoms, enthalpy(atoms, self))[0]
            else:
                end['status'] = NOT_CONVERGED
        except EndedError as error:
            if error.status not in OF_THE_PATH:
                raise
            end.update(status=error.status, message=str(error))
            self._finish_path(watch)
        return end

    def _finish_path(self, watch: Watch) -> None:
        """Keep what the path had sampled before it was given up."""
        try:
            watch.assess()
        except EndedError as error:
            if error.status not in OF_THE_PATH:
                raise
