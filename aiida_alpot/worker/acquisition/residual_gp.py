r"""Gaussian process on the residual of a potential: what it is still wrong by, and how far that is known.

Equations are those of *Pretrained Model Representations as Acquisition Signals for Active Learning of MLIPs*, appendix
C.4. The kernel is linear in features of unit length (cosine kernel, eq. 3). The potential stays as it is; the process
learns the residual :math:`r = y - b` between label and prediction, of one model or of the mean of a committee. It is a
diagnostic of the representation: the kernel sees a structure as a whole, so that its correction is no potential.
Residuals of frames of different sizes should be given per atom, since features of unit length do not know the size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from aiida_alpot.worker.acquisition.calibration import quality

NOISE = 1e-3
"""The paper's fixed regularisation of the kernel."""
NOISE_BOUNDS = (1e-10, 1e2)
"""Between these the marginal likelihood is maximised;"""
ROUNDING = 1e-13
"""nor below this multiple of the trace of the kernel, where rounding would be all there is."""
BLOCK = 2**22
"""Numbers in a block of features: 32 MB in double precision."""
SHORTEST = 1e-12
"""Features shorter than this are not normalised: they are zero."""


@dataclass(frozen=True, eq=False)
class ResidualGP:
    r"""A process fitted to n residuals on d features.

    Eqs 18 to 20 of the paper, with :math:`\tilde r = r - \bar r`, :math:`K = \Phi\Phi^\top` and :math:`\lambda` the
    noise:

    .. math::
        \mu(x) &= \bar r + k(x)^\top (K + \lambda I)^{-1} \tilde r = \bar r + \phi(x)\cdot w, \\
        s^2(x) &= k(x, x) - k(x)^\top (K + \lambda I)^{-1} k(x)
                = \lambda\,\phi(x)^\top (\Phi^\top\Phi + \lambda I)^{-1} \phi(x), \\
        \hat\gamma &= \tfrac1n\, \tilde r^\top (K + \lambda I)^{-1} \tilde r
                = \tfrac1{n\lambda}\left(|\tilde r - \Phi w|^2 + \lambda |w|^2\right).

    The right-hand sides follow from Woodbury's identity; they need a d x d matrix, and are free of differences of
    nearly equal numbers. With fewer residuals than features the n x n matrix is the smaller one and is used in its
    place.

    :param mean: of the residuals, in their unit.
    :param weights: w, shape (d,).
    :param factor: lower Cholesky factor of :math:`\Phi^\top\Phi + \lambda I` (d, d), or of :math:`K + \lambda I` (n,
        n).
    :param rows: normalised training features (n, d) where the factor is n x n, else shape (0, d).
    :param noise: :math:`\lambda`, in units of the prior variance.
    :param scale: :math:`\gamma`, the prior variance, in the square of the unit.
    :param normalised: whether features are brought to unit length first.
    :param n: number of residuals.
    :param log_marginal_likelihood: of the residuals at this noise and scale.
    """

    mean: float
    weights: np.ndarray
    factor: np.ndarray
    rows: np.ndarray
    noise: float
    scale: float
    normalised: bool
    n: int
    log_marginal_likelihood: float

    def predict(self, features: Any, *, with_noise: bool = True) -> tuple[np.ndarray, np.ndarray]:
        r"""Correction and variance for each row, float64, shape (m,) both, in the unit of the residual and its square.

        :param features: shape (m, d), anything that gives rows for a slice.
        :param with_noise: the variance of a residual that is measured, :math:`\gamma(s^2 + \lambda)`. False: that of
            the function behind it, :math:`\gamma s^2`, as in the paper. With fewer residuals than features they hardly
            differ; with many more the second vanishes, while what the features cannot express remains.
        :raises ValueError: for another number of features, or for ones that are not finite.
        """
        _check(features, len(self.weights))
        correction, variance = np.empty(len(features)), np.empty(len(features))
        for block, rows in _blocks(features, self.normalised):
            correction[block] = self.mean + rows @ self.weights
            unknown = self.normalised & ~rows.any(axis=1)
            variance[block] = np.where(unknown, 1.0, self._latent_variance(rows))
        return correction, self.scale * (variance + (self.noise if with_noise else 0.0))

    def _latent_variance(self, rows: np.ndarray) -> np.ndarray:
        """Variance before the scale, of normalised rows (m, d), shape (m,)."""
        from scipy.linalg import solve_triangular  # slow to import

        if len(self.rows):
            solved = solve_triangular(self.factor, self.rows @ rows.T, lower=True)
            prior = np.einsum('ij,ij->i', rows, rows)
            return np.maximum(prior - np.einsum('ij,ij->j', solved, solved), 0.0)
        solved = solve_triangular(self.factor, rows.T, lower=True)
        return self.noise * np.einsum('ij,ij->j', solved, solved)

    def assess(self, features: Any, residual: np.ndarray, *, with_noise: bool = True) -> dict[str, Any]:
        """Quality of the process on residuals that it was not fitted to, as in table 2 of the paper.

        ``rmse`` of the corrected prediction, ``rmse_uncorrected``, and what :func:`.quality.intervals` gives of the
        errors and the standard deviations: NLL, ECE, ENCE, miscalibration area, coverages.

        :param features: shape (m, d).
        :param residual: shape (m,).
        :param with_noise: as for :meth:`predict`.
        """
        correction, variance = self.predict(features, with_noise=with_noise)
        residual = _residuals(residual, len(features))
        error, sigma = np.abs(residual - correction), np.sqrt(variance)
        return {
            'n': len(residual),
            'rmse': math.sqrt(float(np.mean(error**2))),
            'rmse_uncorrected': math.sqrt(float(np.mean(residual**2))),
            'spearman': quality.spearman(sigma, error),
            **quality.intervals(error, sigma),
        }

    def save(self, path: Path | str) -> None:
        """Write it to an ``.npz`` file."""
        with Path(path).open('wb') as file:
            np.savez(file, **{field.name: getattr(self, field.name) for field in fields(self)})

    @classmethod
    def load(cls, path: Path | str) -> ResidualGP:
        """Read what :meth:`save` wrote."""
        with np.load(Path(path), allow_pickle=False) as stored:
            values = {field.name: stored[field.name] for field in fields(cls)}
        return cls(**{name: value if value.ndim else value.item() for name, value in values.items()})


