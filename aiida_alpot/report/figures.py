"""Figures of a campaign: each a function from a record to a matplotlib ``Figure``, drawn without any global state."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter, NullLocator

from aiida_alpot.report.record import PROPERTIES, SPLIT_ORDER, CalibrationRecord, CampaignRecord, Round
from aiida_alpot.report.table import UNITS, duration, milli

# Colours that colour-blind people can tell apart (Okabe and Ito), the split that counts in the strongest.
SPLIT_COLOURS = {'train': '#a9b4bf', 'validation': '#e69f00', 'test': '#0072b2'}
SPLIT_MARKERS = {'train': 'o', 'validation': 's', 'test': 'o'}
KIND_COLOURS = {
    'augmentation': '#cc79a7',
    'labelling': '#e69f00',
    'training': '#0072b2',
    'calibration': '#f0e442',
    'exploration': '#009e73',
    'evaluation': '#56b4e9',
}
CANDIDATE = '#8cc5e8'
LIMIT = '#d55e00'
"""Colour of what the user asked for: targets and tolerances."""
DASHED = (0, (4, 2))
INK, SOFT, GRID = '#24292f', '#6b7580', '#e6e9ed'
TITLE, TEXT, SMALL = 11.0, 9.5, 8.5
"""Font sizes, points."""
DPI = 150
MAX_POINTS = 20_000
"""Points drawn of one split; more make no difference to the eye."""
MAX_PANELS = 6
MIN_ATOMS_FOR_DECILES = 30
INCHES_A_HANDLE = 1.6
"""Width of an entry of a legend."""
TITLES = {'energy': 'Energy', 'forces': 'Forces', 'stress': 'Stress'}


def learning_curve(record: CampaignRecord) -> Figure:
    """RMSE of energy, forces and stress against the number of labels that the committee was trained on."""
    figure, axes = _panels(3, width=3.5, height=3.35)
    made = record.evaluated
    if not made:
        return _empty(figure, 'No round has been evaluated yet.')
    for axis, name in zip(axes, PROPERTIES, strict=True):
        _style(axis, f'{TITLES[name]} RMSE ({UNITS[name]})', 'labels (train + validation)')
        shown = [value for split in SPLIT_ORDER for value in _draw_errors(axis, made, split, name, record.held_out)]
        target = record.targets.get(name)
        if target is not None:
            axis.axhline(1000 * target, color=LIMIT, linewidth=1.2, linestyle=DASHED, zorder=1)
            shown.append(1000 * target)
        if not shown:
            _say(axis, 'not measured')
        _scale_errors(axis, shown)
        _round_ticks(axis, made)
    handles: list[Any] = [_split_handle(split, line=True) for split in SPLIT_ORDER if _has_errors(made, split)]
    if any(len(errors.members) for round_ in made for errors in round_.metrics.get(record.held_out, {}).values()):
        handles.append(Patch(color=SPLIT_COLOURS[record.held_out], alpha=0.18, linewidth=0, label='single members'))
    if any(target is not None for target in record.targets.values()):
        handles.append(_limit_handle('target'))
    return _legend(figure, handles)


def _draw_errors(axis: Axes, rounds: Sequence[Round], split: str, name: str, held_out: str) -> list[float]:
    """Draw the RMSE of a split, and the range of the members for the one that counts; returns what was drawn."""
    found = [(made.n_fitted, made.metrics[split][name]) for made in rounds if made.rmse(split, name) is not None]
    if not found:
        return []
    labels = [n for n, _ in found]
    values = [1000 * float(errors.rmse or 0) for _, errors in found]
    counts = split == held_out
    axis.plot(
        labels,
        values,
        color=SPLIT_COLOURS[split],
        marker=SPLIT_MARKERS[split],
        markersize=6 if counts else 4.5,
        linewidth=2.2 if counts else 1.3,
        markeredgecolor='white',
        markeredgewidth=0.8,
        zorder=4 if counts else 3,
        clip_on=False,
    )
    if not counts:
        return values
    low = [1000 * min(errors.members, default=value / 1000) for (_, errors), value in zip(found, values, strict=True)]
    high = [1000 * max(errors.members, default=value / 1000) for (_, errors), value in zip(found, values, strict=True)]
    axis.fill_between(labels, low, high, color=SPLIT_COLOURS[split], alpha=0.18, linewidth=0, zorder=2)
    for place in {0, len(values) - 1}:
        axis.annotate(
            milli(values[place] / 1000),
            (labels[place], max(values[place], high[place])),
            xytext=(0, 6),
            textcoords='offset points',
            ha='center',
            fontsize=SMALL,
            color=INK,
            zorder=5,
            bbox={'facecolor': 'white', 'alpha': 0.85, 'edgecolor': 'none', 'pad': 0.6},
        )
    return [*values, *low, *high]


def _has_errors(rounds: Iterable[Round], split: str) -> bool:
    return any(made.rmse(split, name) is not None for made in rounds for name in PROPERTIES)


def _scale_errors(axis: Axes, values: Sequence[float]) -> None:
    """From zero, or logarithmic where the errors span more than a decade."""
    positive = [value for value in values if value > 0]
    if not positive:
        return
    if max(positive) > 12 * min(positive):
        axis.set_yscale('log')
        axis.set_ylim(min(positive) / 1.5, max(positive) * 1.6)
        _plain_log_ticks(axis.yaxis, *axis.get_ylim())
    else:
        axis.set_ylim(0, max(positive) * 1.22)
        axis.yaxis.set_major_locator(MaxNLocator(5))


def _round_ticks(axis: Axes, rounds: Sequence[Round]) -> None:
    """Labels and round under each point while there are few, else plain numbers."""
    places = {made.n_fitted: made.number for made in rounds}
    if not places:
        return
    low, high = min(places), max(places)
    margin = 0.14 * (high - low) or 0.5
    axis.set_xlim(low - margin, high + margin)
    gaps = np.diff(sorted(places))
    if len(places) <= MAX_PANELS and (not len(gaps) or min(gaps) > 0.12 * (high - low)):
        axis.xaxis.set_major_locator(FixedLocator(list(places)))
        axis.set_xticklabels([f'{n}\nround {number}' for n, number in places.items()])
    else:
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))


def parity(record: CampaignRecord) -> Figure:
    """Predictions of the last round against labels, with the residuals below."""
    made = _last(record, lambda round_: round_.predictions is not None)
    figure = Figure(figsize=(10.5, 4.9), layout='constrained')
    if made is None or made.predictions is None:
        return _empty(figure, 'No round has been evaluated yet.')
    grid = figure.add_gridspec(2, 3, height_ratios=(3.2, 1))
    for column, name in enumerate(PROPERTIES):
        upper = figure.add_subplot(grid[0, column])
        lower = figure.add_subplot(grid[1, column], sharex=upper)
        _draw_parity(upper, lower, made, name, record.held_out)
    handles = [_split_handle(split) for split in SPLIT_ORDER if np.any(made.predictions.split == split)]
    return _legend(figure, handles, f'round {made.number}, mean of the committee')


PARITY_AXES = {
    'energy': ('reference energy above the lowest', 'meV/atom', 1000.0),
    'forces': ('reference force component', 'eV/Å', 1.0),
    'stress': ('reference stress component', 'meV/Å³', 1000.0),
}
"""What is compared, the unit in which it is shown, and how many of these are in one of ours."""


def _draw_parity(upper: Axes, lower: Axes, made: Round, name: str, held_out: str) -> None:
    what, unit, factor = PARITY_AXES[name]
    predictions = made.predictions
    assert predictions is not None
    pairs = {split: predictions.pairs(name, split) for split in SPLIT_ORDER}
    everything = np.concatenate([reference for reference, _ in pairs.values()])
    zero = everything.min() if name == 'energy' and len(everything) else 0.0
    _style(upper, f'predicted ({unit})', '')
    _style(lower, f'error ({UNITS[name]})', f'{what} ({unit})')
    upper.set_title(TITLES[name], fontsize=TITLE, color=INK, loc='left')
    rmse = f'{held_out} RMSE {milli(made.rmse(held_out, name))} {UNITS[name]}'
    if made.rmse(held_out, name) is not None:
        upper.set_title(rmse, fontsize=SMALL, color=SOFT, loc='right')
    upper.tick_params(labelbottom=False)
    limits = _parity_limits([(values - zero) * factor for pair in pairs.values() for values in pair])
    upper.plot(limits, limits, color=SOFT, linewidth=0.9, zorder=1)
    lower.axhline(0, color=SOFT, linewidth=0.9, zorder=1)
    for level, split in enumerate(SPLIT_ORDER):
        reference, predicted = _thinned(*pairs[split])
        style = _points(split, len(reference), zorder=2 + level)
        upper.scatter((reference - zero) * factor, (predicted - zero) * factor, **style)
        lower.scatter((reference - zero) * factor, (predicted - reference) * 1000, **style)
    upper.set(xlim=limits, ylim=limits)
    for axis in (upper.xaxis, upper.yaxis, lower.yaxis):
        axis.set_major_locator(MaxNLocator(4 if axis is not lower.yaxis else 3))
    errors = np.concatenate([(predicted - reference) * 1000 for reference, predicted in pairs.values()])
    bound = 1.15 * float(np.abs(errors).max(initial=1e-9))
    lower.set_ylim(-bound, bound)
    if not len(everything):
        _say(upper, 'not measured')


def _parity_limits(values: Sequence[np.ndarray]) -> tuple[float, float]:
    joined = np.concatenate([*values, np.zeros(0)])
    if not len(joined):
        return 0.0, 1.0
    low, high = float(joined.min()), float(joined.max())
    margin = 0.06 * (high - low) or 1.0
    return low - margin, high + margin


def _points(split: str, n: int, zorder: int) -> dict[str, Any]:
    """Style of a cloud of points: the more, the smaller and the fainter."""
    crowd = float(np.clip(np.log10(max(n, 1)) - 1.5, 0, 2.5))
    return {
        's': 26 - 8 * crowd,
        'marker': SPLIT_MARKERS[split],
        'color': SPLIT_COLOURS[split],
        'alpha': 0.85 - 0.15 * crowd,
        'linewidths': 0.3 if crowd < 1 else 0.0,
        'edgecolors': 'white',
        'zorder': zorder,
        'rasterized': True,
    }


def _thinned(*columns: np.ndarray) -> tuple[np.ndarray, ...]:
    """At most :data:`MAX_POINTS` of the rows, evenly spaced."""
    step = -(-len(columns[0]) // MAX_POINTS) or 1
    return tuple(column[::step] for column in columns)


def calibration(record: CampaignRecord) -> Figure:
    """Force deviation of the committee against its real error on held-out atoms, in the first and the last round."""
    made = [round_ for round_ in record.rounds if round_.predictions is not None and 'forces' in round_.calibration]
    shown = made[:1] + made[1:][-1:]
    figure, axes = _panels(max(1, len(shown)), width=4.9, height=4.6)
    if not shown:
        return _empty(figure, 'No round has been calibrated yet.')
    clouds = [
        (split, *round_.predictions.force_errors(split))
        for round_ in shown
        if round_.predictions is not None
        for split in ('validation', 'test')
    ]
    limits_x, limits_y = _log_limits([d for _, d, _ in clouds]), _log_limits([e for _, _, e in clouds])
    for axis, round_ in zip(axes, shown, strict=True):
        _style(
            axis,
            'real error of the force on an atom (eV/Å)' if axis is axes[0] else '',
            'deviation of the committee on the atom (eV/Å)',
        )
        axis.set(xscale='log', yscale='log', xlim=limits_x, ylim=limits_y)
        _plain_log_ticks(axis.xaxis, *limits_x)
        _plain_log_ticks(axis.yaxis, *limits_y)
        _draw_calibration(axis, round_, record.tolerance.get('forces'))
    handles: list[Any] = [
        _split_handle(split) for split in ('validation', 'test') if any(s == split and len(d) for s, d, _ in clouds)
    ]
    handles += [
        Line2D([], [], color=INK, linewidth=1.6, label='expected error'),
        Patch(color=INK, alpha=0.08, linewidth=0, label='within a factor of 2'),
    ]
    if any(line.get_marker() == 'D' for axis in axes for line in axis.lines):
        handles.append(
            Line2D([], [], color='white', marker='D', markersize=6, markeredgecolor=INK, label='decile mean')
        )
    if record.tolerance.get('forces') is not None:
        handles.append(_limit_handle('tolerance'))
    return _legend(figure, handles)


def _draw_calibration(axis: Axes, made: Round, tolerance: float | None) -> None:
    assert made.predictions is not None
    fitted = made.calibration['forces']
    # The axes are logarithmic.
    x = np.geomspace(*axis.get_xlim(), 200)
    expected = fitted.expected_error(x)
    axis.plot(x, expected, color=INK, linewidth=1.6, zorder=4)
    axis.fill_between(x, expected / 2, expected * 2, color=INK, alpha=0.06, linewidth=0, zorder=1)
    if tolerance is not None:
        axis.axhline(tolerance, color=LIMIT, linewidth=1.2, linestyle=DASHED, zorder=2)
        axis.axvline(fitted.threshold(tolerance), color=LIMIT, linewidth=1.2, linestyle=DASHED, zorder=2)
    for split in ('validation', 'test'):
        deviation, error = made.predictions.force_errors(split)
        style = _points(split, len(deviation), zorder=3)
        thin_deviation, thin_error = _thinned(deviation, error)
        axis.scatter(thin_deviation, thin_error, **{**style, 'alpha': 0.55})
    held_out = [made.predictions.force_errors(split) for split in ('validation', 'test')]
    centres, means = _tenths(*(np.concatenate(column) for column in zip(*held_out, strict=True)))
    if len(centres):
        axis.plot(
            centres, means, 'D', color='white', markeredgecolor=INK, markersize=5.5, markeredgewidth=1.2, zorder=6
        )
    # Above the panel, where it hides no atom.
    axis.set_title(f'Round {made.number}', fontsize=TITLE, color=INK, loc='left', pad=30)
    axis.text(0, 1.02, calibration_text(made), transform=axis.transAxes, fontsize=SMALL, color=SOFT, linespacing=1.4)


def calibration_text(made: Round) -> str:
    """The numbers of the force calibration of a round, and how it did on test frames, which it was not fitted to."""
    fitted = made.calibration['forces']
    error = '' if fitted.slope_error is None or not fitted.trustworthy else f' ± {fitted.slope_error:.2f}'
    rule = '' if fitted.trustworthy else ' (safer rule)'
    what = f'slope {_two(fitted.slope)}{error}' if fitted.slope is not None else fitted.kind
    quality = f'{what}{rule}, R² {_two(fitted.r2)}, Spearman {_two(fitted.spearman)}'
    coverage = f'covers {_percent(fitted.coverage)} of {fitted.n} validation atoms'
    if made.predictions is not None:
        deviation, found = made.predictions.force_errors('test')
        if len(found):
            coverage += f', {_percent(covered(deviation, found, fitted))} of {len(found)} test atoms'
    return f'{quality}\n{coverage}'


def covered(deviation: np.ndarray, error: np.ndarray, fitted: CalibrationRecord) -> float | None:
    """Fraction of errors not above what is expected from the deviations."""
    if fitted.slope is None and fitted.curve is None:
        return None
    return float(np.mean(error <= fitted.expected_error(deviation)))


def _two(value: float | None) -> str:
    return '–' if value is None else f'{value:.2f}'


def _percent(value: float | None) -> str:
    return '–' if value is None else f'{100 * value:.0f} %'


def _tenths(deviation: np.ndarray, error: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean deviation and error of atoms in ten groups of equal size, ordered by deviation."""
    if len(deviation) < MIN_ATOMS_FOR_DECILES:
        return np.zeros(0), np.zeros(0)
    groups = np.array_split(np.argsort(deviation), 10)
    return np.array([deviation[g].mean() for g in groups]), np.array([error[g].mean() for g in groups])


