"""Isolated atoms: the reference energies of the elements."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase.data import chemical_symbols

from aiida_alpot.worker.frames.frame import Frame
from aiida_alpot.worker.options import number


@dataclass(frozen=True)
class IsolatedAtomParameters:
    """Parameters of the isolated atoms.

    :param vacuum: edge of the cubic, non-periodic cell that holds the atom, A, in [6, 100].
    """

    vacuum: float = 12.0

    def __post_init__(self) -> None:
        object.__setattr__(self, 'vacuum', number('vacuum', self.vacuum, 6.0, 100.0))


def unsuitable(frame: Frame, parameters: IsolatedAtomParameters) -> str:
    """Nothing is."""
    return ''


def isolated_atom(frame: Frame, parameters: IsolatedAtomParameters, seed: int) -> list[Frame]:
    """One atom of each element of the frame, in the middle of its cell, by atomic number.

    :param seed: not used.
    """
    return [_atom(int(number), parameters.vacuum) for number in np.unique(frame.numbers)]


def _atom(number: int, edge: float) -> Frame:
    return Frame(
        numbers=np.array([number]),
        positions=np.full((1, 3), edge / 2),
        cell=np.eye(3) * edge,
        pbc=np.zeros(3, dtype=bool),
        lineage=f'isolated_atom:{chemical_symbols[number]}',
        origin='isolated_atom',
        metadata={'generated': [{'generator': 'isolated_atom', 'vacuum': edge}]},
    )
