"""Arrays that have something for each of some frames, or for each of their atoms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, eq=False)
class Table:
    """Arrays of n frames with N atoms in all.

    :param lengths: atoms of each frame, shape (n,).
    :param frames: by name, arrays with n entries along :attr:`axis`.
    :param atoms: by name, arrays with N entries along :attr:`axis`.
    :param axis: 0, or 1 where the members of a committee come first.
    """

    lengths: np.ndarray
    frames: dict[str, np.ndarray] = field(default_factory=dict)
    atoms: dict[str, np.ndarray] = field(default_factory=dict)
    axis: int = 0

    def __len__(self) -> int:
        return len(self.lengths)

    def check(self) -> None:
        """Refuse arrays that do not fit.

        :raises ValueError: naming the array.
        """
        for arrays, n in ((self.frames, len(self)), (self.atoms, int(self.lengths.sum()))):
            for name, array in arrays.items():
                if array.ndim <= self.axis or array.shape[self.axis] != n:
                    raise ValueError(f'`{name}` has shape {array.shape}, expected {n} along axis {self.axis}')

    def take(self, rows: np.ndarray) -> Table:
        """Some of the frames, in the order asked for."""
        if len(rows) == len(self) and np.array_equal(rows, np.arange(len(self))):
            return self
        frames = {name: np.take(array, rows, axis=self.axis) for name, array in self.frames.items()}
        places = self._atoms_of(rows) if self.atoms else rows
        atoms = {name: np.take(array, places, axis=self.axis) for name, array in self.atoms.items()}
        return Table(self.lengths[rows], frames, atoms, self.axis)

    def _atoms_of(self, rows: np.ndarray) -> np.ndarray:
        """Places of the atoms of some frames."""
        starts, lengths = (np.cumsum(self.lengths) - self.lengths)[rows], self.lengths[rows]
        within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        places: np.ndarray = np.repeat(starts, lengths) + within
        return places


def in_order(tables: Sequence[Table], places: Sequence[np.ndarray]) -> Table:
    """One table of several, each of whose frames goes to a place of its own; arrays that one lacks are left out.

    :param places: for each table the place of each of its frames, all of them together 0 to n - 1.
    """
    given = [(table, where) for table, where in zip(tables, places, strict=True) if len(where)]
    if not given:
        return tables[0]
    order = np.argsort(np.concatenate([where for _, where in given]), kind='stable')
    return _joined([table for table, _ in given]).take(order)


def _joined(tables: Sequence[Table]) -> Table:
    """The frames of all tables, one after the other."""
    first = tables[0]
    if len(tables) == 1:
        return first
    return Table(
        np.concatenate([table.lengths for table in tables]),
        _arrays([table.frames for table in tables], first.axis),
        _arrays([table.atoms for table in tables], first.axis),
        first.axis,
    )


def _arrays(parts: Sequence[dict[str, np.ndarray]], axis: int) -> dict[str, np.ndarray]:
    shared = [name for name in parts[0] if all(name in part for part in parts)]
    return {name: np.concatenate([part[name] for part in parts], axis=axis) for name in shared}
