"""What the committee expected of its force errors along the trajectories of a round."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
from aiida import orm

from aiida_alpot.report.record import Trajectory

MAX_TRAJECTORIES = 24
"""So many of a round are read; more lines cannot be told apart."""


def read_trajectories(report: Mapping[str, Any]) -> tuple[Trajectory, ...]:
    """The first trajectories of the report of an exploration, with the parts of those that were interrupted."""
    places: dict[int, int] = defaultdict(int)  # rows stand in the order of the runs of their job
    found: list[Trajectory] = []
    for row in report.get('trajectories', []):
        parts = []
        for pk in dict.fromkeys(row['pks']):
            parts.append((pk, places[pk]))
            places[pk] += 1
        if row.get('temperature') is not None and len(found) < MAX_TRAJECTORIES:
            time, error = _joined([_part(pk, place) for pk, place in parts])
            if len(time):
                found.append(Trajectory(row['temperature'], row['reason'], time, error))
    return tuple(found)


def _part(pk: int, place: int) -> tuple[np.ndarray, np.ndarray]:
    """Time and expected error of a run of a job; nothing where it wrote none."""
    job = orm.load_node(pk)
    if 'deviations' not in job.outputs:
        return np.zeros(0), np.zeros(0)
    node = job.outputs.deviations
    wanted = node.get_array('run') == place
    return node.get_array('time_ps')[wanted], node.get_array('expected_force_error')[wanted]


def _joined(parts: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """All parts in the order of the time; of steps that two parts made, the later part counts."""
    time, error = (np.concatenate(columns[::-1]) for columns in zip(*parts, strict=True))
    time, first = np.unique(time, return_index=True)
    known = np.isfinite(error[first])
    return time[known], error[first][known]
