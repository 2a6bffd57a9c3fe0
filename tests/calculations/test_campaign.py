"""The steps between the stages."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from aiida import orm

from aiida_alpot.calculations.campaign import choose_test_frames, evenly_spaced, summarise_campaign
from aiida_alpot.data.pes import PESData
from aiida_alpot.worker.frames import Frame

pytestmark = pytest.mark.usefixtures('aiida_profile')


@pytest.mark.parametrize(
    ('n', 'k', 'chosen'),
    [(10, 2, [4, 9]), (10, 1, [9]), (3, 5, [0, 1, 2]), (7, 3, [1, 3, 6]), (5, 0, []), (0, 3, [])],
)
def test_evenly_spaced(n: int, k: int, chosen: list[int]) -> None:
    """The last one is always among them; none twice."""
    assert evenly_spaced(n, k) == chosen


def pair(distance: float, lineage: str, step: int) -> Frame:
    """Two silicon atoms at a distance in A."""
    return Frame(
        [14, 14],
        [[0, 0, 0], [0, 0, distance]],
        (10 + 0.01 * step) * np.eye(3),
        [True] * 3,
        lineage=lineage,
        origin='md',
        metadata={'step': step},
    )


def choose(frames: list[Frame], n: int) -> list[Frame]:
    """The chosen frames."""
    chosen = choose_test_frames(PESData(frames=frames), orm.Int(n), orm.Float(0.6))
    return list(chosen['test']) if 'test' in chosen else []


def test_test_frames_come_from_all_trajectories() -> None:
    """As evenly as they divide, along each evenly, in the order of the pool, with split ``test`` and no labels."""
    frames = [pair(2.3, lineage, step) for lineage in ('b', 'a') for step in range(10)]
    chosen = choose(frames, 5)
    assert [(frame.lineage, frame.metadata['step']) for frame in chosen] == [
        ('b', 4),
        ('b', 9),
        ('a', 2),
        ('a', 5),
        ('a', 9),
    ]
    assert {frame.split for frame in chosen} == {'test'} and {frame.energy for frame in chosen} == {None}


def test_unphysical_frames_are_no_test() -> None:
    """A frame whose atoms meet is passed over; without any other there is no test set."""
    assert choose([pair(0.5, 'a', step) for step in range(4)], 2) == []
    chosen = choose([pair(0.5 if step > 4 else 2.3, 'a', step) for step in range(10)], 2)
    assert [frame.metadata['step'] for frame in chosen] == [1, 4]


def test_summary(make_frame: Callable[..., Frame]) -> None:
    """Rounds in the order of their numbers, not of their names; labels and failures of all labellings."""
    rounds = {
        f'round_{number}': {
            'dataset': PESData(frames=[make_frame(i) for i in range(number)]),
            'metrics': orm.Dict({'test': {'forces': {'rmse': 0.1 * number}}}),
            'calibration': orm.Dict({'forces': {'slope': 2.0}}),
            'selection': orm.Dict({'counts': {'pool': number}, 'thresholds': {}, 'selection': [], 'rejected': []}),
        }
        for number in (10, 2, 1)
    }
    failure = {'index': 1, 'exit_status': 410, 'reason': 'x'}
    labelling = {
        'labelling_initial': orm.Dict(
            {'n_requested': 4, 'n_labelled': 3, 'n_reused': 2, 'n_failed': 1, 'failures': [failure]}
        ),
        'labelling_1': orm.Dict({'n_requested': 2, 'n_labelled': 2, 'n_failed': 0, 'failures': []}),
    }
    results = summarise_campaign(orm.Str('converged'), rounds=rounds, labelling=labelling).get_dict()
    assert results['ended_by'] == 'converged'
    assert [made['round'] for made in results['rounds']] == [1, 2, 10]
    assert [made['n_labelled'] for made in results['rounds']] == [1, 2, 10]
    assert results['rounds'][2]['metrics']['test']['forces']['rmse'] == 1.0
    assert results['labels'] == {'requested': 6, 'labelled': 5, 'reused': 2, 'failed': 1}
    assert results['failures'] == [failure]


def test_summary_without_labelling(make_frame: Callable[..., Frame]) -> None:
    """A campaign that started from labels and bought none."""
    nodes = {'dataset': PESData(frames=[make_frame(0)])}
    nodes |= {name: orm.Dict({'counts': {}, 'thresholds': {}}) for name in ('metrics', 'calibration', 'selection')}
    results = summarise_campaign(orm.Str('max_rounds'), rounds={'round_1': nodes}).get_dict()
    assert results['labels'] == {'requested': 0, 'labelled': 0, 'reused': 0, 'failed': 0} and results['failures'] == []
