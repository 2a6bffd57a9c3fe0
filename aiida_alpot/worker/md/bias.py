r"""Uncertainty-biased dynamics: a bias energy that grows with the spread of the committee's energies.

The driving member's energy :math:`E` is replaced by :math:`E_b = E - B`, as in hyperactive learning (van der Oord et
al., npj Comput. Mater. 9, 168 (2023): :math:`E - \tau\sigma`) and with the bias stress of Zaverkin et al. (npj Comput.
Mater. 10, 83 (2024)). With the spread :math:`\sigma` of the total energies of M members,

.. math::
    \sigma^2 = \tfrac{1}{M}\sum_m (E_m - \langle E\rangle)^2, \qquad
    s = \sqrt{\sigma^2 + \rho^2} - \sqrt{2}\,\rho, \qquad
    B = C \tanh(\tau s / C), \qquad C = \sqrt{N}\, k_B T_{cap}.

- :math:`s` goes with the variance below the reference spread :math:`\rho` and with the standard deviation above it: the
  standard deviation by itself has a kink wherever members agree. It is zero at :math:`\sigma = \rho`.
- :math:`\rho` (root mean square of :math:`\sigma`) and :math:`\tau` come from the first ``burn_in`` evaluations,
  without a bias, and stay: afterwards :math:`E_b` is one function of positions and cell, conserved in NVE, and the
  forces and the virial are its exact derivatives.
- The strength is a temperature, :math:`\tau = (T_{bias} / T)\,\overline{|F|}\,/\,\overline{|\nabla\sigma|}`, the
  adaptive strength of hyperactive learning with :math:`\tau_r = T_{bias} / T`: far above :math:`\rho` the bias pushes
  an atom, on average, with this share of the force that acts on it (at :math:`\rho` with 0.7 of that). By
  equipartition the forces do work of the order of :math:`k_B T` for each degree of freedom over a thermal
  displacement; the bias does that of
  :math:`k_B T_{bias}`.
- The cap is a temperature too: canonical fluctuations of the potential energy of N atoms are of the order of
  :math:`\sqrt{N} k_B T`, and the bias never gives or takes more than such a fluctuation at :math:`T_{cap}`.

**Size of the cell.** The spread of errors that are independent from atom to atom grows with :math:`\sqrt N`, so do
:math:`B` and :math:`C`, and the push on one atom does not depend on N. Errors that all atoms share grow with N: the
push on an atom is still the same, but a change of :math:`\sigma` meets the cap earlier in a larger cell. The variance
of the total energy couples atoms that are far apart, whatever the function of it; a bias without that would need the
gradient of the spread of each atomic energy, one backward pass an atom.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase.units import kB

from aiida_alpot.worker.options import build, integer, number
from aiida_alpot.worker.potentials.predictions import Predictions


@dataclass(frozen=True)
class BiasSettings:
    """Strength and bounds of the bias.

    :param temperature: strength, K-equivalents; a tenth to a quarter of the temperature of the run is a start.
    :param cap: largest bias energy, ``sqrt(N) k_B cap``, K-equivalents.
    :param md_temperature: of the run, K; the strength is relative to it.
    :param burn_in: number of evaluations without a bias, from which its scale follows.
    :param off_above: the bias is off wherever the expected force error exceeds it, eV/A: the run is then where it was
        to be driven. ``None`` for no bound. Switching off is a jump of the energy, which a thermostat removes.
    :param tau: strength found by an earlier part of the same run (with ``spread``); there is then no burn-in.
    :param spread: reference spread found by an earlier part of the same run, eV.
    :raises ValueError: for a value out of range.
    """

    temperature: float
    cap: float
    md_temperature: float
    burn_in: int = 100
    off_above: float | None = None
    tau: float | None = None
    spread: float | None = None

    def __post_init__(self) -> None:
        for name in ('temperature', 'cap', 'md_temperature'):
            number(f'bias.{name}', getattr(self, name), 0.0, exclusive=True)
        integer('bias.burn_in', self.burn_in, 1)
        for name in ('off_above', 'tau', 'spread'):
            if getattr(self, name) is not None:
                number(f'bias.{name}', getattr(self, name), 0.0, exclusive=True)
        if (self.tau is None) != (self.spread is None):
            raise ValueError('`bias.tau` and `bias.spread` belong together: give both, or none for a burn-in')

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> BiasSettings:
        """Settings of ``driver.json``.

        :raises ValueError: for unknown or missing names, or values out of range.
        """
        return build(cls, values, 'option of `bias`')


@dataclass(frozen=True, eq=False)
class Biased:
    """What drives the atoms of one frame.

    :param energy: of the driving member less the bias, eV.
    :param forces: minus the derivative of ``energy`` by the positions, shape (N, 3), eV/A.
    :param virial: minus the derivative of ``energy`` by the strain, shape (3, 3), eV; nan where not known.
    :param atomic_energies: shape (N,), eV, summing up to ``energy``: the bias belongs to no atom and is taken from all
        in equal parts; ``None`` where the members do not give any.
    :param bias_energy: what was subtracted, eV; 0 while the bias is off.
    """

    energy: float
    forces: np.ndarray
    virial: np.ndarray
    atomic_energies: np.ndarray | None
    bias_energy: float


class Bias:
    """The bias of one run; it has to see all members at each step.

    :param settings: :class:`BiasSettings`, or their values by name.
    :raises ValueError: for unknown or missing names, or values out of range.
    """

    def __init__(self, settings: BiasSettings | Mapping[str, Any]) -> None:
        self.settings = settings if isinstance(settings, BiasSettings) else BiasSettings.from_dict(settings)
        self._seen = np.zeros((0, 3))  # per evaluation of the burn-in: sigma^2, mean |F|, mean |grad sigma|
        self._tau, self._spread = self.settings.tau, self.settings.spread

    @property
    def is_ready(self) -> bool:
        """Whether the burn-in is over."""
        return self._tau is not None

    def state(self) -> dict[str, float | None]:
        """``tau`` and ``spread`` (eV), with which settings continue the same run; ``None`` during the burn-in."""
        return {'tau': self._tau, 'spread': self._spread}

    def apply(self, predictions: Predictions, driving_member: int = 0, uncertainty: float = np.nan) -> Biased:
        """Energy, forces and virial of one frame with the bias.

        :param predictions: of all members on one frame.
        :param driving_member: row of the member that drives.
        :param uncertainty: expected force error of the frame, eV/A; the bias is off where it exceeds ``off_above``.
        :raises ValueError: for fewer than two members, for more than one frame, and at the end of a burn-in in which
            the members never disagreed or no force ever acted.
        """
        _check(predictions)
        if not self.is_ready:
            self._learn(predictions, driving_member)
            return _biased(predictions, driving_member, 0.0, 0.0)
        bound = self.settings.off_above
        if bound is not None and uncertainty > bound:
            return _biased(predictions, driving_member, 0.0, 0.0)
        return _biased(predictions, driving_member, *self._energy(_spread(predictions), predictions.forces.shape[1]))

    def _energy(self, sigma: float, n_atoms: int) -> tuple[float, float]:
        """Bias energy, eV, and its derivative by sigma, divided by sigma, 1/eV."""
        assert self._tau is not None and self._spread is not None
        root = float(np.hypot(sigma, self._spread))
        cap = float(np.sqrt(n_atoms)) * kB * self.settings.cap
        share = np.tanh(self._tau * (root - np.sqrt(2.0) * self._spread) / cap)
        return float(cap * share), float(self._tau * (1.0 - share**2) / root)

    def _learn(self, predictions: Predictions, driving_member: int) -> None:
        """Add one evaluation to the burn-in, and set the scale when it is over."""
        sigma = _spread(predictions)
        gradient = _mean_product(predictions.energy[:, 0], predictions.forces) / sigma if sigma else np.zeros((1, 3))
        sizes = [np.linalg.norm(vectors, axis=1).mean() for vectors in (predictions.forces[driving_member], gradient)]
        self._seen = np.vstack([self._seen, [sigma**2, *sizes]])
        if len(self._seen) < self.settings.burn_in:
            return
        variance, force, gradient_size = self._seen.mean(axis=0)
        if variance == 0.0 or gradient_size == 0.0 or force == 0.0:
            raise ValueError(
                f'in the {len(self._seen)} evaluations of the burn-in of the bias the members never disagreed, or no '
                'force ever acted, so it has no scale: use a committee trained with different seeds, displace the '
                'atoms of the start, or switch the bias off'
            )
        relative = self.settings.temperature / self.settings.md_temperature
        self._tau, self._spread = float(relative * force / gradient_size), float(np.sqrt(variance))


def _check(predictions: Predictions) -> None:
    if len(predictions.energy) < 2:
        raise ValueError('a bias needs the spread of a committee: give at least two members, or switch the bias off')
    if predictions.energy.shape[1] != 1:
        raise ValueError(f'a bias acts on one frame at a time, found {predictions.energy.shape[1]}')


def _spread(predictions: Predictions) -> float:
    """Standard deviation of the total energies over the members, eV."""
    return float(np.std(predictions.energy[:, 0]))


def _mean_product(energies: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Mean over members of the energy's distance from the mean, times values (forces, virial), shape (M, ...)."""
    return np.tensordot(energies - energies.mean(), values, axes=1) / len(energies)


def _biased(predictions: Predictions, member: int, energy: float, slope: float) -> Biased:
    """The driving member with a bias.

    :param energy: of the bias, eV.
    :param slope: derivative of the bias energy by half of the variance, 1/eV. As the derivative of half of the variance
        is that of ``sum_m (E_m - <E>)^2 / 2M``, it is ``-slope * <(E_m - <E>) F_m>`` for positions, and the same with
        the virial for strain.
    """
    energies = predictions.energy[:, 0]
    virial = np.full((3, 3), np.nan) if predictions.virial is None else predictions.virial[member, 0]
    forces = predictions.forces[member]
    if slope:
        forces = forces - slope * _mean_product(energies, predictions.forces)
        if predictions.virial is not None:
            virial = virial - slope * _mean_product(energies, predictions.virial[:, 0])
    atomic = None if predictions.atomic_energies is None else predictions.atomic_energies[member] - energy / len(forces)
    return Biased(float(energies[member]) - energy, forces, virial, atomic, energy)
