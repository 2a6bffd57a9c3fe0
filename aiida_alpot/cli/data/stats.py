"""``verdi data alpot.pes stats``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from aiida_alpot.cli.data.common import DATASET, table, with_profile

if TYPE_CHECKING:
    from aiida_alpot.data.pes import PESData
    from aiida_alpot.worker.frames.statistics import Range, Statistics


@click.command('stats')
@click.argument('dataset', type=DATASET, metavar='DATASET')
@with_profile
def stats(dataset: PESData) -> None:
    """Ranges of the labels, counts by origin and split, and duplicates. DATASET is a PK, UUID or label.

    All frames are read, in chunks. Isolated atoms are left out of the range of energies and listed apart.

    \b
    Example:
      verdi data alpot.pes stats 1234
    """
    from aiida_alpot.worker.frames.statistics import describe

    with dataset.open_store() as store:
        found = describe(store)
    click.echo(table(_range_rows(found), ('', 'Frames', 'Smallest', 'Mean', 'Largest')))
    click.echo('\n' + _count_table(found))
    click.echo(
        f'\n{dataset.n_frames} frames of {found.n_structures} different structures; {found.n_repeated} frames repeat a '
        'structure at the same level of theory.'
    )


def _range_rows(found: Statistics) -> list[tuple[Any, ...]]:
    from aiida_alpot.calculations.labels import GPA_PER_EV_PER_A3

    ranges: list[tuple[str, Range, float]] = [
        ('atoms', found.n_atoms, 1.0),
        ('volume per atom (A^3)', found.volume_per_atom, 1.0),
        ('energy per atom (eV)', found.energy_per_atom, 1.0),
        ('largest force (eV/A)', found.max_force, 1.0),
        ('pressure (GPa)', found.pressure, GPA_PER_EV_PER_A3),
    ]
    ranges += [(f'isolated {symbol} (eV)', value, 1.0) for symbol, value in sorted(found.isolated_atoms.items())]
    rows = []
    for name, value, factor in ranges:
        numbers = [f'{number * factor:.6g}' if value.n else '-' for number in (value.low, value.mean, value.high)]
        rows.append((name, value.n, *numbers))
    return rows


def _count_table(found: Statistics) -> str:
    from aiida_alpot.worker.frames import SPLITS

    splits = [split for split in (*SPLITS, '') if any(key[1] == split for key in found.counts)]
    rows: list[list[Any]] = []
    for origin in sorted({origin for origin, _ in found.counts}):
        counts = [found.counts[origin, split] for split in splits]
        rows.append([origin or '(none)', *counts, sum(counts)])
    if len(rows) > 1:
        rows.append(['all', *(sum(row[i] for row in rows) for i in range(1, len(splits) + 2))])
    return table(rows, ('Origin', *(split or 'no split' for split in splits), 'All'))
