"""The variance of a Gaussian process on what a potential is still wrong by, as a signal of energies."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from aiida_alpot.worker.acquisition.feature_file import FeatureFile
from aiida_alpot.worker.acquisition.residual_gp import NOISE, ResidualGP, fit_residual_gp
from aiida_alpot.worker.acquisition.signals.base import Signal
from aiida_alpot.worker.acquisition.signals.committee import Deviations
from aiida_alpot.worker.options import number

if TYPE_CHECKING:
    from aiida_alpot.worker.frames.frame import Frame
    from aiida_alpot.worker.potentials.committee import Committee
    from aiida_alpot.worker.potentials.predictions import Predictions


@dataclass
class ResidualProcess(Signal):
    """Standard deviation of the residual of the energy per atom, by a Gaussian process in feature space.

    Eqs 18-20 of the study on pretrained representations, see
    :mod:`~aiida_alpot.worker.acquisition.residual_gp`; fitted to the frames of split ``train``. It says nothing about
    forces, so the campaign needs a tolerance of the energy.

    :param representation: features of frames.
    :param representation_options: its options.
    :param noise: variance of the noise in units of the prior's; ``None``: the likeliest.
    """

    gives_forces: ClassVar[bool] = False
    representation: str = 'ntk'
    representation_options: Mapping[str, Any] = field(default_factory=dict)
    noise: float | None = NOISE
    process: ResidualGP | None = field(default=None, init=False, repr=False)
    left_out: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.noise is not None:
            number('noise', self.noise, 0.0, exclusive=True)

    @property
    def features(self) -> Mapping[str, Mapping[str, Any]]:
        """The features of frames."""
        return {self.representation: self.representation_options}

    def fit(self, committee: Committee, frames: Iterable[Frame]) -> None:
        """Fit the process to the residuals of the training frames; those predicted as NaN are left out and counted.

        :raises ValueError: where there are none with an energy, or no prediction is finite.
        """
        from aiida_alpot.worker.acquisition.labelled import chunks, is_isolated_atom

        self.left_out = 0
        residuals: list[np.ndarray] = []
        trained = (
            frame
            for frame in frames
            if frame.split == 'train' and frame.energy is not None and not is_isolated_atom(frame)
        )
        with tempfile.TemporaryDirectory() as directory, FeatureFile(directory, 'residuals') as rows:
            for chunk in chunks(trained):
                features, residual = self._residuals(chunk, committee.evaluate(chunk, features=self.features))
                rows.append(features)
                residuals.append(residual)
            if not residuals:
                raise ValueError('the residual process needs labelled frames with split `train`: give the data set')
            if not sum(map(len, residuals)):
                raise ValueError(
                    f'none of the {self.left_out} training frames has a finite energy and finite features: the '
                    'residual process has nothing to learn from; look at the potentials'
                )
            self.process = fit_residual_gp(rows.read(), np.concatenate(residuals), noise=self.noise)

    def _residuals(self, frames: list[Frame], predictions: Predictions) -> tuple[np.ndarray, np.ndarray]:
        """Features and residuals of the energy per atom, eV/atom, of those frames for which both are finite."""
        features = predictions.features[self.representation]
        labels = np.array([frame.energy for frame in frames], dtype=np.float64)
        residual = (predictions.energy.mean(axis=0) - labels) / [len(frame) for frame in frames]
        finite = np.isfinite(residual) & np.isfinite(features).all(axis=1)
        self.left_out += int(np.count_nonzero(~finite))
        return features[finite], residual[finite]

    def __call__(self, predictions: Predictions) -> Deviations:
        """Standard deviation of the energy per atom; NaN for forces and stress."""
        if self.process is None:
            raise ValueError('the residual process is not fitted yet: call `fit` first')
        n_frames = len(predictions.offsets) - 1
        energy = np.full(n_frames, np.nan)
        if n_frames:
            features = predictions.features[self.representation]
            finite = np.isfinite(features).all(axis=1) & np.isfinite(predictions.energy).all(axis=0)
            energy[finite] = np.sqrt(self.process.predict(features[finite])[1])
        unknown = np.full(n_frames, np.nan)
        force = np.full(int(predictions.offsets[-1]), np.nan)
        return Deviations(energy=energy, force=force, max_force=unknown, mean_force=unknown, stress=unknown)

    def report(self) -> dict[str, Any]:
        """Noise and scale of the process, and the number of training frames that were left out."""
        if self.process is None:
            return {}
        return {
            'noise': float(self.process.noise),
            'scale': float(self.process.scale),
            'n': self.process.n,
            'n_left_out': self.left_out,
        }
