"""Neighbour lists with any periodicity, and the cells they need."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aiida_alpot.worker.frames.frame import Frame

_ROUNDING = 1e-9
"""What the last bits of lengths may do, A."""


def complete_cell(cell: np.ndarray, pbc: np.ndarray) -> np.ndarray:
    """Cell whose non-periodic rows are unit vectors at right angles to all other rows.

    The result is right-handed unless all three axes are periodic and the cell itself is left-handed. Non-periodic
    rows of the input only choose among the possible directions; they may be zero or parallel to periodic ones.

    :param cell: lattice vectors as rows, shape (3, 3), A.
    :param pbc: shape (3,).
    :return: shape (3, 3), A.
    """
    full = np.where(pbc[:, None], cell, 0.0)
    for axis in np.flatnonzero(~pbc):
        full[axis] = _orthogonal_direction(full, candidates=np.vstack([cell[axis], np.eye(3)[axis], np.eye(3)]))
    free = np.flatnonzero(~pbc)
    if len(free) and np.linalg.det(full) < 0:
        full[free[-1]] *= -1.0
    return full


def _orthogonal_direction(rows: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """Unit vector orthogonal to all rows, from the first candidate that is not (almost) in their span."""
    _, singular_values, directions = np.linalg.svd(rows)
    span = directions[singular_values > 1e-10 * max(singular_values[0], 1.0)]
    for candidate in candidates:
        rest = candidate - span.T @ (span @ candidate)
        norm = np.linalg.norm(rest)
        if norm > 0.1 * np.linalg.norm(candidate) and norm > 1e-6:
            rest = rest / norm - span.T @ (span @ rest) / norm  # twice is enough
            return rest / np.linalg.norm(rest)
    raise ValueError('the lattice vectors along the periodic axes are not independent (singular cell)')


def neighbour_edges(frame: Frame, cutoff: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All pairs of atoms closer than the cutoff, periodic images included.

    :param cutoff: A.
    :return: pairs (i, j), shape (2, E); the lattice translation S of each pair, shape (E, 3); and the
        three-dimensional cell it refers to, shape (3, 3), A: the vector of a pair is ``positions[j] - positions[i] +
        S @ cell``.
    """
    from matscipy.neighbours import neighbour_list

    cell = complete_cell(frame.cell, frame.pbc)
    positions = frame.positions
    for axis in np.flatnonzero(~frame.pbc):
        # The row is a unit vector orthogonal to the others: stretch it so that all atoms lie well inside.
        along = positions @ cell[axis]
        positions = positions + (cutoff - along.min()) * cell[axis]
        cell[axis] *= np.ptp(along) + 2.0 * cutoff
    i, j, shifts = neighbour_list('ijS', pbc=frame.pbc, cell=cell, positions=positions, cutoff=float(cutoff))
    return np.stack([i, j]), shifts, cell


@dataclass(frozen=True, eq=False)
class Neighbourhood:
    """A frame with its neighbour list, made once for all members of a committee.

    :param edges: pairs (i, j), shape (2, E).
    :param shifts: lattice translation of each pair, shape (E, 3).
    :param cell: three-dimensional cell that the translations refer to, shape (3, 3), A.
    """

    frame: Frame
    edges: np.ndarray
    shifts: np.ndarray
    cell: np.ndarray

    @property
    def n_atoms(self) -> int:
        """Number of atoms."""
        return len(self.frame)

    @property
    def n_edges(self) -> int:
        """Number of pairs, both directions counted."""
        return self.edges.shape[1]

    @property
    def vectors(self) -> np.ndarray:
        """From atom i to the image of atom j, shape (E, 3), A."""
        positions = self.frame.positions
        return positions[self.edges[1]] - positions[self.edges[0]] + self.shifts @ self.cell

    @classmethod
    def of(cls, frame: Frame, cutoff: float) -> Neighbourhood:
        """The frame with all pairs closer than the cutoff (A), as :func:`neighbour_edges` gives them."""
        return cls(frame, *neighbour_edges(frame, cutoff))

    @classmethod
    def without(cls, frame: Frame) -> Neighbourhood:
        """The frame with no pairs, for potentials that find their neighbours themselves."""
        return cls(frame, np.zeros((2, 0), dtype=np.int64), np.zeros((0, 3), dtype=np.int64), frame.cell)


