"""The console program ``alpot-evaluate``: metrics, calibration and selection by a committee."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aiida_alpot.worker.acquisition.calibration import Calibration
from aiida_alpot.worker.acquisition.config import EvaluationConfig, read_config
from aiida_alpot.worker.acquisition.deadline import Deadline, OutOfTime
from aiida_alpot.worker.acquisition.gate import Gate
from aiida_alpot.worker.acquisition.kept import Keeping
from aiida_alpot.worker.acquisition.labelled import Labelled, evaluate_labelled, metrics
from aiida_alpot.worker.acquisition.pool import PoolScores, Scorer, Selection, score_pool, select
from aiida_alpot.worker.acquisition.representations import resolve
from aiida_alpot.worker.acquisition.selector_features import SelectorFeatures
from aiida_alpot.worker.acquisition.selectors import Pick, Scores, choose
from aiida_alpot.worker.frames import FrameStore, write_shard
from aiida_alpot.worker.frames.frame import Frame

if TYPE_CHECKING:
    from aiida_alpot.worker.potentials.committee import Committee

BAD_INPUT = 2
"""Exit code for input that is refused; the sentence is on standard error."""
OUT_OF_TIME = 3
"""Exit code for an evaluation that stopped before it was done; what it has evaluated is kept, for the next one."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """All results of an evaluation.

    :param calibrations: ``forces``, ``energy`` and ``stress``.
    :param signal: what the signal has learnt.
    """

    config: EvaluationConfig
    labelled: Labelled
    calibrations: dict[str, Calibration]
    signal: dict[str, Any]
    scores: PoolScores
    selection: Selection

    @property
    def counts(self) -> dict[str, int]:
        """Numbers of frames of the pool."""
        return {
            'pool': len(self.scores.frame_id),
            'rejected': len(self.selection.rejected),
            'rejected_as_uncertain': len(self.selection.rejected) - len(self.scores.rejected),
            'above_threshold': self.selection.n_above,
            'selected': len(self.selection.picks),
        }

    def report(self) -> dict[str, Any]:
        """What ``evaluation.json`` holds."""
        tolerance = self.config.tolerance
        return {
            'calibration': {name: calibration.as_dict() for name, calibration in self.calibrations.items()},
            'signal': {'name': self.config.signal.name, **plain(self.signal)},
            'metrics': metrics(self.labelled),
            'selection': [self._picked(pick.index, pick.reason) for pick in self.selection.picks],
            'rejected': [vars(rejection) for rejection in self.selection.rejected],
            'counts': self.counts,
            'thresholds': {
                'forces': self._threshold('forces', tolerance.forces),
                'energy': self._threshold('energy', tolerance.energy),
            },
        }

    def _picked(self, index: int, reason: str) -> dict[str, Any]:
        return {
            'frame_id': self.scores.id_of(index),
            'index': index,
            'reason': reason,
            'max_force_deviation': plain(float(self.scores.max_force_deviation[index])),
            'energy_deviation': plain(float(self.scores.energy_deviation[index])),
            'expected_force_error': plain(float(self.selection.expected_force_error[index])),
            'expected_energy_error': plain(float(self.selection.expected_energy_error[index])),
        }

    def _threshold(self, name: str, tolerance: float | None) -> dict[str, float | None] | None:
        if tolerance is None:
            return None
        return {'tolerance': tolerance, 'deviation': plain(self.calibrations[name].threshold(tolerance))}


def evaluate(
    config: EvaluationConfig,
    committee: Committee,
    pool: Sequence[Frame],
    dataset: Sequence[Frame],
    scratch: Path | None = None,
    keeping: Keeping | None = None,
) -> Evaluation:
    """Metrics and calibration on what is labelled, deviations of the pool, and a selection of it.

    :param pool: a :class:`FrameStore`, which is streamed, or a list of frames; likewise
    :param dataset: what is labelled.
    :param scratch: folder for the features of the pool, which may be larger than the memory; by default that for
        temporary files.
    :param keeping: where what the committee says is kept, and whether it is known already; by default nowhere.
    :raises OutOfTime: where `keeping` has a deadline.
    """
    signal = config.make_signal()
    known = keeping.committee(committee) if keeping else committee
    signal.fit(known, dataset)
    features = {**signal.features, **config.selector_features}
    with SelectorFeatures(config, len(pool), scratch) as space:
        labelled = evaluate_labelled(dataset, known, signal, features, space.add_labelled)
        tolerances = {'forces': config.tolerance.forces, 'energy': config.tolerance.energy}
        calibrations = config.calibration_settings().fit_all(labelled, tolerances)
        gate = Gate(config.gate, labelled.frame_id.tolist(), committee.elements)
        scorer = Scorer(committee, signal, gate, features, space.add_pool)
        if keeping:
            kept = keeping.signal(config.signal.name, config.signal.options, signal.features, dataset)
            scorer = replace(scorer, committee=keeping.committee(committee, per_atom=False), kept=kept)
        scores = score_pool(pool, _frame_ids(pool), scorer)

        def pick(passed: Scores) -> list[Pick]:
            return choose(
                space.give(passed),
                config.tolerance,
                config.make_selector(),
                config.max_select,
                config.seed,
                candidates=config.candidates,
                quotas=config.quotas,
            )

        selection = select(scores, calibrations, gate, config.tolerance, pick)
    return Evaluation(config, labelled, calibrations, signal.report(), scores, selection)


def write(evaluation: Evaluation, pool: Sequence[Frame], directory: Path) -> None:
    """Write ``evaluation.json``, ``scores.npz``, ``predictions.npz`` and, with anything selected, ``selected/*.h5``."""
    with (directory / 'evaluation.json').open('w', encoding='utf-8') as stream:
        json.dump(evaluation.report(), stream, indent=2, allow_nan=False)
        stream.write('\n')
    scores: dict[str, Any] = {name: value for name, value in vars(evaluation.scores).items() if name != 'rejected'}
    scores['frame_id'] = scores['frame_id'].astype(np.str_)
    scores['expected_energy_error'] = evaluation.selection.expected_energy_error
    scores['expected_force_error'] = evaluation.selection.expected_force_error
    np.savez(directory / 'scores.npz', **scores)
    arrays: dict[str, Any] = dict(evaluation.labelled.arrays())
    np.savez(directory / 'predictions.npz', **arrays)
    picks = sorted(evaluation.selection.picks, key=lambda pick: pick.index)
    if picks:
        (directory / 'selected').mkdir(exist_ok=True)
        write_shard([_with_reason(pool[pick.index], pick.reason) for pick in picks], directory / 'selected')


def plain(value: Any) -> Any:
    """A value as JSON has it: what is not finite becomes ``None``."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def _with_reason(frame: Frame, reason: str) -> Frame:
    return frame.replace(metadata={**frame.metadata, 'selected': reason})


def _frame_ids(frames: Sequence[Frame]) -> np.ndarray:
    """The ``frame_id`` of each frame as ASCII bytes, shape (n,)."""
    if isinstance(frames, FrameStore):
        return np.frombuffer(frames.digests().tobytes().hex().encode('ascii'), dtype='S64')
    return np.array([frame.frame_id for frame in frames], dtype='S64')


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


def _check_features(config: EvaluationConfig, committee: Committee) -> None:
    """Refuse representations that the potentials cannot give, before anything is evaluated."""
    for feature in resolve({**config.make_signal().features, **config.selector_features}):
        if feature.representation.of_recording is not None and feature.name not in committee.possible_features():
            possible = ', '.join(committee.possible_features()) or 'none'
            raise ValueError(
                f'{committee.kind} cannot give the representation {feature.name!r}, they give {possible}: choose '
                'another `representation`, signal or selector'
            )


@dataclass(frozen=True, eq=False)
class Prepared:
    """An evaluation whose input was found to be good.

    :param directory: in which everything is written.
    """

    config: EvaluationConfig
    pool: Sequence[Frame]
    dataset: Sequence[Frame]
    committee: Committee
    keeping: Keeping | None
    directory: Path

    def run(self) -> Evaluation:
        """Evaluate, and write the results.

        :raises OutOfTime: where there is a deadline.
        """
        if self.keeping:
            self.keeping.progress.write()
        evaluation = evaluate(
            self.config, self.committee, self.pool, self.dataset, scratch=self.directory, keeping=self.keeping
        )
        write(evaluation, self.pool, self.directory)
        if self.keeping:
            self.keeping.progress.done()
        return evaluation

    def stopped(self, reason: str) -> None:
        """Write down that the evaluation stopped before it was done."""
        if self.keeping:
            self.keeping.progress.write(reason)

    def summary(self, evaluation: Evaluation) -> str:
        """Counts, on two lines."""
        lines = [', '.join(f'{name.replace("_", " ")}: {count}' for name, count in evaluation.counts.items())]
        if self.keeping:
            lines.append(f'evaluated: {self.keeping.progress.evaluated}, kept: {self.keeping.progress.kept}')
        return '\n'.join(lines)


def run(config: EvaluationConfig, directory: Path) -> Evaluation:
    """Evaluate the files that the settings name and write the results.

    :raises ValueError: for input that cannot be evaluated, before anything is computed.
    :raises OutOfTime: for `max_seconds`; what was evaluated is kept.
    """
    with ExitStack() as stack:
        return _prepare(config, directory, stack, Deadline(config.max_seconds)).run()


def _prepare(config: EvaluationConfig, directory: Path, stack: ExitStack, deadline: Deadline) -> Prepared:
    pool, dataset = _open(config.pool, 'pool', stack), _open(config.dataset, 'dataset', stack)
    committee = _load(config)
    _check_elements(dataset, committee)
    _check_features(config, committee)
    config.make_signal().check(committee)
    keeping = None
    if config.keep_predictions:
        keeping = Keeping.of_files(config.committee, config.dtype, directory, config.earlier, deadline)
    return Prepared(config, pool, dataset, committee, keeping, directory)


def main(argv: Sequence[str] | None = None) -> int:
    """``alpot-evaluate CONFIG.json``; results are written into the working directory.

    :return: 0, or 2 for input that is refused, or 3 for an evaluation that had to stop before it was done; the sentence
        is on standard error.
    """
    deadline = Deadline()
    parser = argparse.ArgumentParser(
        prog='alpot-evaluate', description='Evaluate a committee: metrics, calibration, selection from a pool.'
    )
    parser.add_argument('config', type=Path, help='JSON file with the settings')
    arguments = parser.parse_args(argv)
    with ExitStack() as stack:
        prepared = None
        try:
            stack.enter_context(deadline)
            try:
                config = read_config(arguments.config)
                deadline.max_seconds = config.max_seconds
                prepared = _prepare(config, Path.cwd(), stack, deadline)
            except (ValueError, FileNotFoundError, ImportError) as error:
                return _complain(str(error), BAD_INPUT)
            print(prepared.summary(prepared.run()))
        except OutOfTime as stop:
            if prepared is not None:
                prepared.stopped(stop.reason)
            return _complain(f'{stop}{_how_to_go_on(prepared)}', OUT_OF_TIME)
    return 0


def _complain(sentence: str, code: int) -> int:
    print(f'alpot-evaluate: {sentence}', file=sys.stderr)
    return code


def _how_to_go_on(prepared: Prepared | None) -> str:
    if prepared is None or prepared.keeping is None:
        return '; nothing was kept'
    progress = prepared.keeping.progress
    return (
        f'; {progress.evaluated} frames were evaluated and {progress.kept} known before, and all are kept: '
        'start it again in this directory, and it goes on from there'
    )