def fit_residual_gp(
    features: Any,
    residual: np.ndarray,
    *,
    noise: float | None = NOISE,
    scale: float | None = None,
    normalise: bool = True,
    space: str | None = None,
) -> ResidualGP:
    r"""Fit a process to the residuals of a potential on frames it was not trained on.

    The paper fixes the noise at 1e-3 and takes the scale from eq. 20. That estimate is the scale of largest marginal
    likelihood at a given noise. With ``noise=None`` the noise is chosen by the marginal likelihood too, with the scale
    of eq. 20 at each noise (Rasmussen and Williams, Gaussian Processes for Machine Learning, eq. 5.8, maximised over
    the scale): :math:`-\tfrac n2\ln\hat\gamma(\lambda) - \tfrac12\ln\det(K + \lambda I)` on :data:`NOISE_BOUNDS`.

    :param features: shape (n, d), float32 or float64, anything that gives rows for a slice (array, memory map, HDF5
        data set). Of rows of zeros nothing is known: they have the mean and, normalised, the prior variance.
    :param residual: label minus prediction, shape (n,), any unit.
    :param noise: :math:`\lambda`, above zero, in units of the prior variance; ``None``: by marginal likelihood.
    :param scale: prior variance, above zero, in the square of the unit; ``None``: eq. 20.
    :param normalise: bring features to unit length; False: they are so already, or lengths shall count.
    :param space: ``features`` (d x d) or ``frames`` (n x n); ``None``: the smaller. Both are exact.
    :raises ValueError: for shapes that do not fit, numbers that are not finite, no residual, or settings that cannot
        be.
    """
    _check_settings(noise, scale, space)
    n, d = _check(features)
    residual = _residuals(residual, n)
    if not n:
        raise ValueError('there is no residual to fit to: give the residuals of held-out labelled frames')
    centred = residual - residual.mean()
    space = space or ('features' if d <= n else 'frames')
    make = _feature_space if space == 'features' else _frame_space
    system = make(features, centred, normalise)
    chosen = _likeliest_noise(system, scale) if noise is None else noise
    return _solve(system, features, residual, centred, chosen, scale, normalise)


