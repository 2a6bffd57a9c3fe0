"""Cosine kernels."""

import numpy as np

from aiida_alpot.worker.acquisition.representations import cosine


def test_by_hand():
    rows = cosine(np.array([[3.0, 4.0], [0.0, 0.0], [-2.0, 0.0]]))
    np.testing.assert_allclose(rows, [[0.6, 0.8], [0.0, 0.0], [-1.0, 0.0]])


def test_precision_is_kept_and_whole_numbers_become_floats():
    assert cosine(np.ones((2, 3), dtype=np.float32)).dtype == np.float32
    assert cosine(np.array([[0, 2]])).tolist() == [[0.0, 1.0]]


def test_scale_does_not_matter_and_nan_stays():
    rows = np.random.default_rng(0).normal(size=(4, 5))
    np.testing.assert_allclose(cosine(1e6 * rows), cosine(rows), atol=1e-15)
    assert np.isnan(cosine(np.array([[np.nan, 1.0]]))).any()
