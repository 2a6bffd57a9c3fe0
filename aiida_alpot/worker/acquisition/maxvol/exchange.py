"""Swaps of rows into an active set, each of which enlarges its volume."""

from __future__ import annotations

import numpy as np

from aiida_alpot.worker.acquisition.maxvol.passes import top

HOT_BYTES = 8 * 2**20
"""Bytes of the coefficients that are updated with each swap, before those of all candidates are computed again."""
HOT = 2
"""The least number of their rows, as a multiple of the seats."""


class Seats:
    """The r rows of a square active set A, in whitened coordinates.

    :param ids: which rows they are, shape (r,), each once; below 0: rows that are known already.
    :param coordinates: A, shape (r, r), float64, not singular.
    :param capacity: how many rows with ids of at least 0 may sit at a time; r: no limit.
    :ivar gain: id -> factor by which the volume grew when the row was seated, in the order in which they were; rows
        that sat from the beginning are not in it, nor those that left.
    :ivar n_swaps: number of swaps so far.
    """

    def __init__(self, ids: np.ndarray, coordinates: np.ndarray, capacity: int | None = None) -> None:
        self.ids = ids.astype(np.int64)
        self.coordinates = coordinates.astype(np.float64)
        self.capacity = len(ids) if capacity is None else capacity
        self.gain: dict[int, float] = {}
        self.n_swaps = 0

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def inverse(self) -> np.ndarray:
        """A^-1, shape (r, r): z @ inverse are the coefficients of a row in the active rows, eq 11 of the W study."""
        return np.linalg.inv(self.coordinates)

    @property
    def open(self) -> np.ndarray:
        """Which seats a new row may take, shape (r,): all, or where there are as many new rows as may be, theirs."""
        new = self.ids >= 0
        return new if np.count_nonzero(new) >= self.capacity else np.ones(len(new), dtype=bool)

    def seat(self, column: int, row_id: int, coordinates: np.ndarray, gain: float) -> None:
        """Give a row the seat of another."""
        self.gain.pop(int(self.ids[column]), None)
        self.ids[column] = row_id
        self.coordinates[column] = coordinates
        self.gain[row_id] = gain
        self.n_swaps += 1


def settle(seats: Seats, ids: np.ndarray, coordinates: np.ndarray, tolerance: float) -> int:
    """Swap candidates into the active set until none has a coefficient above the tolerance.

    The MaxVol algorithm (Goreinov et al., How to find a good submatrix, 2010): where a row has the coefficient c in an
    active row, taking its place multiplies the volume |det A| by |c|. The candidates with the largest coefficients are
    swapped among themselves, with an update of rank one each; then all are computed again.

    :param ids: of the candidates, ascending, each once, shape (m,).
    :param coordinates: whitened, shape (m, r), float32 or float64.
    :param tolerance: above 1.
    :return: number of swaps.
    """
    before = seats.n_swaps
    n_hot = max(HOT * len(seats), HOT_BYTES // (len(seats) * coordinates.dtype.itemsize))
    while True:
        coefficients = coordinates @ seats.inverse.astype(coordinates.dtype)
        sizes = _largest_of_rows(coefficients, seats.open)
        if not sizes.max(initial=0.0) > tolerance:
            return seats.n_swaps - before
        hot = top(sizes, n_hot)
        _swap(seats, ids[hot], coordinates[hot], coefficients[hot], tolerance)


def _largest_of_rows(coefficients: np.ndarray, open_seats: np.ndarray) -> np.ndarray:
    """Largest absolute coefficient of each row in a seat that may be taken, shape (m,)."""
    taken = coefficients if open_seats.all() else coefficients[:, open_seats]
    return np.maximum(taken.max(axis=1, initial=0.0), -taken.min(axis=1, initial=0.0))


def _swap(seats: Seats, ids: np.ndarray, coordinates: np.ndarray, c: np.ndarray, tolerance: float) -> None:
    """Swap a few rows until none has a coefficient above the tolerance; ``c``, shape (h, r), is updated."""
    from scipy.linalg.blas import dger, sger  # slow to import

    update = sger if c.dtype == np.float32 else dger
    c = np.ascontiguousarray(c)
    sizes = np.empty_like(c)
    while True:
        np.abs(c, out=sizes)
        sizes *= seats.open
        i, j = divmod(int(sizes.argmax()), c.shape[1])
        if not sizes[i, j] > tolerance:
            return
        pivot = c[i, j]
        seats.seat(j, int(ids[i]), coordinates[i], float(abs(pivot)))
        change = c[i].copy()
        change[j] -= 1
        # c <- c - c[:, j] (c[i] - e_j) / c[i, j], in place: the transpose of c is what Fortran takes it for.
        update(-1.0, change, c[:, j] / pivot, a=c.T, overwrite_a=1)
