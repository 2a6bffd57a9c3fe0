"""Active sets of all species, and the extrapolation grades of atoms and configurations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase.data import chemical_symbols

from aiida_alpot.worker.acquisition.batch_selection.blocks import Rows
from aiida_alpot.worker.acquisition.calibration.thresholds import adaptive
from aiida_alpot.worker.acquisition.extrapolation.active_set import ActiveSet
from aiida_alpot.worker.acquisition.extrapolation.clusters import MIN_ENVIRONMENTS, as_names, merge_small
from aiida_alpot.worker.acquisition.extrapolation.forces import usual_forces
from aiida_alpot.worker.acquisition.maxvol import maxvol, rectangular_maxvol
from aiida_alpot.worker.acquisition.maxvol.passes import block_bounds
from aiida_alpot.worker.acquisition.maxvol.sources import subset
from aiida_alpot.worker.acquisition.maxvol.square import TOLERANCE


@dataclass(frozen=True, eq=False)
class Grades:
    """Extrapolation grades of atoms.

    :param grade: shape (N,), float64; ``inf`` for a species without active set, NaN where a feature is.
    :param nearest: place in :attr:`ActiveSets.sets` of the active set that the grade refers to, shape (N,); -1: none.
    """

    grade: np.ndarray
    nearest: np.ndarray


@dataclass(frozen=True, eq=False)
class ActiveSets:
    """Active sets of every species, one for each or one for each cluster of its environments.

    :param sets: at least one, all with the same number of features.
    :param model_hash: SHA-256 of the file of the model that the features are of.
    :param representation: name of the features.
    """

    sets: tuple[ActiveSet, ...]
    model_hash: str
    representation: str

    @property
    def n_features(self) -> int:
        """Number d of features of an environment."""
        return self.sets[0].n_features

    def grade_atoms(self, features: Any, numbers: np.ndarray) -> Grades:
        r"""Extrapolation grade of each atom.

        Against the active set of the atom's species; where there are several, one for each cluster, the least of their
        grades: the cluster-local grade of the W study (Shuang et al., Mach. Learn.: Sci. Technol. 7, 025002, section
        3.5), for which an environment is known as soon as one cluster knows it, and not because it lies between two.
        An atom of a species that no active set is of is not known at all: its grade is ``inf``.

        :param features: shape (N, d), float32 or float64; anything that :class:`Rows` reads, in blocks.
        :param numbers: atomic numbers, shape (N,).
        :raises ValueError: for shapes that do not go together, or another number of features than the active sets have.
        """
        rows, numbers = _checked(features, numbers), np.asarray(numbers)
        if rows.d != self.n_features:
            raise ValueError(
                f'`features` has {rows.d} features an atom, the active sets have {self.n_features}: compute both '
                'with the same model and settings'
            )
        grade, nearest = np.full(len(rows), np.inf), np.full(len(rows), -1, dtype=np.int64)
        for start, stop in block_bounds(rows):
            part = slice(start, stop)
            self._grade_block(rows.block(start, stop), numbers[part], grade[part], nearest[part])
        return Grades(grade, nearest)

    def thresholds(self, features: Any, numbers: np.ndarray, offsets: np.ndarray) -> tuple[float, float]:
        """Adaptive thresholds of the grade of an atom and of a configuration: Q3 + 1.5 IQR of the grades of these.

        :param features: of the training set, shape (N, d), with
        :param numbers: atomic numbers, shape (N,), and
        :param offsets: atoms of configuration i are ``offsets[i]:offsets[i + 1]``, shape (n + 1,).
        :raises ValueError: as :meth:`grade_atoms`, or where no grade is finite.
        """
        grade = self.grade_atoms(features, numbers).grade
        return adaptive(grade), adaptive(configuration_grades(grade, offsets))

    def check(self, model_hash: str, representation: str) -> None:
        """Refuse features of another model, or other features.

        :raises ValueError: naming both.
        """
        if (model_hash, representation) != (self.model_hash, self.representation):
            raise ValueError(
                f'the active sets are of {self.representation!r} of the model {self.model_hash[:12]!r}, but the '
                f'features are {representation!r} of the model {model_hash[:12]!r}: grades would mean nothing; '
                'choose the active sets anew with this model'
            )

    def as_dict(self) -> dict[str, Any]:
        """What there is to report: for each set its species, cluster, rank and sizes."""
        return {
            'model_hash': self.model_hash,
            'representation': self.representation,
            'n_features': self.n_features,
            'sets': [
                {
                    'species': chemical_symbols[one.number],
                    'cluster': one.cluster,
                    'rank': one.rank,
                    'n_active': len(one.index),
                    'n_environments': one.n_environments,
                    'n_left_out': one.n_left_out,
                    'largest_grade': one.largest_grade,
                }
                for one in self.sets
            ],
        }

    def _grade_block(self, rows: np.ndarray, numbers: np.ndarray, grade: np.ndarray, nearest: np.ndarray) -> None:
        """Grades of a block, written to ``grade`` and ``nearest``."""
        for place, one in enumerate(self.sets):
            own = numbers == one.number
            if not own.any():
                continue
            atoms = slice(None) if own.all() else np.flatnonzero(own)
            new = one.grade(rows[atoms])
            better = ~(new >= grade[atoms])  # NaN wins, and the first of equal ones
            better |= nearest[atoms] < 0
            grade[atoms] = np.where(better, new, grade[atoms])
            nearest[atoms] = np.where(better, place, nearest[atoms])


def choose_active_sets(
    features: Any,
    numbers: np.ndarray,
    *,
    forces: np.ndarray | None = None,
    clusters: Sequence[Any] | np.ndarray | None = None,
    rectangular: bool = False,
    tolerance: float = TOLERANCE,
    relative_tolerance: float | None = None,
    min_environments: int = MIN_ENVIRONMENTS,
    model_hash: str = '',
    representation: str = '',
) -> ActiveSets:
    """Active sets of the species of a training set.

    For each species (and cluster) MaxVol on the features of its atoms, see :func:`maxvol`; no more than a few per
    cent of the features are in memory at a time.

    :param features: of every atom, shape (N, d), float32 or float64; anything that :class:`Rows` reads.
    :param numbers: atomic numbers, shape (N,).
    :param forces: labels, shape (N, 3), eV/A: atoms with extreme ones are left out, see :func:`usual_forces`.
    :param clusters: label of the cluster of each atom, shape (N,), any names; see :mod:`clusters
        <aiida_alpot.worker.acquisition.extrapolation.clusters>` for those to be found. ``None``: one for all.
    :param rectangular: more active rows than directions, see :func:`rectangular_maxvol`.
    :param tolerance: largest grade of an atom that the set is chosen from (square active sets), above 1.
    :param min_environments: clusters with fewer atoms of a species join the nearest one.
    :param model_hash: SHA-256 of the file of the model that the features are of.
    :param representation: name of the features.
    :raises ValueError: for shapes that do not go together, features that are not finite, no atoms, or a species whose
        features are all zero.
    """
    rows, numbers = _checked(features, numbers), np.asarray(numbers)
    if not len(rows):
        raise ValueError('there are no atoms to choose active sets from: label some frames first')
    names, labels = as_names(clusters, len(rows))
    usual = np.ones(len(rows), dtype=bool) if forces is None else usual_forces(forces, numbers)
    find = rectangular_maxvol if rectangular else maxvol
    sets = []
    for number in np.unique(numbers):
        atoms = np.flatnonzero((numbers == number) & usual)
        if not len(atoms):
            continue
        name = f'features of {chemical_symbols[number]}'
        own = merge_small(subset(rows, atoms, name), labels[atoms], min_environments)
        for label in np.unique(own):
            chosen = subset(rows, atoms[own == label], name)
            left_out = np.count_nonzero((numbers == number) & ~usual & (labels == label))
            found = find(chosen, tolerance=tolerance, relative_tolerance=relative_tolerance)
            sets.append(ActiveSet.of(found, chosen, atoms[own == label], int(number), names[label], int(left_out)))
    if not sets:
        raise ValueError('no atom has a finite force: choose the active sets from labelled frames, or without forces')
    return ActiveSets(tuple(sets), model_hash, representation)


def configuration_grades(grade: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Grade of each configuration: the largest of its atoms, eq 14 of the W study.

    :param grade: of the atoms, shape (N,).
    :param offsets: atoms of configuration i are ``offsets[i]:offsets[i + 1]``, shape (n + 1,).
    :return: shape (n,).
    :raises ValueError: for a configuration without atoms, or offsets that do not cover all atoms.
    """
    offsets = np.asarray(offsets)
    if len(offsets) < 1 or offsets[0] != 0 or offsets[-1] != len(grade) or (np.diff(offsets) < 1).any():
        raise ValueError(
            f'`offsets` should rise from 0 to the number of atoms, {len(grade)}, with at least one atom a configuration'
        )
    return np.maximum.reduceat(grade, offsets[:-1]) if len(offsets) > 1 else np.empty(0)


def _checked(features: Any, numbers: np.ndarray) -> Rows:
    rows = Rows(features, 'features')
    if np.shape(numbers) != (len(rows),):
        raise ValueError(
            f'`numbers` has shape {np.shape(numbers)}, expected ({len(rows)},): one for each row of `features`'
        )
    return rows
