"""Codes that a work chain is asked to use: loaded, and refused in a sentence where they do not fit."""

from __future__ import annotations

import os

from aiida import orm
from aiida.common import exceptions


def load_checked_code(code: orm.AbstractCode | str | None, plugin: str, field: str) -> orm.AbstractCode:
    """The code, loaded where a label is given.

    :param plugin: entry point of the calculation that the code must be configured for.
    :param field: name of the field of the campaign, for the error.
    :raises ValueError: where it is missing, unknown, or configured for something else.
    """
    remedy = f'create one with `verdi code create core.code.installed` (plugin `{plugin}`) or run `aiida-alpot setup`'
    if code is None:
        raise ValueError(f'`{field}`: no code is given; {remedy}, and name it there.')
    if isinstance(code, (str, int)):
        try:
            code = orm.load_code(code)
        except (exceptions.NotExistent, exceptions.MultipleObjectsError, ValueError) as exception:
            raise ValueError(f'`{field}`: there is no code {code!r} in this profile; {remedy}.') from exception
    found = code.default_calc_job_plugin
    if found != plugin:
        raise ValueError(f'`{field}`: code `{code.full_label}` is configured for `{found}`, expected `{plugin}`; {remedy}.')
    return code


def has_no_queue(code: orm.AbstractCode) -> bool:
    """Whether jobs of this code start at once, however many run already."""
    return code.computer is not None and code.computer.scheduler_type == 'core.direct'


def checked_concurrency(code: orm.AbstractCode, requested: int | None, field: str) -> int:
    """Number of jobs to have in flight: by default as many as this machine has cores where there is no queue, else 50.

    :raises ValueError: for more jobs than cores on a computer that is this machine and has no queue.
    """
    local = has_no_queue(code) and code.computer is not None and code.computer.transport_type == 'core.local'
    cores = len(os.sched_getaffinity(0))
    if requested is None:
        return cores if local else 50
    if requested < 1:
        raise ValueError(f'`{field}`: must be at least 1, found {requested}.')
    if local and requested > cores:
        raise ValueError(
            f'`{field}`: {requested} jobs at a time on computer `{code.computer.label}`, which has no queue and {cores} '
            f'cores; give at most {cores}, or a computer with a scheduler.'
        )
    return requested


def checked_options(code: orm.AbstractCode, options: dict) -> dict:
    """Options of a job, with the resources of one process where the computer's scheduler takes them."""
    merged = {'withmpi': False, **options}
    if code.computer is not None and code.computer.scheduler_type != 'core.sge':
        merged.setdefault('resources', {}).setdefault('num_machines', 1)
    return merged
