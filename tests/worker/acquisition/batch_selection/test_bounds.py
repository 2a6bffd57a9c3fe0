"""Bounds hold whatever they are computed with: nothing that they leave out could have been picked."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from aiida_alpot.worker.acquisition.batch_selection.blocks import Rows
from aiida_alpot.worker.acquisition.batch_selection.distances import squared_distances, where_at_least
from aiida_alpot.worker.acquisition.batch_selection.growing import by_staleness
from aiida_alpot.worker.acquisition.batch_selection.known import KnownRows
from aiida_alpot.worker.acquisition.batch_selection.look_ahead import likely_picks
from aiida_alpot.worker.acquisition.batch_selection.nearest import Bounds, near, nearest
from aiida_alpot.worker.acquisition.batch_selection.nearest_known import NearestKnown
from aiida_alpot.worker.acquisition.batch_selection.posterior import Posterior, VarianceBounds
from aiida_alpot.worker.acquisition.batch_selection.projection import Projection, principal_axes

POOLS = ('few features', 'many features', 'alike, float32', 'copies', 'far from the origin')


@pytest.fixture(params=POOLS)
def pool(request: pytest.FixtureRequest, pools: dict[str, tuple[np.ndarray, np.ndarray | None]]) -> np.ndarray:
    return pools[request.param][0]


def test_distances_do_not_depend_on_the_place(pool: np.ndarray) -> None:
    centre = pool[3].astype(float)
    whole = squared_distances(pool, centre)
    np.testing.assert_allclose(whole, ((pool.astype(float) - centre) ** 2).sum(axis=1), rtol=1e-14)
    assert whole[3] == 0.0
    for index in (np.array([17]), np.arange(40, 5, -3)):
        assert squared_distances(pool, centre, index).tolist() == whole[index].tolist()
        pairs = squared_distances(pool, pool, index, np.full(len(index), 3))
        assert pairs.tolist() == whole[index].tolist()


def test_where_at_least() -> None:
    values, threshold = np.random.default_rng(0).random((9, 7)), np.random.default_rng(1).random(9)
    for found, expected in zip(
        where_at_least(values, threshold), np.nonzero(values >= threshold[:, None]), strict=True
    ):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize('dtype', [np.float32, np.float64])
@pytest.mark.parametrize('p', [1, 3, 10**6])
def test_lower_bounds_of_distances(pool: np.ndarray, p: int, dtype: type, naive: SimpleNamespace) -> None:
    bounds = Bounds(Projection(pool.astype(float), p, dtype))
    left, limit = bounds.of_rows(pool)
    lower = limit[:, None].astype(float) - 2.0 * (left @ bounds.of_centres(pool[:60]).T)
    exact = naive.squared(pool.astype(float), pool[:60].astype(float))
    assert (lower <= exact + 1e-12 * exact.max()).all()
    if p >= pool.shape[1] and dtype is np.float64:
        np.testing.assert_allclose(lower, exact, atol=1e-9 * max(1.0, exact.max()))


def test_principal_axes() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(300, 20)) * np.exp(-np.arange(20.0))
    axes = principal_axes(rows, 4)
    np.testing.assert_allclose(axes.T @ axes, np.eye(4), atol=1e-12)
    np.testing.assert_allclose(np.abs(axes[:4].diagonal()), 1.0, atol=0.02)
    for degenerate in (np.zeros((5, 6)), np.empty((0, 6)), np.ones((2, 6))):
        axes = principal_axes(degenerate, 4)
        np.testing.assert_allclose(axes.T @ axes, np.eye(4), atol=1e-10)


def test_nearest_and_near(pool: np.ndarray, naive: SimpleNamespace) -> None:
    centres = pool[::7]
    exact = naive.squared(pool.astype(float), centres.astype(float))
    bounds = Bounds(Projection(pool.astype(float), 2))
    found = nearest(pool, *bounds.of_rows(pool), centres, bounds.of_centres(centres))
    np.testing.assert_allclose(found.distance, exact.min(axis=1), rtol=1e-12)
    first = (exact <= exact.min(axis=1, keepdims=True) * (1 + 1e-12)).argmax(axis=1)
    np.testing.assert_array_equal(found.centre, first)
    for part in near(Rows(pool), centres):
        rows = np.arange(part.start, part.start + len(part.rows))
        assert (part.distance >= exact[rows, part.centre]).all() and (part.distance > 0).all()


def test_nearest_known(pool: np.ndarray, naive: SimpleNamespace) -> None:
    """Distances of rows that are asked for at different times."""
    rows, rng = Rows(pool), np.random.default_rng(0)
    state, known = NearestKnown(rows, pool[:5], 30), list(range(5))
    for step in range(30):
        index = np.unique(rng.integers(len(pool), size=20))
        distance = state.refresh(index, pool[index])
        exact = naive.squared(pool[index].astype(float), pool[known].astype(float))
        np.testing.assert_allclose(distance, exact.min(axis=1), rtol=1e-12)
        picked = state.farthest(rows, np.arange(len(pool)), None)
        every = naive.squared(pool.astype(float), pool[known].astype(float)).min(axis=1)
        assert picked is not None and picked[1] == pytest.approx(every.max())
        known.append(100 + step)
        state.add(pool[known[-1]])


@pytest.mark.parametrize('m', [0, 3, 200])
def test_upper_bounds_of_variances(pool: np.ndarray, m: int) -> None:
    rng = np.random.default_rng(0)
    train = (pool[rng.integers(len(pool), size=m)] + 0.1).astype(float)
    posterior, rows = Posterior(train, 0.1), Rows(pool)
    x = pool.astype(float)
    covariance = np.linalg.inv(np.eye(x.shape[1]) + train.T @ train / 0.1)
    exact = np.einsum('ij,jk,ik->i', x, covariance, x)
    tiny = 1e-10 * (x**2).sum(axis=1)
    np.testing.assert_allclose(posterior.variance(x), exact, atol=tiny.max())
    np.testing.assert_allclose(posterior.covariance_times(x[0]), covariance @ x[0], atol=1e-9 * np.abs(x[0]).max())
    bounds = VarianceBounds(rows, posterior)
    assert (bounds.before >= exact - tiny).all()
    vectors = []
    for row in rng.integers(len(pool), size=40):
        ax = covariance @ x[row]
        vectors.append(ax / np.sqrt(0.1 + x[row] @ ax))
        covariance = covariance - np.outer(vectors[-1], vectors[-1])
        if len(vectors) % 20 == 0:
            bounds.renew(np.array(vectors))
            exact = np.einsum('ij,jk,ik->i', x, covariance, x)
            assert (bounds.after(np.arange(len(pool)), pool) >= exact - tiny).all()


def test_groups_by_staleness_are_everything_once() -> None:
    seen = np.random.default_rng(0).integers(0, 90, size=200)
    groups = list(by_staleness(seen, 89))
    places = np.concatenate([places for places, _ in groups])
    assert sorted(places) == np.flatnonzero(seen < 89).tolist()
    for places, first in groups:
        assert first == seen[places].min() and (89 - seen[places]).max() <= 2 * (89 - seen[places]).min()
    assert list(by_staleness(np.array([4, 4]), 4)) == [] and list(by_staleness(np.array([], dtype=int), 4)) == []


def test_known_rows() -> None:
    known = KnownRows()
    known.add(np.array([[0.0, 1.5], [2.0, 3.0]], dtype=np.float32))
    assert np.array([-0.0, 1.5]) in known and np.array([2.0, 3.0]) in known
    assert np.array([2.0, np.nextafter(3.0, 4.0)]) not in known


def test_look_ahead_names_what_is_picked(naive: SimpleNamespace) -> None:
    """With the whole pool as its sample and all coordinates, the guess is right."""
    rng = np.random.default_rng(0)
    pool, train = rng.normal(size=(150, 3)), rng.normal(size=(6, 3))
    square = naive.squared(pool, train)
    weights = rng.random(150)
    centre, square = square.argmin(axis=1), square.min(axis=1)
    mass = np.bincount(centre, weights * square, 6)

    def coordinates(rows: np.ndarray) -> np.ndarray:
        return np.concatenate([pool[rows], np.zeros((len(rows), 1))], axis=1)

    guess = likely_picks(mass, weights, square, centre, coordinates, 25)
    assert guess == naive.lcmd(pool, 25, train, weights)[0]
