"""What the benchmark of a campaign makes of a record."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from aiida_alpot.report.record import CampaignRecord

BENCHMARK = Path(__file__).parents[2] / 'benchmarks' / 'campaign.py'


@pytest.fixture(scope='module')
def benchmark() -> ModuleType:
    """The script as a module."""
    import sys

    spec = importlib.util.spec_from_file_location('alpot_benchmark_campaign', BENCHMARK)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_bars_hold(benchmark: ModuleType, make_record: Callable[..., CampaignRecord]) -> None:
    """A campaign in time whose error falls; every stage has its time, and the last line is JSON."""
    figures = benchmark.measure(make_record(), quick=False)
    answer = json.loads(benchmark.as_json(figures, quick=False))
    found = {figure['name']: figure for figure in answer['figures']}
    assert answer['holds'] is True
    assert found['total'] == {'name': 'total', 'value': 600.0, 'unit': 's', 'bar': '<= 720', 'holds': True}
    assert found['training_2']['value'] == 95.0
    assert found['nodes per label']['value'] == 25.0
    assert 'training_2' in benchmark.as_table(figures)


def test_bars_do_not_hold(benchmark: ModuleType, make_record: Callable[..., CampaignRecord]) -> None:
    """Too slow, or an error that grows."""
    for fields in ({'seconds': 721.0}, {'rounds': make_record().rounds[::-1]}, {'ended_by': None}):
        figures = benchmark.measure(make_record(**fields), quick=False)
        assert sum(not figure.holds for figure in figures) == 1, fields
    assert all(figure.holds for figure in benchmark.measure(make_record(seconds=721.0), quick=True))


def test_nothing_was_made(benchmark: ModuleType, make_record: Callable[..., CampaignRecord]) -> None:
    """A campaign that failed at once has a line of JSON too, without NaN."""
    record = make_record(rounds=(), stages=(), labellings=(), failures=(), ended_by=None, exit_status=402)
    text = benchmark.as_json(benchmark.measure(record, quick=False), quick=False)
    assert json.loads(text)['holds'] is False and 'NaN' not in text


def test_changes_go_deep(benchmark: ModuleType) -> None:
    """Values replace values, mappings merge."""
    assert benchmark.merged({'a': {'b': 1, 'c': 2}, 'd': 3}, {'a': {'b': 9}, 'e': None}) == {
        'a': {'b': 9, 'c': 2},
        'd': 3,
        'e': None,
    }