def _log_limits(values: Iterable[np.ndarray]) -> tuple[float, float]:
    joined = np.concatenate([*values, np.zeros(0)])
    if not len(joined):
        return 0.01, 1.0
    # Single values far below the rest would squeeze the picture.
    high = float(joined.max())
    low = max(float(np.percentile(joined, 1)), high / 3000)
    return low / 1.4, max(high, 2 * low) * 1.6


def selection(record: CampaignRecord) -> Figure:
    """Expected force error of the frames of each pool, in falling order, with the tolerance and what was selected."""
    made = [round_ for round_ in record.rounds if round_.scores is not None]
    shown = made if len(made) <= MAX_PANELS else [made[0], *made[-(MAX_PANELS - 1) :]]
    columns = min(3, max(1, len(shown)))
    figure, axes = _panels(max(1, len(shown)), width=3.5 if columns > 1 else 5.5, height=3.3, columns=columns)
    if not shown:
        return _empty(figure, 'No pool has been evaluated yet.')
    known = [_known_errors(round_) for round_ in shown]
    tolerance = record.tolerance.get('forces')
    extra = np.array([] if tolerance is None else [tolerance])
    limits = _log_limits([np.concatenate([*known, extra])])
    for place, (axis, round_, errors) in enumerate(zip(axes, shown, known, strict=True)):
        y = 'expected force error (eV/Å)' if place % columns == 0 else ''
        _style(axis, y, 'frames of the pool, most uncertain first' if place + columns >= len(shown) else '')
        axis.set(yscale='log', ylim=(min(limits[0], *(extra / 1.5)), limits[1]))
        _plain_log_ticks(axis.yaxis, *axis.get_ylim())
        _draw_selection(axis, round_, len(errors))
        if tolerance is not None:
            axis.axhline(tolerance, color=LIMIT, linewidth=1.2, linestyle=DASHED, zorder=2)
    handles = [
        _dot('selected', SPLIT_COLOURS['test'], 6.5),
        _dot('candidate', CANDIDATE, 5.0),
        _dot('known well enough', SPLIT_COLOURS['train'], 4.0),
    ]
    if any(np.isin(list(round_.rejected), _frames_with_error(round_)).any() for round_ in shown):
        handles.append(_dot('refused by the gate', SOFT, 5.0, marker='x'))
    if tolerance is not None:
        handles.append(_limit_handle('tolerance'))
    return _legend(figure, handles)


