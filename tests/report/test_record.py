"""The record of a campaign."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from aiida_alpot.report.record import CampaignRecord, Round


@pytest.mark.parametrize(
    ('fields', 'words'),
    [
        ({}, ['after 3 rounds', 'as many as it was allowed']),
        ({'ended_by': 'converged'}, ['converged after 3 rounds']),
        ({'ended_by': 'targets'}, ['reached its targets']),
        ({'ended_by': None, 'state': 'waiting'}, ['is waiting', '3 rounds so far']),
        ({'ended_by': None, 'exit_status': 403, 'exit_message': 'no model.'}, ['exit code 403', ': no model.']),
        (
            {'ended_by': None, 'state': 'excepted', 'exit_status': None, 'exit_message': 'KeyError: 1'},
            ['exception', 'KeyError'],
        ),
        ({'ended_by': None, 'state': 'killed', 'exit_status': None, 'exit_message': ''}, ['was killed', 'no message']),
    ],
)
def test_outcome_is_a_sentence(make_record: Callable[..., CampaignRecord], fields: dict, words: list[str]) -> None:
    """Every ending has its own words, and one full stop."""
    outcome = make_record(**fields).outcome
    assert all(word in outcome for word in words), outcome
    assert outcome.endswith('.') and not outcome.endswith('..')


def test_running_campaign_names_its_stage(make_record: Callable[..., CampaignRecord]) -> None:
    """The stage that has not ended is named."""
    record = make_record(ended_by=None, state='waiting')
    last = record.stages[-1].__class__('labelling_3', 'labelling', 'round 3', 99, 5.0, 'running')
    assert 'in labelling_3' in make_record(ended_by=None, state='waiting', stages=(*record.stages, last)).outcome


def test_nodes_per_label(make_record: Callable[..., CampaignRecord]) -> None:
    """All nodes over all labels, undefined without any."""
    assert make_record().nodes_per_label == pytest.approx(1300 / 52)
    assert math.isnan(make_record(labellings=()).nodes_per_label)


def test_held_out_split(make_record: Callable[..., CampaignRecord], make_round: Callable[..., Round]) -> None:
    """The test frames count; the validation frames where there are none."""
    assert make_record().held_out == 'test'
    untested = make_round(1)
    metrics = {split: errors for split, errors in untested.metrics.items() if split != 'test'}
    assert make_record(rounds=(make_round(1, metrics=metrics),)).held_out == 'validation'


def test_pairs_are_those_of_the_split(make_round: Callable[..., Round]) -> None:
    """Energies per atom, force components, six stress components, without what has no label."""
    predictions = make_round(1).predictions
    test = predictions.split == 'test'
    reference, _ = predictions.pairs('energy', 'test')
    np.testing.assert_array_equal(reference, (predictions.energy_ref / predictions.n_atoms)[test])
    assert len(predictions.pairs('forces', 'test')[0]) == 3 * predictions.n_atoms[test].sum()
    predictions.stress_ref[np.flatnonzero(test)[0]] = np.nan
    assert len(predictions.pairs('stress', 'test')[0]) == 6 * (test.sum() - 1)


def test_symmetric_frames_have_no_force_errors(make_round: Callable[..., Round]) -> None:
    """A frame whose forces all vanish is left out, as it is for the calibration."""
    predictions = make_round(1).predictions
    first = int(np.flatnonzero(predictions.split == 'test')[0])
    n = len(predictions.force_errors('test')[0])
    atoms = slice(predictions.offsets[first], predictions.offsets[first + 1])
    predictions.forces_ref[atoms] = predictions.forces_pred[atoms] = 1e-5
    deviation, error = predictions.force_errors('test')
    assert len(deviation) == len(error) == n - predictions.n_atoms[first]
