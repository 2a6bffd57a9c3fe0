"""MaxVol: volumes and grades against determinants and solutions made one at a time."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiida_alpot.worker.acquisition.maxvol import maxvol


def naive_grades(rows: np.ndarray, active: np.ndarray) -> np.ndarray:
    """Eqs 11 and 12 of the W study, one row at a time."""
    return np.array([np.abs(np.linalg.solve(active.T, row)).max() for row in rows])


def gains(rows: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Factors by which |det| changes when a row takes the place of an active one: of all rows and places."""
    volume = abs(np.linalg.det(rows[index]))
    out = np.empty((len(rows), len(index)))
    for i, row in enumerate(rows):
        for j in range(len(index)):
            swapped = rows[index]
            swapped[j] = row
            out[i, j] = abs(np.linalg.det(swapped)) / volume
    return out


def as_features(rows: np.ndarray, dtype: type = np.float64) -> np.ndarray:
    return np.asarray(rows, dtype=dtype)


def test_by_hand():
    rows = np.array([[1.0, 0.0], [3.0, 0.0], [0.0, 2.0], [1.0, 1.0], [-1.5, 1.0]])
    found = maxvol(rows)
    # The largest |det| of two rows is |3 * 2| = 6, of rows 1 and 2; row 3 is 1/3 of one and 1/2 of the other.
    assert found.index.tolist() == [1, 2]
    assert found.rank == 2
    np.testing.assert_allclose(found.grade, [1 / 3, 1.0, 1.0, 0.5, 0.5], rtol=1e-12)
    np.testing.assert_allclose(np.abs(rows[4] @ found.matrix), [0.5, 0.5])


@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(5, 40), st.sampled_from([np.float32, np.float64]))
@settings(max_examples=40, deadline=None)
def test_no_swap_enlarges_the_volume(seed: int, d: int, n: int, dtype: type):
    rows = np.random.default_rng(seed).standard_normal((n, d)).astype(dtype)
    found = maxvol(rows)
    exact = rows.astype(np.float64)
    assert found.index.tolist() == sorted(set(found.index.tolist()))
    assert len(found.index) == found.rank == d
    assert gains(exact, found.index).max() <= 1.01 + 1e-3
    np.testing.assert_allclose(found.grade, naive_grades(exact, exact[found.index]), atol=2e-3)
    assert found.grade.max() <= 1.01
    np.testing.assert_allclose(found.grade[found.index], 1.0, atol=1e-3)


def test_far_better_than_a_random_choice_close_to_the_best():
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((12, 2))
    best = max(abs(np.linalg.det(rows[[i, j]])) for i in range(12) for j in range(i))
    assert abs(np.linalg.det(rows[maxvol(rows).index])) >= best / 2**0.5


@pytest.mark.parametrize('n', [200, 6000])
def test_grades_depend_neither_on_units_nor_on_the_choice_of_coordinates(n: int):
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((n, 6)) * np.exp(rng.standard_normal((n, 1)))
    found = maxvol(rows)
    for change in (np.diag(10.0 ** np.arange(-6.0, 6.0, 2.0)), rng.standard_normal((6, 6))):
        other = maxvol(rows @ change)
        assert other.index.tolist() == found.index.tolist()
        np.testing.assert_allclose(other.grade, found.grade, atol=1e-9)


def test_the_order_of_the_rows_does_not_matter():
    rows = np.random.default_rng(2).standard_normal((3000, 8))
    order = np.random.default_rng(3).permutation(len(rows))
    assert sorted(order[maxvol(rows[order]).index]) == maxvol(rows).index.tolist()


def test_copies_change_nothing():
    rows = np.random.default_rng(4).standard_normal((50, 3))
    copied = maxvol(np.concatenate([rows, rows]))
    assert sorted(copied.index % 50) == maxvol(rows).index.tolist()


