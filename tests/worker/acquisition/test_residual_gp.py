"""The Gaussian process on residuals, against a textbook one with dense matrices."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm

from aiida_alpot.worker.acquisition import residual_gp
from aiida_alpot.worker.acquisition.residual_gp import ResidualGP, fit_residual_gp

SHAPES = [(60, 7), (7, 60), (20, 20), (1, 5), (40, 6)]


def textbook(
    features: np.ndarray, residual: np.ndarray, new: np.ndarray, noise: float
) -> tuple[np.ndarray, np.ndarray, float]:
    """Eqs 18 to 20 as they stand: correction, variance with the scale, scale."""
    unit, new = (x / np.linalg.norm(x, axis=1)[:, None] for x in (features, new))
    inverse = np.linalg.inv(unit @ unit.T + noise * np.eye(len(unit)))
    centred = residual - residual.mean()
    k = new @ unit.T
    variance = np.diag(new @ new.T) - np.einsum('ij,jk,ik->i', k, inverse, k)
    scale = centred @ inverse @ centred / len(unit)
    return residual.mean() + k @ inverse @ centred, scale * variance, scale


@pytest.fixture
def make_data() -> Callable[..., tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """``make_data(n, d)``: features and residuals of n frames, and features of 15 others."""

    def make(n: int, d: int, rank: int | None = None, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        features = rng.normal(size=(n + 15, d)) + 1
        if rank:
            features = features[:, :rank] @ rng.normal(size=(rank, d))
        return features[:n], rng.normal(0.3, 0.1, n), features[n:]

    return make


@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.parametrize('space', ['features', 'frames', None])
@pytest.mark.parametrize('noise', [1e-3, 0.5])
def test_against_the_textbook(make_data: Callable, shape: tuple[int, int], space: str | None, noise: float) -> None:
    features, residual, new = make_data(*shape)
    gp = fit_residual_gp(features, residual, noise=noise, space=space)
    correction, variance, scale = textbook(features, residual, new, noise)
    found = gp.predict(new, with_noise=False)
    assert found[0] == pytest.approx(correction, abs=1e-9) and found[1] == pytest.approx(variance, rel=1e-6, abs=1e-12)
    assert gp.scale == pytest.approx(scale, rel=1e-7, abs=1e-20) and gp.n == shape[0]


@pytest.mark.parametrize('space', ['features', 'frames'])
def test_features_of_low_rank(make_data: Callable, space: str) -> None:
    """Twelve features that are combinations of three: no less exact."""
    features, residual, new = make_data(40, 12, rank=3)
    gp = fit_residual_gp(features, residual, space=space)
    correction, variance, scale = textbook(features, residual, new, 1e-3)
    found = gp.predict(new, with_noise=False)
    assert found[0] == pytest.approx(correction, abs=1e-8) and found[1] == pytest.approx(variance, rel=1e-6)
    assert gp.scale == pytest.approx(scale)


def test_by_hand() -> None:
    """One feature: two frames of unit length with residuals 1 and 3, noise 1/2."""
    gp = fit_residual_gp(np.array([[2.0], [-3.0]]), np.array([1.0, 3.0]), noise=0.5)
    # Centred -1 and 1 at features 1 and -1: w = -2 / (2 + 1/2). K + 1/2 has -1 and 1 for an eigenvector, value 5/2.
    assert gp.mean == 2 and gp.weights == pytest.approx([-0.8])
    assert gp.scale == pytest.approx(2 / 2.5 / 2)
    correction, variance = gp.predict(np.array([[5.0]]), with_noise=False)
    assert correction == pytest.approx([1.2])
    # 1 - (1, -1) (K + 1/2)^-1 (1, -1) = 1 - 2 / 2.5.
    assert variance == pytest.approx([0.4 * 0.2])
    assert gp.predict(np.array([[5.0]]))[1] == pytest.approx([0.4 * 0.7])


@pytest.mark.parametrize('shape', SHAPES[:3])
@pytest.mark.parametrize('space', ['features', 'frames'])
def test_marginal_likelihood(make_data: Callable, shape: tuple[int, int], space: str) -> None:
    features, residual, _ = make_data(*shape)
    gp = fit_residual_gp(features, residual, noise=0.2, scale=0.03, space=space)
    unit = features / np.linalg.norm(features, axis=1)[:, None]
    covariance = 0.03 * (unit @ unit.T + 0.2 * np.eye(shape[0]))
    direct = multivariate_normal(np.zeros(shape[0]), covariance).logpdf(residual - residual.mean())
    assert gp.log_marginal_likelihood == pytest.approx(direct) and gp.scale == 0.03


@pytest.mark.parametrize('shape', [(80, 5), (30, 50)])
@pytest.mark.parametrize('space', ['features', 'frames'])
def test_the_noise_of_the_largest_likelihood(shape: tuple[int, int], space: str) -> None:
    rng = np.random.default_rng(1)
    features = rng.normal(size=shape)
    unit = features / np.linalg.norm(features, axis=1)[:, None]
    residual = unit @ rng.normal(size=shape[1]) + rng.normal(scale=0.3, size=shape[0])
    gp = fit_residual_gp(features, residual, noise=None, space=space)
    others = np.geomspace(1e-6, 10, 200)
    likelihoods = [fit_residual_gp(features, residual, noise=noise).log_marginal_likelihood for noise in others]
    assert gp.log_marginal_likelihood >= max(likelihoods) - 1e-9
    assert gp.noise == pytest.approx(others[int(np.argmax(likelihoods))], rel=0.1)
    # The scale of eq. 20 is the likeliest at its noise.
    for factor in (0.8, 1.25):
        other = fit_residual_gp(features, residual, noise=gp.noise, scale=factor * gp.scale)
        assert other.log_marginal_likelihood < gp.log_marginal_likelihood


def test_noise_stays_above_rounding() -> None:
    """Residuals without noise, features that hardly differ: the likeliest noise is the smallest that can be told."""
    rng = np.random.default_rng(4)
    features = 1 + 1e-3 * rng.normal(size=(300, 6))
    residual = (features / np.linalg.norm(features, axis=1)[:, None]) @ rng.normal(size=6)
    gp = fit_residual_gp(features, residual, noise=None)
    assert gp.noise >= 1e-10 and gp.assess(features, residual)['rmse'] < 1e-2 * np.std(residual)


def test_recovers_what_the_data_was_made_with() -> None:
    rng = np.random.default_rng(2)
    features = rng.normal(size=(4000, 20))
    unit = features / np.linalg.norm(features, axis=1)[:, None]
    residual = 0.5 + unit @ rng.normal(scale=0.2, size=20) + rng.normal(scale=0.1, size=4000)
    gp = fit_residual_gp(features, residual, noise=None)
    assert gp.scale == pytest.approx(0.04, rel=0.5) and gp.noise * gp.scale == pytest.approx(0.01, rel=0.05)


def test_calibrated_where_the_model_holds() -> None:
    """Of residuals drawn from the process, the intervals hold what they promise."""
    rng = np.random.default_rng(5)
    features = rng.normal(size=(1100, 300))
    unit = features / np.linalg.norm(features, axis=1)[:, None]
    residual = unit @ rng.normal(scale=0.05, size=300)
    gp = fit_residual_gp(features[:100], residual[:100])
    found = gp.assess(features[100:], residual[100:])
    assert found['coverage_90'] == pytest.approx(0.9, abs=0.05) and found['ece'] < 0.08 and found['ence'] < 0.25
    assert found['rmse'] < found['rmse_uncorrected'] and found['n'] == 1000
    correction, variance = gp.predict(features[100:])
    direct = -norm.logpdf(residual[100:], correction, np.sqrt(variance)).mean()
    assert found['nll'] == pytest.approx(direct)


def test_knows_what_it_was_fitted_to(make_data: Callable) -> None:
    features, residual, new = make_data(10, 40)
    gp = fit_residual_gp(features, residual, noise=1e-6)
    correction, variance = gp.predict(features, with_noise=False)
    assert correction == pytest.approx(residual, abs=1e-4) and variance.max() < 1e-4 * gp.predict(new)[1].min()


def test_what_the_features_cannot_express_is_noise() -> None:
    """More residuals than features: the variance of the function vanishes, that of a residual does not."""
    rng = np.random.default_rng(3)
    features, residual = rng.normal(size=(2000, 4)), rng.normal(scale=0.1, size=2000)
    gp = fit_residual_gp(features[:1000], residual[:1000], noise=None)
    assert gp.assess(features[1000:], residual[1000:])['coverage_90'] == pytest.approx(0.9, abs=0.03)
    assert gp.assess(features[1000:], residual[1000:], with_noise=False)['coverage_90'] < 0.2


def test_a_row_of_zeros_is_unknown(make_data: Callable) -> None:
    for shape in ((40, 5), (5, 40)):
        features, residual, _ = make_data(*shape)
        features[2] = 0.0
        gp = fit_residual_gp(features, residual)
        correction, variance = gp.predict(np.zeros((1, shape[1])), with_noise=False)
        assert correction == pytest.approx([residual.mean()]) and variance == pytest.approx([gp.scale])


def test_all_residuals_equal(make_data: Callable) -> None:
    features, _, new = make_data(30, 4)
    for noise in (1e-3, None):
        gp = fit_residual_gp(features, np.full(30, 0.25), noise=noise)
        correction, variance = gp.predict(new)
        assert correction == pytest.approx(np.full(15, 0.25)) and variance == pytest.approx(np.zeros(15))
        assert gp.assess(new, np.full(15, 0.25))['nll'] is None


def test_in_blocks_and_from_a_file(make_data: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The result does not depend on the size of blocks, nor on what the rows are read from."""
    features, residual, new = make_data(70, 6)
    whole = fit_residual_gp(features, residual)
    monkeypatch.setattr(residual_gp, 'BLOCK', 16 * 6)
    with h5py.File(tmp_path / 'features.h5', 'w') as file:
        stored = file.create_dataset('features', data=features)
        gp = fit_residual_gp(stored, residual)
    assert gp.weights == pytest.approx(whole.weights) and gp.scale == pytest.approx(whole.scale)
    assert gp.predict(new)[1] == pytest.approx(whole.predict(new)[1])
    single = fit_residual_gp(features.astype(np.float32), residual)
    assert single.weights == pytest.approx(whole.weights, abs=1e-4) and single.weights.dtype == np.float64


