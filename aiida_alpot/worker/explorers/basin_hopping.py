"""Basin hopping: random displacements, each relaxed, and a Metropolis decision between the minima."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.units import kB

from aiida_alpot.worker.explorers.base import (
    COMPLETED,
    EXPLODED,
    NOT_CONVERGED,
    OF_A_MOVE,
    EndedError,
    Explorer,
    Outcome,
)
from aiida_alpot.worker.explorers.minima import Minima
from aiida_alpot.worker.explorers.relax import Relaxed, RelaxSettings, relaxing
from aiida_alpot.worker.explorers.relaxation import enthalpy
from aiida_alpot.worker.explorers.watch import Watch
from aiida_alpot.worker.frames.frame import Frame
from aiida_alpot.worker.options import boolean, integer, number


@dataclass(frozen=True)
class BasinHopping(RelaxSettings, Explorer):
    """Basin hopping (Wales and Doye, J. Phys. Chem. A 101, 5111, 1997), cell and pressure included where wanted.

    ASE's own draws from the global random numbers and keeps its minima in files of the working folder; this one draws
    from its seed, and hands every distinct minimum to the watch. A move whose relaxation falls apart or does not
    converge is no move: it is counted, and the next one is tried.

    :param fmax: of the relaxations, eV/A, above 0.
    :param n_hops: number of moves, at least 1.
    :param temperature: of the Metropolis decision, K, above 0.
    :param step_width: each coordinate is displaced by up to this much, A, above 0.
    :param every: keep every n-th step of the relaxations (``interval``), at least 1; ``None``: none.
    :param keep_attempts: keep the displaced structures (``attempt``): what lies between basins.
    :param max_failures: moves in a row that may fail, at least 1.
    :param energy_tolerance: of copies of one minimum, eV/atom.
    :param tolerance: of their fingerprints, see :class:`Minima`.
    """

    fmax: float = 0.05
    n_hops: int = 50
    temperature: float = 1000.0
    step_width: float = 0.4
    every: int | None = None
    keep_attempts: bool = True
    max_failures: int = 10
    energy_tolerance: float = 0.002
    tolerance: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        integer('n_hops', self.n_hops, 1)
        number('temperature', self.temperature, 0.0, exclusive=True)
        number('step_width', self.step_width, 0.0, exclusive=True)
        if self.every is not None:
            integer('every', self.every, 1)
        boolean('keep_attempts', self.keep_attempts)
        integer('max_failures', self.max_failures, 1)
        for name in ('energy_tolerance', 'tolerance'):
            number(name, getattr(self, name), 0.0)

    def check(self, starts: Sequence[Frame]) -> None:
        """Refuse a start that cannot be relaxed so, or whose atoms cannot move.

        :raises ValueError: with the reason.
        """
        self.check_frame(starts[0])
        if len(starts[0]) < 2:
            raise ValueError('the start has one atom, whose displacement changes nothing: give at least two')

    def explore(self, starts: Sequence[Frame], watch: Watch, seed: int) -> Outcome:
        """Hop; every distinct minimum is kept as ``minimum``."""
        rng = np.random.default_rng(seed)
        minima = Minima(self.energy_tolerance, self.tolerance)
        current = watch.atoms(starts[0])
        if not self._relax(current, watch, hop=0).converged:
            watch.keep(current, 'final', hop=0)
            return Outcome(NOT_CONVERGED, f'the start did not converge in {self.max_steps} steps', minima.summary())
        energy = self._found(current, watch, minima, hop=0)
        n_accepted = n_failed = in_a_row = 0
        for hop in range(1, self.n_hops + 1):
            trial = self._moved(current, rng)
            threshold = rng.random()  # drawn in any case, so that each hop draws the same numbers
            if not self._try(trial, watch, hop):
                n_failed, in_a_row = n_failed + 1, in_a_row + 1
                if in_a_row >= self.max_failures:
                    raise EndedError(EXPLODED, f'{in_a_row} moves in a row fell apart: reduce `step_width`')
                continue
            in_a_row = 0
            found = self._found(trial, watch, minima, hop)
            if threshold < np.exp(min(0.0, (energy - found) / (kB * self.temperature))):
                current, energy, n_accepted = trial, found, n_accepted + 1
        results = {'n_hops': self.n_hops, 'n_accepted': n_accepted, 'n_failed': n_failed, **minima.summary()}
        return Outcome(COMPLETED, f'{self.n_hops} hops, {n_accepted} accepted: {len(minima)} minima', results)

    def _moved(self, atoms: Atoms, rng: np.random.Generator) -> Atoms:
        """A displaced copy; atoms that are fixed stay, and without such the centre of mass does."""
        trial = atoms.copy()
        trial.calc = atoms.calc
        trial.set_positions(trial.positions + rng.uniform(-self.step_width, self.step_width, size=(len(trial), 3)))
        if not trial.constraints:
            trial.translate(atoms.get_center_of_mass() - trial.get_center_of_mass())
        return trial

    def _try(self, trial: Atoms, watch: Watch, hop: int) -> bool:
        """Relax a displaced structure in place; whether that succeeded."""
        try:
            trial.get_potential_energy()
            if self.keep_attempts:
                watch.keep(trial, 'attempt', hop=hop)
            return self._relax(trial, watch, hop).converged
        except EndedError as error:
            if error.status not in OF_A_MOVE:
                raise
            return False

    def _relax(self, atoms: Atoms, watch: Watch, hop: int) -> Relaxed:
        state = Relaxed()
        for state in relaxing(atoms, self):
            if self.every and state.n_steps and state.n_steps % self.every == 0 and not state.converged:
                watch.keep(atoms, 'interval', hop=hop, step=state.n_steps)
        return state

    def _found(self, atoms: Atoms, watch: Watch, minima: Minima, hop: int) -> float:
        """Enthalpy of a minimum, eV; a new one is kept."""
        energy = enthalpy(atoms, self)
        index, is_new = minima.add(atoms, energy)
        if is_new:
            watch.keep(atoms, 'minimum', hop=hop, minimum=index)
        return energy