def test_many_copies_of_few_rows():
    """As in perfect crystals: the largest leverages are all of one environment."""
    distinct = np.random.default_rng(13).standard_normal((40, 16))
    rows = np.repeat(distinct, 1000, axis=0)
    found = maxvol(rows)
    assert found.n_passes <= 5
    assert found.grade.max() <= 1.01
    assert len(np.unique(found.index // 1000)) == 16


def test_rows_that_were_no_candidates_are_found():
    """Many rows alike, so that the first few per cent do not hold the best."""
    rows = np.random.default_rng(0).standard_normal((20_000, 24)).astype(np.float32)
    found = maxvol(rows)
    assert found.n_passes > 3
    assert found.grade.max() <= 1.01
    exact = rows.astype(np.float64)
    assert np.abs(exact @ np.linalg.inv(exact[found.index])).max() <= 1.01


def test_large_rows_need_not_span_everything():
    """Rows with large leverages in some directions only; the others are to be sought elsewhere."""
    rng = np.random.default_rng(5)
    rows = np.zeros((5000, 12))
    rows[:400, :8] = rng.standard_normal((400, 8))
    rows[400:, 8:] = rng.standard_normal((4600, 4))
    found = maxvol(rows)
    assert found.rank == 12
    assert found.grade.max() <= 1.01
    assert np.abs(rows @ np.linalg.inv(rows[found.index])).max() <= 1.01


@pytest.mark.parametrize('dtype', [np.float32, np.float64])
def test_features_that_depend_on_others_are_cut_off(dtype: type):
    rng = np.random.default_rng(6)
    low = rng.standard_normal((4000, 5)) * [1.0, 1.0, 0.1, 0.1, 0.01]
    rows = (low @ rng.standard_normal((5, 16))).astype(dtype)
    found = maxvol(rows)
    assert found.rank == 5
    assert len(found.index) == 5
    assert found.dtype == np.float64
    assert found.grade.max() <= 1.01
    np.testing.assert_allclose(found.grade[found.index], 1.0, atol=1e-6)


def test_a_row_outside_the_span_has_a_large_grade():
    rng = np.random.default_rng(7)
    mix = rng.standard_normal((4, 10))
    rows = (rng.standard_normal((500, 4)) @ mix).astype(np.float32)
    found = maxvol(rows)
    inside = rng.standard_normal((20, 4)) * 0.1 @ mix
    outside = inside + 0.05 * rng.standard_normal((20, 10))
    distance = np.linalg.norm((outside @ found.matrix)[:, found.rank :], axis=1)
    assert (np.abs(outside @ found.matrix)[:, : found.rank].max(axis=1) < 1.0).all()
    assert (distance > 100.0).all()
    assert (np.linalg.norm((inside @ found.matrix)[:, found.rank :], axis=1) < 1.0).all()
    # The training rows themselves are within it.
    assert np.linalg.norm((rows.astype(float) @ found.matrix)[:, found.rank :], axis=1).max() <= 1.0 + 1e-9


def test_a_feature_that_was_always_zero_is_missed_as_soon_as_it_is_not():
    rows = np.zeros((100, 3))
    rows[:, :2] = np.random.default_rng(8).standard_normal((100, 2))
    found = maxvol(rows)
    assert found.rank == 2
    assert np.linalg.norm(np.array([0.0, 0.0, 1e-2]) @ found.matrix) > 100.0


def test_fewer_rows_than_features():
    rows = np.random.default_rng(9).standard_normal((4, 9))
    found = maxvol(rows)
    assert found.index.tolist() == [0, 1, 2, 3]
    assert found.rank == 4
    assert found.grade.max() <= 1.01


def test_one_row():
    found = maxvol(np.array([[0.0, 2.0, 1.0]]))
    assert found.index.tolist() == [0]
    np.testing.assert_allclose(found.grade, [1.0])


def test_ill_conditioned_float32_is_computed_in_float64():
    rng = np.random.default_rng(10)
    rows = rng.standard_normal((3000, 1)) + 1e-5 * rng.standard_normal((3000, 8))
    found = maxvol(rows.astype(np.float32), relative_tolerance=1e-7)
    assert found.rank == 8
    assert found.dtype == np.float64
    assert found.grade.max() <= 1.01


def test_files_are_read_in_blocks(tmp_path: Path):
    rows = np.random.default_rng(11).standard_normal((20_000, 32)).astype(np.float32)
    np.save(tmp_path / 'rows.npy', rows)
    with h5py.File(tmp_path / 'rows.h5', 'w') as file:
        file['rows'] = rows
    found = maxvol(rows)
    mapped = maxvol(np.load(tmp_path / 'rows.npy', mmap_mode='r'))
    with h5py.File(tmp_path / 'rows.h5', 'r') as file:
        stored = maxvol(file['rows'])
    for other in (mapped, stored):
        assert other.index.tobytes() == found.index.tobytes()
        assert other.matrix.tobytes() == found.matrix.tobytes()
        assert other.grade.tobytes() == found.grade.tobytes()


def test_bad_input():
    rows = np.random.default_rng(12).standard_normal((10, 3))
    with pytest.raises(ValueError, match='all rows of `features` are zero'):
        maxvol(np.zeros((5, 3)))
    with pytest.raises(ValueError, match='no rows'):
        maxvol(np.zeros((0, 3)))
    with pytest.raises(ValueError, match='tolerance'):
        maxvol(rows, tolerance=1.0)
    with pytest.raises(ValueError, match='relative_tolerance'):
        maxvol(rows, relative_tolerance=1e-9)
    rows[7, 1] = np.nan
    with pytest.raises(ValueError, match=r'row 7 of `features` holds a number that is not finite'):
        maxvol(rows)
