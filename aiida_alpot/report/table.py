"""The rounds of a campaign as plain text."""

from __future__ import annotations

from collections.abc import Sequence

from aiida_alpot.report.record import PROPERTIES, CalibrationRecord, CampaignRecord, Round

UNITS = {'energy': 'meV/atom', 'forces': 'meV/Å', 'stress': 'meV/Å³'}
"""Unit in which errors are shown: a thousandth of that in which they are kept."""

HEADINGS = (
    ('', 'round'),
    ('train/val/test', 'labels'),
    ('of pool', 'candidates'),
    ('', 'selected'),
    ('energy', UNITS['energy']),
    ('forces', UNITS['forces']),
    ('stress', UNITS['stress']),
    ('', 'slope'),
    ('', 'R²'),
    ('', 'coverage'),
)
"""Two lines of heading for each column."""
FIRST_ERROR, FIRST_CALIBRATION = 4, 7
GAP = '  '


def round_table(record: CampaignRecord) -> str:
    """Table of the rounds, at most 100 columns wide, with a last line that says what is what."""
    if not record.rounds:
        return 'No round has been trained yet.'
    rows = round_rows(record)
    lines = [[upper for upper, _ in HEADINGS], [lower for _, lower in HEADINGS], *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
    text = [GAP.join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
    rule = '-' * len(text[0])
    return '\n'.join([_groups(widths), *text[:2], rule, *text[2:], rule, *notes(record)])


def _groups(widths: Sequence[int]) -> str:
    """Line above the headings that names what the errors and the calibration are."""
    start = sum(widths[:FIRST_ERROR]) + len(GAP) * FIRST_ERROR
    errors = sum(widths[FIRST_ERROR:FIRST_CALIBRATION]) + len(GAP) * (FIRST_CALIBRATION - FIRST_ERROR - 1)
    calibration = sum(widths[FIRST_CALIBRATION:]) + len(GAP) * (len(widths) - FIRST_CALIBRATION - 1)
    return ' ' * start + _centred('held-out RMSE', errors) + GAP + _centred('force calibration', calibration)


def _centred(text: str, width: int) -> str:
    return f' {text} '.center(width, '-')


def round_rows(record: CampaignRecord) -> list[list[str]]:
    """One row of texts a round, in the order of :data:`HEADINGS`."""
    return [_row(made, record.held_out) for made in record.rounds]


def _row(made: Round, split: str) -> list[str]:
    labels = '/'.join(str(made.labels.get(name, 0)) for name in ('train', 'validation', 'test'))
    candidates = '-' if made.n_candidates is None else f'{made.n_candidates}/{made.n_pool}'
    errors = [milli(made.rmse(split, name)) for name in PROPERTIES]
    fitted = made.calibration.get('forces')
    return [str(made.number), labels, candidates, count(made.n_selected), *errors, *_calibration_cells(fitted)]


def _calibration_cells(fitted: CalibrationRecord | None) -> list[str]:
    if fitted is None:
        return ['-', '-', '-']
    doubt = '' if fitted.trustworthy else '*'
    return [decimal(fitted.slope) + doubt, decimal(fitted.r2), decimal(fitted.coverage)]


def notes(record: CampaignRecord) -> list[str]:
    """Lines below the table."""
    bought = [f'{labels_in_words(record)}.'] if record.labellings else []
    if not record.evaluated:
        return [*bought, 'No round has been evaluated yet.']
    split = record.held_out
    seen = 'which no training saw' if split == 'test' else 'which chose the epoch: there is no test set'
    lines = [*bought, f'RMSE of the mean of the committee on the {split} frames, {seen}.']
    doubts = [
        (made.number, made.calibration['forces'].reason)
        for made in record.rounds
        if 'forces' in made.calibration and not made.calibration['forces'].trustworthy
    ]
    for reason in dict.fromkeys(reason for _, reason in doubts):
        numbers = ', '.join(str(number) for number, other in doubts if other == reason)
        lines.append(f'* safer slope in round {numbers}: {reason}.')
    return lines


def labels_in_words(record: CampaignRecord) -> str:
    """How many labels were bought, how many were there already, and how many failed."""
    failed = f', {len(record.failures)} failed' if record.failures else ''
    return f'{record.n_labels} labels bought, {record.n_reused} reused from the database{failed}'


def label_table(record: CampaignRecord) -> str:
    """Table of the labellings: frames asked for, bought, reused from the database, failed."""
    rows = [('labelling', 'asked for', 'bought', 'reused', 'failed'), *label_rows(record)]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    return '\n'.join(
        GAP.join([row[0].ljust(widths[0]), *(row[column].rjust(widths[column]) for column in range(1, 5))])
        for row in rows
    )


def label_rows(record: CampaignRecord) -> list[tuple[str, ...]]:
    """One row of texts a labelling, as in :func:`label_table`, and one of their sums."""
    counts = [(made.name, made.n_requested, made.n_bought, made.n_reused, made.n_failed) for made in record.labellings]
    sums = ('all', *(sum(int(row[column]) for row in counts) for column in range(1, 5)))
    return [tuple(str(cell) for cell in row) for row in [*counts, sums]]


def milli(value: float | None) -> str:
    """A thousandfold value with three digits that count; a dash for none."""
    if value is None:
        return '-'
    value *= 1000
    return f'{value:.0f}' if value >= 100 else f'{value:.1f}' if value >= 10 else f'{value:.2f}'


def decimal(value: float | None) -> str:
    """A value with two decimals; a dash for none."""
    return '-' if value is None else f'{value:.2f}'


def count(value: int | None) -> str:
    """A number; a dash for none."""
    return '-' if value is None else str(value)


def duration(seconds: float) -> str:
    """A time in words that suit its size, e.g. ``42 s``, ``3 min 05 s``, ``2 h 10 min``."""
    whole = round(seconds)
    if whole < 60:
        return f'{whole} s'
    if whole < 3600:
        return f'{whole // 60} min {whole % 60:02d} s'
    return f'{whole // 3600} h {whole % 3600 // 60:02d} min'


def stage_table(record: CampaignRecord) -> str:
    """Table of the stages with their wall-clock times."""
    rows = [(stage.label, duration(stage.seconds), stage.state) for stage in record.stages]
    rows.append(('campaign', duration(record.seconds), record.state))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return '\n'.join(f'{a.ljust(widths[0])}  {b.rjust(widths[1])}  {c}' for a, b, c in rows)