@dataclass(frozen=True, eq=False)
class _System:
    r"""The smaller of the two symmetric matrices, and the right-hand side of its equations.

    :param gram: :math:`\Phi^\top\Phi` (d, d) or K (n, n), float64.
    :param target: :math:`\Phi^\top\tilde r` (d,) or the centred residuals (n,).
    :param rows: normalised features (n, d), or shape (0, d) in feature space.
    :param square: :math:`|\tilde r|^2`.
    :param n: number of residuals.
    """

    gram: np.ndarray
    target: np.ndarray
    rows: np.ndarray
    square: float
    n: int

    @property
    def in_frame_space(self) -> bool:
        return bool(len(self.rows))


def _feature_space(features: Any, centred: np.ndarray, normalise: bool) -> _System:
    d = features.shape[1]
    gram, target = np.zeros((d, d)), np.zeros(d)
    for block, rows in _blocks(features, normalise):
        gram += rows.T @ rows
        target += rows.T @ centred[block]
    return _System(gram, target, np.zeros((0, d)), float(centred @ centred), len(centred))


def _frame_space(features: Any, centred: np.ndarray, normalise: bool) -> _System:
    rows = np.concatenate([rows for _, rows in _blocks(features, normalise)])
    return _System(rows @ rows.T, centred, rows, float(centred @ centred), len(centred))


def _solve(
    system: _System,
    features: Any,
    residual: np.ndarray,
    centred: np.ndarray,
    noise: float,
    scale: float | None,
    normalise: bool,
) -> ResidualGP:
    from scipy.linalg import cho_solve, cholesky  # slow to import

    regularised = system.gram.copy()
    regularised[np.diag_indices_from(regularised)] += noise
    try:
        factor = cholesky(regularised, lower=True, overwrite_a=True)
    except np.linalg.LinAlgError as error:
        raise ValueError(
            f'the noise {noise:g} is lost in the rounding of a kernel of trace {np.trace(system.gram):g}: '
            f'give at least {ROUNDING * np.trace(system.gram):.1g}'
        ) from error
    solution = cho_solve((factor, True), system.target)
    log_det = 2 * float(np.sum(np.log(np.diag(factor))))
    if system.in_frame_space:
        weights, energy = system.rows.T @ solution, float(centred @ solution)
    else:
        weights = solution
        energy = _misfit(features, centred, weights, normalise) / noise + float(weights @ weights)
        log_det += (system.n - len(weights)) * math.log(noise)
    used = energy / system.n if scale is None else scale
    return ResidualGP(
        mean=float(residual.mean()),
        weights=weights,
        factor=factor,
        rows=system.rows,
        noise=float(noise),
        scale=float(used),
        normalised=normalise,
        n=system.n,
        log_marginal_likelihood=_log_likelihood(system.n, energy, log_det, used),
    )


def _misfit(features: Any, centred: np.ndarray, weights: np.ndarray, normalise: bool) -> float:
    """Sum of the squared residuals that the weights leave."""
    return sum(float(np.sum((centred[block] - rows @ weights) ** 2)) for block, rows in _blocks(features, normalise))


