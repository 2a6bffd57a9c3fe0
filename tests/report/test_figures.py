"""Figures of a campaign."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from aiida_alpot.report.figures import FIGURES, calibration_text, covered, save_figures
from aiida_alpot.report.record import CalibrationRecord, CampaignRecord, Round
from aiida_alpot.worker.acquisition.calibration import conformal

UNITS = {
    'learning_curve': ('meV/atom', 'meV/Å', 'meV/Å³'),
    'parity': ('meV/atom', 'eV/Å', 'meV/Å³'),
    'calibration': ('eV/Å',),
    'exploration': ('meV/Å', 'ps'),
    'selection': ('eV/Å',),
    'stage_times': ('min',),
}


def axis_labels(figure: Figure) -> str:
    """All axis labels of a figure."""
    return ' '.join(label for axis in figure.axes for label in (axis.get_xlabel(), axis.get_ylabel()))


@pytest.mark.parametrize('name', sorted(FIGURES))
def test_axes_have_units(name: str, make_record: Callable[..., CampaignRecord]) -> None:
    """Every figure is drawn and names the unit of what it shows."""
    labels = axis_labels(FIGURES[name](make_record()))
    assert all(f'({unit})' in labels for unit in UNITS[name]), labels


@pytest.mark.parametrize('name', sorted(FIGURES))
def test_campaign_without_anything(name: str, make_record: Callable[..., CampaignRecord]) -> None:
    """Before the first stage each figure says so, and does not fail."""
    record = make_record(rounds=(), stages=(), targets={}, tolerance={})
    FIGURES[name](record).draw_without_rendering()


def test_learning_curve_shows_the_errors(make_record: Callable[..., CampaignRecord]) -> None:
    """The test curve of the forces goes through the RMSEs at the labels trained on, and the target is a line."""
    axis = FIGURES['learning_curve'](make_record()).axes[1]
    curves = [(line.get_xdata(), np.asarray(line.get_ydata())) for line in axis.lines]
    assert any(list(x) == [40, 48, 56] and np.allclose(y, [144, 86.4, 51.84]) for x, y in curves if len(x) == 3)
    assert any(np.allclose(y, 60) for _, y in curves)


def test_exploration_shows_how_far_trajectories_came(make_record: Callable[..., CampaignRecord]) -> None:
    """One panel for the first and one for the last round, a line for each trajectory, its end, bound and tolerance."""
    record = make_record()
    axes = FIGURES['exploration'](record).axes
    assert [axis.get_title('left') for axis in axes] == ['Round 1', 'Round 3']
    for axis, made in zip(axes, (record.rounds[0], record.rounds[2]), strict=True):
        lines = [np.asarray(line.get_ydata()) for line in axis.lines]
        for trajectory in made.trajectories:
            error = 1000 * trajectory.expected_error
            assert any(len(y) == len(error) and np.allclose(y, error) for y in lines)
        assert any(np.allclose(y, 450) for y in lines) and any(np.allclose(y, 150) for y in lines)
        assert axis.get_ylim()[0] > 10  # which the start, where all members agree, does not stretch
        halted = sum(trajectory.reason == 'halted' for trajectory in made.trajectories)
        assert axis.get_title('right') == f'{halted} of 3 halted'
        assert sum(line.get_marker() == 'X' for line in axis.lines) == halted


def test_missing_stress_is_said(make_record: Callable[..., CampaignRecord], make_round: Callable[..., Round]) -> None:
    """Without stress labels the panel says that nothing was measured."""
    made = make_round(1)
    nothing = {'stress': replace(made.metrics['test']['stress'], rmse=None, mae=None, n=0, members=())}
    metrics = {split: {**errors, **nothing} for split, errors in made.metrics.items()}
    made.predictions.stress_ref[:] = np.nan
    record = make_record(rounds=(replace(made, metrics=metrics),))
    for name in ('learning_curve', 'parity'):
        axis = FIGURES[name](record).axes[2 if name == 'learning_curve' else 4]
        assert 'not measured' in [text.get_text() for text in axis.texts]


def test_calibration_line_has_the_slope(make_record: Callable[..., CampaignRecord]) -> None:
    """The first and the last round are shown, each with its line and the numbers."""
    figure = FIGURES['calibration'](make_record())
    assert [axis.get_title(loc='left') for axis in figure.axes] == ['Round 1', 'Round 3']
    x, y = figure.axes[0].lines[0].get_data()
    np.testing.assert_allclose(np.asarray(y), 1.9 * np.asarray(x))
    text = ' '.join(text.get_text() for text in figure.axes[0].texts)
    assert 'slope 1.90 ± 0.20' in text and 'covers 58 % of 90 validation atoms' in text


def test_calibration_text_says_what_rule(make_round: Callable[..., Round]) -> None:
    """An untrusted slope is called that of the safer rule."""
    doubt = replace(make_round(1).calibration['forces'], trustworthy=False, coverage=None)
    text = calibration_text(make_round(1, calibration={'forces': doubt}))
    assert 'safer rule' in text and 'covers – of' in text


def test_covered() -> None:
    line = CalibrationRecord(2.0, 2.0, None, None, None, None, 2, 2, True, '')
    assert covered(np.array([1.0, 1.0]), np.array([1.9, 2.1]), line) == 0.5
    assert covered(np.array([1.0]), np.array([1.0]), replace(line, slope=None)) is None
    curve = conformal(np.arange(1.0, 41), 3 * np.arange(1.0, 41), np.arange(40))
    bent = replace(line, slope=None, kind='conformal', curve=curve)
    assert covered(np.array([1.0, 1.0]), np.array([2.9, 3.1]), bent) == 0.5
    assert bent.threshold(3.0) == pytest.approx(1.0)


def test_selected_frames_are_drawn(make_record: Callable[..., CampaignRecord]) -> None:
    """As many large points as frames were selected; the frames that the gate refused unseen are not there."""
    record = make_record()
    for axis, made in zip(FIGURES['selection'](record).axes, record.rounds, strict=True):
        counts = [len(points.get_offsets()) for points in axis.collections]
        assert counts[3] == made.n_selected
        assert sum(counts) == 57


def test_many_rounds_are_thinned(make_record: Callable[..., CampaignRecord], make_round: Callable[..., Round]) -> None:
    """Of many rounds the first and the latest pools are shown."""
    rounds = tuple(make_round(number) for number in range(1, 10))
    figure = FIGURES['selection'](make_record(rounds=rounds))
    assert [axis.get_title(loc='left') for axis in figure.axes] == [f'Round {n}' for n in (1, 5, 6, 7, 8, 9)]


def test_files(make_record: Callable[..., CampaignRecord], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each figure is a PNG of its own, and pyplot is not involved."""
    monkeypatch.delitem(sys.modules, 'matplotlib.pyplot', raising=False)  # which other tests may have imported
    paths = save_figures(make_record(), tmp_path / 'figures')
    assert set(paths) == set(FIGURES)
    assert all(path.read_bytes().startswith(b'\x89PNG') for path in paths.values())
    assert 'matplotlib.pyplot' not in sys.modules
