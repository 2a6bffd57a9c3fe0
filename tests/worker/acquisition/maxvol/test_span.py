"""The directions that rows occupy."""

from __future__ import annotations

import numpy as np
import pytest

from aiida_alpot.worker.acquisition.batch_selection.blocks import Rows
from aiida_alpot.worker.acquisition.maxvol import Span


def test_whitened_coordinates_weigh_the_same():
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((400, 5)) @ rng.standard_normal((5, 5)) * [1.0, 10.0, 1e3, 1e-4, 1.0]
    span = Span.of(Rows(rows))
    z = rows @ span.whitening
    np.testing.assert_allclose(z.T @ z / len(rows), np.eye(5), atol=1e-9)
    assert span.complement.shape == (5, 0)


def test_singular_values_are_those_of_the_divided_features():
    rows = np.random.default_rng(1).standard_normal((60, 4)) * [1.0, 2.0, 3.0, 4.0]
    exact = np.linalg.svd(rows / np.sqrt((rows**2).mean(axis=0)), compute_uv=False)
    np.testing.assert_allclose(Span.of(Rows(rows)).singular_values, exact / exact[0], rtol=1e-10)


def test_the_rank_is_that_above_the_tolerance():
    rng = np.random.default_rng(2)
    basis, _ = np.linalg.qr(rng.standard_normal((300, 4)))
    rows = basis * [1.0, 1.0, 1.0, 1.0] @ np.array([[1, 1, 1, 1], [1, -1, 0, 0], [0, 0, 1, -1], [0, 0, 0, 1e-4]])
    small = Span.of(Rows(rows), 1e-3)
    assert small.rank == 3
    assert Span.of(Rows(rows), 1e-5).rank == 4
    # The distance from the span is that of the orthogonal projection in divided features.
    scaled = rows / small.scale
    directions = np.linalg.svd(scaled)[2][:3]
    left = scaled - scaled @ directions.T @ directions
    np.testing.assert_allclose(
        np.linalg.norm(rows @ small.complement, axis=1), np.linalg.norm(left, axis=1), atol=1e-10
    )


def test_matrices_below_each_other_are_one_matrix():
    rows = np.random.default_rng(3).standard_normal((50, 3))
    whole, parts = Span.of(Rows(rows)), Span.of([Rows(rows[:20]), Rows(rows[20:])])
    np.testing.assert_allclose(parts.whitening, whole.whitening, rtol=1e-10)


def test_rows_that_are_zero_span_nothing():
    span = Span.of(Rows(np.zeros((3, 2))))
    assert (span.rank, span.n_features, span.floor) == (0, 2, 0.0)


def test_noise_in_a_column_is_not_blown_up():
    rng = np.random.default_rng(4)
    rows = np.column_stack([rng.standard_normal(100), 1e-15 * rng.standard_normal(100)])
    assert Span.of(Rows(rows)).rank == 1


def test_no_rows():
    with pytest.raises(ValueError, match='no rows'):
        Span.of(Rows(np.zeros((0, 2))))
