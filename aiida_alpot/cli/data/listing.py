"""``verdi data alpot.pes list``."""

from __future__ import annotations

from typing import Any

import click

from aiida_alpot.cli.data.common import numbered, table, with_profile


@click.command('list')
@click.option('-p', '--past-days', type=click.IntRange(min=1), help='Only those made in the last N days.', metavar='N')
@click.option('-e', '--element', 'elements', multiple=True, help='Only those with this element; may be repeated.')
@click.option(
    '-s', '--system', help='Only those with frames of exactly these elements, such as Ge-Si.', metavar='ELEMENTS'
)
@click.option('--level-of-theory', 'level', help='Only those with labels of this level of theory (its base).')
@click.option(
    '-l', '--limit', type=click.IntRange(min=1), default=50, show_default=True, help='Show the newest N.', metavar='N'
)
@click.option('--raw', is_flag=True, help='Only the PKs, one a line.')
@with_profile
def list_datasets(
    past_days: int | None, elements: tuple[str, ...], system: str | None, level: str | None, limit: int, raw: bool
) -> None:
    """List data sets, the newest last.

    \b
    Examples:
      verdi data alpot.pes list -p 7
      verdi data alpot.pes list -e Ge -e Si --level-of-theory pw-1a2b3c4d5e6f7a8b
      verdi data alpot.pes list --system Ge-Si --raw
    """
    from aiida.common import timezone
    from aiida.common.utils import str_timedelta

    found, total = find_datasets(past_days, elements, system, level, limit)
    if raw:
        click.echo('\n'.join(str(pk) for pk, *_ in found))
        return
    now = timezone.now()
    rows = [
        (
            pk,
            str_timedelta(now - ctime, short=True, max_num_fields=2, negative_to_zero=True),
            label,
            n_frames,
            n_labelled,
            ' '.join(symbols or []),
            ', '.join(sorted(levels or {})),
        )
        for pk, ctime, label, n_frames, n_labelled, symbols, levels in found
    ]
    if rows:
        click.echo(table(rows, ('PK', 'Created', 'Label', 'Frames', 'Labelled', 'Elements', 'Levels of theory')))
    click.echo(('' if total == len(rows) else f'{len(rows)} of ') + f'{numbered(total, "data set")}.')


def find_datasets(
    past_days: int | None, elements: tuple[str, ...], system: str | None, level: str | None, limit: int
) -> tuple[list[list[Any]], int]:
    """What the table shows of the newest data sets, oldest first, and how many there are in all."""
    from datetime import timedelta

    from aiida import orm
    from aiida.common import timezone

    from aiida_alpot.data.pes import PESData

    filters: dict[str, Any] = {}
    if past_days:
        filters['ctime'] = {'>': timezone.now() - timedelta(days=past_days)}
    if elements:
        filters['attributes.elements'] = {'contains': list(elements)}
    if system:
        name = '-'.join(sorted(part for part in system.split('-') if part))
        filters['attributes.chemical_systems'] = {'has_key': name}
    if level:
        filters['attributes.levels_of_theory'] = {'has_key': level}
    columns = ('n_frames', 'n_labelled', 'elements', 'levels_of_theory')
    project = ['id', 'ctime', 'label', *(f'attributes.{column}' for column in columns)]
    query = orm.QueryBuilder().append(PESData, filters=filters, project=project, tag='node')
    total = query.count()
    query.order_by({'node': [{'ctime': 'desc'}, {'id': 'desc'}]}).limit(limit)
    return query.all()[::-1], total
