"""A committee on a pool: what passes the gate, how far the members deviate, and which frames are selected."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from aiida_alpot.worker.acquisition.calibration import Calibration
from aiida_alpot.worker.acquisition.gate import Gate, Rejection, duplicate_of
from aiida_alpot.worker.acquisition.kept.question import is_per_atom
from aiida_alpot.worker.acquisition.labelled import SignalFunction, chunks
from aiida_alpot.worker.acquisition.selectors import Pick, Scores, Tolerance, above_tolerance
from aiida_alpot.worker.frames.frame import Frame

if TYPE_CHECKING:
    from aiida_alpot.worker.acquisition.kept import KeptSignal
    from aiida_alpot.worker.acquisition.signals import Deviations
    from aiida_alpot.worker.potentials.committee import Committee
    from aiida_alpot.worker.potentials.predictions import Predictions

BLOCK = 2**16
"""Texts are compared in blocks of so many."""
NEARLY = 1 - 1e-9
"""Forces up to this fraction of a bound are below it, however they are rounded."""
SCORES = ('energy_deviation', 'max_force_deviation', 'mean_force_deviation', 'stress_deviation')


@dataclass(frozen=True, eq=False)
class PoolScores:
    """Deviations of the n frames of a pool, NaN for those that the gate refuses.

    :param frame_id: shape (n,), as ASCII bytes where they came from a file: a quarter of the size of texts.
    :param energy_deviation: shape (n,), eV/atom.
    :param max_force_deviation: of the atom the committee deviates most about, shape (n,), eV/A.
    :param mean_force_deviation: shape (n,), eV/A.
    :param stress_deviation: shape (n,), eV/A^3; NaN also where nothing is periodic.
    :param origin: shape (n,).
    :param rejected: what the gate refuses, in the order of the pool.
    """

    frame_id: np.ndarray
    origin: np.ndarray
    energy_deviation: np.ndarray
    max_force_deviation: np.ndarray
    mean_force_deviation: np.ndarray
    stress_deviation: np.ndarray
    rejected: list[Rejection]

    def id_of(self, index: int) -> str:
        """The ``frame_id`` of a frame as a text."""
        return str(self.frame_id[index : index + 1].astype(np.str_)[0])


@dataclass(frozen=True, eq=False)
class Selection:
    """What is selected of a pool.

    :param picks: in the order of the selector.
    :param rejected: everything refused, for geometry, predictions or expected error, in the order of the pool.
    :param n_above: frames that pass the gate and exceed the tolerance.
    :param expected_force_error: shape (n,), eV/A, NaN where refused before prediction.
    :param expected_energy_error: shape (n,), eV/atom, likewise.
    """

    picks: list[Pick]
    rejected: list[Rejection]
    n_above: int
    expected_force_error: np.ndarray
    expected_energy_error: np.ndarray


@dataclass(frozen=True, eq=False)
class Scorer:
    """What the frames of a pool are judged by.

    :param features: representations that the signal and the selector need.
    :param sink: is given the places in the pool of some frames, and their predictions.
    :param kept: values of the signal that are known from before; their frames are not asked for features of atoms.
    """

    committee: Committee
    signal: SignalFunction
    gate: Gate
    features: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    sink: Callable[[np.ndarray, Predictions], None] | None = None
    kept: KeptSignal | None = None

    def judge(self, frames: list[Frame]) -> Iterator[tuple[np.ndarray, Predictions, Deviations]]:
        """Predictions and signal of some frames, in one part or two: places among them, and what is said."""
        known, values = self.kept.get(frames) if self.kept else (np.zeros(len(frames), dtype=bool), None)
        if values is not None:
            features = {name: options for name, options in self.features.items() if not is_per_atom(name)}
            yield np.flatnonzero(known), self._ask([frames[i] for i in np.flatnonzero(known)], features), values
        if not known.all():
            rest = [frames[i] for i in np.flatnonzero(~known)]
            predictions = self._ask(rest, self.features)
            deviations = self.signal(predictions)
            if self.kept:
                self.kept.add(rest, deviations)
            yield np.flatnonzero(~known), predictions, deviations

    def _ask(self, frames: list[Frame], features: Mapping[str, Mapping[str, Any]]) -> Predictions:
        return self.committee.evaluate(frames, features=features) if features else self.committee.evaluate(frames)


def score_pool(frames: Iterable[Frame], frame_ids: np.ndarray, scorer: Scorer) -> PoolScores:
    """Deviations of all frames of a pool, in chunks.

    :param frame_ids: of the frames, in their order, shape (n,).
    """
    n = len(frame_ids)
    first = first_places(frame_ids)
    scores = {name: np.full(n, np.nan) for name in SCORES}
    origins: list[str] = []
    rejected: list[Rejection] = []
    start = 0
    for chunk in chunks(frames):
        ids = frame_ids[start : start + len(chunk)].astype(np.str_).tolist()
        reasons = [
            duplicate_of(first[start + i]) if first[start + i] < start + i else scorer.gate.structure(frame, ids[i])
            for i, frame in enumerate(chunk)
        ]
        passed = [i for i, reason in enumerate(reasons) if not reason]
        if passed:
            late = _score_chunk([chunk[i] for i in passed], np.array(passed) + start, scorer, scores)
            reasons = [reason or late.get(start + i, '') for i, reason in enumerate(reasons)]
        rejected += [Rejection(ids[i], start + i, reason) for i, reason in enumerate(reasons) if reason]
        origins += [frame.origin for frame in chunk]
        start += len(chunk)
    return PoolScores(frame_id=frame_ids, origin=np.array(origins, dtype=np.str_), rejected=rejected, **scores)


def first_places(texts: np.ndarray) -> np.ndarray:
    """For each text the place of the first that equals it, shape (n,); without a copy of the texts."""
    order = np.argsort(texts, kind='stable')
    repeats = np.zeros(len(texts), dtype=bool)
    for start in range(1, len(texts), BLOCK):
        stop = min(start + BLOCK, len(texts))
        repeats[start:stop] = texts[order[start:stop]] == texts[order[start - 1 : stop - 1]]
    groups = np.cumsum(~repeats) - 1
    first = np.empty(len(texts), dtype=np.int64)
    first[order] = order[np.flatnonzero(~repeats)][groups] if len(texts) else order
    return first


def _score_chunk(
    frames: list[Frame], rows: np.ndarray, scorer: Scorer, scores: dict[str, np.ndarray]
) -> dict[int, str]:
    """Write the scores of some frames into the rows of the pool; returns those refused for their predictions."""
    refused: dict[int, str] = {}
    for places, predictions, deviations in scorer.judge(frames):
        here = rows[places]
        if scorer.sink is not None:
            scorer.sink(here, predictions)
        absurd = _absurd(predictions, scorer.gate)
        refused |= {int(here[i]): reason for i, reason in absurd.items()}
        fine = np.ones(len(here), dtype=bool)
        fine[list(absurd)] = False
        columns = (deviations.energy, deviations.max_force, deviations.mean_force, deviations.stress)
        for name, column in zip(SCORES, columns, strict=True):
            scores[name][here[fine]] = column[fine]
    return refused


def _absurd(predictions: Predictions, gate: Gate) -> dict[int, str]:
    """Which frames are refused for what is predicted of them, and why."""
    starts = predictions.offsets[:-1].astype(np.int64)
    forces = predictions.forces.mean(axis=0)
    atoms_finite = np.isfinite(predictions.forces).all(axis=(0, 2))
    finite = np.isfinite(predictions.energy).all(axis=0) & np.logical_and.reduceat(atoms_finite, starts)
    with np.errstate(invalid='ignore', over='ignore'):
        largest = np.maximum.reduceat((forces**2).sum(axis=1), starts)
        suspicious = ~finite | ~(np.sqrt(largest) < NEARLY * gate.settings.max_force)
    reasons = {
        i: gate.prediction(forces[predictions.offsets[i] : predictions.offsets[i + 1]], bool(finite[i]))
        for i in np.flatnonzero(suspicious).tolist()
    }
    return {i: reason for i, reason in reasons.items() if reason}


def select(
    scores: PoolScores,
    calibrations: Mapping[str, Calibration],
    gate: Gate,
    tolerance: Tolerance,
    pick: Callable[[Scores], list[Pick]],
) -> Selection:
    """Frames of a pool to be labelled; none is a normal outcome.

    :param calibrations: ``forces``, applied to the largest force deviation of each frame, and ``energy``.
    :param pick: from the scores of what passes the gate to picks.
    """
    force_error = calibrations['forces'].expected_error(scores.max_force_deviation, scores.origin)
    energy_error = calibrations['energy'].expected_error(scores.energy_deviation, scores.origin)
    open_ = np.ones(len(force_error), dtype=bool)
    open_[[rejection.index for rejection in scores.rejected]] = False
    late = _doubtful(scores, np.where(open_, force_error, np.nan), gate)
    open_[[rejection.index for rejection in late]] = False
    rows = np.flatnonzero(open_)
    passed = Scores(rows, scores.frame_id[rows], force_error[rows], energy_error[rows], scores.origin[rows])
    return Selection(
        picks=pick(passed),
        rejected=sorted([*scores.rejected, *late], key=lambda rejection: rejection.index),
        n_above=len(above_tolerance(passed, tolerance)),
        expected_force_error=force_error,
        expected_energy_error=energy_error,
    )


def _doubtful(scores: PoolScores, force_error: np.ndarray, gate: Gate) -> list[Rejection]:
    """Frames that the gate refuses for their expected force errors, shape (n,), eV/A, NaN where that is no question."""
    bound = gate.settings.max_expected_force_error
    rows = np.flatnonzero(force_error > bound) if bound is not None else np.zeros(0, dtype=np.int64)
    return [Rejection(scores.id_of(row), row, gate.expectation(float(force_error[row]))) for row in rows.tolist()]
