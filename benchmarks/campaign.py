"""Stage times of a campaign with real codes: ``python benchmarks/campaign.py [--quick]``.

Runs the silicon campaign of ``examples/`` in an AiiDA folder of its own, which is removed afterwards; ``--quick`` runs
the same with fewer and smaller everything, which tells whether it works and where the time goes, and nothing about
physics. The last line is one JSON object: every figure, its bar, and whether it holds. Exit code 1 where one does not.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aiida_alpot.report.record import CampaignRecord

CAMPAIGN = Path(__file__).resolve().parents[1] / 'examples' / 'silicon' / 'campaign.yaml'
MAX_SECONDS = 720.0

#: What ``--quick`` changes in the campaign file.
QUICK: dict[str, Any] = {
    'max_rounds': 2,
    'n_test_frames': 2,
    'augmentation': {
        'max_atoms': 4,
        'generators': {'strain': {'n_random': 1}, 'rattle': {'n': 2}, 'vacancy': {'n_sources': 1}},
    },
    'labelling': {'kpoints_distance': 1.0},
    'training': {'n_members': 2, 'parameters': {'num_channels': 4, 'max_num_epochs': 4, 'eval_interval': 2}},
    'exploration': {'temperatures': [300.0], 'n_replicas': 1, 'n_steps': 40, 'sample_every': 5, 'start_min_atoms': 1},
    'evaluation': {'tolerance': {'forces': 1e-3}, 'max_select': 2},
}


@dataclass(frozen=True)
class Figure:
    """One number that was measured.

    :param bar: what it must be, in words; empty for a number that is only reported.
    """

    name: str
    value: float | str | None
    unit: str
    bar: str = ''
    holds: bool = True


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A mapping with the values of another over its own, at every depth."""
    result = dict(base)
    for key, value in changes.items():
        own = result.get(key)
        result[key] = merged(own, value) if isinstance(own, dict) and isinstance(value, dict) else value
    return result


def run_campaign(quick: bool) -> CampaignRecord:
    """Run the campaign in the AiiDA folder in force; its record."""
    from aiida.engine import run_get_node

    from aiida_alpot.campaign.environment import setup_environment
    from aiida_alpot.campaign.file import campaign_builder, read_campaign
    from aiida_alpot.report.gather import gather

    setup_environment(broker=False)
    content = read_campaign(CAMPAIGN)
    return gather(run_get_node(campaign_builder(merged(content, QUICK) if quick else content))[1])


def measure(record: CampaignRecord, quick: bool) -> list[Figure]:
    """All figures of a campaign with their bars; physics has none in the quick form."""
    figures = [Figure(stage.label, round(stage.seconds, 1), 's') for stage in record.stages]
    total = Figure('total', round(record.seconds, 1), 's')
    ended = Figure('ended by', record.ended_by, '', 'a normal ending', record.ended_by is not None)
    first, last = force_errors(record)
    error = Figure(f'force RMSE, last round, {record.held_out}', last, 'eV/A')
    if not quick:
        total = Figure('total', total.value, 's', f'<= {MAX_SECONDS:g}', record.seconds <= MAX_SECONDS)
        holds = first is not None and last is not None and last < first
        error = Figure(error.name, last, 'eV/A', '< that of the first round', holds)
    return [
        *figures,
        total,
        ended,
        Figure('rounds', len(record.rounds), ''),
        Figure('labels', record.n_labels, '', '> 0', record.n_labels > 0),
        Figure('labels failed', len(record.failures), ''),
        Figure('nodes', record.n_nodes, ''),
        Figure('nodes per label', round(record.nodes_per_label, 2) if record.n_labels else None, ''),
        Figure(f'force RMSE, first round, {record.held_out}', first, 'eV/A'),
        error,
    ]


def force_errors(record: CampaignRecord) -> tuple[float | None, float | None]:
    """Held-out force RMSE of the first and the last round, eV/A."""
    made = record.evaluated
    if not made:
        return None, None
    return made[0].rmse(record.held_out, 'forces'), made[-1].rmse(record.held_out, 'forces')


def as_table(figures: list[Figure]) -> str:
    """The figures for people."""
    rows = [('figure', 'value', 'unit', 'bar', 'holds')]
    for figure in figures:
        value = f'{figure.value:.4g}' if isinstance(figure.value, float) else str(figure.value)
        rows.append(
            (figure.name, value, figure.unit, figure.bar, ('yes' if figure.holds else 'NO') if figure.bar else '')
        )
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = ['  '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return '\n'.join([lines[0], '-' * len(lines[0]), *lines[1:]])


def as_json(figures: list[Figure], quick: bool) -> str:
    """The figures for machines, on one line."""
    holds = all(figure.holds for figure in figures)
    return json.dumps(
        {'benchmark': 'campaign', 'quick': quick, 'holds': holds, 'figures': [asdict(f) for f in figures]}
    )


def main(argv: list[str] | None = None) -> int:
    """Run, print, and say whether the bars hold."""
    parser = argparse.ArgumentParser(description='Stage times of the silicon campaign.')
    parser.add_argument('--quick', action='store_true', help='a much smaller campaign')
    parser.add_argument('--report', type=Path, metavar='DIR', help='also write the report of the campaign there')
    arguments = parser.parse_args(argv)
    quick = arguments.quick
    with tempfile.TemporaryDirectory(prefix='alpot-bench-') as folder:
        # AiiDA reads the variable when it is first imported, which is after this.
        os.environ['AIIDA_PATH'] = folder
        (Path(folder) / '.aiida').mkdir(mode=0o700)
        record = run_campaign(quick)
        from aiida_alpot.report.table import round_table

        figures = measure(record, quick)
        print(record.outcome, round_table(record), as_table(figures), sep='\n\n')
        if arguments.report:
            from aiida_alpot.report.html import write_report

            print(f'\nreport: {write_report(record, arguments.report)}\n')
        from aiida.manage import get_manager

        get_manager().reset_profile()
    print(as_json(figures, quick))
    return 0 if all(figure.holds for figure in figures) else 1


if __name__ == '__main__':
    sys.exit(main())
