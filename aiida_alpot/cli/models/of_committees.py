"""Commands of ``verdi data alpot.committee``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from aiida.cmdline.params import types

from aiida_alpot.cli.data.common import numbered, table, with_profile
from aiida_alpot.cli.models.common import rows_of

if TYPE_CHECKING:
    from aiida_alpot.data.committee import CommitteeData

COMMITTEE = types.DataParamType(sub_classes=('aiida.data:alpot.committee',))
"""A committee by its PK, UUID or label."""


@click.command('show')
@click.argument('committee', type=COMMITTEE, metavar='COMMITTEE')
@with_profile
def show(committee: CommitteeData) -> None:
    """Show what a committee is and what it was trained on. COMMITTEE is a PK, UUID or label.

    \b
    Example:
      verdi data alpot.committee show 1234
    """
    click.echo(table([*rows_of(committee), ('members', committee.n_members)]))
    files = [Path(source).name for _, source, _ in committee.start_list('.')]
    seeds = ['-' if seed is None else seed for seed in committee.seeds]
    rows = zip(committee.member_filenames, files, seeds, committee.member_hashes, strict=True)
    click.echo('\n' + table(rows, ('model', 'training starts from', 'seed', 'SHA-256')))


@click.command('export')
@click.argument('committee', type=COMMITTEE, metavar='COMMITTEE')
@click.argument('folder', type=click.Path(file_okay=False, path_type=Path), metavar='FOLDER')
@click.option('--lammps', is_flag=True, help='With a LAMMPS script and all that `alpot-md` needs to run it.')
@click.option('--checkpoints', is_flag=True, help='In place of the models, what a training starts from.')
@with_profile
def export(committee: CommitteeData, folder: Path, lammps: bool, checkpoints: bool) -> None:
    """Write the models of a committee and their card into a folder, which is made. COMMITTEE is a PK, UUID or label.

    \b
    Examples:
      verdi data alpot.committee export 1234 models
      verdi data alpot.committee export 1234 potential --lammps
    """
    from aiida_alpot.campaign import model_card
    from aiida_alpot.campaign.export import export_potential

    if lammps and checkpoints:
        raise ValueError('--checkpoints has no place beside --lammps: LAMMPS runs models')
    if folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f'{folder} is not empty: give another name')
    if lammps:
        script = export_potential(committee, folder)
        click.echo(f'{numbered(committee.n_members, "model")} in {folder}; run `alpot-md -in {script.name}` there.')
        return
    for path in committee.export(folder, checkpoints=checkpoints):
        click.echo(path)
    if not checkpoints:
        (folder / model_card.FILE).write_text(model_card.model_card(committee), encoding='utf-8')
        click.echo(folder / model_card.FILE)
