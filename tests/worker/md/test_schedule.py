"""Conditions of rounds."""

import numpy as np
import pytest

from aiida_alpot.worker.md.schedule import Condition, ScheduleSettings, schedule


def test_a_grid_is_every_combination():
    settings = ScheduleSettings([300.0, 600.0], [0.0, 5.0], ['nvt', 'npt'])
    assert schedule(0, settings) == (
        Condition(300.0, 0.0, 'nvt'),
        Condition(600.0, 0.0, 'nvt'),
        Condition(300.0, 0.0, 'npt'),
        Condition(600.0, 0.0, 'npt'),
        Condition(300.0, 5.0, 'npt'),
        Condition(600.0, 5.0, 'npt'),
    )
    assert schedule(7, settings) == schedule(0, settings)


def test_a_grid_widens_from_stage_to_stage():
    settings = ScheduleSettings([300.0, 600.0, 1000.0, 2000.0], [0.0, 5.0], n_stages=4)
    found = [{condition.temperature for condition in schedule(stage, settings)} for stage in range(5)]
    assert [len(temperatures) for temperatures in found] == [1, 2, 3, 4, 4]
    assert found[1] == {300.0, 600.0}
    assert [len({c.pressure for c in schedule(stage, settings)}) for stage in range(4)] == [1, 1, 2, 2]


def test_ranges_widen_and_every_slice_has_one_point():
    settings = ScheduleSettings(
        [200.0, 1200.0], [-1.0, 9.0], mode='ranges', n_stages=4, n_conditions=20, start_temperature=300.0
    )
    for stage, (cold, hot, low, high) in enumerate(
        [
            (275, 525, -0.25, 2.25),
            (250, 750, -0.5, 4.5),
            (225, 975, -0.75, 6.75),
            (200, 1200, -1, 9),
            (200, 1200, -1, 9),
        ]
    ):
        found = schedule(stage, settings, seed=3)
        for values, bottom, top in (
            ([condition.temperature for condition in found], cold, hot),
            ([condition.pressure for condition in found], low, high),
        ):
            slices = np.floor((np.sort(values) - bottom) / (top - bottom) * 20)
            np.testing.assert_array_equal(slices, np.arange(20))


def test_what_is_drawn_follows_from_stage_and_seed():
    settings = ScheduleSettings([300.0, 900.0], [0.0, 2.0], ['npt', 'nvt'], mode='ranges', n_conditions=5)
    first = schedule(2, settings, seed=1)
    assert first == schedule(2, settings, seed=1)
    assert first != schedule(2, settings, seed=2) and first != schedule(3, settings, seed=1)
    assert [condition.ensemble for condition in first] == ['npt', 'nvt', 'npt', 'nvt', 'npt']
    assert [condition.pressure for condition in first][1::2] == [0.0, 0.0]
    one = ScheduleSettings([500.0], [3.0], mode='ranges', n_conditions=2)
    assert schedule(0, one) == (Condition(500.0, 3.0, 'npt'),) * 2


@pytest.mark.parametrize(
    ('settings', 'said'),
    [
        ({'temperatures': []}, 'schedule.temperatures'),
        ({'temperatures': [0.0]}, 'schedule.temperatures'),
        ({'temperatures': [300.0, 300.0]}, 'each once'),
        ({'ensembles': ['nph']}, 'schedule.ensembles'),
        ({'ensembles': ['nvt'], 'pressures': [1.0]}, 'no barostat without the ensemble npt'),
        ({'mode': 'spiral'}, 'schedule.mode'),
        ({'n_stages': 0}, 'schedule.n_stages'),
        ({'n_conditions': 4}, 'has no effect on a grid'),
        ({'mode': 'ranges'}, 'n_conditions. is missing'),
        ({'mode': 'ranges', 'n_conditions': 0}, 'schedule.n_conditions'),
        ({'mode': 'ranges', 'n_conditions': 4, 'temperatures': [1.0, 2.0, 3.0]}, 'the lowest and the highest'),
        ({'mode': 'ranges', 'n_conditions': 4, 'temperatures': [900.0, 300.0]}, 'the lowest and the highest'),
        ({'mode': 'ranges', 'n_conditions': 4, 'start_temperature': 900.0}, 'schedule.start_temperature'),
    ],
)
def test_schedules_that_make_no_sense_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        ScheduleSettings(**settings)


def test_a_stage_counts_from_zero():
    with pytest.raises(ValueError, match='`stage` is -1'):
        schedule(-1, ScheduleSettings())
