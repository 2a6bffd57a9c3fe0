"""Argon with Lennard-Jones labels and a committee of two other well depths: every slope is known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.lj import LennardJones

from aiida_alpot.worker.frames.frame import Frame
from aiida_alpot.worker.generators import generate
from aiida_alpot.worker.potentials import Committee

WELL = 0.0104
#: The members' wells are 1.0 and 1.1 of it: mean 1.05, standard deviation 0.05. Labels have 1.25, which is four
#: standard deviations away for energies, forces and stresses alike.


def calculator(scale: float) -> LennardJones:
    return LennardJones(epsilon=WELL * scale, sigma=3.4, rc=7.0, ro=5.0, smooth=True)


def label(frame: Frame, scale: float = 1.25) -> Frame:
    atoms = frame.to_atoms()
    atoms.calc = calculator(scale)
    atoms.get_forces()
    if atoms.pbc.any():
        atoms.get_stress()
    fields = {'lineage': frame.lineage, 'origin': frame.origin, 'split': frame.split, 'metadata': frame.metadata}
    return Frame.from_atoms(atoms, labels=True, **fields)


@pytest.fixture
def make_argon() -> Callable[..., list[Frame]]:
    """Factory of rattled argon: ``make_argon(n, seed)``."""

    def make(n: int, seed: int) -> list[Frame]:
        plan = {'rattle': {'n': n, 'amplitudes': [0.01, 0.03, 0.06]}}
        return generate([Frame.from_atoms(bulk('Ar', a=5.26, cubic=True))], plan, seed, min_distance=0.1).frames

    return make


@pytest.fixture
def dataset(make_argon: Callable[..., list[Frame]]) -> list[Frame]:
    """24 labelled frames in three splits, a symmetric one and an isolated atom beside."""
    frames = [label(frame.replace(split=('train', 'validation')[i % 2])) for i, frame in enumerate(make_argon(24, 1))]
    perfect = label(Frame.from_atoms(bulk('Ar', a=5.3), split='validation', origin='strain'))
    tested = label(make_argon(1, 9)[0].replace(split='test'))
    atom = Frame.from_atoms(bulk('Ar'), energy=-500.0, forces=np.zeros((1, 3)), split='validation')
    alone = atom.replace(pbc=(False,) * 3, origin='isolated_atom')
    return [*frames, perfect, tested, alone]


@pytest.fixture
def make_committee() -> Callable[..., Committee]:
    """Factory of the committee of two; ``spoil(frame)`` says where the first member predicts NaN."""
    from aiida_alpot.worker.potentials.ase import ASECommittee

    class Spoilt(ASECommittee):
        def __init__(self, spoil: Callable[[Frame], bool] | None) -> None:
            super().__init__([calculator(1.0), calculator(1.1)], ['Ar'], 7.0)
            self.spoil = spoil
            self.largest = 0

        def evaluate(self, frames, members=None):  # type: ignore[no-untyped-def]
            self.largest = max(self.largest, len(frames))
            predictions = super().evaluate(frames, members)
            for i, frame in enumerate(frames):
                if self.spoil and self.spoil(frame):
                    predictions.energy[0, i] = np.nan
                    predictions.forces[0, predictions.offsets[i]] = np.nan
            return predictions

    return lambda spoil=None: Spoilt(spoil)
