"""What is seen in each figure, in sentences with the numbers of the campaign."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from aiida_alpot.report.record import CampaignRecord, Round
from aiida_alpot.report.table import duration, milli


def learning_curve(record: CampaignRecord) -> str:
    """The course of the held-out force error."""
    held_out = f'the {record.held_out} frames'
    text = f'RMSE of the mean of the committee after each training; the band spans its members on {held_out}.'
    made = [round_ for round_ in record.evaluated if round_.rmse(record.held_out, 'forces') is not None]
    if len(made) > 1:
        first, last = (round_.rmse(record.held_out, 'forces') for round_ in (made[0], made[-1]))
        assert first is not None and last is not None
        verb = 'fell' if last < first else 'rose' if last > first else 'stayed'
        text += (
            f' The force error on {held_out} {verb} from {milli(first)} to {milli(last)} meV/Å '
            f'while the labels of training and validation went from {made[0].n_fitted} to {made[-1].n_fitted}.'
        )
    return text


def parity(record: CampaignRecord) -> str:
    """What is compared with what."""
    return (
        'Predictions of the last committee (mean of its members) against the reference calculations, residuals below. '
        'Energies are per atom and counted from the lowest reference; isolated atoms are left out.'
    )


def calibration(record: CampaignRecord) -> str:
    """How to read it, and whether the last calibration is to be trusted."""
    text = (
        'Each point is an atom of a frame that was not used to fit the models: how far the members deviate, and how '
        'wrong their mean really is. The line is the error that the calibration, fitted to the validation atoms, '
        'expects. '
    )
    if record.tolerance.get('forces') is not None:
        text += (
            'Dashed: the tolerance, and the deviation that stands for it; atoms at the top right are rightly sent to '
            'be labelled, those at the top left are missed. '
        )
    made = [round_ for round_ in record.rounds if 'forces' in round_.calibration]
    if made and not made[-1].calibration['forces'].trustworthy:
        text += (
            f'The last calibration is not trusted ({made[-1].calibration["forces"].reason}): a safer slope is in use. '
        )
    return text.rstrip()


def selection(record: CampaignRecord) -> str:
    """What happened to the pools."""
    text = 'Frames of the pool of each round by the error that is expected of their worst atom.'
    made = [round_ for round_ in record.rounds if round_.n_pool]
    return ' '.join([text, *(_pool(round_) for round_ in made[-1:])])


def _pool(made: Round) -> str:
    return (
        f'In round {made.number}, {made.n_candidates} of {made.n_pool} frames exceed the tolerance, {made.n_selected} '
        f'were selected and {made.n_rejected} refused by the gate.'
    )


def exploration(record: CampaignRecord) -> str:
    """How far the trajectories came."""
    text = 'The largest force error that the committee expects of an atom, along the trajectories of a round.'
    for made in (made for made in record.rounds if made.trajectories):
        halted = sum(trajectory.reason == 'halted' for trajectory in made.trajectories)
        n, longest = len(made.trajectories), max(trajectory.time[-1] for trajectory in made.trajectories)
        text += f' In round {made.number}, {halted} of {n} ended at the bound, the longest was {longest:.3g} ps.'
    return text


def stage_times(record: CampaignRecord) -> str:
    """Which kind of stage took most."""
    totals: dict[str, float] = {}
    for stage in record.stages:
        totals[stage.kind] = totals.get(stage.kind, 0.0) + stage.seconds
    if not totals:
        return 'No stage has begun yet.'
    kind = max(totals, key=totals.__getitem__)
    return (
        f'Wall-clock time of the stages, {duration(record.seconds)} for the whole campaign; {kind} took most, '
        f'{duration(totals[kind])}.'
    )


CAPTIONS: Mapping[str, Callable[[CampaignRecord], str]] = {
    'learning_curve': learning_curve,
    'parity': parity,
    'calibration': calibration,
    'exploration': exploration,
    'selection': selection,
    'stage_times': stage_times,
}
"""Name of a figure -> function that writes its caption."""
