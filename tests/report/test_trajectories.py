"""Trajectories as a report shows them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from aiida import orm
from aiida.common.links import LinkType

from aiida_alpot.report.trajectories import MAX_TRAJECTORIES, read_trajectories


@pytest.fixture
def job(aiida_profile: Any) -> Any:
    """Factory of jobs that wrote a table of all their runs."""

    def make(run: list[int], time: list[float], error: list[float]) -> int:
        node = orm.CalcJobNode(computer=None)
        node.store()
        table = orm.ArrayData()
        table.set_array('run', np.array(run))
        table.set_array('time_ps', np.array(time))
        table.set_array('expected_force_error', np.array(error))
        table.base.links.add_incoming(node, link_type=LinkType.CREATE, link_label='deviations')
        table.store()
        return int(node.pk)

    return make


def row(pks: list[int], temperature: float | None = 300.0, reason: str = 'completed') -> dict[str, Any]:
    """A row of the report of an exploration."""
    return {'temperature': temperature, 'reason': reason, 'pks': pks}


def test_runs_of_one_job_are_told_apart(job: Any) -> None:
    """In the order of the report; what was not evaluated is left out."""
    pk = job([0, 0, 1, 1], [0.1, 0.2, 0.1, 0.2], [1.0, 2.0, 3.0, np.nan])
    first, second = read_trajectories({'trajectories': [row([pk], 300.0), row([pk], 600.0, 'halted')]})
    assert (first.temperature, first.reason, second.temperature, second.reason) == (300.0, 'completed', 600.0, 'halted')
    assert (first.time.tolist(), first.expected_error.tolist()) == ([0.1, 0.2], [1.0, 2.0])
    assert (second.time.tolist(), second.expected_error.tolist()) == ([0.1], [3.0])


def test_parts_are_joined(job: Any) -> None:
    """The second run was interrupted, and went on as the only one of its next job: its later steps count."""
    pk = job([0, 1, 1], [0.1, 0.1, 0.2], [1.0, 3.0, 4.0])
    rest = job([0, 0], [0.2, 0.3], [5.0, 6.0])
    _, second = read_trajectories({'trajectories': [row([pk]), row([pk, rest])]})
    assert second.time.tolist() == [0.1, 0.2, 0.3]
    assert second.expected_error.tolist() == [3.0, 5.0, 6.0]


def test_what_is_no_trajectory(job: Any, aiida_profile: Any) -> None:
    """Explorers have no temperature; a job that was killed at once has no table; not more than can be told apart."""
    pk = job([0], [0.1], [1.0])
    nothing = orm.CalcJobNode(computer=None).store()
    assert read_trajectories({'trajectories': [row([pk], None), row([int(nothing.pk)])]}) == ()
    pks = [job([0], [0.1], [1.0]) for _ in range(MAX_TRAJECTORIES + 2)]
    assert len(read_trajectories({'trajectories': [row([pk]) for pk in pks]})) == MAX_TRAJECTORIES
