"""Neighbour lists with any periodicity, and the cells they need."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aiida_alpot.worker.frames.frame import Frame


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
