"""The console program ``alpot-evaluate``: metrics, calibration and selection by a committee."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aiida_alpot.worker.acquisition.calibration import CALIBRATIONS, Calibration
from aiida_alpot.worker.acquisition.config import EvaluationConfig, read_config
from aiida_alpot.worker.acquisition.gate import Gate
from aiida_alpot.worker.acquisition.labelled import Labelled, energy_pairs, evaluate_labelled, force_pairs, metrics
from aiida_alpot.worker.acquisition.pool import PoolScores, Selection, score_pool, select
from aiida_alpot.worker.acquisition.selectors import SELECTORS
from aiida_alpot.worker.acquisition.signals import SIGNALS
from aiida_alpot.worker.frames import FrameStore, write_shard
from aiida_alpot.worker.frames.frame import Frame

if TYPE_CHECKING:
    from aiida_alpot.worker.potentials.committee import Committee

CALIBRATION_SPLIT = 'validation'
BAD_INPUT = 2
"""Exit code for input that is refused; the sentence is on standard error."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """All results of an evaluation.

    :param calibrations: ``forces`` and ``energy``.
    """

    config: EvaluationConfig
    labelled: Labelled
    calibrations: dict[str, Calibration]
    scores: PoolScores
    selection: Selection

    def report(self) -> dict[str, Any]:
        """What ``evaluation.json`` holds."""
        tolerance = self.config.tolerance
        return {
            'calibration': {name: calibration.as_dict() for name, calibration in self.calibrations.items()},
            'metrics': metrics(self.labelled),
            'selection': [self._picked(pick.index, pick.reason) for pick in self.selection.picks],
            'rejected': [vars(rejection) for rejection in self.selection.rejected],
            'counts': {
                'pool': len(self.scores.frame_id),
                'rejected': len(self.selection.rejected),
                'rejected_as_uncertain': len(self.selection.rejected) - len(self.scores.rejected),
                'above_threshold': self.selection.n_above,
                'selected': len(self.selection.picks),
            },
            'thresholds': {
                'forces': self._threshold('forces', tolerance.forces),
                'energy': self._threshold('energy', tolerance.energy),
            },
        }

    def _picked(self, index: int, reason: str) -> dict[str, Any]:
        return {
            'frame_id': str(self.scores.frame_id[index]),
            'index': index,
            'reason': reason,
            'max_force_deviation': float(self.scores.max_force_deviation[index]),
            'energy_deviation': float(self.scores.energy_deviation[index]),
            'expected_force_error': float(self.selection.expected_force_error[index]),
            'expected_energy_error': float(self.selection.expected_energy_error[index]),
        }

    def _threshold(self, name: str, tolerance: float | None) -> dict[str, float] | None:
        if tolerance is None:
            return None
        return {'tolerance': tolerance, 'deviation': self.calibrations[name].threshold(tolerance)}


def evaluate(
    config: EvaluationConfig, committee: Committee, pool: Sequence[Frame], dataset: Sequence[Frame]
) -> Evaluation:
    """Metrics and calibration on what is labelled, deviations of the pool, and a selection of it.

    :param pool: a :class:`FrameStore`, which is streamed, or a list of frames; likewise
    :param dataset: what is labelled.
    """
    signal = SIGNALS[config.signal]
    labelled = evaluate_labelled(dataset, committee, signal)
    fit = CALIBRATIONS[config.calibration]
    calibrations = {
        'forces': fit(*force_pairs(labelled, CALIBRATION_SPLIT), config.min_calibration_frames),
        'energy': fit(*energy_pairs(labelled, CALIBRATION_SPLIT), config.min_calibration_frames),
    }
    gate = Gate(config.gate, labelled.frame_id.tolist(), committee.elements)
    scores = score_pool(pool, _frame_ids(pool), committee, signal, gate)
    selection = select(
        scores,
        calibrations['forces'],
        calibrations['energy'],
        config.tolerance,
        gate,
        SELECTORS[config.selector],
        config.max_select,
        config.seed,
    )
    return Evaluation(config, labelled, calibrations, scores, selection)


def write(evaluation: Evaluation, pool: Sequence[Frame], directory: Path) -> None:
    """Write ``evaluation.json``, ``scores.npz``, ``predictions.npz`` and, with anything selected, ``selected/*.h5``."""
    text = json.dumps(evaluation.report(), indent=2, allow_nan=False)
    (directory / 'evaluation.json').write_text(text + '\n', encoding='utf-8')
    scores: dict[str, Any] = {name: value for name, value in vars(evaluation.scores).items() if name != 'rejected'}
    scores['expected_energy_error'] = evaluation.selection.expected_energy_error
    scores['expected_force_error'] = evaluation.selection.expected_force_error
    np.savez(directory / 'scores.npz', **scores)
    arrays: dict[str, Any] = dict(evaluation.labelled.arrays())
    np.savez(directory / 'predictions.npz', **arrays)
    picks = sorted(evaluation.selection.picks, key=lambda pick: pick.index)
    if picks:
        (directory / 'selected').mkdir(exist_ok=True)
        write_shard([_with_reason(pool[pick.index], pick.reason) for pick in picks], directory / 'selected')


def _with_reason(frame: Frame, reason: str) -> Frame:
    return frame.replace(metadata={**frame.metadata, 'selected': reason})


def _frame_ids(frames: Sequence[Frame]) -> np.ndarray:
    if isinstance(frames, FrameStore):
        return frames.column('frame_id')
    return np.array([frame.frame_id for frame in frames], dtype=np.str_)


def _open(paths: Sequence[str], name: str, stack: ExitStack) -> Sequence[Frame]:
    """Frames of some shards; none of no shards."""
    for path in paths:
        if not Path(path).is_file():
            raise FileNotFoundError(f'there is no shard {path}, which `{name}` names: correct the path')
    return stack.enter_context(FrameStore(paths)) if paths else []


def _load(config: EvaluationConfig) -> Committee:
    from aiida_alpot.worker.potentials import load_committee

    return load_committee(config.committee, device=config.device, dtype=config.dtype, batch_size=config.batch_size)


def _check_elements(dataset: Sequence[Frame], committee: Committee) -> None:
    """The frames that labels are there for must all be within reach; those of the pool are the gate's business."""
    if isinstance(dataset, FrameStore):
        foreign = [symbol for symbol in dataset.elements() if symbol not in committee.elements]
        if foreign:
            raise ValueError(
                f'the data set contains {", ".join(foreign)}, which the committee (of {", ".join(committee.elements)}) '
                'does not know: evaluate with a committee that was trained on this data set'
            )


def run(config: EvaluationConfig, directory: Path) -> Evaluation:
    """Evaluate the files that the settings name and write the results.

    :raises ValueError: for input that cannot be evaluated, before anything is computed.
    """
    with ExitStack() as stack:
        pool, dataset, committee = _prepare(config, stack)
        evaluation = evaluate(config, committee, pool, dataset)
        write(evaluation, pool, directory)
        return evaluation


def _prepare(config: EvaluationConfig, stack: ExitStack) -> tuple[Sequence[Frame], Sequence[Frame], Committee]:
    pool, dataset = _open(config.pool, 'pool', stack), _open(config.dataset, 'dataset', stack)
    committee = _load(config)
    _check_elements(dataset, committee)
    return pool, dataset, committee


def main(argv: Sequence[str] | None = None) -> int:
    """``alpot-evaluate CONFIG.json``; results are written into the working directory.

    :return: 0, or 2 for input that is refused, with the sentence on standard error.
    """
    parser = argparse.ArgumentParser(
        prog='alpot-evaluate', description='Evaluate a committee: metrics, calibration, selection from a pool.'
    )
    parser.add_argument('config', type=Path, help='JSON file with the settings')
    arguments = parser.parse_args(argv)
    with ExitStack() as stack:
        try:
            config = read_config(arguments.config)
            pool, dataset, committee = _prepare(config, stack)
        except (ValueError, FileNotFoundError) as error:
            print(f'alpot-evaluate: {error}', file=sys.stderr)
            return BAD_INPUT
        evaluation = evaluate(config, committee, pool, dataset)
        write(evaluation, pool, Path.cwd())
    counts = evaluation.report()['counts']
    print(', '.join(f'{name.replace("_", " ")}: {count}' for name, count in counts.items()))
    return 0
