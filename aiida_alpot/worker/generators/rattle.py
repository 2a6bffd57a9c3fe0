"""Rattles: every atom displaced at random, in all directions alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase.data import covalent_radii
from ase.neighborlist import neighbor_list

from aiida_alpot.worker.frames.frame import Frame
from aiida_alpot.worker.generators.derivation import derive
from aiida_alpot.worker.options import choice, integer, numbers

DISTRIBUTIONS = ('normal', 'uniform')


@dataclass(frozen=True)
class RattleParameters:
    """Parameters of the rattles.

    :param n: rattled copies of each source frame, 1 to 10000; copy k has amplitude k, k + 1, ... in turn.
    :param amplitudes: standard deviation of each Cartesian component of the displacements, in units of the shortest
        interatomic distance of the source frame (no unit), in (0, 0.5]. A crystal at room temperature has 0.02 to
        0.04, one that is about to melt 0.08.
    :param distribution: ``normal``, or ``uniform`` in a ball; of the same standard deviation, both isotropic.
    """

    n: int = 3
    amplitudes: tuple[float, ...] = (0.02, 0.05, 0.08)
    distribution: str = 'normal'

    def __post_init__(self) -> None:
        integer('n', self.n, 1, 10000)
        object.__setattr__(self, 'amplitudes', numbers('amplitudes', self.amplitudes, 0.0, 0.5, exclusive=True))
        if not self.amplitudes:
            raise ValueError('`amplitudes` is empty, expected at least one, e.g. [0.05]')
        choice('distribution', self.distribution, DISTRIBUTIONS)


def unsuitable(frame: Frame, parameters: RattleParameters) -> str:
    """A single atom: moving it is a translation of the whole."""
    return 'has one atom, whose displacement changes nothing' if len(frame) == 1 else ''


def rattle(frame: Frame, parameters: RattleParameters, seed: int) -> list[Frame]:
    """Copies of a frame with independent, isotropic displacements of mean zero."""
    rng = np.random.default_rng(seed)
    distance = shortest_distance(frame)
    rattled = []
    for k in range(parameters.n):
        amplitude = parameters.amplitudes[k % len(parameters.amplitudes)]
        shift = displacements(len(frame), parameters.distribution, rng) * (amplitude * distance)
        rattled.append(derive(frame, 'rattle', positions=frame.positions + shift, amplitude=amplitude))
    return rattled


def displacements(n_atoms: int, distribution: str, rng: np.random.Generator) -> np.ndarray:
    """Isotropic random vectors of which each component has mean 0 and standard deviation 1, shape (n, 3)."""
    vectors = rng.normal(size=(n_atoms, 3))
    if distribution == 'normal':
        return vectors
    # Uniform in a ball: random directions, radii distributed as r^2. A component of it has the variance radius^2 / 5.
    radii = np.sqrt(5.0) * rng.random(n_atoms) ** (1 / 3)
    return vectors * (radii / np.linalg.norm(vectors, axis=1))[:, None]


def shortest_distance(frame: Frame) -> float:
    """Shortest distance between two atoms, periodic images included, A."""
    atoms = frame.unlabelled().to_atoms()
    cutoff = 2.0 * float(covalent_radii[frame.numbers].max())
    while True:
        distances = neighbor_list('d', atoms, cutoff)
        if len(distances):
            return float(distances.min())
        cutoff *= 2
