"""A campaign in plain numbers: everything that table, figures and page are made from, without AiiDA."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np

from aiida_alpot.worker.acquisition.calibration import Calibration

PROPERTIES = ('energy', 'forces', 'stress')
SPLIT_ORDER = ('train', 'validation', 'test')
SHEAR_ONCE = np.triu_indices(3)
"""The six components of a symmetric tensor, each once."""


@dataclass(frozen=True)
class Errors:
    """Errors of the mean of a committee on one property: eV/atom, eV/A or eV/A^3.

    :param rmse: ``None`` where nothing was compared or a prediction was not finite; likewise ``mae``.
    :param n: number of values compared.
    :param members: RMSE of each member alone.
    """

    rmse: float | None
    mae: float | None
    n: int
    members: tuple[float, ...] = ()


@dataclass(frozen=True)
class CalibrationRecord:
    """What error is expected of a deviation, and the quality of that; ``None`` for what could not be computed.

    :param slope: where the expected error is proportional to the deviation.
    :param curve: where it need not be.
    """

    slope: float | None
    fitted_slope: float | None
    slope_error: float | None
    r2: float | None
    spearman: float | None
    coverage: float | None
    n: int
    n_frames: int
    trustworthy: bool
    reason: str
    kind: str = 'linear'
    curve: Calibration | None = None

    def expected_error(self, deviation: np.ndarray) -> np.ndarray:
        """Error to expect at deviations, any shape."""
        if self.curve is not None:
            return self.curve.expected_error(deviation)
        return (self.slope or 1.0) * np.asarray(deviation, dtype=np.float64)

    def threshold(self, tolerance: float) -> float:
        """Deviation above which the expected error exceeds the tolerance."""
        return self.curve.threshold(tolerance) if self.curve is not None else tolerance / (self.slope or 1.0)


@dataclass(frozen=True, eq=False)
class Predictions:
    """Labels and predictions of n frames with N atoms, isolated atoms left out; NaN where there is no label.

    :param split: shape (n,); likewise ``origin`` and ``n_atoms``.
    :param offsets: atoms of frame i are ``offsets[i]:offsets[i + 1]``, shape (n + 1,).
    :param energy_ref: total energies, shape (n,), eV; likewise ``energy_pred``.
    :param forces_ref: shape (N, 3), eV/A; likewise ``forces_pred``.
    :param stress_ref: shape (n, 3, 3), eV/A^3; likewise ``stress_pred``.
    :param force_deviation: of the committee on each atom, shape (N,), eV/A.
    :param energy_deviation: shape (n,), eV/atom.
    """

    split: np.ndarray
    origin: np.ndarray
    n_atoms: np.ndarray
    offsets: np.ndarray
    energy_ref: np.ndarray
    energy_pred: np.ndarray
    forces_ref: np.ndarray
    forces_pred: np.ndarray
    stress_ref: np.ndarray
    stress_pred: np.ndarray
    force_deviation: np.ndarray
    energy_deviation: np.ndarray

    def pairs(self, name: str, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Reference and prediction of a property on one split, shape (k,) both: eV/atom, eV/A, eV/A^3.

        :param name: ``energy`` (per atom), ``forces`` (components) or ``stress`` (the six components).
        """
        frames = self.split == split
        if name == 'energy':
            reference, predicted = self.energy_ref[frames], self.energy_pred[frames]
            reference, predicted = reference / self.n_atoms[frames], predicted / self.n_atoms[frames]
        elif name == 'forces':
            atoms = np.repeat(frames, self.n_atoms)
            reference, predicted = self.forces_ref[atoms].ravel(), self.forces_pred[atoms].ravel()
        else:
            reference = self.stress_ref[frames][:, SHEAR_ONCE[0], SHEAR_ONCE[1]].ravel()
            predicted = self.stress_pred[frames][:, SHEAR_ONCE[0], SHEAR_ONCE[1]].ravel()
        finite = np.isfinite(reference) & np.isfinite(predicted)
        return reference[finite], predicted[finite]

    def force_errors(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Deviation and norm of the force error on each atom of a split, shape (k,) both, eV/A.

        Frames whose forces vanish by symmetry are left out, as they are for the calibration.
        """
        from aiida_alpot.worker.acquisition.calibration import VANISHING_FORCE

        norms = np.maximum(np.linalg.norm(self.forces_ref, axis=1), np.linalg.norm(self.forces_pred, axis=1))
        frame = np.repeat(np.arange(len(self.n_atoms)), self.n_atoms)
        largest = np.zeros(len(self.n_atoms))
        np.maximum.at(largest, frame, norms)
        error = np.linalg.norm(self.forces_pred - self.forces_ref, axis=1)
        kept = ((self.split == split) & (largest > VANISHING_FORCE))[frame]
        kept &= np.isfinite(error) & np.isfinite(self.force_deviation)
        return self.force_deviation[kept], error[kept]


@dataclass(frozen=True, eq=False)
class Scores:
    """What the committee thinks of the n frames of a pool; NaN for frames that the gate refused unseen.

    :param frame_id: shape (n,).
    :param expected_force_error: shape (n,), eV/A; likewise ``max_force_deviation``.
    """

    frame_id: np.ndarray
    expected_force_error: np.ndarray
    max_force_deviation: np.ndarray


@dataclass(frozen=True, eq=False)
class Trajectory:
    """A trajectory of molecular dynamics.

    :param temperature: of its condition, K.
    :param reason: why it ended, as ``alpot-md`` says it.
    :param time: of the steps at which all members were evaluated, shape (n,), ps.
    :param expected_error: largest expected force error of an atom at these steps, shape (n,), eV/A.
    """

    temperature: float
    reason: str
    time: np.ndarray
    expected_error: np.ndarray


@dataclass(frozen=True, eq=False)
class Round:
    """One training of the committee, and what was made of it; a round that is under way has less.

    :param n_labelled: labelled frames in the data set that the training was given.
    :param labels: labelled frames at its evaluation, isolated atoms included, by split; a test set that was made after
        the training of the first round is among them.
    :param n_pool: frames of the pool; likewise ``n_rejected`` by the gate, ``n_candidates`` above the tolerance, and
        ``n_selected``.
    :param metrics: errors by split and property.
    :param calibration: by ``forces`` and ``energy``.
    :param thresholds: by property ``tolerance`` and ``deviation``.
    :param selected: reason by frame; likewise ``rejected``.
    :param pks: PK by name of what the round made.
    :param trajectories: of the exploration; only of the first and of the last round.
    :param bound: expected force error beyond which a trajectory has met something new, eV/A.
    """

    number: int
    n_labelled: int
    labels: Mapping[str, int]
    n_pool: int | None = None
    n_rejected: int | None = None
    n_candidates: int | None = None
    n_selected: int | None = None
    metrics: Mapping[str, Mapping[str, Errors]] = field(default_factory=dict)
    calibration: Mapping[str, CalibrationRecord] = field(default_factory=dict)
    thresholds: Mapping[str, Any] = field(default_factory=dict)
    predictions: Predictions | None = None
    scores: Scores | None = None
    selected: Mapping[str, str] = field(default_factory=dict)
    rejected: Mapping[str, str] = field(default_factory=dict)
    pks: Mapping[str, int] = field(default_factory=dict)
    trajectories: tuple[Trajectory, ...] = ()
    bound: float | None = None

    @property
    def n_fitted(self) -> int:
        """Labelled frames that the training saw: to fit, and to choose the epoch by."""
        return sum(self.labels.get(split, 0) for split in ('train', 'validation'))

    def rmse(self, split: str, name: str) -> float | None:
        """RMSE of a property on a split, where it was measured."""
        errors = self.metrics.get(split, {}).get(name)
        return None if errors is None else errors.rmse


@dataclass(frozen=True)
class Failure:
    """A frame that got no label."""

    labelling: str
    frame_id: str
    index: int
    pk: int | None
    exit_status: int | None
    reason: str


@dataclass(frozen=True)
class Labelling:
    """Account of one labelling: frames asked for, labelled and failed, and labelled from the database."""

    name: str
    n_requested: int
    n_labelled: int
    n_failed: int
    n_reused: int = 0

    @property
    def n_bought(self) -> int:
        """Frames that were labelled by a calculation of this labelling."""
        return self.n_labelled - self.n_reused


@dataclass(frozen=True)
class Stage:
    """A stage of the campaign.

    :param label: as the campaign calls it, e.g. ``training_1``.
    :param kind: ``augmentation``, ``labelling``, ``training``, ``calibration``, ``exploration`` or ``evaluation``.
    :param part: which part of the campaign it belongs to: ``start``, ``test set`` or ``round <n>``.
    :param seconds: wall-clock time, up to now for a stage that runs.
    """

    label: str
    kind: str
    part: str
    pk: int
    seconds: float
    state: str


@dataclass(frozen=True, eq=False)
class CampaignRecord:
    """All there is to tell about a campaign.

    :param state: state of the process: ``finished``, ``running``, ``waiting``, ``excepted``, ``killed``.
    :param ended_by: ``converged``, ``targets`` or ``max_rounds``; ``None`` where it has not ended normally.
    :param seconds: wall-clock time, up to now for a campaign that runs.
    :param n_processes: calculations and work chains of the campaign, itself included.
    :param n_data: data nodes that these made or used.
    :param outputs: PK by name of the final outputs, or of the latest there are.
    :param targets: RMSE to reach: eV/atom, eV/A, eV/A^3; ``None`` where any will do; likewise
    :param tolerance: the error of a frame that makes it a candidate.
    :param settings: inputs by their full name.
    :param codes: label of each code by the full name of the input.
    """

    pk: int
    uuid: str
    label: str
    state: str
    exit_status: int | None
    exit_message: str
    ended_by: str | None
    started: datetime
    seconds: float
    elements: tuple[str, ...]
    rounds: tuple[Round, ...]
    labellings: tuple[Labelling, ...]
    failures: tuple[Failure, ...]
    stages: tuple[Stage, ...]
    n_processes: int
    n_data: int
    outputs: Mapping[str, int]
    targets: Mapping[str, float | None]
    tolerance: Mapping[str, float | None]
    settings: Mapping[str, Any]
    codes: Mapping[str, str]

    @property
    def terminated(self) -> bool:
        """Whether nothing more will come."""
        return self.state in ('finished', 'excepted', 'killed')

    @property
    def n_nodes(self) -> int:
        """Nodes of the campaign, data included."""
        return self.n_processes + self.n_data

    @property
    def n_labels(self) -> int:
        """Labels that the campaign made."""
        return sum(labelling.n_bought for labelling in self.labellings)

    @property
    def n_reused(self) -> int:
        """Labels that the campaign took from the database."""
        return sum(labelling.n_reused for labelling in self.labellings)

    @property
    def nodes_per_label(self) -> float:
        """Nodes for each label that was made; NaN before the first."""
        return self.n_nodes / self.n_labels if self.n_labels else math.nan

    @property
    def evaluated(self) -> tuple[Round, ...]:
        """The rounds with errors."""
        return tuple(made for made in self.rounds if made.metrics)

    @property
    def held_out(self) -> str:
        """The split whose errors count: ``test``, or ``validation`` where nothing was tested."""
        tested = any(made.rmse('test', name) is not None for made in self.rounds for name in PROPERTIES)
        return 'test' if tested else 'validation'

    @property
    def outcome(self) -> str:
        """How the campaign ended, or how far it is, as a sentence."""
        n = len(self.rounds)
        rounds = f'{n} round{"" if n == 1 else "s"}'
        if self.ended_by:
            return ENDINGS.get(self.ended_by, f'The campaign ended by {self.ended_by} after {{rounds}}.').format(
                rounds=rounds
            )
        if not self.terminated:
            under_way = [stage.label for stage in self.stages if stage.state not in ('finished', 'excepted', 'killed')]
            stage = under_way[-1] if under_way else 'a step of its own'
            return f'The campaign is {self.state} in {stage}, with {rounds} so far.'
        reason = self.exit_message.rstrip('.') or 'no message was left'
        code = '' if self.exit_status is None else f' with exit code {self.exit_status}'
        verb = {'excepted': 'was ended by an exception', 'killed': 'was killed'}.get(self.state, 'failed')
        return f'The campaign {verb}{code} after {rounds}: {reason}.'


ENDINGS = {
    'converged': 'The campaign converged after {rounds}: no frame of the pool exceeds the tolerance any more.',
    'targets': 'The campaign reached its targets after {rounds}.',
    'max_rounds': 'The campaign ended after {rounds}, which is as many as it was allowed.',
}
"""Sentence about each normal ending."""
