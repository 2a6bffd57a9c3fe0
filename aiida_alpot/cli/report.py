"""``aiida-alpot report``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from aiida_alpot.cli.profile import profile_option, with_profile

if TYPE_CHECKING:
    from aiida.orm import WorkChainNode

CAMPAIGN = 'ActiveLearningWorkChain'


@click.command('report')
@click.argument('pk', metavar='PK')
@click.option(
    '-o',
    '--output',
    type=click.Path(file_okay=False, path_type=Path),
    help='Folder for report.html and the figures; by default campaign-<PK>.',
)
@profile_option
def report(pk: str, output: Path | None, profile: str | None) -> None:
    """Show the rounds of a campaign and write its report, whether it has finished, failed or still runs.

    PK is that of the campaign, or its UUID; `verdi process list -a -L ActiveLearningWorkChain` lists campaigns.
    """
    with_profile(profile)
    node = load_campaign_node(pk)
    from aiida_alpot.report.gather import gather
    from aiida_alpot.report.table import label_table, round_table, stage_table

    record = gather(node)
    tables = [round_table(record), *([label_table(record)] if record.labellings else []), stage_table(record)]
    click.echo('\n\n'.join([record.outcome, *tables]))
    try:
        from aiida_alpot.report.html import write_report

        page = write_report(record, output or Path(f'campaign-{node.pk}'))
    except ModuleNotFoundError as exception:
        if exception.name != 'matplotlib':
            raise
        raise click.ClickException('The figures need matplotlib: pip install "aiida-alpot[report]".') from exception
    click.echo(f'\nreport  {page}')


def load_campaign_node(identifier: str) -> WorkChainNode:
    """The campaign with a PK or UUID.

    :raises click.ClickException: where there is no such node, or it is no campaign.
    """
    from aiida import orm
    from aiida.common.exceptions import MultipleObjectsError, NotExistent

    remedy = f'`verdi process list -a -L {CAMPAIGN}` lists the campaigns of this profile.'
    try:
        node = orm.load_node(identifier)
    except (NotExistent, MultipleObjectsError, ValueError) as exception:
        raise click.ClickException(f'There is no single node {identifier!r}; {remedy}') from exception
    if getattr(node, 'process_label', None) != CAMPAIGN:
        what = getattr(node, 'process_label', None) or type(node).__name__
        raise click.ClickException(f'Node {identifier} is no campaign but a {what}; {remedy}')
    return node
