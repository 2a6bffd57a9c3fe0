"""A committee against labels: its errors, and the pairs of deviation and error that a calibration is fitted to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from aiida_alpot.worker.acquisition.calibration import vanishing
from aiida_alpot.worker.acquisition.signals import Deviations
from aiida_alpot.worker.frames.frame import SPLITS, Frame

if TYPE_CHECKING:
    from aiida_alpot.worker.potentials.committee import Committee
    from aiida_alpot.worker.potentials.predictions import Predictions

SignalFunction = Callable[['Predictions'], Deviations]
FeatureSink = Callable[[list[Frame], 'Predictions'], None]

CHUNK_FRAMES = 512
CHUNK_ATOMS = 2**14
"""Frames are evaluated in chunks that end at one of these bounds. This bounds the memory, and what is lost when an
evaluation is killed: a chunk is kept when it is done."""
SHEAR_ONCE = np.triu_indices(3)
"""The six components of a symmetric tensor, each once."""


def chunks(frames: Iterable[Frame]) -> Iterator[list[Frame]]:
    """Frames in lists of bounded size, in order."""
    chunk: list[Frame] = []
    atoms = 0
    for frame in frames:
        chunk.append(frame)
        atoms += len(frame)
        if len(chunk) >= CHUNK_FRAMES or atoms >= CHUNK_ATOMS:
            yield chunk
            chunk, atoms = [], 0
    if chunk:
        yield chunk


def is_isolated_atom(frame: Frame) -> bool:
    """A single atom without periodicity: a reference of the energy, no test of a potential."""
    return len(frame) == 1 and not frame.pbc.any()


@dataclass(frozen=True, eq=False)
class Labelled:
    """Labels and predictions (mean of the M members) of n frames with N atoms; NaN where there is no label.

    :param offsets: atoms of frame i are ``offsets[i]:offsets[i + 1]``, shape (n + 1,).
    :param isolated: whether it is an isolated atom, shape (n,): these enter neither metrics nor calibration.
    :param symmetric: whether all its forces vanish by symmetry, shape (n,).
    :param energy_ref: total energies, shape (n,), eV; likewise ``energy_pred``.
    :param forces_ref: shape (N, 3), eV/A; likewise ``forces_pred``.
    :param stress_ref: shape (n, 3, 3), eV/A^3; likewise ``stress_pred``.
    :param energy_deviation: shape (n,), eV/atom.
    :param force_deviation: shape (N,), eV/A.
    :param max_force_deviation: shape (n,), eV/A.
    :param stress_deviation: shape (n,), eV/A^3.
    :param energy_members: predicted by each member, shape (n, M), eV.
    :param force_squares: sum over atoms and components of the squared errors of each member, shape (n, M), (eV/A)^2.
    :param stress_squares: sum over the six components of the squared errors of each member, shape (n, M), (eV/A^3)^2.
    """

    frame_id: np.ndarray
    split: np.ndarray
    origin: np.ndarray
    offsets: np.ndarray
    isolated: np.ndarray
    symmetric: np.ndarray
    energy_ref: np.ndarray
    energy_pred: np.ndarray
    forces_ref: np.ndarray
    forces_pred: np.ndarray
    stress_ref: np.ndarray
    stress_pred: np.ndarray
    energy_deviation: np.ndarray
    force_deviation: np.ndarray
    max_force_deviation: np.ndarray
    stress_deviation: np.ndarray
    energy_members: np.ndarray
    force_squares: np.ndarray
    stress_squares: np.ndarray

    @property
    def n_atoms(self) -> np.ndarray:
        """Number of atoms of each frame, shape (n,)."""
        return np.diff(self.offsets)

    @property
    def frame_of_atom(self) -> np.ndarray:
        """Frame of each atom, shape (N,)."""
        return np.repeat(np.arange(len(self.n_atoms)), self.n_atoms)

    def arrays(self) -> dict[str, np.ndarray]:
        """What is written for others to plot: labels, predictions, deviations."""
        left_out = ('symmetric', 'energy_members', 'force_squares', 'stress_squares')
        return {name: value for name, value in vars(self).items() if name not in left_out} | {'n_atoms': self.n_atoms}


def evaluate_labelled(
    frames: Iterable[Frame],
    committee: Committee,
    signal: SignalFunction,
    features: Mapping[str, Mapping[str, Any]] | None = None,
    sink: FeatureSink | None = None,
) -> Labelled:
    """Predict the frames that have an energy or forces, chunk by chunk.

    :param features: representations to make on the way.
    :param sink: is given the frames and predictions of each chunk.
    """
    labelled = (frame for frame in frames if frame.energy is not None or frame.forces is not None)
    parts = [_evaluate_chunk(chunk, committee, signal, features or {}, sink) for chunk in chunks(labelled)]
    parts = parts or [_evaluate_chunk([], committee, signal, {}, None)]
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    columns['offsets'] = np.concatenate([[0], np.cumsum(columns.pop('lengths'))]).astype(np.int64)
    return Labelled(**columns)


def _evaluate_chunk(
    frames: list[Frame],
    committee: Committee,
    signal: SignalFunction,
    features: Mapping[str, Mapping[str, Any]],
    sink: FeatureSink | None,
) -> dict[str, np.ndarray]:
    predictions = committee.evaluate(frames, features=features) if features else committee.evaluate(frames)
    deviations = signal(predictions) if frames else nothing_deviates(predictions)
    if sink is not None:
        sink(frames, predictions)
    offsets = predictions.offsets
    lengths = np.diff(offsets)
    forces_ref = _stack([_label(frame.forces, (len(frame), 3)) for frame in frames], (3,))
    stress_ref = _stack([_label(frame.stress, (1, 3, 3)) for frame in frames], (3, 3))
    atoms = [slice(start, stop) for start, stop in pairwise(offsets.tolist())]
    atom_squares = ((predictions.forces - forces_ref) ** 2).sum(axis=2)
    stress_error = (predictions.stress - stress_ref)[:, :, SHEAR_ONCE[0], SHEAR_ONCE[1]]
    return {
        'frame_id': _texts([frame.frame_id for frame in frames]),
        'split': _texts([frame.split for frame in frames]),
        'origin': _texts([frame.origin for frame in frames]),
        'lengths': lengths,
        'isolated': np.array([is_isolated_atom(frame) for frame in frames], dtype=bool),
        'symmetric': np.array([vanishing(predictions.forces[:, i], forces_ref[i]) for i in atoms], dtype=bool),
        'energy_ref': np.array([np.nan if frame.energy is None else frame.energy for frame in frames], dtype=float),
        'energy_pred': predictions.energy.mean(axis=0),
        'forces_ref': forces_ref,
        'forces_pred': predictions.forces.mean(axis=0),
        'stress_ref': stress_ref,
        'stress_pred': predictions.stress.mean(axis=0),
        'energy_deviation': deviations.energy,
        'force_deviation': deviations.force,
        'max_force_deviation': deviations.max_force,
        'stress_deviation': deviations.stress,
        'energy_members': predictions.energy.T,
        'force_squares': np.array([atom_squares[:, i].sum(axis=1) for i in atoms]).reshape(-1, committee.n_members),
        'stress_squares': (stress_error**2).sum(axis=2).T,
    }


def nothing_deviates(predictions: Predictions) -> Deviations:
    """Deviations of no frames."""
    return Deviations(*(np.zeros(0) for _ in range(5)))


def _label(value: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray:
    return np.full(shape, np.nan) if value is None else value.reshape(shape)


def _stack(values: list[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    return np.concatenate(values) if values else np.zeros((0, *shape))


def _texts(values: list[str]) -> np.ndarray:
    return np.array(values, dtype=np.str_)


def energy_pairs(labelled: Labelled, split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Deviation and absolute error of the energy per atom, eV/atom, and frame of each; shape (k,) all three."""
    rows = np.flatnonzero((labelled.split == split) & ~labelled.isolated & np.isfinite(labelled.energy_ref))
    error = np.abs(labelled.energy_pred - labelled.energy_ref) / labelled.n_atoms
    return labelled.energy_deviation[rows], error[rows], rows


