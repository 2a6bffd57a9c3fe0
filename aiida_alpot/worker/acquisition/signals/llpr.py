"""What a potential says about its own energy, by the rigidity of its last layer, as a signal of energies."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from aiida_alpot.worker.acquisition.signals.base import Signal
from aiida_alpot.worker.acquisition.signals.committee import Deviations
from aiida_alpot.worker.options import boolean

if TYPE_CHECKING:
    from aiida_alpot.worker.frames.frame import Frame
    from aiida_alpot.worker.potentials.committee import Committee
    from aiida_alpot.worker.potentials.predictions import Predictions

NOT_STATED = (
    'the potentials do not state how uncertain their energies are, which the signal `llpr` is made of: give metatomic '
    'models (.pt) of the architecture `llpr` of metatrain, every member one, or choose another signal'
)


@dataclass
class LastLayerRigidity(Signal):
    r"""Standard deviation of the energy per atom that the potentials state themselves (LLPR).

    Last-layer prediction rigidity: Bigi, Chong, Ceriotti and Grasselli, Mach. Learn.: Sci. Technol. 5, 045018 (2024;
    arXiv:2403.02251), as metatrain has it. A member with last-layer features :math:`\varphi`, those of a structure
    being the sum over its atoms, states

    .. math:: \sigma_m^2 = \alpha^2\, \varphi^\top (F + \varsigma I)^{-1} \varphi, \qquad
        F = \sum_{t \in \mathrm{train}} \frac{\varphi_t \varphi_t^\top}{N_t^2},

    with :math:`\alpha` from its validation set. The signal of a frame with N atoms is the root mean square over the M
    members,

    .. math:: U_E = \frac{1}{N} \sqrt{\frac{1}{M} \sum_m \sigma_m^2}
        \quad\text{or}\quad \frac{1}{N} \sqrt{\frac{1}{M} \sum_m \left[\sigma_m^2 + (E_m - \langle E\rangle)^2\right]}

    with ``between_members``: the two terms of the law of total variance, the second form being the variance of the
    mixture of the members' normal distributions. The default leaves out the second term, since
    :math:`\alpha` makes :math:`\sigma_m` as large as the whole error of a member on its validation set, of which what
    members disagree by is a part: it would count twice. One member is enough. It says nothing about forces, so the
    campaign needs a tolerance of the energy.

    :param between_members: add the variance of the members' energies about their mean.
    """

    gives_forces: ClassVar[bool] = False
    between_members: bool = False

    def __post_init__(self) -> None:
        boolean('between_members', self.between_members)

    def check(self, committee: Committee) -> None:
        """Refuse potentials that state no uncertainty.

        :raises ValueError: saying which do.
        """
        if not getattr(committee, 'states_uncertainty', False):
            raise ValueError(NOT_STATED)

    def fit(self, committee: Committee, frames: Iterable[Frame]) -> None:
        """Nothing is learnt: the potentials know what they were trained on.

        :raises ValueError: as :meth:`check`.
        """
        self.check(committee)

    def __call__(self, predictions: Predictions) -> Deviations:
        """Standard deviation of the energy per atom, eV/atom; NaN for forces and stress.

        :raises ValueError: for predictions without stated uncertainties.
        """
        n_atoms = np.diff(np.asarray(predictions.offsets, dtype=np.int64))
        energy = np.zeros(0)
        if len(n_atoms):
            energy = np.sqrt(self._variance(predictions)) / n_atoms
        unknown = np.full(len(n_atoms), np.nan)
        force = np.full(int(predictions.offsets[-1]), np.nan)
        return Deviations(energy=energy, force=force, max_force=unknown, mean_force=unknown, stress=unknown)

    def _variance(self, predictions: Predictions) -> np.ndarray:
        """Of the total energies, shape (n,), eV^2; NaN where an energy is not finite."""
        if predictions.energy_uncertainty is None:
            raise ValueError(NOT_STATED)
        variance = np.mean(np.square(predictions.energy_uncertainty), axis=0)
        energy = np.where(np.isfinite(predictions.energy), predictions.energy, np.nan)
        between = np.var(energy, axis=0)
        # Zero times NaN is NaN, which is what is known where an energy is not finite.
        return variance + (1.0 if self.between_members else 0.0) * between
