"""Random projections: unbiased, with the error that is stated."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiida_alpot.worker.acquisition.representations import sketch as module
from aiida_alpot.worker.acquisition.representations.sketch import (
    KINDS,
    NONZEROS,
    Sketch,
    failure_probability,
    standard_error,
)

D, SIZE, SEEDS = 40, 32, 3000


def vectors():
    rng = np.random.default_rng(1)
    x = rng.normal(size=D)
    y = 0.6 * x + rng.normal(size=D)
    x[:3], y[:3] = 4.0, 3.0  # a few large entries: the hard case for sparse projections
    return x, y


def products(kind, x, y):
    projected = [Sketch(D, SIZE, seed, kind).project(np.array([x, y])) for seed in range(SEEDS)]
    return np.array([a @ b for a, b in projected])


@pytest.mark.parametrize('kind', KINDS)
def test_unbiased_with_the_stated_variance(kind):
    x, y = vectors()
    found = products(kind, x, y)
    variance = ((x @ x) * (y @ y) + (x @ y) ** 2 - (2 * (x**2 * y**2).sum() if kind == 'sparse' else 0.0)) / SIZE
    assert abs(found.mean() - x @ y) < 4 * np.sqrt(variance / SEEDS)
    assert found.var() == pytest.approx(variance, rel=0.15)
    assert variance <= (standard_error(SIZE) * np.linalg.norm(x) * np.linalg.norm(y)) ** 2


@pytest.mark.parametrize('epsilon', [0.3, 0.5, 0.8])
def test_lengths_fail_no_more_often_than_bounded(epsilon):
    x, _ = vectors()
    lengths = products('gaussian', x, x) / (x @ x)
    assert (np.abs(lengths - 1.0) > epsilon).mean() <= failure_probability(SIZE, epsilon)
    assert failure_probability(1000, 0.3) < 1e-6 and failure_probability(1, 0.1) == 1.0


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 50), st.sampled_from([8, 16, 64]), st.integers(0, 2**31), st.sampled_from(KINDS))
def test_is_a_linear_map_of_the_seed(d, size, seed, kind):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(3, d))
    sketch = Sketch(d, size, seed, kind)
    matrix = sketch.project(np.eye(d))
    assert matrix.shape == (d, size)
    np.testing.assert_allclose(sketch.project(rows), rows @ matrix, atol=1e-12)
    np.testing.assert_array_equal(Sketch(d, size, seed, kind).project(rows), sketch.project(rows))
    assert sketch.project(rows.astype(np.float32)).dtype == np.float32


def test_sparse_columns_by_hand():
    """One entry of +-1/sqrt(8) in each block of rows: every column has length one."""
    matrix = Sketch(20, 32, 0).project(np.eye(20)).reshape(20, NONZEROS, 4)
    assert ((matrix != 0).sum(axis=2) == 1).all()
    np.testing.assert_allclose(np.abs(matrix).max(axis=2), 1 / np.sqrt(8))


def test_gaussian_does_not_depend_on_its_blocks(monkeypatch):
    whole = Sketch(D, SIZE, 4, 'gaussian').project(np.eye(D))
    monkeypatch.setattr(module, 'BLOCK_ELEMENTS', 7 * SIZE)
    np.testing.assert_allclose(Sketch(D, SIZE, 4, 'gaussian').project(np.eye(D)), whole, atol=1e-15)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [((4, 12), 'multiple of 8'), ((4, 0), 'positive'), ((4, 8, -1), '`seed`'), ((4, 8, 0, 'dense'), '`kind`')],
)
def test_settings_that_cannot_be(arguments, message):
    with pytest.raises(ValueError, match=message):
        Sketch(*arguments)


def test_rows_of_another_length():
    with pytest.raises(ValueError, match=r'rows of length 5, found an array of shape \(2, 4\)'):
        Sketch(5, 8).project(np.zeros((2, 4)))
