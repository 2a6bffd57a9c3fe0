"""A committee on a pool: what passes the gate, how far the members deviate, and which frames are selected."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from aiida_alpot.worker.acquisition.calibration import Calibration
from aiida_alpot.worker.acquisition.gate import Gate, Rejection
from aiida_alpot.worker.acquisition.labelled import SignalFunction, chunks
from aiida_alpot.worker.acquisition.selectors import Pick, Scores, Tolerance, above_tolerance
from aiida_alpot.worker.frames.frame import Frame

if TYPE_CHECKING:
    from aiida_alpot.worker.potentials.committee import Committee
    from aiida_alpot.worker.potentials.predictions import Predictions

SCORES = ('energy_deviation', 'max_force_deviation', 'mean_force_deviation', 'stress_deviation')


@dataclass(frozen=True, eq=False)
class PoolScores:
    """Deviations of the n frames of a pool, NaN for those that the gate refuses.

    :param frame_id: shape (n,).
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
    """

    committee: Committee
    signal: SignalFunction
    gate: Gate
    features: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    sink: Callable[[np.ndarray, Predictions], None] | None = None


def score_pool(frames: Iterable[Frame], frame_ids: np.ndarray, scorer: Scorer) -> PoolScores:
    """Deviations of all frames of a pool, in chunks.

    :param frame_ids: of the frames, in their order, shape (n,).
    """
    n = len(frame_ids)
    scores = {name: np.full(n, np.nan) for name in SCORES}
    origins: list[str] = []
    rejected: list[Rejection] = []
    start = 0
    for chunk in chunks(frames):
        ids = frame_ids[start : start + len(chunk)]
        reasons = [scorer.gate.geometry(frame, str(ids[i]), start + i) for i, frame in enumerate(chunk)]
        passed = [i for i, reason in enumerate(reasons) if not reason]
        if passed:
            late = _score_chunk([chunk[i] for i in passed], np.array(passed) + start, scorer, scores)
            reasons = [reason or late.get(start + i, '') for i, reason in enumerate(reasons)]
        rejected += [Rejection(str(ids[i]), start + i, reason) for i, reason in enumerate(reasons) if reason]
        origins += [frame.origin for frame in chunk]
        start += len(chunk)
    return PoolScores(frame_id=frame_ids, origin=np.array(origins, dtype=np.str_), rejected=rejected, **scores)


def _score_chunk(
    frames: list[Frame], rows: np.ndarray, scorer: Scorer, scores: dict[str, np.ndarray]
) -> dict[int, str]:
    """Write the scores of some frames into the rows of the pool; returns those refused for their predictions."""
    committee, gate = scorer.committee, scorer.gate
    predictions = (
        committee.evaluate(frames, features=scorer.features) if scorer.features else committee.evaluate(frames)
    )
    deviations = scorer.signal(predictions)
    if scorer.sink is not None:
        scorer.sink(rows, predictions)
    mean_forces = predictions.forces.mean(axis=0)
    columns = (deviations.energy, deviations.max_force, deviations.mean_force, deviations.stress)
    refused = {}
    for i, row in enumerate(rows.tolist()):
        atoms = slice(predictions.offsets[i], predictions.offsets[i + 1])
        finite = np.isfinite(predictions.energy[:, i]).all() and np.isfinite(predictions.forces[:, atoms]).all()
        reason = gate.prediction(mean_forces[atoms], bool(finite))
        if reason:
            refused[row] = reason
            continue
        for name, column in zip(SCORES, columns, strict=True):
            scores[name][row] = column[i]
    return refused


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
    refused = {rejection.index for rejection in scores.rejected}
    doubts = {i: gate.expectation(float(force_error[i])) for i in range(len(force_error)) if i not in refused}
    late = [Rejection(str(scores.frame_id[i]), i, reason) for i, reason in doubts.items() if reason]
    rows = np.array([i for i, reason in doubts.items() if not reason], dtype=np.int64)
    passed = Scores(rows, scores.frame_id[rows], force_error[rows], energy_error[rows], scores.origin[rows])
    return Selection(
        picks=pick(passed),
        rejected=sorted([*scores.rejected, *late], key=lambda rejection: rejection.index),
        n_above=len(above_tolerance(passed, tolerance)),
        expected_force_error=force_error,
        expected_energy_error=energy_error,
    )
