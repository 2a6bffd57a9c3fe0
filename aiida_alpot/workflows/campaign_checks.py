"""What a campaign refuses before it begins: each a sentence that names the field and the remedy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from aiida import orm

from aiida_alpot.calculations.augment import run_plan
from aiida_alpot.calculations.train import misfit, requested_settings, validate_dataset
from aiida_alpot.data.pes import PESData
from aiida_alpot.data.structures import structure_to_frame
from aiida_alpot.worker.frames import Frame, check_one_level
from aiida_alpot.worker.options import boolean, integer, number, unknown_name
from aiida_alpot.worker.seeds import derive_seed
from aiida_alpot.workflows.exploration_settings import (
    Bounds,
    check_explorers,
    eligible,
    in_words,
    is_start,
    kinds_of_settings,
    start_frames,
)
from aiida_alpot.workflows.labelling import level_of_inputs

CODES = {'pw': 'labelling', 'train': 'training', 'md': 'exploration', 'evaluate': 'evaluation'}
"""The stage that each code of a campaign runs."""
EXPLORE_CODE = 'explore'
"""Code that only a campaign with explorers needs."""
OF_CAMPAIGN = ('enabled', 'reset_every')
"""What of ``training.warm_start`` a campaign decides, which has earlier committees."""
TARGETS = ('energy', 'forces', 'stress')
CHECKED_FRAMES = 1000
"""So many frames that trajectories could start from are looked at before a campaign begins."""


def check_names(codes: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Refuse codes and stages that a campaign does not have.

    :raises ValueError: naming the nearest right one.
    """
    for name, value in (('codes', codes), ('options', options)):
        if not isinstance(value, Mapping):
            raise ValueError(f'`{name}`: must be a mapping, found {value!r}.')
    for name in codes:
        if name not in (*CODES, EXPLORE_CODE):
            raise ValueError(f'`codes.{name}`: {unknown_name(name, [*CODES, EXPLORE_CODE], "code")}')
    for stage in options:
        if stage not in CODES.values():
            raise ValueError(f'`options.{stage}`: {unknown_name(stage, list(CODES.values()), "stage with jobs")}')


def check_dataset(dataset: PESData, labelling: Any, exploration: Any, training: Any) -> None:
    """Refuse a data set that a campaign with these stages cannot go on from.

    :raises ValueError: for labels of another level of theory, no frames to train on, no frame to start from.
    """
    level = str(level_of_inputs(labelling))
    with dataset.open_store() as store:
        levels = store.levels_of_theory()
    remedy = 'give `labelling` the settings that the labels were made with'
    if dataset.n_labelled == 0:
        raise ValueError(f'`dataset`: it has no labels, and this campaign would add labels of level {level}; {remedy}.')
    try:
        check_one_level([level, *levels])
    except ValueError as exception:
        found = ', '.join(name or 'unknown' for name in levels)
        raise ValueError(
            f'`dataset`: its labels are of level of theory {found}, and this campaign would add labels of level '
            f'{level}; {remedy} ({exception}).'
        ) from exception
    problem = validate_dataset(dataset, requested_settings(training.train.parameters).properties)
    if problem:
        raise ValueError(f'`dataset`: {problem}.')
    starts = exploration.starts.get_dict()
    try:
        chosen = start_frames(dataset, starts)
    except ValueError as exception:
        raise ValueError(f'{in_words(exception)}.') from exception
    if not len(chosen):
        raise ValueError(
            f'`exploration.start_origins`: of {", ".join(starts["start_origins"]) or "any origin"} the data set has no '
            f'frame with at least {starts["start_min_atoms"]} atoms; its origins are '
            f'{", ".join(dataset.origins) or "empty"}; give [] for any.'
        )
    with dataset.open_store() as store:
        check_starts(store.select(chosen[:CHECKED_FRAMES].tolist()), exploration)


def check_starts(frames: Iterable[Frame], exploration: Any) -> None:
    """Refuse an exploration whose start frames cannot run under its conditions.

    :raises ValueError: for axes, hydrogen and elements as soon as one frame does not suit, and where all are too thin.
    """
    parameters = {**exploration.parameters.get_dict(), 'uncertainty': None}
    kinds = kinds_of_settings(exploration.conditions.get_dict(), parameters)
    try:
        suits = [is_start(frame, kinds) for frame in frames]
    except ValueError as exception:
        raise ValueError(f'{in_words(exception)}.') from exception
    listed = exploration.starts['start_frames'] is not None
    if not (all(suits) if listed else any(suits)):
        raise ValueError(
            f'`exploration.min_thickness`: {"a start frame has" if listed else "all start frames have"} a cell '
            f'thinner than {kinds[0].min_thickness:g} A along a periodic axis, where atoms are their own neighbours; '
            'start from supercells, or lower it.'
        )


def check_exploration(exploration: Any, elements: Iterable[str]) -> None:
    """Refuse an exploration that no campaign can do.

    :param elements: that the committees will know.
    :raises ValueError: for bounds on an extrapolation grade, and explorers with other elements.
    """
    bounds = Bounds.of(exploration.parameters.get_dict().get('uncertainty'))
    if bounds is not None and bounds.others.get('grade_lower') is not None:
        raise ValueError(
            '`exploration.uncertainty.grade_lower`: needs an active set of the committee, which a campaign does not '
            'make; use `lower`.'
        )
    given = exploration.explorers.get_list() if 'explorers' in exploration else []
    for index, (explorer, of) in enumerate(check_explorers(given)):
        unknown = sorted(set(explorer.elements) - set(elements))
        if unknown:
            raise ValueError(
                f'`exploration.explorers.{index}`: `{of["explorer"]}` brings in {", ".join(unknown)}, and the '
                f'committee is trained on {", ".join(sorted(elements))} only.'
            )