def test_lengths_may_count(make_data: Callable) -> None:
    features, residual, new = make_data(50, 4)
    gp = fit_residual_gp(features, residual, noise=0.1, normalise=False)
    k = new @ features.T
    inverse = np.linalg.inv(features @ features.T + 0.1 * np.eye(50))
    assert gp.predict(new)[0] == pytest.approx(residual.mean() + k @ inverse @ (residual - residual.mean()))


@pytest.mark.parametrize('shape', SHAPES[:2])
def test_stored(make_data: Callable, shape: tuple[int, int], tmp_path: Path) -> None:
    features, residual, new = make_data(*shape)
    gp = fit_residual_gp(features, residual, noise=None)
    gp.save(tmp_path / 'gp.npz')
    again = ResidualGP.load(tmp_path / 'gp.npz')
    for ours, theirs in zip(gp.predict(new), again.predict(new), strict=True):
        assert np.array_equal(ours, theirs)
    assert (again.n, again.noise, again.scale, again.normalised) == (gp.n, gp.noise, gp.scale, True)


def test_refused(make_data: Callable) -> None:
    features, residual, new = make_data(20, 4)
    broken = features.copy()
    broken[7, 1] = np.nan
    for arguments, words in [
        ((features, residual[:-1]), 'one for each row'),
        ((features[:, 0], residual), 'expected \\(n, d\\)'),
        ((features[:0], residual[:0]), 'no residual'),
        ((broken, residual), 'row 7'),
        ((features, np.where(np.arange(20) == 3, np.inf, residual)), 'row 3 is inf'),
    ]:
        with pytest.raises(ValueError, match=words):
            fit_residual_gp(*arguments)
    for settings, words in [
        ({'noise': 0.0}, 'above zero'),
        ({'scale': math.nan}, 'above zero'),
        ({'space': 'k'}, 'features, frames'),
    ]:
        with pytest.raises(ValueError, match=words):
            fit_residual_gp(features, residual, **settings)
    with pytest.raises(ValueError, match='give at least'):
        fit_residual_gp(np.ones((50, 3)), np.arange(50.0), noise=1e-30)
    with pytest.raises(ValueError, match='those of the fit'):
        fit_residual_gp(features, residual).predict(new[:, :3])
