"""``aiida-alpot launch``."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import click

from aiida_alpot.cli.profile import profile_option, with_profile

POLL_INTERVAL = 0.2
"""Seconds between looks at the children of a work chain: a label takes seconds, and has two work chains above it."""


@click.command('launch')
@click.argument('campaign', type=click.Path(path_type=Path))
@click.option(
    '-o',
    '--output',
    type=click.Path(file_okay=False, path_type=Path),
    help='Folder for the report, the data set and the potential; by default campaign-<PK>.',
)
@click.option('--check', is_flag=True, help='Only check the campaign file; nothing is run.')
@profile_option
def launch(campaign: Path, output: Path | None, check: bool, profile: str | None) -> None:
    """Run the campaign of a YAML file to its end, here and now.

    What cannot work is refused before anything runs. At the end the folder of --output holds the report, the data set
    and the potential; with a broken-off campaign, what it has made until then.
    """
    with_profile(profile)
    from aiida.manage import get_manager

    from aiida_alpot.campaign.file import load_campaign

    try:
        builder = load_campaign(campaign)
    except ValueError as exception:
        raise click.ClickException(f'{campaign}: {exception}') from exception
    if check:
        click.echo(f'{campaign}: nothing wrong.')
        return
    quieten_single_labels()
    runner = get_manager().create_runner(communicator=None, poll_interval=POLL_INTERVAL)
    node = runner.run_get_node(builder)[1]
    from aiida_alpot.campaign.export import export_campaign

    click.echo(export_campaign(node, output or Path(f'campaign-{node.pk}')))
    if not node.is_finished_ok:
        click.echo(f'The campaign failed with exit code {node.exit_status}: {node.exit_message}', err=True)
        sys.exit(1)


def quieten_single_labels() -> None:
    """Keep the reports of each single pw.x from the terminal; `verdi process report PK` shows them.

    To be called when the storage is loaded, which sets up the handlers anew.
    """
    for handler in logging.getLogger('aiida').handlers:
        if handler.name == 'console':
            handler.addFilter(_is_worth_a_line)
            handler.setFormatter(logging.Formatter('%(asctime)s %(levelname)s %(message)s', '%H:%M:%S'))


def _is_worth_a_line(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING or '|PwBaseWorkChain|' not in record.getMessage()
