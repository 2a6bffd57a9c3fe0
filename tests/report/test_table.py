"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from aiida_alpot.report.record import CampaignRecord, Labelling, Round
from aiida_alpot.report.table import duration, label_table, milli, round_table, stage_table


def test_numbers_are_in_the_table(make_record: Callable[..., CampaignRecord]) -> None:
    """Labels by split, candidates, errors in thousandths, calibration; aligned and narrow enough."""
    lines = round_table(make_record()).splitlines()
    rows = [line.split() for line in lines if line.split()[:1] in (['1'], ['2'], ['3'])]
    assert [row[1] for row in rows] == ['30/10/12', '38/10/12', '46/10/12']
    assert rows[0][4:] == ['6.00', '144', '1.50', '1.90', '0.41', '0.58']
    assert 'meV/atom' in lines[2] and 'meV/Å³' in lines[2]
    assert 'test frames' in lines[-1]
    assert max(map(len, lines)) <= 100
    assert len({len(line) for line in lines[1:-2]}) == 1


def test_doubt_is_marked(make_record: Callable[..., CampaignRecord], make_round: Callable[..., Round]) -> None:
    """A calibration that is not trusted has a star and its reason below; what is missing is a dash."""
    made = make_round(1)
    doubt = replace(made.calibration['forces'], trustworthy=False, r2=None, reason='3 held-out frames, 10 are needed')
    record = make_record(rounds=(make_round(1, calibration={'forces': doubt}), Round(2, 60, {'train': 50})))
    table = round_table(record)
    assert '1.90*' in table
    assert 'safer slope in round 1: 3 held-out frames, 10 are needed.' in table
    assert '50/0/0' in table


def test_no_round(make_record: Callable[..., CampaignRecord]) -> None:
    """Before the first round there is a sentence."""
    assert round_table(make_record(rounds=())) == 'No round has been trained yet.'
    assert round_table(make_record(rounds=(Round(1, 15, {'train': 11, 'validation': 4}),))).endswith('evaluated yet.')


def test_labels_are_counted(make_record: Callable[..., CampaignRecord]) -> None:
    """What was bought, reused and failed, below the rounds and for each labelling."""
    labellings = (Labelling('labelling_initial', 41, 40, 1, n_reused=30), Labelling('labelling_test', 12, 12, 0))
    record = make_record(labellings=labellings)
    assert (record.n_labels, record.n_reused) == (22, 30)
    assert '22 labels bought, 30 reused from the database, 1 failed.' in round_table(record)
    lines = [line.split() for line in label_table(record).splitlines()]
    assert lines[1:] == [
        ['labelling_initial', '41', '10', '30', '1'],
        ['labelling_test', '12', '12', '0', '0'],
        ['all', '53', '22', '30', '1'],
    ]


def test_stage_table(make_record: Callable[..., CampaignRecord]) -> None:
    """Each stage, and the campaign, with its time."""
    text = stage_table(make_record())
    assert 'training_2' in text and '1 min 35 s' in text and '10 min 00 s' in text.splitlines()[-1]


@pytest.mark.parametrize(
    ('seconds', 'text'), [(4.4, '4 s'), (59.7, '1 min 00 s'), (185, '3 min 05 s'), (7830, '2 h 10 min')]
)
def test_duration(seconds: float, text: str) -> None:
    """Units follow the size."""
    assert duration(seconds) == text


@pytest.mark.parametrize(('value', 'text'), [(None, '-'), (0.1442, '144'), (0.05184, '51.8'), (0.00216, '2.16')])
def test_milli(value: float | None, text: str) -> None:
    """Three digits that count."""
    assert milli(value) == text
