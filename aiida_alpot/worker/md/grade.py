"""Extrapolation grades while a run goes on, against active sets that were stored before it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from aiida_alpot.worker.acquisition.extrapolation import ActiveSets, read_active_sets
from aiida_alpot.worker.frames.frame import Frame
from aiida_alpot.worker.frames.shard import hash_file
from aiida_alpot.worker.potentials import Committee, Predictions


class GradeOfFrames:
    """The largest extrapolation grade of an atom of each frame.

    The features of an active set mean something for one model only: that member of the committee is found by the hash
    of its file. Features of the frame alone, such as ``soap_per_atom``, are made with their default options.

    :param committee: the potentials.
    :param files: of the members.
    :param path: file of the active sets.
    :raises ValueError: for a file that holds no active sets, or some of another model.
    :raises OSError: where there is no such file.
    """

    def __init__(self, committee: Committee, files: Sequence[Path | str], path: Path | str) -> None:
        self._committee = committee
        self.sets: ActiveSets = read_active_sets(path)
        hashes = [hash_file(file) for file in files]
        if self.sets.model_hash not in hashes:
            self.sets.check(hashes[0], self.sets.representation)  # says what differs
        self.member = hashes.index(self.sets.model_hash)

    def evaluate(self, frame: Frame) -> tuple[Predictions, float]:
        """What the member says about a frame, and the grade: the largest of its atoms."""
        name = self.sets.representation
        predictions = self._committee.evaluate([frame], [self.member], features=(name,))
        return predictions, float(self.sets.grade_atoms(predictions.features[name], frame.numbers).grade.max())


def with_row(predictions: Predictions, row: int, other: Predictions) -> Predictions:
    """Predictions of one frame with those of one more member.

    :param row: at which it comes.
    :param other: of that member alone.
    """

    def insert(first: np.ndarray | None, second: np.ndarray | None) -> np.ndarray | None:
        if first is None or second is None:
            return None
        return np.concatenate([first[:row], second, first[row:]])

    energy, forces, stress = (
        np.concatenate([values[:row], added, values[row:]])
        for values, added in (
            (predictions.energy, other.energy),
            (predictions.forces, other.forces),
            (predictions.stress, other.stress),
        )
    )
    return Predictions(
        energy,
        forces,
        stress,
        other.offsets,
        virial=insert(predictions.virial, other.virial),
        atomic_energies=insert(predictions.atomic_energies, other.atomic_energies),
        numbers=other.numbers,
    )