def _log_likelihood(n: int, energy: float, log_det: float, scale: float) -> float:
    """Of a normal distribution of covariance scale x (K + noise); infinite where all residuals are equal."""
    if not scale > 0:
        return math.inf
    return -0.5 * (energy / scale + log_det + n * math.log(2 * math.pi * scale))


def _likeliest_noise(system: _System, scale: float | None) -> float:
    """Noise of the largest marginal likelihood: the best of a grid, refined between its neighbours."""
    from scipy.linalg import eigh  # slow to import
    from scipy.optimize import minimize_scalar

    if not system.square > 0:
        return NOISE
    values, vectors = eigh(system.gram)
    values = np.maximum(values, 0.0)
    share = vectors.T @ system.target

    def loss(log_noise: float) -> float:
        energy, log_det = _spectral(system, values, share, math.exp(log_noise))
        return -_log_likelihood(system.n, energy, log_det, energy / system.n if scale is None else scale)

    lowest = max(NOISE_BOUNDS[0], ROUNDING * float(values.sum()))
    grid = np.linspace(math.log(lowest), math.log(NOISE_BOUNDS[1]), 49)
    best = int(np.argmin([loss(point) for point in grid]))
    bounds = (grid[max(0, best - 1)], grid[min(len(grid) - 1, best + 1)])
    return math.exp(float(minimize_scalar(loss, bounds=bounds, method='bounded').x))


def _spectral(system: _System, values: np.ndarray, share: np.ndarray, noise: float) -> tuple[float, float]:
    """Quadratic form and log determinant of K + noise, from the eigenvalues of the smaller matrix."""
    if system.in_frame_space:
        return float(np.sum(share**2 / (values + noise))), float(np.sum(np.log(values + noise)))
    # In feature space: what the features can express, and the rest, which only noise explains.
    some = values > len(values) * np.finfo(float).eps * values.max()
    expressed = share[some] ** 2 / values[some]
    rest = max(0.0, system.square - float(np.sum(expressed)))
    log_det = float(np.sum(np.log(values + noise))) + (system.n - len(values)) * math.log(noise)
    return float(np.sum(expressed / (values[some] + noise))) + rest / noise, log_det


def _blocks(features: Any, normalise: bool) -> Iterator[tuple[slice, np.ndarray]]:
    """Rows in float64, of unit length where asked for, block by block."""
    n, d = features.shape
    step = max(1, BLOCK // d)
    for start in range(0, n, step):
        block = slice(start, min(start + step, n))
        rows = np.asarray(features[block], dtype=np.float64)
        if not np.isfinite(rows).all():
            row = start + int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])
            raise ValueError(f'features of row {row} are not finite: leave such frames out, the gate names them')
        if normalise:
            rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), SHORTEST)
        yield block, rows


def _check(features: Any, d: int | None = None) -> tuple[int, int]:
    shape = tuple(features.shape)
    if len(shape) != 2 or shape[1] == 0 or (d is not None and shape[1] != d):
        expected = '(n, d) with at least one feature' if d is None else f'(m, {d}), those of the fit'
        raise ValueError(f'features have shape {shape}, expected {expected}')
    return shape[0], shape[1]


def _residuals(residual: np.ndarray, n: int) -> np.ndarray:
    found = np.asarray(residual, dtype=np.float64)
    if found.shape != (n,):
        raise ValueError(f'residuals have shape {found.shape}, expected ({n},): one for each row of the features')
    if not np.isfinite(found).all():
        row = int(np.flatnonzero(~np.isfinite(found))[0])
        raise ValueError(f'the residual of row {row} is {found[row]}: leave out frames without label or prediction')
    return found


def _check_settings(noise: float | None, scale: float | None, space: str | None) -> None:
    for name, value in (('noise', noise), ('scale', scale)):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ValueError(f'`{name}` is {value}, expected a number above zero, or None to have it estimated')
    if space not in (None, 'features', 'frames'):
        raise ValueError(f'`space` is {space!r}, expected features, frames, or None for the smaller')
