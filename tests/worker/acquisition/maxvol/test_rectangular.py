"""Rectangular MaxVol."""

from __future__ import annotations

import numpy as np
import pytest

from aiida_alpot.worker.acquisition.maxvol import maxvol, rectangular_maxvol


def naive(rows: np.ndarray, square: np.ndarray, n_rows: int) -> list[int]:
    """Rows that enlarge det(A^T A) the most, added one at a time to a square active set."""
    chosen = square.tolist()
    while len(chosen) < n_rows:
        volumes = [
            -1.0 if i in chosen else np.linalg.det(rows[[*chosen, i]].T @ rows[[*chosen, i]]) for i in range(len(rows))
        ]
        chosen.append(int(np.argmax(volumes)))
    return sorted(chosen)


def test_by_hand():
    rows = np.array([[1.0, 0.0], [0.0, 1.0], [0.9, 0.9], [0.1, 0.2]])
    found = rectangular_maxvol(rows, 3)
    assert found.index.tolist() == [0, 1, 2]
    # A^+ = (1 + 0.81 J)^-1 A^T with J all ones: (A^T A)^-1 = 1 - 0.81 / 2.62 J.
    inverse = np.eye(2) - 0.81 / 2.62
    np.testing.assert_allclose(found.matrix, inverse @ rows[:3].T, rtol=1e-10)
    np.testing.assert_allclose(found.grade, np.abs(rows @ inverse @ rows[:3].T).max(axis=1), rtol=1e-10)


@pytest.mark.parametrize('dtype', [np.float32, np.float64])
def test_each_row_enlarges_the_volume_the_most(dtype: type):
    rows = np.random.default_rng(0).standard_normal((60, 4)).astype(dtype)
    found = rectangular_maxvol(rows, 9)
    assert found.index.tolist() == naive(rows.astype(np.float64), maxvol(rows).index, 9)
    exact = rows.astype(np.float64)
    np.testing.assert_allclose(found.grade, np.abs(exact @ np.linalg.pinv(exact[found.index])).max(axis=1), atol=1e-3)


def test_as_many_rows_as_leave_no_norm_above_one():
    rows = np.random.default_rng(1).standard_normal((3000, 10))
    found = rectangular_maxvol(rows)
    coefficients = rows @ np.linalg.pinv(rows[found.index])
    outside = np.setdiff1d(np.arange(3000), found.index)
    assert np.linalg.norm(coefficients[outside], axis=1).max() <= 1.0
    assert 10 < len(found.index) < 30
    assert found.grade.max() <= 1.0 + 1e-9
    assert found.grade[found.index].max() <= 1.0


def test_with_as_many_rows_as_directions_it_is_the_square_one():
    rows = np.random.default_rng(2).standard_normal((500, 6))
    square, rectangular = maxvol(rows), rectangular_maxvol(rows, 6)
    assert rectangular.index.tolist() == square.index.tolist()
    np.testing.assert_allclose(rectangular.grade, square.grade, atol=1e-12)


def test_a_copy_is_not_added():
    rows = np.repeat(np.eye(3), 4, axis=0)
    assert len(rectangular_maxvol(rows, 9).index) == 3


def test_rank_deficient_features():
    rng = np.random.default_rng(3)
    rows = (rng.standard_normal((800, 3)) @ rng.standard_normal((3, 7))).astype(np.float32)
    found = rectangular_maxvol(rows, 5)
    assert (found.rank, len(found.index)) == (3, 5)
    assert found.matrix.shape == (7, 5 + 7 - 3)
    assert found.grade.max() <= 1.01


def test_fewer_rows_than_directions_are_refused():
    with pytest.raises(ValueError, match='`n_rows` is 3, but the features span 4 directions'):
        rectangular_maxvol(np.random.default_rng(4).standard_normal((20, 4)), 3)
