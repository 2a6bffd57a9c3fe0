"""Codes that a work chain is asked to use: loaded, and refused in a sentence where they do not fit."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from aiida import orm
from aiida.common import exceptions
from aiida.manage import get_manager


def load_checked_code(code: orm.AbstractCode | str | int | None, plugin: str, field: str) -> orm.AbstractCode:
    """The code, loaded where a label is given.

    :param plugin: entry point of the calculation that the code must be configured for.
    :param field: name of the field of the campaign, for the error.
    :raises ValueError: where it is missing, unknown, or configured for something else.
    """
    remedy = f'create one with `verdi code create core.code.installed` (plugin `{plugin}`) or run `aiida-alpot setup`'
    if code is None:
        raise ValueError(f'`{field}`: no code is given; {remedy}, and name it there.')
    loaded = _load(code, field, remedy) if isinstance(code, (str, int)) else code
    if not isinstance(loaded, orm.AbstractCode):
        raise ValueError(f'`{field}`: expected the label of a code, found {code!r}; {remedy}.')
    if loaded.default_calc_job_plugin != plugin:
        found = f'code `{loaded.full_label}` is configured for `{loaded.default_calc_job_plugin}`'
        raise ValueError(f'`{field}`: {found}, expected `{plugin}`; {remedy}.')
    check_reachable(loaded, field)
    return loaded


def check_reachable(code: orm.AbstractCode, field: str) -> None:
    """Refuse a code on a computer that is not configured, or whose program is not on this machine where it should be.

    :raises ValueError: naming the remedy.
    """
    computer = code.computer
    if computer is None:
        return
    if computer.pk is not None and not computer.is_configured:
        raise ValueError(
            f'`{field}`: computer `{computer.label}` of code `{code.full_label}` is not configured; run '
            f'`verdi computer configure {computer.transport_type} {computer.label}`.'
        )
    program = str(code.filepath_executable) if isinstance(code, orm.InstalledCode) else ''
    if computer.transport_type == 'core.local' and program.startswith('/') and not os.path.isfile(program):
        raise ValueError(f'`{field}`: code `{code.full_label}` runs {program}, which is not there; create it anew.')


def _load(identifier: str | int, field: str, remedy: str) -> orm.AbstractCode:
    try:
        return orm.load_code(identifier)
    except exceptions.MultipleObjectsError as exception:
        raise ValueError(f'`{field}`: {identifier!r} names several codes; write it as code@computer.') from exception
    except (exceptions.NotExistent, ValueError) as exception:
        profile = get_manager().get_profile()
        where = f'profile `{profile.name}`' if profile else 'the profile'
        raise ValueError(f'`{field}`: there is no code {identifier!r} in {where}; {remedy}.') from exception


def has_no_queue(code: orm.AbstractCode) -> bool:
    """Whether jobs of this code start at once, however many run already."""
    return code.computer is not None and code.computer.scheduler_type == 'core.direct'


def checked_concurrency(
    code: orm.AbstractCode, requested: int | None, field: str, options: Mapping[str, Any] | None = None
) -> int:
    """Number of jobs to have in flight: by default as many as the cores hold where there is no queue, else 50.

    :param options: of the jobs; what they say of MPI processes counts.
    :raises ValueError: for more processes than cores on a computer that is this machine and has no queue.
    """
    if requested is not None and (not isinstance(requested, int) or requested < 1):
        raise ValueError(f'`{field}`: must be a whole number of at least 1, found {requested!r}.')
    if not has_no_queue(code) or code.computer is None or code.computer.transport_type != 'core.local':
        return requested or 50
    cores, n_processes = len(os.sched_getaffinity(0)), processes_of_a_job(code, options or {})
    if (requested or 1) * n_processes > cores:
        raise ValueError(
            f'`{field}`: {requested or 1} jobs at a time of {n_processes} processes on computer '
            f'`{code.computer.label}`, which has no queue and {cores} cores; give at most '
            f'{max(1, cores // n_processes)}, fewer processes, or a computer with a scheduler.'
        )
    return requested or cores // n_processes


def processes_of_a_job(code: orm.AbstractCode, options: Mapping[str, Any]) -> int:
    """MPI processes that one job starts."""
    if not options.get('withmpi'):
        return 1
    resources = options.get('resources', {})
    default = (code.computer.get_default_mpiprocs_per_machine() if code.computer is not None else None) or 1
    per_machine = resources.get('num_mpiprocs_per_machine', default)
    return int(resources.get('tot_num_mpiprocs', resources.get('num_machines', 1) * per_machine))


def checked_options(code: orm.AbstractCode, options: Mapping[str, Any], stage: str) -> dict[str, Any]:
    """Options of a job, with the resources of one process where the computer's scheduler takes them.

    :raises ValueError: for MPI where the code runs without, or the reverse, and a walltime that is not above zero.
    """
    merged = {'withmpi': False, **options}
    if code.with_mpi is not None and merged['withmpi'] != code.with_mpi:
        raise ValueError(
            f'`options.{stage}.withmpi`: is {merged["withmpi"]}, but code `{code.full_label}` was made for '
            f'{code.with_mpi}; change one of them.'
        )
    walltime = merged.get('max_wallclock_seconds')
    if walltime is not None and (not isinstance(walltime, int) or walltime < 1):
        raise ValueError(
            f'`options.{stage}.max_wallclock_seconds`: must be whole seconds above zero, found {walltime!r}.'
        )
    if code.computer is not None and code.computer.scheduler_type != 'core.sge':
        merged['resources'] = {'num_machines': 1, **merged.get('resources', {})}
    return merged