def check_training(training: Any, elements: Iterable[str]) -> None:
    """Refuse a foundation model that does not know the elements of a campaign.

    :raises ValueError: naming those that it lacks.
    """
    if 'foundation' not in training:
        return
    settings = requested_settings(training.train.parameters)
    problem = misfit(training.foundation, settings, elements)
    if problem:
        raise ValueError(f'`training.foundation`: {problem}.')


def check_augmentation(
    structures: Mapping[str, orm.StructureData], parameters: orm.Dict, seed: int, exploration: Any
) -> None:
    """Make the structures that the campaign will make, and refuse what would come to nothing after the labelling.

    :raises ValueError: for values out of range, no frame at all, no frame for a trajectory to start from.
    """
    frames = [structure_to_frame(structures[key]) for key in sorted(structures)]
    try:
        made = run_plan(frames, parameters.get_dict(), derive_seed(seed, 'augmentation'))
    except ValueError as exception:
        raise ValueError(f'`augmentation`: {exception}') from exception
    if not made.frames:
        reason = made.rejected[0].reason if made.rejected else 'the plan has no step that is kept'
        raise ValueError(f'`augmentation`: no structure comes out of the plan; {reason}.')
    starts = exploration.starts.get_dict()
    if starts['start_frames'] is not None:
        raise ValueError(
            '`exploration.start_frames`: the frames are not made yet; use `start_origins`, or start from a `dataset`.'
        )
    origins, n_atoms = starts['start_origins'], starts['start_min_atoms']
    found = [frame.origin for frame in made.frames]
    chosen = eligible(np.array(found), np.array([len(frame) for frame in made.frames]), origins, n_atoms)
    if not len(chosen):
        raise ValueError(
            f'`exploration.start_origins`: of {", ".join(origins) or "any origin"} the augmentation makes no structure '
            f'of at least {n_atoms} atoms to start a trajectory from; its origins are {", ".join(sorted(set(found)))}, '
            f'with at most {max(len(frame) for frame in made.frames)} atoms.'
        )
    check_starts([made.frames[index] for index in chosen[:CHECKED_FRAMES].tolist()], exploration)


def check_periodic(structures: Mapping[str, orm.StructureData], ensembles: Sequence[str]) -> None:
    """Refuse a barostat for structures without any periodic axis.

    :raises ValueError: naming the first of them.
    """
    for name, structure in structures.items():
        if 'npt' in ensembles and not any(structure.pbc):
            raise ValueError(
                f'`exploration.ensembles`: npt needs a periodic axis, which `structures.{name}` has not; choose nvt.'
            )


def check_numbers(values: Mapping[str, Any]) -> str | None:
    """What is wrong with the numbers of a campaign, or nothing."""
    fractions = values['split_fractions']
    try:
        for name, least in (('max_rounds', 1), ('patience', 1), ('n_test_frames', 0), ('seed', 0)):
            integer(name, values[name], least)
        for name, fraction in fractions.items():
            number(f'split_fractions.{name}', fraction, 0.0, 1.0, exclusive=name != 'test')
    except ValueError as exception:
        return f'{exception}.'
    if abs(sum(fractions.values()) - 1) > 1e-9:
        return f'`split_fractions`: must add up to 1, found {fractions}.'
    problem = check_targets(values['targets'])
    return f'`targets`: {problem}' if problem else None


def check_targets(targets: Mapping[str, Any]) -> str | None:
    """What is wrong with targets, or nothing."""
    for name, value in targets.items():
        if name not in TARGETS:
            return f'unknown property `{name}`: choose from {", ".join(TARGETS)}.'
        if value is not None and not (isinstance(value, (int, float)) and value > 0):
            return f'the target of {name} must be a number above zero, found {value!r}.'
    return None


def check_warm_start(values: Mapping[str, Any]) -> None:
    """Check when the members of a round go on from those of the round before.

    :raises ValueError: naming the option.
    """
    boolean('warm_start.enabled', values['enabled'])
    if values['reset_every'] is not None:
        integer('warm_start.reset_every', values['reset_every'], 1)


def validate_warm_start(node: orm.Dict, _: Any) -> str | None:
    """Validator of when a training goes on from an earlier one."""
    values = node.get_dict()
    if set(values) != set(OF_CAMPAIGN):
        return f'expected {" and ".join(OF_CAMPAIGN)}, found {values}'
    try:
        check_warm_start(values)
    except ValueError as exception:
        return str(exception)
    return None


def validate_targets(node: orm.Dict, _: Any) -> str | None:
    """Validator of the targets."""
    return check_targets(node.get_dict())


def validate_start(value: Mapping[str, Any], _: Any) -> str | None:
    """Refuse a campaign with nothing to start from."""
    if 'dataset' not in value and not value.get('structures'):
        return '`structures` is empty: give at least one structure to start from, or a labelled `dataset`.'
    if 'dataset' not in value and 'parameters' not in value.get('augmentation', {}):
        return '`augmentation.parameters` is missing: give the generators, or a labelled `dataset`.'
    return None