def force_pairs(labelled: Labelled, split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Deviation and norm of the error of the force on each atom, eV/A, and frame of each; shape (k,) all three.

    Frames whose forces vanish by symmetry are left out.
    """
    wanted = (labelled.split == split) & ~labelled.isolated & ~labelled.symmetric
    frame = labelled.frame_of_atom
    error = np.linalg.norm(labelled.forces_pred - labelled.forces_ref, axis=1)
    rows = np.flatnonzero(wanted[frame] & np.isfinite(labelled.forces_ref).all(axis=1))
    return labelled.force_deviation[rows], error[rows], frame[rows]


def metrics(labelled: Labelled) -> dict[str, dict[str, dict[str, Any]]]:
    """Errors of the mean of the members for each split: energy (eV/atom), forces and stress (components; eV/A, eV/A^3).

    :return: split -> property -> ``rmse``, ``mae``, ``rmse_members`` (one a member, for the members alone), ``n``
        (numbers compared: frames, 3 an atom, 6 a frame), ``n_not_finite`` (predictions that are not finite; with any of
        them, as without labels, the errors are ``None``).
    """
    return {split: _metrics_of(labelled, (labelled.split == split) & ~labelled.isolated) for split in SPLITS}


def _metrics_of(labelled: Labelled, wanted: np.ndarray) -> dict[str, dict[str, Any]]:
    energy = wanted & np.isfinite(labelled.energy_ref)
    atoms = wanted[labelled.frame_of_atom] & np.isfinite(labelled.forces_ref).all(axis=1)
    forces = np.zeros_like(wanted)
    forces[labelled.frame_of_atom[atoms]] = True
    # There is no stress (NaN) where nothing is periodic; any other NaN shows in the energy.
    stress = (
        wanted & np.isfinite(labelled.stress_ref).all(axis=(1, 2)) & np.isfinite(labelled.stress_pred).all(axis=(1, 2))
    )
    n = labelled.n_atoms[energy]
    energy_members = (labelled.energy_members[energy] - labelled.energy_ref[energy, None]) / n[:, None]
    stress_error = (labelled.stress_pred - labelled.stress_ref)[stress][:, SHEAR_ONCE[0], SHEAR_ONCE[1]]
    return {
        'energy': _summary((labelled.energy_pred - labelled.energy_ref)[energy] / n, energy_members**2),
        'forces': _summary((labelled.forces_pred - labelled.forces_ref)[atoms], labelled.force_squares[forces]),
        'stress': _summary(stress_error, labelled.stress_squares[stress]),
    }


def _summary(error: np.ndarray, member_squares: np.ndarray) -> dict[str, Any]:
    n, bad = error.size, int(np.sum(~np.isfinite(error)))
    counts = {'n': n, 'n_not_finite': bad}
    if n == 0 or bad:
        return {'rmse': None, 'mae': None, 'rmse_members': None, **counts}
    return {
        'rmse': float(np.sqrt(np.mean(error**2))),
        'mae': float(np.mean(np.abs(error))),
        'rmse_members': np.sqrt(member_squares.sum(axis=0) / n).tolist(),
        **counts,
    }
