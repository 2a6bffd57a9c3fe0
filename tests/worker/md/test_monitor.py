"""What follows from what the committee says."""

import numpy as np
import pytest

from aiida_alpot.worker.acquisition.calibration import linear
from aiida_alpot.worker.md.lammps_atoms import Snapshot
from aiida_alpot.worker.md.monitor import (
    GO_ON,
    HALT,
    JUNK,
    REWIND,
    SAFE,
    UNCERTAIN,
    Monitor,
    Observation,
    Seen,
    observe,
)
from aiida_alpot.worker.md.uncertainty import UncertaintySettings
from aiida_alpot.worker.potentials import Predictions


def seen(step, error, grade=np.nan):
    snapshot = Snapshot(
        step,
        np.array([18]),
        np.zeros((1, 3)),
        np.eye(3),
        np.zeros(3),
        np.ones(3, dtype=bool),
        np.array([1]),
        0.001 * step,
    )
    return Seen(snapshot, Observation(0.0, expected_force_error=error, grade=grade))


def judge(settings, *errors):
    monitor = Monitor(settings, committee_every=2)
    return monitor, [monitor.judge(seen(2 * i, error)) for i, error in enumerate(errors)]


def test_predictions_become_an_observation():
    """Deviations of three members by hand, and the error that a line expects of the largest."""
    rng = np.random.default_rng(1)
    forces, energy = rng.normal(size=(3, 5, 3)), rng.normal(size=(3, 1))
    predictions = Predictions(energy, forces, np.full((3, 1, 3, 3), np.nan), np.array([0, 5]))
    each = [np.sqrt(np.mean([((forces[m, i] - forces[:, i].mean(0)) ** 2).sum() for m in range(3)])) for i in range(5)]
    deviation = rng.uniform(0.1, 1.0, size=200)
    calibration = linear(deviation, 2.5 * deviation, np.arange(200), 10, components=3)
    found = observe(predictions, 1, calibration, 'md', grade=3.0)
    assert found.potential_energy == energy[1, 0]
    np.testing.assert_allclose(found.force_deviation, each)
    assert found.max_force_deviation == pytest.approx(max(each))
    assert found.mean_force_deviation == pytest.approx(np.mean(each))
    assert found.energy_deviation == pytest.approx(np.std(energy) / 5)
    assert found.expected_force_error == pytest.approx(2.5 * max(each), rel=1e-6)
    assert found.vector[3:] == (found.expected_force_error, 3.0, 0.0)
    assert observe(predictions, 0).expected_force_error == pytest.approx(max(each))


def test_a_single_member_knows_its_energy_only():
    predictions = Predictions(np.ones((1, 1)), np.zeros((1, 2, 3)), np.full((1, 1, 3, 3), np.nan), np.array([0, 2]))
    found = observe(predictions, 0)
    assert found.potential_energy == 1.0 and np.isnan(found.vector[:5]).all() and found.force_deviation is None


def test_without_bounds_everything_is_safe():
    _, decisions = judge(None, 0.1, np.nan, 1e9)
    assert {(d.verdict, d.action) for d in decisions} == {(SAFE, GO_ON)}


def test_collect_goes_on_until_it_is_junk():
    monitor, decisions = judge(UncertaintySettings(lower=1.0, upper=2.0), 0.5, 1.5, 1.0, 2.5)
    assert [(d.verdict, d.action) for d in decisions] == [
        (SAFE, GO_ON),
        (UNCERTAIN, GO_ON),
        (SAFE, GO_ON),
        (JUNK, HALT),
    ]
    assert monitor.n_junk == 1
    assert decisions[-1].reason == 'at step 6 the expected force error is 2.5 eV/A, above `upper`, 2'


def test_what_is_not_finite_is_junk():
    _, decisions = judge(UncertaintySettings(lower=1.0), 0.5, np.nan)
    assert (decisions[-1].verdict, decisions[-1].action) == (JUNK, HALT) and 'not finite' in decisions[-1].reason


def test_halt():
    _, decisions = judge(UncertaintySettings(lower=1.0, on_crossing='halt'), 0.5, 1.1)
    assert (decisions[-1].action, decisions[-1].reason) == (
        HALT,
        'at step 2 the expected force error is 1.1 eV/A, above `lower`, 1',
    )


def test_steps_before_a_crossing_come_once_and_spaced():
    settings = UncertaintySettings(lower=1.0, keep_before=2, before_every=4)
    _, decisions = judge(settings, *[0.5] * 8, 1.5, 1.5, 0.5, 1.5)
    assert [earlier.snapshot.step for earlier in decisions[8].before] == [8, 12]
    assert decisions[9].before == ()
    assert [earlier.snapshot.step for earlier in decisions[11].before] == [20]


def test_a_rewind_goes_to_the_last_safe_step_and_not_for_ever():
    settings = UncertaintySettings(lower=1.0, upper=2.0, on_crossing='rewind', max_rewinds=2)
    monitor, decisions = judge(settings, 0.5, 0.6, 1.5, 3.0, 0.4, 1.1)
    assert [d.action for d in decisions] == [GO_ON, GO_ON, REWIND, REWIND, GO_ON, HALT]
    assert decisions[-1].reason.endswith('after 2 rewinds, which is `max_rewinds`')
    assert monitor.last_safe is not None and monitor.last_safe.snapshot.step == 8
    assert judge(settings, 1.5)[1][0].reason.endswith('there is no step below the bounds to go back to')
    monitor = Monitor(settings, 2)
    monitor.judge(seen(0, 0.1))
    assert monitor.judge(seen(2, 1.5), can_rewind=False).action == HALT


def test_grades_have_bounds_of_their_own():
    settings = UncertaintySettings(grade_lower=1.5, grade_upper=10.0)
    monitor = Monitor(settings, 1)
    verdicts = [monitor.judge(seen(i, np.nan, grade)).verdict for i, grade in enumerate((1.0, 2.0, np.inf))]
    assert verdicts == [SAFE, UNCERTAIN, JUNK]


@pytest.mark.parametrize(
    ('given', 'said'),
    [
        ({}, 'needs a bound'),
        ({'lower': -1.0}, '`lower`'),
        ({'lower': True}, '`lower`'),
        ({'lower': 1.0, 'upper': 0.5}, 'more than `lower`'),
        ({'upper': 0.5, 'grade_lower': 1.0}, 'more than `lower`'),
        ({'lower': 1.0, 'on_crossing': 'hold'}, "Did you mean 'halt'|on_crossing"),
        ({'lower': 1.0, 'keep_before': -1}, 'keep_before'),
        ({'lower': 1.0, 'max_rewinds': 1.5}, 'max_rewinds'),
        ({'lower': 1.0, 'before_every': 0}, 'before_every'),
        ({'lower': 1.0, 'keep_befor': 2}, "Did you mean 'keep_before'"),
        ({'lower': 1.0, 'calibration': {'kind': 'linear'}}, 'has no'),
    ],
)
def test_bounds_that_cannot_be(given, said):
    with pytest.raises(ValueError, match=said):
        UncertaintySettings.from_dict(given)
