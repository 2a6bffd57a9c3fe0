"""Commands of ``verdi data alpot.potential``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from aiida.cmdline.params import types

from aiida_alpot.cli.data.common import table, with_profile
from aiida_alpot.cli.models.common import rows_of

if TYPE_CHECKING:
    from aiida_alpot.data.potential import PotentialData

POTENTIAL = types.DataParamType(sub_classes=('aiida.data:alpot.potential',))
"""A model by its PK, UUID or label."""


@click.command('show')
@click.argument('potential', type=POTENTIAL, metavar='POTENTIAL')
@with_profile
def show(potential: PotentialData) -> None:
    """Show what a model is and what it was trained on. POTENTIAL is a PK, UUID or label.

    \b
    Example:
      verdi data alpot.potential show 1234
    """
    rows = [
        *rows_of(potential),
        ('seed', '-' if potential.seed is None else potential.seed),
        ('file', f'{potential.filename} (SHA-256 {potential.sha256})'),
        ('checkpoint', potential.checkpoint_path or 'none: a training starts from the model'),
        ('started from', _model_of(potential.started_from)),
    ]
    click.echo(table(rows))


def _model_of(sha256: str | None) -> str:
    from aiida import orm

    from aiida_alpot.data.potential import PotentialData

    if sha256 is None:
        return '-'
    query = orm.QueryBuilder().append(PotentialData, filters={'attributes.sha256': sha256})
    found = query.order_by({PotentialData: 'id'}).first(flat=True)
    return f'a model of SHA-256 {sha256}' if found is None else f'potential {found.pk}'


@click.command('import')
@click.argument('path', type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar='FILE')
@click.option('--trainer', help='What trained it, such as mace or metatrain.')
@click.option('--element', 'elements', multiple=True, help='A chemical symbol that it knows; may be repeated.')
@click.option('--cutoff', type=float, help='Distance up to which an atom sees its neighbours directly, A.')
@click.option('--dtype', type=click.Choice(['float32', 'float64']), help='Precision of its weights.')
@click.option('--level-of-theory', help='What its labels were calculated with, such as "VASP PBE 520 eV".')
@click.option('-L', '--label', default='', help='Label of the model.')
@click.option('-D', '--description', default='', help='Description of the model.')
@with_profile
def import_file(
    path: Path, elements: tuple[str, ...], level_of_theory: str | None, label: str, description: str, **given: Any
) -> None:
    """Bring in a model that was trained elsewhere, such as a foundation model to be tuned.

    FILE is a .model of MACE, or a .pt or .ckpt of metatrain. It says itself what it is, for which it is loaded: bring
    in only files that you trust. Where all of --trainer, --element, --cutoff and --dtype are given, it is not loaded.

    \b
    Examples:
      verdi data alpot.potential import mace-mp-0b3-medium.model --level-of-theory "MPtrj PBE"
      verdi data alpot.potential import pet-mad.ckpt -L pet-mad
    """
    from aiida import orm

    from aiida_alpot.data.potential import PotentialData
    from aiida_alpot.worker.frames import hash_file

    known = {name: value for name, value in given.items() if value is not None}
    known |= {'elements': list(elements)} if elements else {}
    known |= {'level_of_theory': [level_of_theory]} if level_of_theory else {}
    query = orm.QueryBuilder().append(PotentialData, filters={'attributes.sha256': hash_file(path)})
    present = query.order_by({PotentialData: 'id'}).first(flat=True)
    if present is not None and not known:
        click.echo(f'Potential {present.pk} ({present.uuid}) is this file: nothing new is stored.')
        return
    node = PotentialData.from_file(path, **known)
    node.label, node.description = label, description
    node.store()
    click.echo(
        f'Potential {node.pk} ({node.uuid}): {node.trainer}, {len(node.elements)} elements, cutoff {node.cutoff:g} A.'
    )
