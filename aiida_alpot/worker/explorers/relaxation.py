"""Relaxation of a start structure: what lies between it and its minimum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ase import Atoms
from ase.units import GPa

from aiida_alpot.worker.explorers.base import COMPLETED, NOT_CONVERGED, Explorer, Outcome
from aiida_alpot.worker.explorers.relax import Relaxed, RelaxSettings, relaxing
from aiida_alpot.worker.explorers.watch import Watch
from aiida_alpot.worker.frames.frame import Frame
from aiida_alpot.worker.options import boolean, integer


@dataclass(frozen=True)
class Relaxation(RelaxSettings, Explorer):
    """Relax one structure with the potential: random structure search, where the start is a random one.

    :param every: keep every n-th step as a candidate (``interval``), at least 1; ``None``: none.
    :param keep_start: keep the start structure too (``start``); it is known most often.
    """

    every: int | None = 5
    keep_start: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.every is not None:
            integer('every', self.every, 1)
        boolean('keep_start', self.keep_start)

    def check(self, starts: Sequence[Frame]) -> None:
        """Refuse a start that cannot be relaxed so.

        :raises ValueError: see :meth:`RelaxSettings.check_frame`.
        """
        self.check_frame(starts[0])

    def explore(self, starts: Sequence[Frame], watch: Watch, seed: int) -> Outcome:
        """Relax; the last structure is kept as ``final``, whether it converged or not."""
        atoms = watch.atoms(starts[0])
        state = relax_and_keep(atoms, watch, self, self.every, self.keep_start)
        results = {'n_steps': state.n_steps, **describe(atoms, self)}
        return outcome(state, self, results)


def relax_and_keep(
    atoms: Atoms, watch: Watch, settings: RelaxSettings, every: int | None, keep_start: bool = False, **facts: Any
) -> Relaxed:
    """Relax a structure in place; candidates are every n-th step and the last one."""
    if keep_start:
        watch.keep(atoms, 'start', step=0, **facts)
    state = Relaxed()
    for state in relaxing(atoms, settings):
        last = state.converged or state.n_steps == settings.max_steps
        if every and state.n_steps and state.n_steps % every == 0 and not last:
            watch.keep(atoms, 'interval', step=state.n_steps, **facts)
    watch.keep(atoms, 'final', step=state.n_steps, converged=state.converged, **facts)
    return state


def describe(atoms: Atoms, settings: RelaxSettings) -> dict[str, Any]:
    """Energy (eV), enthalpy (eV) and volume (A^3) of a relaxed structure."""
    energy = float(atoms.get_potential_energy())
    if not atoms.pbc.all():
        return {'energy': energy}
    volume = float(atoms.get_volume())
    return {'energy': energy, 'enthalpy': energy + settings.pressure * GPa * volume, 'volume': volume}


def enthalpy(atoms: Atoms, settings: RelaxSettings) -> float:
    """Energy + pressure x volume, eV; the energy alone where there is no pressure."""
    return float(describe(atoms, settings).get('enthalpy', atoms.get_potential_energy()))


def outcome(state: Relaxed, settings: RelaxSettings, results: dict[str, Any]) -> Outcome:
    """How a relaxation ended."""
    if state.converged:
        return Outcome(COMPLETED, f'converged in {state.n_steps} steps', results)
    return Outcome(NOT_CONVERGED, f'not converged in {settings.max_steps} steps', results)
