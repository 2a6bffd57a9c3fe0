"""Disagreement of a committee: how far its members lie from their mean."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from aiida_alpot.worker.potentials.predictions import Predictions

Statistic = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class Deviations:
    """Disagreement of a committee about n frames with N atoms in all; NaN wherever a prediction is not finite.

    :param energy: of the energy per atom, shape (n,), eV/atom.
    :param force: of the force vector of each atom, shape (N,), eV/A.
    :param max_force: largest ``force`` within each frame, shape (n,), eV/A.
    :param mean_force: mean ``force`` within each frame, shape (n,), eV/A.
    :param stress: of the stress tensor (Frobenius norm), shape (n,), eV/A^3; NaN for frames that have none.
    """

    energy: np.ndarray
    force: np.ndarray
    max_force: np.ndarray
    mean_force: np.ndarray
    stress: np.ndarray


def deviations(predictions: Predictions) -> Deviations:
    r"""Standard deviation of the members about their mean, vector-valued for forces.

    .. math:: U_F = \sqrt{\tfrac{1}{M} \sum_m |\mathbf F_m - \langle\mathbf F\rangle|^2}

    and likewise :math:`U_E` of the energy per atom and :math:`U_S` of the stress tensor: the quantities of eqs 1-3 of
    the W study (Shuang et al., Mach. Learn.: Sci. Technol. 7, 025002) and of AiiDA-TrainsPot, with the root mean square
    over members in place of the maximum. The difference is taken between vectors, not between their norms, so that
    members which point in opposite directions disagree; the result does not change when everything is rotated or when
    members are permuted. The sum is divided by M and not by M - 1: this is the spread of the committee that is at
    hand, with no claim about members that were not trained; the constant factor between the two is absorbed by the
    calibration, and what the MD driver halts on is the same number as what is calibrated.

    :raises ValueError: for fewer than two members, which cannot disagree.
    """
    return _deviations(predictions, _root_mean_square)


def maximum_deviations(predictions: Predictions) -> Deviations:
    r"""Largest distance of a member from the mean, :math:`\max_m |\mathbf F_m - \langle\mathbf F\rangle|`.

    Equations 1-3 of the W study (Shuang et al., Mach. Learn.: Sci. Technol. 7, 025002), with energies per atom.

    :raises ValueError: for fewer than two members.
    """
    return _deviations(predictions, _maximum)


def _deviations(predictions: Predictions, statistic: Statistic) -> Deviations:
    n_members = len(predictions.energy)
    if n_members < 2:
        raise ValueError(
            f'a committee of {n_members} cannot disagree: give at least two members, trained with different seeds'
        )
    offsets = np.asarray(predictions.offsets, dtype=np.int64)
    n_atoms = np.diff(offsets)
    # A member that predicts infinity gives inf - inf: the NaN that follows is what the gate looks for.
    with np.errstate(invalid='ignore', over='ignore'):
        energy = statistic(_distances(predictions.energy[..., None] / n_atoms[:, None]))
        force = statistic(_distances(predictions.forces))
        stress = statistic(_distances(predictions.stress.reshape(n_members, len(n_atoms), 9)))
    return Deviations(
        energy=energy,
        force=force,
        max_force=np.maximum.reduceat(force, offsets[:-1]) if len(n_atoms) else np.zeros(0),
        mean_force=np.add.reduceat(force, offsets[:-1]) / n_atoms if len(n_atoms) else np.zeros(0),
        stress=stress,
    )


def _distances(values: np.ndarray) -> np.ndarray:
    """Distances of members from their mean, (M, k, d) -> (M, k)."""
    return np.linalg.norm(values - values.mean(axis=0), axis=-1)


def _root_mean_square(distances: np.ndarray) -> np.ndarray:
    return np.sqrt(np.mean(distances**2, axis=0))


def _maximum(distances: np.ndarray) -> np.ndarray:
    return distances.max(axis=0)
