"""What the commands on models share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aiida_alpot.data.committee import CommitteeData
    from aiida_alpot.data.potential import PotentialData


def rows_of(node: CommitteeData | PotentialData) -> list[tuple[str, Any]]:
    """What describes a model or a committee, for a table."""
    creator = node.creator
    rows = [
        ('PK', node.pk),
        ('UUID', node.uuid),
        ('label', node.label or '-'),
        ('description', node.description or '-'),
        ('created', node.ctime.strftime('%Y-%m-%d %H:%M:%S %Z')),
        ('made by', f'{creator.process_label} <{creator.pk}>' if creator else 'nothing: it was brought in'),
        ('trainer', f'{node.trainer} {node.trainer_version or ""}'.strip()),
        ('architecture', node.architecture or '-'),
        ('elements', ' '.join(node.elements)),
        ('cutoff', f'{node.cutoff:g} A'),
        ('precision', node.dtype),
        ('level of theory', ', '.join(node.level_of_theory) or 'not known'),
        ('trained on', _trained_on(node.data_hash)),
    ]
    energies = node.reference_energies
    if energies:
        listed = ', '.join(f'{symbol} {energy:.4f}' for symbol, energy in energies.items())
        rows.append(('energies of atoms', f'{listed} eV'))
    return rows


def _trained_on(data_hash: str | None) -> str:
    """The data set of this content, where the database has it."""
    from aiida import orm

    from aiida_alpot.data.pes import PESData

    if data_hash is None:
        return 'not known'
    query = orm.QueryBuilder().append(PESData, filters={'attributes.content_hash': data_hash})
    found = query.order_by({PESData: 'id'}).first(flat=True)
    return f'a data set of content hash {data_hash}' if found is None else f'data set {found.pk}, {len(found)} frames'
