"""The report of a campaign: one page that needs nothing else, and its figures as files."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from aiida_alpot import __version__
from aiida_alpot.report.captions import CAPTIONS
from aiida_alpot.report.citations import CITATIONS
from aiida_alpot.report.record import CampaignRecord
from aiida_alpot.report.table import (
    FIRST_CALIBRATION,
    FIRST_ERROR,
    HEADINGS,
    duration,
    label_rows,
    milli,
    notes,
    round_rows,
)

STYLE = Path(__file__).with_name('report.css')
MAX_FAILURES = 50
TITLES = {
    'learning_curve': 'Learning curve',
    'parity': 'Predictions against reference',
    'calibration': 'Calibration of the uncertainty',
    'exploration': 'How far the trajectories came',
    'selection': 'What was selected',
    'stage_times': 'Where the time went',
}


def write_report(record: CampaignRecord, directory: Path) -> Path:
    """Write ``report.html`` and ``figures/*.png`` into a directory, which is made where it is missing.

    :return: path of the page.
    """
    from aiida_alpot.report.figures import save_figures

    figures = save_figures(record, directory / 'figures')
    page = directory / 'report.html'
    page.write_text(render(record, figures), encoding='utf-8')
    return page


def render(record: CampaignRecord, figures: Mapping[str, Path]) -> str:
    """The page.

    :param figures: PNG file of each figure by its name.
    """
    title = f'Active learning of {"-".join(record.elements) or "an interatomic potential"}'
    # Before the first evaluation the other figures have nothing to show.
    shown = list(figures) if record.evaluated else ['stage_times']
    sections = [
        _section('rounds', 'Rounds', _rounds(record)),
        *(_section(name, TITLES[name], _figure(name, figures[name], record)) for name in shown),
        _section('labels', 'Labels', _labels(record)),
        _section('failures', 'Labels that failed', _failures(record)),
        _section('provenance', 'Provenance', _provenance(record)),
        _section('settings', 'Settings', _settings(record)),
        _section('citations', 'How to cite', _citations()),
    ]
    return '\n'.join(
        [
            '<!DOCTYPE html>',
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f'<title>{html.escape(title)}: campaign {record.pk}</title>',
            f'<style>{STYLE.read_text(encoding="utf-8")}</style>',
            '</head><body><main>',
            _head(title, record),
            *sections,
            f'<footer>Made by aiida-alpot {__version__} from campaign {record.uuid}.</footer>',
            '</main></body></html>\n',
        ]
    )


def _section(name: str, title: str, content: str) -> str:
    return f'<section id="{name}"><h2>{html.escape(title)}</h2>\n{content}\n</section>' if content else ''


def _head(title: str, record: CampaignRecord) -> str:
    mood = 'good' if record.ended_by else 'bad' if record.terminated else 'open'
    name = f' “{html.escape(record.label)}”' if record.label else ''
    started = record.started.strftime('%Y-%m-%d %H:%M %Z').strip()
    cards = ''.join(
        f'<div class="card"><b>{html.escape(value)}</b><span>{html.escape(what)}</span></div>'
        for value, what in headline_numbers(record)
    )
    return (
        f'<header><p class="over">aiida-alpot · campaign {record.pk}{name} · started {started}</p>'
        f'<h1>{html.escape(title)}</h1><p class="outcome {mood}">{html.escape(record.outcome)}</p>'
        f'<div class="cards">{cards}</div></header>'
    )


def headline_numbers(record: CampaignRecord) -> list[tuple[str, str]]:
    """The few numbers that tell most, each with what it is."""
    numbers = []
    last = record.evaluated[-1] if record.evaluated else None
    for name, unit in (('energy', 'meV/atom'), ('forces', 'meV/Å')):
        error = last.rmse(record.held_out, name) if last else None
        if error is not None:
            numbers.append((f'{milli(error)} {unit}', f'RMSE of {name}, {record.held_out} frames'))
    reused = f', {record.n_reused} reused' if record.n_reused else ''
    failed = f', {len(record.failures)} failed' if record.failures else ''
    numbers += [
        (str(record.n_labels), f'labels computed{reused}{failed}'),
        (duration(record.seconds), 'wall-clock time'),
    ]
    return numbers


def _rounds(record: CampaignRecord) -> str:
    if not record.rounds:
        return '<p>No round has been trained yet.</p>'
    groups = (
        f'<tr class="groups"><td colspan="{FIRST_ERROR}"></td>'
        f'<th colspan="{FIRST_CALIBRATION - FIRST_ERROR}">held-out RMSE</th>'
        f'<th colspan="{len(HEADINGS) - FIRST_CALIBRATION}">force calibration</th></tr>'
    )
    heads = ''.join(f'<th>{_heading(upper, lower)}</th>' for upper, lower in HEADINGS)
    rows = ''.join(f'<tr>{"".join(f"<td>{html.escape(cell)}</td>" for cell in row)}</tr>' for row in round_rows(record))
    below = '<br>'.join(html.escape(line) for line in notes(record))
    return (
        f'<div class="wide"><table class="numbers"><thead>{groups}<tr>{heads}</tr></thead>'
        f'<tbody>{rows}</tbody></table></div>'
        f'<p class="note">Labels: frames of the training, validation and test set. Candidates: frames of the pool '
        f'whose expected error exceeds the tolerance.<br>{below}</p>'
    )


def _heading(upper: str, lower: str) -> str:
    """What a column holds, and below it the unit or the fine print."""
    if lower in ('labels', 'candidates'):
        upper, lower = lower, upper
    return f'{html.escape(upper)}<small>{html.escape(lower)}</small>' if upper else html.escape(lower)


def _figure(name: str, path: Path, record: CampaignRecord) -> str:
    content = path.read_bytes()
    data = base64.b64encode(content).decode('ascii')
    caption = html.escape(CAPTIONS[name](record))
    return (
        f'<figure><div class="wide"><img src="data:image/png;base64,{data}" alt="{html.escape(TITLES[name])}" '
        f'width="{_shown_width(content)}"></div><figcaption>{caption}</figcaption></figure>'
    )


def _shown_width(png: bytes) -> int:
    """Width at which a figure is shown, in pixels of the page: its own, for a screen of 100 dots an inch."""
    # The header of a PNG: its width is the big-endian number that follows the name of the first chunk.
    return int.from_bytes(png[16:20], 'big') * 100 // 150


def _labels(record: CampaignRecord) -> str:
    if not record.labellings:
        return ''
    return (
        _table(('labelling', 'asked for', 'bought', 'reused', 'failed'), label_rows(record))
        + '<p class="note">Reused: the label of the same structure at the same level of theory was in the database.</p>'
    )


def _failures(record: CampaignRecord) -> str:
    if not record.failures:
        return '<p>None: every frame that was asked for has a label.</p>' if record.labellings else ''
    rows = [
        (failure.labelling, failure.frame_id[:12], failure.pk or '', failure.exit_status, failure.reason)
        for failure in record.failures[:MAX_FAILURES]
    ]
    rest = len(record.failures) - len(rows)
    more = f'<p class="note">And {rest} more, in the outputs <code>labelling</code>.</p>' if rest else ''
    return _table(('labelling', 'frame', 'process', 'exit code', 'reason'), rows) + more


def _provenance(record: CampaignRecord) -> str:
    per_label = 'all labels are reused' if record.n_reused else 'no label yet'
    if record.n_labels:
        per_label = f'{record.nodes_per_label:.1f} nodes for each of {record.n_labels} labels'
    intro = (
        f'<p>The campaign is made of {record.n_nodes} nodes: {record.n_processes} calculations and work chains and '
        f'{record.n_data} data nodes that these used or made; {per_label}.</p>'
    )
    rows = [(name, pk, SHOW.get(name, 'verdi node show {pk}').format(pk=pk)) for name, pk in record.outputs.items()]
    rows.append(('whole graph', record.pk, f'verdi node graph generate {record.pk}'))
    body = ''.join(
        f'<tr><td>{html.escape(name)}</td><td>{pk}</td><td><code>{html.escape(command)}</code></td></tr>'
        for name, pk, command in rows
    )
    head = '<thead><tr><th>what</th><th>PK</th><th>to look at it</th></tr></thead>'
    return f'{intro}<div class="wide"><table>{head}<tbody>{body}</tbody></table></div>'


SHOW = {'results': 'verdi data core.dict show {pk}', 'calibration': 'verdi data core.dict show {pk}'}
"""Command that shows an output, where it is another than for any node."""


def _settings(record: CampaignRecord) -> str:
    aims = [
        (f'target RMSE of {name}', f'{value:g} {UNITS[name]}')
        for name, value in record.targets.items()
        if value is not None
    ]
    aims += [
        (f'tolerance of {name}', f'{value:g} {UNITS[name]}')
        for name, value in record.tolerance.items()
        if value is not None
    ]
    short = [(name, _in_a_line(value)) for name, value in record.settings.items() if _fits_a_line(value)]
    long = [(name, value) for name, value in record.settings.items() if not _fits_a_line(value)]
    details = ''.join(_details(name, value) for name, value in long)
    return _table(('setting', 'value'), [*aims, *short, *record.codes.items()]) + details


def _fits_a_line(value: Any) -> bool:
    if isinstance(value, list):
        return len(value) <= 10 and not any(isinstance(item, (dict, list)) for item in value)
    return not isinstance(value, dict)


def _in_a_line(value: Any) -> str:
    return ', '.join(str(item) for item in value) if isinstance(value, list) else str(value)


def _details(name: str, value: Any) -> str:
    text = html.escape(json.dumps(value, indent=2, sort_keys=True))
    return f'<details><summary>{html.escape(name)}</summary><pre>{text}</pre></details>'


UNITS = {'energy': 'eV/atom', 'forces': 'eV/Å', 'stress': 'eV/Å³'}


def _citations() -> str:
    items = ''.join(
        f'<li><b>{html.escape(what)}</b> {html.escape(text)} <a href="https://doi.org/{doi}">doi:{doi}</a></li>'
        if doi
        else f'<li><b>{html.escape(what)}</b> {html.escape(text)}</li>'
        for what, text, doi in CITATIONS
    )
    return f'<ul class="citations">{items}</ul>'


def _table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    head = ''.join(f'<th>{html.escape(text)}</th>' for text in heads)
    body = ''.join(f'<tr>{"".join(f"<td>{html.escape(str(cell))}</td>" for cell in row)}</tr>' for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
