"""The jobs of an exploration: what each runs, what goes on with one that was interrupted, and what is told of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiida import orm

from aiida_alpot.calculations.explore import ExploreCalculation
from aiida_alpot.calculations.md import MDCalculation
from aiida_alpot.data.pes import PESData
from aiida_alpot.parsers.md import NOT_STARTED, UNFINISHED
from aiida_alpot.workflows.exploration_settings import named_frames

MD, EXPLORE = 'md', 'explore'
MAX_IDLE = 2
"""A job that twice in a row came to nothing before it was killed is not started once more."""


def lineage(kind: str, seed: int, index: int) -> str:
    """Lineage of the frames of a trajectory."""
    return f'{kind}:{seed}:{index}'


def rows_of(structures: PESData, of: Mapping[str, Any], n_starts: int, drawn: list[int]) -> list[list[int]]:
    """Start frames of each run of an explorer."""
    n = of.get('n_runs', 1)
    if of.get('start_frames'):
        listed = [named_frames(structures, row if isinstance(row, list) else [row]) for row in of['start_frames']]
        return [listed[index % len(listed)] for index in range(max(n, len(listed)))]
    if n_starts == 0:
        return [[] for _ in range(n)]
    taken = [[drawn[index % len(drawn)]] for index in range(n)]
    del drawn[: max(0, min(n, len(drawn) - 1))]  # the next explorer starts from others, while there are any
    return taken


def results_of(child: orm.ProcessNode, place: int) -> dict[str, Any]:
    """The summary of one run of a job; empty where there is none."""
    if 'results' not in child.outputs:
        return {}
    runs = child.outputs.results.get_dict()['runs']
    return dict(runs[place])


def add_part(row: dict[str, Any], part: int, pk: int, summary: Mapping[str, Any]) -> None:
    """Add to the account of a trajectory what one job did of it.

    :param part: 0 for the first job, 1 for the one that goes on with it, and so on.
    :param summary: of the run; without ``reason`` where nothing is known of it.
    """
    row['restarts'] = max(row['restarts'], part)
    row['pks'] = [*row['pks'], pk]
    row['reason'], row['message'] = summary.get('reason', NOT_STARTED), summary.get('message', '')
    row['n_steps_done'] = max(row.get('n_steps_done', 0), summary.get('last_step', 0), summary.get('n_steps_done', 0))
    for name in ('n_junk', 'n_rewinds', 'seconds'):
        row[name] = row.get(name, 0) + (summary.get(name) or 0)
    highest = [row.get('max_expected_error'), summary.get('highest_expected_force_error')]
    known = [value for value in highest if value is not None]
    row['max_expected_error'] = max(known) if known else None


def following_job(job: Mapping[str, Any], child: orm.ProcessNode, has_plumed: bool = False) -> dict[str, Any] | None:
    """The job that goes on with one that was interrupted, or nothing where there is no need or no use.

    :param has_plumed: a run that has begun cannot go on, as PLUMED's history stays behind.
    """
    if not child.is_finished or child.is_finished_ok:
        return None  # one that a user killed, or that an exception ended, is not started anew
    n = len(job['runs'] if job['kind'] == MD else job['rows'])
    summaries = [results_of(child, place) for place in range(n)]
    codes = (MDCalculation if job['kind'] == MD else ExploreCalculation).exit_codes
    if child.exit_status == codes.ERROR_BAD_INPUT.status:
        return None
    reasons = [summary.get('reason', NOT_STARTED) for summary in summaries]
    left = [place for place, reason in enumerate(reasons) if reason in UNFINISHED]
    if has_plumed:
        left = [place for place in left if reasons[place] == NOT_STARTED]
    moved = len(left) < n or any(summary.get('n_steps_done') or summary.get('n_frames') for summary in summaries)
    idle = 0 if moved else job['idle'] + 1
    if not left or idle >= MAX_IDLE:
        return None
    following = {**job, 'parent': child.pk, 'part': job['part'] + 1, 'idle': idle}
    if job['kind'] == MD:
        following |= {'runs': [job['runs'][place] for place in left], 'earlier': left}
    return following
