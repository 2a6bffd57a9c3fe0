"""Products of all rows with a matrix, reduced."""

from __future__ import annotations

import numpy as np
import pytest

from aiida_alpot.worker.acquisition.batch_selection.blocks import Rows
from aiida_alpot.worker.acquisition.maxvol.passes import RowReductions, largest, norm, top, top_distinct


@pytest.mark.parametrize('dtype', [np.float32, np.float64])
def test_reductions_are_those_of_the_product(dtype: type):
    rng = np.random.default_rng(0)
    rows, matrix = rng.standard_normal((5000, 7)), rng.standard_normal((7, 9))
    product = rows @ matrix
    got = RowReductions(matrix, [(largest, 5), (norm, 4), (largest, 0)], dtype).over(Rows(rows))
    assert got.dtype == dtype
    tolerance = 1e-5 if dtype is np.float32 else 1e-13
    np.testing.assert_allclose(got[0], np.abs(product[:, :5]).max(axis=1), rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(got[1], np.linalg.norm(product[:, 5:], axis=1), rtol=tolerance, atol=tolerance)
    np.testing.assert_array_equal(got[2], 0.0)


def test_nan_is_passed_on_and_stays_in_its_row():
    rows = np.ones((3, 2))
    rows[1, 0] = np.nan
    got = RowReductions(np.eye(2), [(largest, 1), (norm, 1)], np.float64).of(rows)
    assert np.isnan(got[0]).tolist() == [False, True, False]


def test_the_top_of_equal_values_is_the_first():
    values = np.array([1.0, 3.0, 2.0, 3.0, 2.0, 2.0])
    assert top(values, 3).tolist() == [1, 2, 3]
    assert top(values, 1).tolist() == [1]
    assert top(values, 9).tolist() == [0, 1, 2, 3, 4, 5]


def test_copies_do_not_crowd_out_others():
    values = np.array([2.0, 7.0, 7.0, 7.0, 7.0, 7.0, 7.0, 7.0, 5.0, 0.0])
    assert top_distinct(values, 5).tolist() == [1, 2, 3, 4, 8]
    assert top_distinct(values, 7).tolist() == [0, 1, 2, 3, 4, 8, 9]
    assert top_distinct(values, 2).tolist() == [1, 2]
    assert top_distinct(values, 99).tolist() == list(range(10))


def test_without_copies_it_is_the_top():
    values = np.random.default_rng(1).random(1000)
    assert top_distinct(values, 20).tolist() == top(values, 20).tolist()
