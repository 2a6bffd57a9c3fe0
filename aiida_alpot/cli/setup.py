"""``aiida-alpot setup``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aiida_alpot.campaign.environment import DEFAULT_PROFILE, DEFAULT_PSEUDO_DIRECTORY, setup_environment

if TYPE_CHECKING:
    from aiida_alpot.campaign.environment import Environment


@click.command('setup')
@click.option(
    '--path',
    type=click.Path(file_okay=False, path_type=Path),
    help='Folder for the AiiDA configuration and data, made where it is missing. Default: $AIIDA_PATH or home.',
)
@click.option('-p', '--profile', default=DEFAULT_PROFILE, show_default=True, help='Name of the profile.')
@click.option('--pw-executable', type=click.Path(dir_okay=False), help='The pw.x to use; by default that on the PATH.')
@click.option(
    '--pseudo-directory',
    type=click.Path(file_okay=False, path_type=Path),
    default=DEFAULT_PSEUDO_DIRECTORY,
    show_default=True,
    help="Folder with the UPF files of Debian's quantum-espresso-data.",
)
@click.option('--threads', type=click.IntRange(min=1), default=1, show_default=True, help='OpenMP threads of each job.')
@click.option('--broker/--no-broker', default=True, show_default=True, help='Give a new profile a ZeroMQ broker.')
def setup(
    path: Path | None, profile: str, pw_executable: str | None, pseudo_directory: Path, threads: int, broker: bool
) -> None:
    """Make what a campaign needs on this machine, and reuse what is there.

    A profile of another name is neither read nor changed. A profile of this name gets only what it lacks.
    """
    if path is not None:
        _use_configuration_folder(path)
    try:
        environment = setup_environment(
            profile=profile,
            pw_executable=pw_executable,
            pseudo_directory=pseudo_directory,
            threads=threads,
            broker=broker,
        )
    except ValueError as exception:
        raise click.ClickException(str(exception)) from exception
    _show(environment)


def _use_configuration_folder(path: Path) -> None:
    # AiiDA reads the variable when it is first imported, which is after this.
    folder = path if path.name == '.aiida' else path / '.aiida'
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.environ['AIIDA_PATH'] = str(path.resolve())


def _show(environment: Environment) -> None:
    for line in environment.created:
        click.echo(f'made   {line}')
    for line in environment.reused:
        click.echo(f'found  {line}')
