"""``verdi data alpot.pes export``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from aiida_alpot.cli.data.common import ARCHIVE, DATASET, chosen_frames, numbered, quiet_archives, with_profile
from aiida_alpot.worker.frames.formats import FORMATS, STYLES, write_frames

if TYPE_CHECKING:
    from aiida_alpot.data.pes import PESData


@click.command('export')
@click.argument('datasets', type=DATASET, metavar='DATASET...', nargs=-1, required=True)
@click.argument('output', type=click.Path(path_type=Path), metavar='OUTPUT')
@click.option(
    '-F',
    '--format',
    'format_',
    type=click.Choice([*FORMATS, ARCHIVE]),
    help='Format of OUTPUT, by default told by its suffix (.xyz, .extxyz, .db, .traj, .h5, .aiida).',
)
@click.option(
    '--style',
    type=click.Choice(list(STYLES)),
    help='Keys of the labels in extended XYZ: mace (REF_energy, ...), metatrain, or plain.  [default: mace]',
)
@click.option('--split', 'splits', multiple=True, help='Only frames of this split; may be repeated.')
@click.option('--origin', 'origins', multiple=True, help='Only frames of this origin; may be repeated.')
@click.option(
    '--provenance',
    type=click.Choice(['full', 'data', 'none']),
    help='What goes into an archive with the data set: full, all it descends from and the work chains of it; data, '
    'without the work chains; none, the node alone.  [default: full]',
)
@click.option('-f', '--force', is_flag=True, help='Overwrite OUTPUT.')
@with_profile
def export(
    datasets: tuple[PESData, ...],
    output: Path,
    format_: str | None,
    style: str | None,
    splits: tuple[str, ...],
    origins: tuple[str, ...],
    provenance: str | None,
    force: bool,
) -> None:
    """Write the frames of a data set to a file, or data sets to an AiiDA archive. DATASET is a PK, UUID or label.

    Units are eV, eV/A and eV/A^3 (stress, positive under tension). A file has lineage, origin, split and level of
    theory of each frame too, and can be imported again without any option. Only an archive keeps the provenance.

    \b
    Examples:
      verdi data alpot.pes export 1234 train.xyz --split train
      verdi data alpot.pes export 1234 frames.xyz --style metatrain
      verdi data alpot.pes export 1234 frames.db --origin md --origin rattle
      verdi data alpot.pes export 1234 5678 sets.aiida --provenance data
    """
    if output.exists() and not force:
        raise ValueError(f'{output} exists: give another name, or --force to overwrite it')
    if format_ == ARCHIVE or (format_ is None and output.suffix == '.aiida'):
        _refuse(('--style', style), ('--split', splits), ('--origin', origins), why='an archive holds whole nodes')
        _export_archive(datasets, output, provenance or 'full', force)
        return
    _refuse(('--provenance', provenance), why='only an archive keeps provenance')
    if len(datasets) > 1:
        raise ValueError('a file takes one data set: merge them first (`verdi data alpot.pes merge`)')
    _export_frames(datasets[0], output, format_, style, splits, origins)


def _refuse(*given: tuple[str, object], why: str) -> None:
    names = [name for name, value in given if value]
    if names:
        raise ValueError(f'{", ".join(names)} has no place here: {why}')


def _export_archive(datasets: tuple[PESData, ...], output: Path, provenance: str, force: bool) -> None:
    from aiida_alpot.data.archives import export_archive

    with quiet_archives():
        export_archive(datasets, output, provenance=provenance, overwrite=force)
    click.echo(f'{numbered(len(datasets), "data set")} in {output}, provenance: {provenance}.')


def _export_frames(
    dataset: PESData,
    output: Path,
    format_: str | None,
    style: str | None,
    splits: tuple[str, ...],
    origins: tuple[str, ...],
) -> None:
    with dataset.open_store() as store:
        indices = chosen_frames(store, splits, origins)
        frames = iter(store) if indices is None else store.select(indices)
        count = write_frames(frames, output, format=format_, style=style)
    click.echo(f'{count} of {len(dataset)} frames in {output}.')