def _frames_with_error(made: Round) -> np.ndarray:
    assert made.scores is not None
    return made.scores.frame_id[np.isfinite(made.scores.expected_force_error)]


def _known_errors(made: Round) -> np.ndarray:
    assert made.scores is not None
    errors = made.scores.expected_force_error
    return errors[np.isfinite(errors) & (errors > 0)]


def _draw_selection(axis: Axes, made: Round, n: int) -> None:
    assert made.scores is not None
    order = np.argsort(-np.nan_to_num(made.scores.expected_force_error, nan=-1.0), kind='stable')[:n]
    errors, frames = made.scores.expected_force_error[order], made.scores.frame_id[order]
    rank = np.arange(1, len(errors) + 1)
    refused = np.isin(frames, list(made.rejected))
    chosen = np.isin(frames, list(made.selected)) & ~refused
    tolerance = (made.thresholds.get('forces') or {}).get('tolerance', np.inf)
    candidate = (errors > tolerance) & ~chosen & ~refused
    rest = ~(chosen | candidate | refused)
    axis.scatter(rank[rest], errors[rest], s=12, color=SPLIT_COLOURS['train'], linewidths=0, zorder=3)
    axis.scatter(rank[candidate], errors[candidate], s=20, color=CANDIDATE, linewidths=0, zorder=4)
    axis.scatter(rank[refused], errors[refused], s=20, color=SOFT, marker='x', linewidths=1.0, zorder=4)
    axis.scatter(
        rank[chosen], errors[chosen], s=42, color=SPLIT_COLOURS['test'], edgecolors='white', linewidths=0.7, zorder=5
    )
    axis.set_xlim(0, max(len(errors), 1) + 1)
    axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axis.set_title(f'Round {made.number}', fontsize=TITLE, color=INK, loc='left')
    numbers = f'{made.n_candidates} of {made.n_pool} above, {made.n_selected} selected'
    axis.set_title(numbers, fontsize=SMALL, color=SOFT, loc='right')


