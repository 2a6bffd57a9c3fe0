"""Arrays of frames and of their atoms."""

from __future__ import annotations

import numpy as np
import pytest

from aiida_alpot.worker.acquisition.kept.table import Table, in_order


def table(lengths: list[int], axis: int, start: int = 0) -> Table:
    n, total = len(lengths), sum(lengths)
    shape = (2,) if axis else ()
    return Table(
        np.array(lengths),
        {'energy': start + np.arange(np.prod(shape, dtype=int) * n, dtype=float).reshape(*shape, n)},
        {'forces': start + np.arange(np.prod(shape, dtype=int) * total * 3, dtype=float).reshape(*shape, total, 3)},
        axis,
    )


@pytest.mark.parametrize('axis', [0, 1])
def test_take_against_a_loop(axis: int) -> None:
    given = table([3, 1, 2, 4], axis)
    ends = np.cumsum(given.lengths)
    rows = np.array([2, 0, 0, 3])
    taken = given.take(rows)
    forces = [np.moveaxis(given.atoms['forces'], axis, 0)[ends[r] - given.lengths[r] : ends[r]] for r in rows]
    assert np.array_equal(taken.atoms['forces'], np.moveaxis(np.concatenate(forces), 0, axis))
    assert np.array_equal(taken.frames['energy'], np.take(given.frames['energy'], rows, axis=axis))
    assert taken.lengths.tolist() == [2, 3, 3, 4]
    assert taken.atoms['forces'].flags.c_contiguous  # sums over members depend on it, in the last bit
    taken.check()


@pytest.mark.parametrize('axis', [0, 1])
def test_tables_come_into_order(axis: int) -> None:
    whole = table([3, 1, 2, 4, 1], axis)
    places = [np.array([4, 1]), np.array([0]), np.array([], dtype=int), np.array([3, 2])]
    joined = in_order([whole.take(where) for where in places], places)
    assert np.array_equal(joined.frames['energy'], whole.frames['energy'])
    assert np.array_equal(joined.atoms['forces'], whole.atoms['forces'])
    assert joined.lengths.tolist() == [3, 1, 2, 4, 1]


def test_what_one_table_lacks_is_left_out() -> None:
    first, second = table([1, 2], 1), table([2], 1)
    first.frames['virial'] = np.zeros((2, 2, 3, 3))
    joined = in_order([first, second], [np.array([0, 2]), np.array([1])])
    assert set(joined.frames) == {'energy'} and len(joined) == 3


def test_arrays_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r'`forces` has shape \(5, 3\), expected 6 along axis 0'):
        Table(np.array([2, 4]), atoms={'forces': np.zeros((5, 3))}).check()
    with pytest.raises(ValueError, match='`energy` has shape'):
        Table(np.array([2, 4]), {'energy': np.zeros(2)}, axis=1).check()
