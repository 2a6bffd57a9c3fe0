"""Nudged elastic band between two structures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from ase import Atoms
from ase.build import minimize_rotation_and_translation
from ase.calculators.singlepoint import SinglePointCalculator
from ase.mep import NEB
from ase.optimize import BFGS, FIRE

from aiida_alpot.worker.explorers.base import COMPLETED, NOT_CONVERGED, Explorer, Outcome
from aiida_alpot.worker.explorers.relax import RelaxSettings, relax
from aiida_alpot.worker.explorers.watch import FIXED, Watch
from aiida_alpot.worker.frames.frame import Frame
from aiida_alpot.worker.options import boolean, choice, integer, number

OPTIMIZERS = {'fire': FIRE, 'bfgs': BFGS}
INTERPOLATIONS = ('idpp', 'linear')
CELL_TOLERANCE = 1e-6
"""Cells of both ends may differ by so much, A."""


@dataclass(frozen=True)
class NudgedElasticBand(Explorer):
    """ASE's nudged elastic band (improved tangent, Henkelman and Jonsson, J. Chem. Phys. 113, 9978), at a fixed cell.

    All images are evaluated in one pass. The band first relaxes to ``climb_below`` without a climbing image, then with
    it (Henkelman, Uberuaga and Jonsson, J. Chem. Phys. 113, 9901).

    :param n_images: images between the ends, at least 1.
    :param interpolation: of the first band: ``idpp`` (Smidstrup et al., J. Chem. Phys. 140, 214106) or ``linear``.
    :param spring: force constant, eV/A^2, above 0.
    :param climb: whether the highest image climbs to the saddle point.
    :param climb_below: it does so once no force on the band is larger, eV/A, at least ``fmax``.
    :param optimizer: ``fire`` or ``bfgs``.
    :param fmax: converged when no force on the band is larger, eV/A, above 0.
    :param max_steps: largest number of steps, at least 1.
    :param every: keep all images at every n-th step (``interval``), at least 1; ``None``: only those of the end
        (``image``, and ``saddle`` for the highest).
    :param relax_ends: relax the ends first, to ``fmax``; they are then kept too (``end``).
    """

    n_images: int = 5
    interpolation: str = 'idpp'
    spring: float = 0.1
    climb: bool = True
    climb_below: float = 0.5
    optimizer: str = 'fire'
    fmax: float = 0.05
    max_steps: int = 500
    every: int | None = 10
    relax_ends: bool = True
    n_starts: ClassVar[int] = 2

    def __post_init__(self) -> None:
        integer('n_images', self.n_images, 1)
        choice('interpolation', self.interpolation, INTERPOLATIONS)
        number('spring', self.spring, 0.0, exclusive=True)
        boolean('climb', self.climb)
        number('fmax', self.fmax, 0.0, exclusive=True)
        number('climb_below', self.climb_below, self.fmax)
        choice('optimizer', self.optimizer, OPTIMIZERS)
        integer('max_steps', self.max_steps, 1)
        if self.every is not None:
            integer('every', self.every, 1)
        boolean('relax_ends', self.relax_ends)

    def check(self, starts: Sequence[Frame]) -> None:
        """Refuse ends that no band connects.

        :raises ValueError: with the reason.
        """
        first, last = starts
        if len(first) != len(last) or (first.numbers != last.numbers).any():
            raise ValueError(
                f'the ends are {first.formula} and {last.formula}, or list their atoms in another order: both must '
                'have the same atoms in the same order'
            )
        if (first.pbc != last.pbc).any() or np.abs(first.cell - last.cell)[first.pbc].max(initial=0) > CELL_TOLERANCE:
            raise ValueError('the ends have different cells: a band needs one cell for all images')
        if first.frame_id == last.frame_id:
            raise ValueError('the ends are one and the same structure: give two')
        fixed = [np.asarray(end.arrays.get(FIXED, np.zeros(len(end))), dtype=bool) for end in starts]
        if (fixed[0] != fixed[1]).any():
            raise ValueError('the ends have different fixed atoms: fix the same in both')

    def explore(self, starts: Sequence[Frame], watch: Watch, seed: int) -> Outcome:
        """Relax the band; all images of its end are kept. Nothing is drawn: the seed plays no role."""
        ends = [watch.atoms(frame) for frame in starts]
        if self.relax_ends:
            unfinished = self._relax_ends(ends, watch)
            if unfinished:
                return unfinished
        band = self._band(ends, watch)
        n_steps, converged = self._relax_band(band, watch)
        results = {'n_steps': n_steps, **describe(band)}
        self._keep(band, watch, 'image', n_steps)
        if not converged:
            return Outcome(NOT_CONVERGED, f'the band did not converge in {self.max_steps} steps', results)
        text = (
            f'converged in {n_steps} steps: barrier {results["barrier"]:.4g} eV, back {results["barrier_back"]:.4g} eV'
        )
        return Outcome(COMPLETED, text, results)

    def _relax_ends(self, ends: Sequence[Atoms], watch: Watch) -> Outcome | None:
        settings = RelaxSettings(fmax=self.fmax, max_steps=self.max_steps)
        for index, atoms in enumerate(ends):
            state = relax(atoms, settings)
            watch.keep(atoms, 'end', image=index * (self.n_images + 1), step=state.n_steps)
            if not state.converged:
                return Outcome(NOT_CONVERGED, f'end {index} of the band did not converge in {self.max_steps} steps')
        return None

    def _band(self, ends: Sequence[Atoms], watch: Watch) -> _Band:
        images = [ends[0], *(ends[0].copy() for _ in range(self.n_images)), ends[1]]
        images[-1].set_cell(images[0].cell)
        band = _Band(images, watch, self.spring)
        periodic = bool(images[0].pbc.any())
        band.interpolate(method='linear', mic=periodic, apply_constraint=False)
        if self.interpolation == 'idpp':
            band.straighten(mic=periodic)
        band.freeze_ends()
        return band

    def _relax_band(self, band: _Band, watch: Watch) -> tuple[int, bool]:
        """Steps done, and whether the band converged."""
        optimizer = OPTIMIZERS[self.optimizer](band, logfile=None)
        n_steps, force = 0, float('inf')
        for n_steps, _ in enumerate(optimizer.irun(fmax=0.0, steps=self.max_steps)):
            force = float(np.sqrt(np.square(band.get_forces()).sum(axis=1).max()))
            if self.climb and not band.climb and force <= self.climb_below:
                band.climb = True
                continue
            if force <= self.fmax:
                break
            if self.every and n_steps and n_steps % self.every == 0 and n_steps < self.max_steps:
                self._keep(band, watch, 'interval', n_steps)
        return n_steps, force <= self.fmax and (band.climb or not self.climb)

    def _keep(self, band: _Band, watch: Watch, why: str, step: int) -> None:
        for index, image in enumerate(band.images[1:-1], start=1):
            reason = 'saddle' if why == 'image' and index == band.imax else why
            watch.keep(image, reason, image=index, step=step)


class _Band(NEB):
    """ASE's band, whose images are evaluated in one pass."""

    def __init__(self, images: Sequence[Atoms], watch: Watch, spring: float) -> None:
        # Molecules without a cell may turn on their way.
        self._turns = not images[0].pbc.any() and not images[0].constraints
        super().__init__(list(images), k=spring, method='improvedtangent', allow_shared_calculator=True)
        self._watch = watch
        if self._turns:
            minimize_rotation_and_translation(self.images[0], self.images[-1])

    def freeze_ends(self) -> None:
        """Evaluate the ends once for all."""
        self._ends = [self.images[0], self.images[-1]]
        self._ends_results = self._watch.evaluate(self._ends)
        self._attach(self._ends, self._ends_results)

    def straighten(self, mic: bool) -> None:
        """Move the images to the image-dependent pair potential's band."""
        from ase.mep.neb import idpp_interpolate

        band = NEB(
            [image.copy() for image in self.images], k=self.k, method='improvedtangent', allow_shared_calculator=True
        )
        idpp_interpolate(band, traj=None, log=None, mic=mic)
        for image, straight in zip(self.images, band.images, strict=True):
            image.set_positions(straight.positions, apply_constraint=False)

    def get_forces(self) -> np.ndarray:
        """Forces on the images between the ends, shape (images x atoms, 3), eV/A."""
        if self._turns:
            for first, second in zip(self.images, self.images[1:], strict=False):
                minimize_rotation_and_translation(first, second)
            self._attach(self._ends, self._ends_results)
        inner = self.images[1:-1]
        if any(not isinstance(image.calc, SinglePointCalculator) or image.calc.check_state(image) for image in inner):
            self._attach(inner, self._watch.evaluate(inner))
        forces: np.ndarray = super().get_forces()
        return forces

    @staticmethod
    def _attach(images: Sequence[Atoms], results: Sequence[dict[str, Any]]) -> None:
        for image, found in zip(images, results, strict=True):
            image.calc = SinglePointCalculator(image, energy=found['energy'], forces=found['forces'])


def describe(band: NEB) -> dict[str, Any]:
    """Energies along the band, relative to its first end, and the barriers from both ends, eV."""
    energies = np.array(band.energies)
    relative = energies - energies[0]
    return {
        'energies': relative.tolist(),
        'energy': float(energies[0]),
        'barrier': float(relative.max()),
        'barrier_back': float(relative.max() - relative[-1]),
        'saddle': int(np.argmax(relative)),
    }
