"""Rectangular MaxVol: an active set of more rows than there are directions."""

from __future__ import annotations

from typing import Any

import numpy as np

from aiida_alpot.worker.acquisition.batch_selection.known import KnownRows
from aiida_alpot.worker.acquisition.batch_selection.lazy_greedy import lazy_greedy
from aiida_alpot.worker.acquisition.maxvol.passes import RowReductions, largest
from aiida_alpot.worker.acquisition.maxvol.search import Search
from aiida_alpot.worker.acquisition.maxvol.shrinking import ShrinkingNorm
from aiida_alpot.worker.acquisition.maxvol.sources import as_rows
from aiida_alpot.worker.acquisition.maxvol.square import TOLERANCE, MaxVol, WholeSearch
from aiida_alpot.worker.options import integer, number


def rectangular_maxvol(
    features: Any,
    n_rows: int | None = None,
    *,
    tolerance: float = TOLERANCE,
    relative_tolerance: float | None = None,
) -> MaxVol:
    r"""Active set of more rows than directions, with the pseudo-inverse in place of the inverse.

    To the rows of a square active set (:func:`maxvol`) others are added, each time the one whose coefficients
    :math:`c = B_i A^+` have the largest Euclidean norm: it enlarges the volume :math:`\sqrt{\det A^T A}` by
    :math:`\sqrt{1 + |c|^2}`, more than any other (Mikhalev and Oseledets, Linear Algebra Appl. 538, 187 (2018)). The
    grade stays the largest absolute coefficient (W study, eqs 11 and 12, with :math:`A^+`). It is at most 1 on the
    active rows, whose coefficients form a projector, and nowhere above the largest norm. A row that copies an active
    one is not added.

    :param features: X, shape (n, d), see :func:`maxvol`.
    :param n_rows: rows of the active set, at least the rank; ``None``: until all norms are at most 1, for which about
        twice the rank is needed. Fewer, where there are no more rows that differ.
    :raises ValueError: as :func:`maxvol`, and for ``n_rows`` below the rank.
    """
    number('tolerance', tolerance, 1.0, exclusive=True)
    rows = as_rows(features, 'features')
    whole = WholeSearch(rows, relative_tolerance)
    if n_rows is not None and integer('n_rows', n_rows, 1) < whole.span.rank:
        raise ValueError(
            f'`n_rows` is {n_rows}, but the features span {whole.span.rank} directions: an active set needs at '
            'least as many rows'
        )
    search = whole.search
    search.converge(tolerance)
    index = np.sort(np.concatenate([search.seats.ids, _added(search, n_rows)]))
    coefficients = np.linalg.pinv(search.whitened(index))
    reduction = RowReductions(whole.span.whitening @ coefficients, [(largest, len(index))], search.dtype)
    search.n_passes += 1
    return whole.as_maxvol(index, coefficients, reduction.over(rows)[0])


def _added(search: Search, n_rows: int | None) -> np.ndarray:
    """Rows that join the square active set."""
    rows, seats = search.rows, search.seats
    known = KnownRows()
    known.add(rows.take(seats.ids))
    score = ShrinkingNorm(rows, search.whitening @ seats.inverse, None, known, exact=False, dtype=search.dtype)
    bound = score.bounds()
    search.n_passes += 1
    bound[seats.ids] = -np.inf
    limit = len(rows) if n_rows is None else n_rows
    added: list[int] = []
    for row, square in lazy_greedy(rows, bound, score, limit - len(seats)):
        if n_rows is None and square <= 1.0:
            break
        added.append(row)
    return np.array(added, dtype=np.int64)
