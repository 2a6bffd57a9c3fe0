"""The extrapolation grade of D-optimality as a signal."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from aiida_alpot.worker.acquisition.extrapolation import (
    CLUSTERINGS,
    ActiveSets,
    choose_active_sets,
    configuration_grades,
)
from aiida_alpot.worker.acquisition.extrapolation.clusters import birch_of_scikit_learn
from aiida_alpot.worker.acquisition.feature_file import FeatureFile
from aiida_alpot.worker.acquisition.signals.base import Signal
from aiida_alpot.worker.acquisition.signals.committee import Deviations
from aiida_alpot.worker.options import boolean, choice, integer

if TYPE_CHECKING:
    from aiida_alpot.worker.frames.frame import Frame
    from aiida_alpot.worker.potentials.committee import Committee
    from aiida_alpot.worker.potentials.predictions import Predictions

BY_ORIGIN = 'origin'
PER_ATOM = '_per_atom'


@dataclass
class ExtrapolationGrade(Signal):
    """Extrapolation grade of each atom against active sets of the training frames, and the largest of a frame.

    Eqs 8-14 of the W study (Shuang et al., Mach. Learn.: Sci. Technol. 7, 025002), see
    :mod:`~aiida_alpot.worker.acquisition.extrapolation`. It needs one member only, and has no unit: below 1 an
    environment is spanned by those that were trained on. An atom of a species without active set has the grade ``inf``.

    :param representation: features of atoms, whose name ends in ``_per_atom``.
    :param representation_options: its options.
    :param rectangular: more active environments than directions.
    :param clusters: ``None``, one active set a species; ``origin``, one for each origin of the training frames;
        ``k_means`` or ``birch``, one for each cluster of environments. The grade is then the least of them: local.
    :param n_clusters: of the clusterings.
    :param seed: of k-means.
    """

    representation: str = 'activations_per_atom'
    representation_options: Mapping[str, Any] = field(default_factory=dict)
    rectangular: bool = False
    clusters: str | None = None
    n_clusters: int = 4
    seed: int = 0
    sets: ActiveSets | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if not str(self.representation).endswith(PER_ATOM):
            raise ValueError(
                f'`representation` of an extrapolation grade is {self.representation!r}, expected features of atoms: '
                f'a name that ends in {PER_ATOM}'
            )
        boolean('rectangular', self.rectangular)
        integer('n_clusters', self.n_clusters, 1)
        integer('seed', self.seed, 0)
        if self.clusters is not None:
            choice('clusters', self.clusters, [BY_ORIGIN, *CLUSTERINGS])

    @property
    def features(self) -> Mapping[str, Mapping[str, Any]]:
        """The features of atoms."""
        return {self.representation: self.representation_options}

    def check(self, committee: Committee) -> None:
        """Find out whether the clusters can be made, before anything is evaluated.

        :raises ModuleNotFoundError: for BIRCH where scikit-learn is not installed.
        """
        if self.clusters == 'birch':
            birch_of_scikit_learn()

    def fit(self, committee: Committee, frames: Iterable[Frame]) -> None:
        """Choose the active sets from the training frames.

        :raises ValueError: where there are none with forces.
        """
        from aiida_alpot.worker.acquisition.labelled import chunks, is_isolated_atom

        self.check(committee)
        trained = (
            frame
            for frame in frames
            if frame.split == 'train' and frame.forces is not None and not is_isolated_atom(frame)
        )
        numbers: list[np.ndarray] = []
        forces: list[np.ndarray] = []
        origins: list[str] = []
        with tempfile.TemporaryDirectory() as directory, FeatureFile(directory, 'active') as rows:
            for chunk in chunks(trained):
                rows.append(
                    committee.evaluate(chunk, members=[0], features=self.features).features[self.representation]
                )
                numbers += [frame.numbers for frame in chunk]
                forces += [frame.forces for frame in chunk if frame.forces is not None]
                origins += [frame.origin for frame in chunk for _ in range(len(frame))]
            if not numbers:
                raise ValueError(
                    'the extrapolation grade needs labelled frames with split `train` to choose its active sets from: '
                    'give the data set that the potential was trained on'
                )
            matrix = rows.read()
            self.sets = choose_active_sets(
                matrix,
                np.concatenate(numbers),
                forces=np.concatenate(forces),
                clusters=self._labels(matrix, origins),
                rectangular=self.rectangular,
                representation=self.representation,
            )

    def _labels(self, matrix: np.ndarray, origins: list[str]) -> Any:
        if self.clusters is None:
            return None
        if self.clusters == BY_ORIGIN:
            return origins
        options = {'seed': self.seed} if self.clusters == 'k_means' else {}
        return CLUSTERINGS[self.clusters](matrix, self.n_clusters, **options)

    def __call__(self, predictions: Predictions) -> Deviations:
        """Grades: of each atom in place of a force deviation, and the largest of a frame."""
        if self.sets is None:
            raise ValueError('the active sets are not chosen yet: call `fit` first')
        assert predictions.numbers is not None
        offsets = np.asarray(predictions.offsets, dtype=np.int64)
        grade = self.sets.grade_atoms(predictions.features[self.representation], predictions.numbers).grade
        largest = configuration_grades(grade, offsets)
        mean = np.add.reduceat(grade, offsets[:-1]) / np.diff(offsets) if len(grade) else np.zeros(0)
        return Deviations(energy=largest, force=grade, max_force=largest, mean_force=mean, stress=largest)

    def report(self) -> dict[str, Any]:
        """Species, cluster, rank and size of each active set."""
        return {} if self.sets is None else self.sets.as_dict()
