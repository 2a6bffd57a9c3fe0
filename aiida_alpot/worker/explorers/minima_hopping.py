"""Minima hopping: short dynamics out of each minimum, hotter where it falls back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.md import VelocityVerlet
from ase.units import fs, kB

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
from aiida_alpot.worker.explorers.relax import Relaxed, RelaxSettings, relax
from aiida_alpot.worker.explorers.relaxation import enthalpy
from aiida_alpot.worker.explorers.watch import Watch
from aiida_alpot.worker.frames.frame import Frame
from aiida_alpot.worker.options import integer, number


@dataclass
class _State:
    """What minima hopping adapts on its way: temperature (K), and how much higher the next minimum may be (eV)."""

    temperature: float
    energy_difference: float


@dataclass(frozen=True)
class MinimaHopping(RelaxSettings, Explorer):
    """Minima hopping (Goedecker, J. Chem. Phys. 120, 9911, 2004).

    From the current minimum: NVE dynamics from random velocities until the potential energy has passed ``md_minima``
    minima; relaxation from the last of them. Fallen back, or a minimum known already: hotter by ``beta_same``,
    ``beta_old``; a new one: cooler by ``beta_new``. It is accepted if it is less than the energy difference higher,
    which then shrinks by ``alpha_accepted``, and grows by ``alpha_rejected`` otherwise. ASE's own writes its state and
    its trajectories into the working folder, and its dynamics have no bound; this one writes nothing, stops each
    dynamics at ``max_md_steps``, and compares structures by :func:`aiida_alpot.worker.explorers.minima.fingerprint`.

    :param fmax: of the relaxations, eV/A, above 0.
    :param n_hops: number of escapes, at least 1.
    :param temperature: of the first dynamics, K, above 0.
    :param energy_difference: first bound on the rise of the energy, eV, above 0.
    :param timestep: fs, in (0, 10].
    :param md_minima: minima of the energy that each dynamics passes, at least 1.
    :param max_md_steps: largest number of steps of each dynamics, at least 10.
    :param md_every: keep every n-th step of the dynamics (``interval``), at least 1; ``None``: none. The step of
        highest energy of each dynamics is kept always (``transition``).
    :param max_temperature: the temperature rises no further, K.
    :param beta_same: factor of the temperature after falling back, at least 1;
    :param beta_old: after another minimum that is known, at least 1;
    :param beta_new: after a new one, in (0, 1].
    :param alpha_accepted: factor of the energy difference after accepting, in (0, 1];
    :param alpha_rejected: after rejecting, at least 1.
    :param max_failures: escapes in a row that may fall apart, at least 1.
    :param energy_tolerance: of copies of one minimum, eV/atom.
    :param tolerance: of their fingerprints, see :class:`Minima`.
    """

    fmax: float = 0.05
    n_hops: int = 20
    temperature: float = 1000.0
    energy_difference: float = 0.5
    timestep: float = 1.0
    md_minima: int = 2
    max_md_steps: int = 1000
    md_every: int | None = None
    max_temperature: float = 5000.0
    beta_same: float = 1.1
    beta_old: float = 1.1
    beta_new: float = 1.0 / 1.1
    alpha_accepted: float = 0.98
    alpha_rejected: float = 1.0 / 0.98
    max_failures: int = 10
    energy_tolerance: float = 0.002
    tolerance: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, low in (('n_hops', 1), ('md_minima', 1), ('max_md_steps', 10), ('max_failures', 1)):
            integer(name, getattr(self, name), low)
        if self.md_every is not None:
            integer('md_every', self.md_every, 1)
        for name in ('temperature', 'energy_difference'):
            number(name, getattr(self, name), 0.0, exclusive=True)
        number('timestep', self.timestep, 0.0, 10.0, exclusive=True)
        number('max_temperature', self.max_temperature, self.temperature)
        for name in ('beta_same', 'beta_old', 'alpha_rejected'):
            number(name, getattr(self, name), 1.0)
        for name in ('beta_new', 'alpha_accepted'):
            number(name, getattr(self, name), 0.0, 1.0, exclusive=True)
        for name in ('energy_tolerance', 'tolerance'):
            number(name, getattr(self, name), 0.0)

    def check(self, starts: Sequence[Frame]) -> None:
        """Refuse a start that cannot be relaxed so, or whose atoms cannot move.

        :raises ValueError: with the reason.
        """
        self.check_frame(starts[0])
        if len(starts[0]) < 2:
            raise ValueError('the start has one atom, which nothing can lead to another minimum: give at least two')

    def explore(self, starts: Sequence[Frame], watch: Watch, seed: int) -> Outcome:
        """Hop; every distinct minimum is kept as ``minimum``, and the top of each dynamics as ``transition``."""
        rng = np.random.default_rng(seed)
        minima = Minima(self.energy_tolerance, self.tolerance)
        state = _State(self.temperature, self.energy_difference)
        current = watch.atoms(starts[0])
        if not relax(current, self).converged:
            watch.keep(current, 'final', hop=0)
            return Outcome(NOT_CONVERGED, f'the start did not converge in {self.max_steps} steps', minima.summary())
        place, energy = self._found(current, watch, minima, hop=0)[:2]
        n_accepted = n_failed = in_a_row = 0
        for hop in range(1, self.n_hops + 1):
            trial = current.copy()
            trial.calc = current.calc
            if not self._escape(trial, watch, state, rng, hop).converged:
                n_failed, in_a_row = n_failed + 1, in_a_row + 1
                if in_a_row >= self.max_failures:
                    raise EndedError(
                        EXPLODED, f'{in_a_row} escapes in a row fell apart: reduce `temperature` or `timestep`'
                    )
                continue
            in_a_row = 0
            other, found, is_new = self._found(trial, watch, minima, hop)
            if self._accepts(state, found - energy, same=other == place, is_new=is_new):
                current, place, energy, n_accepted = trial, other, found, n_accepted + 1
        counts = {'n_hops': self.n_hops, 'n_accepted': n_accepted, 'n_failed': n_failed}
        results = {**counts, 'temperature': state.temperature, **minima.summary()}
        return Outcome(COMPLETED, f'{self.n_hops} hops, {n_accepted} accepted: {len(minima)} minima', results)

    def _accepts(self, state: _State, rise: float, *, same: bool, is_new: bool) -> bool:
        """Adapt temperature and energy difference to what was found; whether it becomes the current minimum."""
        factor = self.beta_same if same else self.beta_new if is_new else self.beta_old
        state.temperature = min(state.temperature * factor, self.max_temperature)
        if same:
            return False
        accepted = rise < state.energy_difference
        state.energy_difference *= self.alpha_accepted if accepted else self.alpha_rejected
        return accepted

    def _escape(self, atoms: Atoms, watch: Watch, state: _State, rng: np.random.Generator, hop: int) -> Relaxed:
        """Dynamics and relaxation, in place; what falls apart has not converged."""
        draw_velocities(atoms, state.temperature, rng)
        try:
            self._dynamics(atoms, watch, state.temperature, hop)
            return relax(atoms, self)
        except EndedError as error:
            if error.status not in OF_A_MOVE:
                raise
            return Relaxed()

    def _dynamics(self, atoms: Atoms, watch: Watch, temperature: float, hop: int) -> None:
        """NVE until the energy has passed its minima; the atoms are left at the last of them."""
        dynamics = VelocityVerlet(atoms, timestep=self.timestep * fs)
        energies = [atoms.get_potential_energy()]
        recent = [atoms.positions.copy()]
        top, highest = atoms.copy(), energies[0]
        n_passed = 0
        for step in range(1, self.max_md_steps + 1):
            dynamics.run(1)
            energies = [*energies[-2:], atoms.get_potential_energy()]
            recent = [*recent[-2:], atoms.positions.copy()]
            if energies[-1] > highest:
                top, highest = atoms.copy(), energies[-1]
            if self.md_every and step % self.md_every == 0:
                watch.keep(atoms, 'interval', hop=hop, step=step, temperature=float(atoms.get_temperature()))
            n_passed += len(energies) == 3 and energies[1] < min(energies[0], energies[2])
            if n_passed >= self.md_minima:
                atoms.set_positions(recent[1])
                break
        atoms.set_momenta(np.zeros((len(atoms), 3)))
        watch.keep(top, 'transition', hop=hop, drawn_temperature=temperature)

    def _found(self, atoms: Atoms, watch: Watch, minima: Minima, hop: int) -> tuple[int, float, bool]:
        """Place of a minimum, its enthalpy (eV), whether it is new; a new one is kept."""
        energy = enthalpy(atoms, self)
        index, is_new = minima.add(atoms, energy)
        if is_new:
            watch.keep(atoms, 'minimum', hop=hop, minimum=index)
        return index, energy, is_new


def draw_velocities(atoms: Atoms, temperature: float, rng: np.random.Generator) -> None:
    """Maxwell-Boltzmann velocities in place; K. Where all atoms move, without drift, and without rotation in vacuum."""
    momenta = rng.normal(size=(len(atoms), 3)) * np.sqrt(atoms.get_masses() * kB * temperature)[:, None]
    if not atoms.constraints:
        masses = atoms.get_masses()
        momenta -= masses[:, None] * momenta.sum(axis=0) / masses.sum()
        if not atoms.pbc.any():
            momenta -= masses[:, None] * _rotation(atoms, momenta)
    atoms.set_momenta(momenta)


def _rotation(atoms: Atoms, momenta: np.ndarray) -> np.ndarray:
    """Velocities of the rigid rotation with the angular momentum of some momenta, shape (n, 3)."""
    arms = atoms.positions - atoms.get_center_of_mass()
    masses = atoms.get_masses()
    square = np.square(arms).sum(axis=1)
    inertia = np.einsum('i,i->', masses, square) * np.eye(3) - np.einsum('i,ij,ik->jk', masses, arms, arms)
    angular = np.cross(arms, momenta).sum(axis=0)
    return np.cross(np.linalg.pinv(inertia, rcond=1e-10) @ angular, arms)