def exploration(record: CampaignRecord) -> Figure:
    """Expected force error against time along the trajectories of the first and of the last round."""
    made = [round_ for round_ in record.rounds if round_.trajectories]
    figure, axes = _panels(max(1, len(made)), width=4.8, height=3.4)
    if not made:
        return _empty(figure, 'No trajectory has been evaluated yet.')
    temperatures = sorted({trajectory.temperature for round_ in made for trajectory in round_.trajectories})
    shades = np.linspace(0.05, 0.9, len(temperatures))
    colours = {t: colormaps['viridis'](shade) for t, shade in zip(temperatures, shades, strict=True)}
    # At the start, which is often a perfect crystal, all members may agree.
    errors = [t.expected_error[t.time > 0] for round_ in made for t in round_.trajectories]
    limits = [value for value in (*(round_.bound for round_ in made), record.tolerance.get('forces')) if value]
    low, high = _log_limits([*errors, np.array(limits)])
    longest = max(trajectory.time[-1] for round_ in made for trajectory in round_.trajectories)
    for axis, round_ in zip(axes, made, strict=True):
        _style(axis, 'expected force error (meV/Å)', 'time (ps)')
        _draw_trajectories(axis, round_, colours, record.tolerance.get('forces'))
        axis.set_yscale('log')
        _plain_log_ticks(axis.yaxis, 1000 * low, 1000 * high)
        axis.set(xlim=(0, 1.03 * longest or 1.0), ylim=(1000 * low, 1000 * high))
        halted = sum(trajectory.reason == 'halted' for trajectory in round_.trajectories)
        axis.set_title(f'Round {round_.number}', fontsize=TITLE, color=INK, loc='left')
        axis.set_title(f'{halted} of {len(round_.trajectories)} halted', fontsize=SMALL, color=SOFT, loc='right')
    handles: list[Any] = [Line2D([], [], color=colours[t], linewidth=1.6, label=f'{t:g} K') for t in temperatures]
    handles += [_dot('halted', LIMIT, 6.0, 'X'), _dot('ended otherwise', SOFT, 5.0)]
    handles += [_limit_handle('tolerance')] if record.tolerance.get('forces') else []
    if any(round_.bound for round_ in made):
        handles.append(Line2D([], [], color=LIMIT, linewidth=1.2, label='bound of the round'))
    return _legend(figure, handles)


