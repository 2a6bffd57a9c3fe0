"""Random structures, and their relaxations."""

from __future__ import annotations

import numpy as np
import pytest

from aiida_alpot.worker.acquisition.gate import too_close
from aiida_alpot.worker.explorers import Limits, make_explorer, random_structure


@pytest.mark.parametrize('periodic', [True, False])
@pytest.mark.parametrize('seed', range(8))
def test_random_structures(periodic: bool, seed: int) -> None:
    """Composition, volume and distances as asked for; the same seed gives the same one."""
    frame = random_structure({'O': 4, 'Ti': 2}, (12.0, 20.0), seed, min_distance=0.7, periodic=periodic)
    assert frame.numbers.tolist() == [8] * 4 + [22] * 2
    assert too_close(frame, 0.7) == ''
    assert frame.pbc.tolist() == [periodic] * 3
    if periodic:
        assert 12.0 <= frame.volume / 6 <= 20.0
    else:
        radius = np.cbrt(3 * 20.0 * 6 / (4 * np.pi))
        assert not frame.cell.any() and np.linalg.norm(frame.positions, axis=1).max() <= radius
    again = random_structure({'Ti': 2, 'O': 4}, (12.0, 20.0), seed, min_distance=0.7, periodic=periodic)
    assert again.frame_id == frame.frame_id
    other = random_structure({'Ti': 2, 'O': 4}, (12.0, 20.0), seed + 100, min_distance=0.7, periodic=periodic)
    assert other.frame_id != frame.frame_id


def test_positions_are_uniform() -> None:
    """No octant of the cell is preferred."""
    places = []
    for seed in range(300):
        frame = random_structure({'Ar': 2}, (60.0, 60.0), seed, min_distance=0.1)
        places.append(frame.positions @ np.linalg.inv(frame.cell))
    mean = np.concatenate(places).mean(axis=0)
    assert np.abs(mean - 0.5).max() < 4 * np.sqrt(1 / 12 / 600)


@pytest.mark.parametrize(
    ('composition', 'volume', 'message'),
    [
        ({}, (10, 20), 'expected atoms by element'),
        ({'Xx': 2}, (10, 20), 'no chemical symbol'),
        ({'Si': 0}, (10, 20), 'at least 1'),
        ({'Si': 2}, (20, 10), 'volume'),
        ({'Si': 2}, 15, 'the smallest and the largest volume'),
        ({'Si': 20}, (2.0, 2.5), 'enlarge `volume` or reduce `min_distance`'),
        ({'Si': 1}, (1.0, 1.5), 'enlarge `volume`'),
    ],
)
def test_what_cannot_be(composition: dict, volume: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        random_structure(composition, volume, 0, min_distance=0.8)  # type: ignore[arg-type]


def test_search_of_clusters(watch, reduced_lj) -> None:
    """Each structure is a lineage of its own; distinct minima are told apart, the lowest is that of the triangle."""
    settings = {'composition': {'Ar': 3}, 'volume': [2.0, 3.0], 'n': 4, 'periodic': False, 'min_distance': 0.45}
    keeper = watch(reduced_lj)
    outcome = make_explorer('random_search', {**settings, 'fmax': 1e-3, 'max_steps': 300}).explore([], keeper, 3)
    frames = keeper.frames()
    assert outcome.status == 'completed'
    assert min(outcome.results['minima']) == pytest.approx(-3.0, abs=1e-5)
    assert sorted({frame.lineage for frame in frames}) == [f'ancestor:{k}' for k in range(4)]
    starts = [frame for frame in frames if frame.metadata['why'] == 'start']
    assert [frame.metadata['structure'] for frame in starts] == [0, 1, 2, 3]


def test_structures_that_fall_apart_stop_nothing(watch, reduced_lj) -> None:
    settings = {'composition': {'Ar': 4}, 'volume': [6.0, 16.0], 'n': 6, 'periodic': False, 'min_distance': 0.41}
    keeper = watch(reduced_lj, limits=Limits(max_force=400.0, max_energy_drop=None))
    outcome = make_explorer('random_search', settings).explore([], keeper, 1)
    statuses = [end['status'] for end in outcome.results['structures']]
    assert 'exploded' in statuses and 'completed' in statuses and len(statuses) == 6
    assert outcome.status == 'completed' and 'exploded' in outcome.message
    nothing = watch(reduced_lj, limits=Limits(max_force=1e-3, max_energy_drop=None))
    assert make_explorer('random_search', settings).explore([], nothing, 1).status == 'exploded'


def test_settings_that_cannot_be() -> None:
    with pytest.raises(ValueError, match='`composition`'):
        make_explorer('random_search', {'volume': [10, 20]})
    with pytest.raises(ValueError, match='clusters have no volume'):
        make_explorer(
            'random_search', {'composition': {'Si': 2}, 'volume': [10, 20], 'periodic': False, 'pressure': 1.0}
        )
    dense = make_explorer('random_search', {'composition': {'Si': 20}, 'volume': [2, 2.5]})
    with pytest.raises(ValueError, match='enlarge `volume`'):
        dense.check([])
