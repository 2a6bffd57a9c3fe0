"""Generators, run in provenance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from aiida import orm
from aiida.engine import calcfunction

from aiida_alpot.data.pes import PESData
from aiida_alpot.worker.frames import Frame
from aiida_alpot.worker.generators import Generation, generate, parse_plan

OPTIONS = ('generators', 'max_atoms', 'min_distance')


@calcfunction
def augment(structures: PESData, parameters: orm.Dict, seed: orm.Int) -> dict[str, orm.Data]:
    """Frames that the generators make of some structures.

    Isolated atoms are given to the split ``train``: their energies are the zero of every model.

    :param parameters: ``generators``, the plan; ``max_atoms``; ``min_distance``, a fraction of the sum of the covalent
        radii.
    :returns: ``frames``, unless there are none, and ``report``.
    """
    options = parameters.get_dict()
    made = run_plan(list(structures), options, seed.value)
    report = {
        'n_frames': len(made.frames),
        'origins': dict(Counter(frame.origin for frame in made.frames)),
        'rejected': [
            {'step': rejected.step, 'formula': rejected.frame.formula, 'reason': rejected.reason}
            for rejected in made.rejected
        ],
        'notes': made.notes,
    }
    outputs: dict[str, orm.Data] = {'report': orm.Dict(report)}
    if made.frames:
        outputs['frames'] = PESData(frames=[_with_split(frame) for frame in made.frames])
    return outputs


def _with_split(frame: Frame) -> Frame:
    return frame.replace(split='train') if frame.origin == 'isolated_atom' else frame


def run_plan(frames: Sequence[Frame], options: Mapping[str, Any], seed: int) -> Generation:
    """What the generators make of some frames.

    :param options: as the parameters of :func:`augment`.
    :raises ValueError: for a plan or a value that makes no sense.
    """
    return generate(frames, plan(options), seed, options['max_atoms'], options['min_distance'])


def plan(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The steps of the plan; a step set to null is left out."""
    return {name: options for name, options in parameters['generators'].items() if options is not None}


def check_plan(parameters: Mapping[str, Any]) -> str | None:
    """What is wrong with the parameters of an augmentation, or nothing."""
    if set(parameters) != set(OPTIONS):
        return f'expected the options {", ".join(OPTIONS)}, found {", ".join(sorted(parameters)) or "none"}'
    try:
        parse_plan(plan(parameters))
    except ValueError as exception:
        return str(exception)
    return None
