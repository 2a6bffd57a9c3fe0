"""What is asked about some frames, and how it lies in a store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from aiida_alpot.worker.acquisition.kept.identity import text_digest
from aiida_alpot.worker.acquisition.kept.table import Table
from aiida_alpot.worker.acquisition.representations import Feature, resolve
from aiida_alpot.worker.frames.frame import Frame
from aiida_alpot.worker.potentials.committee import Features
from aiida_alpot.worker.potentials.predictions import Predictions

PER_ATOM = '_per_atom'
"""Representations whose names end so give a row an atom."""

OF_FRAMES = ('energy', 'stress', 'virial', 'energy_uncertainty')
OF_ATOMS = ('forces', 'atomic_energies')
ROWS = 'rows'


def is_per_atom(name: str) -> bool:
    """Whether a representation gives a row an atom."""
    return name.endswith(PER_ATOM)


@dataclass(frozen=True, eq=False)
class Question:
    """What is asked about some frames, and the parts of the store that answer it.

    :param members: as they were given.
    :param first: the member that representations are made of.
    :param members_part: the part with energies and forces.
    """

    frames: Sequence[Frame]
    members: Sequence[int] | None
    features: tuple[Feature, ...]
    first: int
    members_part: str

    @classmethod
    def of(cls, frames: Sequence[Frame], members: Sequence[int] | None, features: Features, n_members: int) -> Question:
        """The question that the arguments of :meth:`Committee.evaluate` put."""
        chosen = tuple(range(n_members)) if members is None else tuple(members)
        part = f'members-{"-".join(map(str, chosen))}'
        return cls(frames, members, resolve(features), chosen[0] if chosen else 0, part)

    @property
    def parts(self) -> list[str]:
        """All parts of the store that are needed."""
        return [self.members_part, *(self.part_of(feature) for feature in self.features)]

    def part_of(self, feature: Feature) -> str:
        """The part of the store that holds a representation."""
        return f'{feature.name}-{self.first}-{text_digest(feature.options)}'

    def about(self, rows: np.ndarray, lacking: Mapping[str, np.ndarray]) -> tuple[list[Frame], list[Feature]]:
        """Some of the frames, and the representations that at least one of them lacks."""
        wanted = [feature for feature in self.features if lacking[self.part_of(feature)][rows].any()]
        return [self.frames[row] for row in rows.tolist()], wanted

    def answer(self, tables: Mapping[str, Table]) -> Predictions:
        """Predictions from the tables of all parts."""
        said = tables[self.members_part]
        arrays = {name: array.astype(np.float64, copy=False) for name, array in {**said.frames, **said.atoms}.items()}
        return Predictions(
            **arrays,
            offsets=np.concatenate([[0], np.cumsum(said.lengths)]).astype(np.int64),
            features={feature.name: _rows(tables[self.part_of(feature)]) for feature in self.features},
            numbers=np.concatenate([frame.numbers for frame in self.frames]),
        )


def members_table(predictions: Predictions) -> Table:
    """Energies, forces and stresses of members, in single precision where nothing is lost by it."""
    given = {name: getattr(predictions, name) for name in (*OF_FRAMES, *OF_ATOMS)}
    arrays = {name: _narrow(array) for name, array in given.items() if array is not None}
    return Table(
        np.diff(predictions.offsets),
        {name: arrays[name] for name in OF_FRAMES if name in arrays},
        {name: arrays[name] for name in OF_ATOMS if name in arrays},
        axis=1,
    )


def feature_table(name: str, rows: np.ndarray, frames: Sequence[Frame]) -> Table:
    """A representation of frames, (n, d), or of their atoms, (N, d)."""
    lengths = np.array([len(frame) for frame in frames], dtype=np.int64)
    return Table(lengths, atoms={ROWS: rows}) if is_per_atom(name) else Table(lengths, {ROWS: rows})


def _rows(table: Table) -> np.ndarray:
    return table.atoms[ROWS] if ROWS in table.atoms else table.frames[ROWS]


def _narrow(array: np.ndarray) -> np.ndarray:
    with np.errstate(over='ignore'):
        single = array.astype(np.float32)
    return single if np.array_equal(single, array, equal_nan=True) else array