class SkinList:
    """The pairs of a structure that moves a little at a time.

    Pairs up to the cutoff and a skin are found once and kept until a pair that is not among them could have come
    closer than the cutoff. With the cell, positions are taken to move as ``x = x_0 F + u``, where ``F`` leads from the
    cell at the time of the search to the one of now. A pair within the cutoff was then no further apart than
    ``(cutoff + 2 max|u|) |F^-1|_2`` at that time, which must not exceed the cutoff and the skin: in a cell that stays
    as it is, no atom has moved by more than half of the skin. A common shift of all atoms does not count.

    :param cutoff: A.
    :param skin: A, above zero.
    :ivar edges: pairs (i, j) at the time of the search, in order of j, shape (2, E).
    :ivar shifts: lattice translation of each pair, shape (E, 3).
    :ivar n_searches: how often pairs were searched; ``edges`` and ``shifts`` are new whenever it grows.
    :raises ValueError: for a skin that is not above zero.
    """

    def __init__(self, cutoff: float, skin: float) -> None:
        if not skin > 0:
            raise ValueError(f'`skin` is {skin}: give a positive length in Angstrom')
        self.cutoff, self.skin = float(cutoff), float(skin)
        self.edges = np.zeros((2, 0), dtype=np.int64)
        self.shifts = np.zeros((0, 3), dtype=np.int64)
        self.n_searches = 0
        self._positions: np.ndarray | None = None
        self._pbc = np.zeros(3, dtype=bool)
        self._cell = self._full = self._full_now = np.zeros((3, 3))
        self._strain: np.ndarray | None = None
        self._inverse_norm = 1.0

    def follow(self, positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Search anew where it is necessary.

        :param positions: shape (N, 3), A; atoms may have been wrapped since the last call.
        :param cell: shape (3, 3), A.
        :param pbc: shape (3,).
        :return: positions and cell for the pairs that are kept, the vector of a pair being ``positions[j] -
            positions[i] + S @ cell``: each atom as the image that is next to where it was at the time of the search.
        """
        known = self._positions
        if known is not None and known.shape == positions.shape and np.array_equal(pbc, self._pbc):
            moved = self._moved(known, positions, cell)
            if moved is not None:
                return moved, self._full_now
        self._search(positions, cell, pbc)
        return positions, self._full_now

    def _moved(self, known: np.ndarray, positions: np.ndarray, cell: np.ndarray) -> np.ndarray | None:
        """Positions for the pairs that are kept; ``None`` where these are too old."""
        start, inverse_norm = known, 1.0
        if not np.array_equal(cell, self._cell):
            full = complete_cell(cell, self._pbc)
            strain = np.linalg.solve(self._full, full)
            self._cell, self._full_now = cell.copy(), full
            self._strain, self._inverse_norm = strain, float(np.linalg.norm(np.linalg.inv(strain), 2))
        if self._strain is not None:
            start, inverse_norm = known @ self._strain, self._inverse_norm
        step = positions - start
        if np.abs(step).max(initial=0.0) > self.skin and self._pbc.any():  # wrapped, perhaps
            turns = np.rint(step @ np.linalg.inv(self._full_now)) * self._pbc
            positions = positions - turns @ self._full_now
            step = positions - start
        step = step - step.mean(axis=0)
        largest = float(np.sqrt(np.einsum('ij,ij->i', step, step).max(initial=0.0)))
        reach = (self.cutoff + 2.0 * largest) * inverse_norm
        return positions if reach <= self.cutoff + self.skin - _ROUNDING else None

    def _search(self, positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> None:
        frame = Frame(np.ones(len(positions), dtype=np.int32), positions, cell, pbc)
        edges, shifts, _ = neighbour_edges(frame, self.cutoff + self.skin)
        # The list comes in order of i and holds both directions of each pair.
        self.edges, self.shifts = np.ascontiguousarray(edges[::-1]), -shifts
        self._positions, self._pbc, self._cell = positions.copy(), np.array(pbc, dtype=bool), cell.copy()
        self._full = self._full_now = complete_cell(cell, self._pbc)
        self._strain, self._inverse_norm = None, 1.0
        self.n_searches += 1