def _draw_trajectories(axis: Axes, made: Round, colours: Mapping[float, Any], tolerance: float | None) -> None:
    for trajectory in made.trajectories:
        error = 1000 * trajectory.expected_error
        axis.plot(trajectory.time, error, color=colours[trajectory.temperature], linewidth=1.0, alpha=0.85, zorder=3)
        halted = trajectory.reason == 'halted'
        end = {'marker': 'X', 'color': LIMIT, 'markersize': 7} if halted else {'marker': 'o', 'color': SOFT}
        axis.plot(trajectory.time[-1:], error[-1:], markeredgecolor='white', linewidth=0, zorder=5, **end)
    for value, style in ((tolerance, DASHED), (made.bound, '-')):
        if value:
            axis.axhline(1000 * value, color=LIMIT, linewidth=1.2, linestyle=style, zorder=2)


def stage_times(record: CampaignRecord) -> Figure:
    """Wall-clock time of the stages, one bar for each part of the campaign."""
    parts = list(dict.fromkeys(stage.part for stage in record.stages))
    figure, (axis,) = _panels(1, width=9.0, height=1.5 + 0.42 * max(2, len(parts) + 1))
    if not parts:
        return _empty(figure, 'No stage has begun yet.')
    total = max(record.seconds, sum(stage.seconds for stage in record.stages), 1e-9)
    unit, scale = next(
        (name, size) for name, size in (('s', 1), ('min', 60), ('h', 3600)) if total < 120 * size or size == 3600
    )
    ends = {part: _draw_part(axis, record, part, row, scale) for row, part in enumerate(parts)}
    longest = max(ends.values())
    for row, (part, end) in enumerate(ends.items()):
        seconds = sum(stage.seconds for stage in record.stages if stage.part == part)
        axis.text(end + 0.012 * longest, row, duration(seconds), va='center', fontsize=SMALL, color=INK)
    _style(axis, '', f'wall-clock time ({unit})')
    axis.grid(visible=False, axis='y')
    axis.set_yticks(range(len(parts)), parts)
    axis.tick_params(axis='y', labelsize=TEXT, labelcolor=INK)
    axis.set(xlim=(0, 1.12 * longest), ylim=(len(parts) - 0.45, -0.55))
    axis.set_title(f'whole campaign {duration(record.seconds)}', fontsize=SMALL, color=SOFT, loc='right')
    kinds = [kind for kind in KIND_COLOURS if any(stage.kind == kind for stage in record.stages)]
    return _legend(figure, [Patch(color=KIND_COLOURS[kind], linewidth=0, label=kind) for kind in kinds])


