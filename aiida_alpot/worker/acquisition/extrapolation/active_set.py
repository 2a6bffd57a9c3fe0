"""The active set of the environments of one species, and grades against it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from aiida_alpot.worker.acquisition.batch_selection.blocks import Rows
from aiida_alpot.worker.acquisition.maxvol import MaxVol
from aiida_alpot.worker.acquisition.maxvol.passes import RowReductions, largest, norm


@dataclass(frozen=True, eq=False)
class ActiveSet:
    """Active environments of one species, all or those of one cluster.

    :param number: atomic number of the species.
    :param cluster: name of the cluster; '' for all environments.
    :param index: which atoms of the training set are active, ascending, shape (K,).
    :param rows: their features, shape (K, d).
    :param matrix: shape (d, K + d - r), see :class:`MaxVol`.
    :param rank: number r of directions that the environments occupy.
    :param dtype: in which grades are computed: ``float32`` or ``float64``.
    :param n_environments: number of atoms that the set was chosen from.
    :param n_left_out: number of atoms that were left out for their forces.
    :param largest_grade: of the atoms that the set was chosen from.
    """

    number: int
    cluster: str
    index: np.ndarray
    rows: np.ndarray
    matrix: np.ndarray
    rank: int
    dtype: str
    n_environments: int
    n_left_out: int
    largest_grade: float

    @classmethod
    def of(cls, found: MaxVol, rows: Rows, atoms: np.ndarray, number: int, cluster: str, n_left_out: int) -> ActiveSet:
        """Active set as MaxVol found it.

        :param rows: the features that it was found in, shape (n, d).
        :param atoms: which atoms of the training set these are, shape (n,).
        """
        return cls(
            number=number,
            cluster=cluster,
            index=atoms[found.index],
            rows=rows.take(found.index),
            matrix=found.matrix,
            rank=found.rank,
            dtype=found.dtype.name,
            n_environments=len(rows),
            n_left_out=n_left_out,
            largest_grade=float(found.grade.max()),
        )

    @property
    def n_features(self) -> int:
        """Number d of features of an environment."""
        return len(self.matrix)

    def grade(self, features: np.ndarray) -> np.ndarray:
        r"""Extrapolation grades of environments of this species.

        :math:`\gamma = \max(\max_k |c_k|, \rho)` with the coefficients c in the active rows (W study, Shuang et al.,
        Mach. Learn.: Sci. Technol. 7, 025002, eqs 10-12) and the distance :math:`\rho` from the span of all
        training environments, in units of the largest distance of one of them.

        :param features: shape (b, d).
        :return: shape (b,), in the precision they are computed in. NaN where a feature is.
        """
        return np.maximum(*self._reductions.of(features))

    @cached_property
    def _reductions(self) -> RowReductions:
        k = len(self.index)
        return RowReductions(self.matrix, [(largest, k), (norm, self.matrix.shape[1] - k)], np.dtype(self.dtype))
