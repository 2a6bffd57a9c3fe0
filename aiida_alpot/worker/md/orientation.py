"""LAMMPS' cells: lower triangular, the first vector along x, the second in the xy plane."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aiida_alpot.worker.frames.frame import Frame
from aiida_alpot.worker.potentials.neighbours import complete_cell

MARGIN = 1.0
"""Room between the atoms and the walls of the box along axes that are not periodic, A."""


@dataclass(frozen=True, eq=False)
class Orientation:
    """A structure as LAMMPS wants it.

    :param cell: lower triangular, rows are lattice vectors, positive diagonal, shape (3, 3), A; of the frame's
        lattice, though not always with its vectors.
    :param low: lower corner of the box, shape (3,), A.
    :param positions: shape (n, 3), A.
    :param rotation: takes rows back, ``vectors_of_the_frame = vectors_of_lammps @ rotation``; orthogonal, shape (3, 3),
        and a reflection where the cell of the frame is left-handed.
    """

    cell: np.ndarray
    low: np.ndarray
    positions: np.ndarray
    rotation: np.ndarray


def orient(frame: Frame) -> Orientation:
    """Turn a frame into LAMMPS' orientation.

    Axes that are not periodic stand at right angles to the others and get the length of the frame's cell along them,
    or the extent of the atoms where that is longer. Strongly tilted cells are exchanged for less tilted ones of the
    same lattice: a barostat of LAMMPS refuses the former.
    """
    full = complete_cell(frame.cell, frame.pbc)
    orthogonal, triangular = np.linalg.qr(full.T)
    signs = np.where(np.diag(triangular) < 0, -1.0, 1.0)
    to_lammps = orthogonal * signs
    positions = frame.positions @ to_lammps
    cell = _reduce_tilt(np.tril((triangular * signs[:, None]).T))
    low = np.zeros(3)
    for axis in np.flatnonzero(~frame.pbc):
        extent = np.ptp(positions[:, axis]) + 2.0 * MARGIN
        length = max(extent, abs(float(frame.cell[axis] @ full[axis])))
        cell[axis, axis] = length
        low[axis] = positions[:, axis].min() + (extent - length) / 2.0 - MARGIN
    return Orientation(cell, low, positions, to_lammps.T)


def _reduce_tilt(cell: np.ndarray) -> np.ndarray:
    """Another cell of the same lattice, lower triangular too, with tilts of at most half of the lengths."""
    reduced = cell.copy()
    for i, j in ((1, 0), (2, 1), (2, 0)):
        ratio = reduced[i, j] / reduced[j, j]
        if abs(ratio) > 0.5 + 1e-6:  # one half is fine, and frequent: leave it as it is
            reduced[i] -= np.rint(ratio) * reduced[j]
    return reduced


def restore(
    positions: np.ndarray,
    cell: np.ndarray,
    low: np.ndarray,
    pbc: np.ndarray,
    rotation: np.ndarray,
    original: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Positions and cell in the orientation of the start frame.

    Rows of the cell along axes that are not periodic are those of the start frame; along periodic axes the corner of
    the box, which a barostat moves, is taken as the origin.

    :param positions: in LAMMPS' orientation, shape (n, 3), A.
    :param cell: of LAMMPS, rows are vectors, shape (3, 3), A.
    :param low: lower corner of LAMMPS' box, shape (3,), A.
    :param original: cell of the start frame, shape (3, 3), A.
    :return: positions, shape (n, 3), and cell, shape (3, 3), A.
    """
    shifted = positions - np.where(pbc, low, 0.0)
    return shifted @ rotation, np.where(pbc[:, None], cell @ rotation, original)
