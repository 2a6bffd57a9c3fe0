"""``verdi data alpot.pes show``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from aiida_alpot.cli.data.common import DATASET, counts_text, numbered, table, with_profile

if TYPE_CHECKING:
    from aiida_alpot.data.pes import PESData


@click.command('show')
@click.argument('dataset', type=DATASET, metavar='DATASET')
@with_profile
def show(dataset: PESData) -> None:
    """Show what a data set holds and where it comes from. DATASET is a PK, UUID or label.

    Behind a level of theory of pw.x stand its settings, where a report in this profile has kept them.

    \b
    Example:
      verdi data alpot.pes show 1234
    """
    click.echo(table(_rows(dataset)))
    for base, count in dataset.levels_of_theory.items():
        click.echo(f'\nLevel of theory {base}: {numbered(count, "frame")}')
        for line in _content_lines(level_content(base)):
            click.echo(f'  {line}')


def _rows(node: PESData) -> list[tuple[str, Any]]:
    from aiida_alpot.worker.frames import PROPERTIES

    creator, attributes = node.creator, node.base.attributes.all
    made_by = 'nothing: it was brought in' if creator is None else f'{creator.process_label} <{creator.pk}>'
    rows = [
        ('PK', node.pk),
        ('UUID', node.uuid),
        ('label', node.label or '-'),
        ('description', node.description or '-'),
        ('created', node.ctime.strftime('%Y-%m-%d %H:%M:%S %Z')),
        ('made by', made_by),
    ]
    if node.source:
        rows.append(('source', _source(node.source)))
    labels = {name: attributes.get(f'n_{name}', 0) for name in PROPERTIES}
    return [
        *rows,
        ('frames', f'{node.n_frames}, {node.n_labelled} of them with energy and forces'),
        ('atoms', node.n_atoms),
        ('elements', ' '.join(node.elements)),
        ('chemical systems', counts_text(attributes.get('chemical_systems', {}))),
        ('labels', counts_text({name: count for name, count in labels.items() if count})),
        ('user arrays', ', '.join(attributes.get('arrays', [])) or 'none'),
        ('splits', counts_text(node.splits)),
        ('origins', counts_text(node.origins)),
        ('shards', len(node.shards)),
        ('schema version', node.schema_version),
        ('content hash', node.content_hash),
    ]


def _source(source: dict[str, Any]) -> str:
    extras = source.get('extras') or {}
    return f'{source.get("uri", "?")} (SHA-256 {extras["sha256"]})' if 'sha256' in extras else str(source)


def level_content(base: str) -> dict[str, Any] | None:
    """Settings of a level of theory, from a report of a labelling or collection in this profile that has them."""
    from aiida import orm

    if not base.startswith('pw-'):
        return None
    single = {'attributes.level_of_theory': base}
    several = {'attributes.levels_of_theory': {'has_key': base}}
    for filters, name in ((single, 'level_of_theory_content'), (several, 'levels_of_theory')):
        query = orm.QueryBuilder().append(orm.Dict, filters=filters, project=f'attributes.{name}')
        found = query.first(flat=True)
        if found:
            return found if name == 'level_of_theory_content' else found[base]
    return None


def _content_lines(content: dict[str, Any] | None) -> list[str]:
    if content is None:
        return ['(no settings are known in this profile: it was declared, or its report is elsewhere)']
    lines = []
    for key, value in content.items():
        if isinstance(value, dict):
            lines += [f'{key}.{name}: {inner}' for name, inner in value.items()]
        else:
            lines.append(f'{key}: {value}')
    return lines