def _draw_part(axis: Axes, record: CampaignRecord, part: str, row: int, scale: float) -> float:
    """Draw the stages of a part one after the other; returns where they end."""
    left = 0.0
    for stage in record.stages:
        if stage.part == part:
            width = stage.seconds / scale
            colour = KIND_COLOURS[stage.kind]
            axis.barh(row, width, left=left, height=0.62, color=colour, edgecolor='white', linewidth=1.0, zorder=3)
            left += width
    return left


FIGURES: Mapping[str, Callable[[CampaignRecord], Figure]] = {
    'learning_curve': learning_curve,
    'parity': parity,
    'calibration': calibration,
    'exploration': exploration,
    'selection': selection,
    'stage_times': stage_times,
}
"""Name of a figure -> function that draws it."""


def save_figures(record: CampaignRecord, directory: Path) -> dict[str, Path]:
    """Draw every figure into ``<name>.png`` of a directory, which is made where it is missing."""
    directory.mkdir(parents=True, exist_ok=True)
    paths = {name: directory / f'{name}.png' for name in FIGURES}
    for name, path in paths.items():
        FIGURES[name](record).savefig(path, dpi=DPI, facecolor='white')
    return paths


# What all figures share.


def _panels(n: int, *, width: float, height: float, columns: int | None = None) -> tuple[Figure, list[Axes]]:
    """A figure with n panels of a size in inches."""
    columns = columns or n
    rows = -(-n // columns)
    figure = Figure(figsize=(width * columns, height * rows), layout='constrained')
    return figure, [figure.add_subplot(rows, columns, place + 1) for place in range(n)]


def _style(axis: Axes, y: str, x: str) -> None:
    """Light axes with a quiet grid."""
    axis.set_axisbelow(True)
    axis.grid(visible=True, color=GRID, linewidth=0.8)
    for side, spine in axis.spines.items():
        spine.set_visible(side in ('left', 'bottom'))
        spine.set_color('#b6bec6')
    axis.tick_params(colors=SOFT, labelsize=SMALL, length=0, pad=4)
    axis.set_xlabel(x, fontsize=TEXT, color=INK)
    axis.set_ylabel(y, fontsize=TEXT, color=INK)


def _plain_log_ticks(axis: Any, low: float, high: float) -> None:
    """Ticks of a logarithmic axis as plain numbers: 1, 2 and 5 of each decade where these are few, else 1."""
    decades = 10.0 ** np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
    ticks = [value for decade in decades for value in (decade, 2 * decade, 5 * decade) if low <= value <= high]
    if len(ticks) > 7:
        ticks = [value for value in decades if low <= value <= high]
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f'{value:g}'))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def _split_handle(split: str, line: bool = False) -> Line2D:
    return Line2D(
        [],
        [],
        color=SPLIT_COLOURS[split],
        marker=SPLIT_MARKERS[split],
        markersize=6,
        linewidth=1.8 if line else 0,
        markeredgecolor='white',
        label=split,
    )


def _dot(label: str, colour: str, size: float, marker: str = 'o') -> Line2D:
    return Line2D([], [], color=colour, marker=marker, markersize=size, linewidth=0, label=label)


def _limit_handle(label: str) -> Line2D:
    return Line2D([], [], color=LIMIT, linewidth=1.2, linestyle=DASHED, label=label)


def _legend(figure: Figure, handles: Sequence[Any], title: str = '') -> Figure:
    """Legend above the panels, in one row where it fits."""
    if handles:
        figure.legend(
            handles=handles,
            loc='outside upper left',
            ncols=min(len(handles), max(2, int(figure.get_figwidth() / INCHES_A_HANDLE))),
            frameon=False,
            fontsize=TEXT,
            labelcolor=INK,
            handletextpad=0.5,
            columnspacing=1.6,
        )
    if title:
        figure.legend(
            handles=[], title=title, loc='outside upper right', frameon=False, title_fontproperties={'size': TEXT}
        )
    return figure


def _last(record: CampaignRecord, wanted: Callable[[Round], bool]) -> Round | None:
    return next((round_ for round_ in reversed(record.rounds) if wanted(round_)), None)


def _say(axis: Axes, text: str) -> None:
    axis.text(0.5, 0.5, text, transform=axis.transAxes, ha='center', va='center', fontsize=TEXT, color=SOFT)


def _empty(figure: Figure, text: str) -> Figure:
    """A figure that says why there is nothing to see."""
    figure.clear()
    figure.set_size_inches(6, 1.2)
    figure.text(0.5, 0.5, text, ha='center', va='center', fontsize=TITLE, color=SOFT)
    return figure
