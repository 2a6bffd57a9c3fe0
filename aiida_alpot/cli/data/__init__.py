"""``verdi data alpot.pes``: data sets on the command line."""

from __future__ import annotations

import click

from aiida_alpot.cli.lazy import LazyVerdiGroup

#: Each command: where its function is, and what the list of commands says about it. Neither the list nor another
#: command imports the module, so that `verdi` stays fast.
COMMANDS: dict[str, tuple[str, str]] = {
    'list': ('aiida_alpot.cli.data.listing:list_datasets', 'List data sets.'),
    'show': ('aiida_alpot.cli.data.show:show', 'Show what a data set holds and where it comes from.'),
    'stats': ('aiida_alpot.cli.data.stats:stats', 'Ranges of the labels, counts and duplicates.'),
    'export': ('aiida_alpot.cli.data.export:export', 'Write frames to a file, or nodes to an AiiDA archive.'),
    'import': ('aiida_alpot.cli.data.importing:import_file', 'Make a data set of a file, or import an AiiDA archive.'),
    'collect': ('aiida_alpot.cli.data.collect:collect', 'Make a data set of pw.x calculations in the database.'),
    'merge': ('aiida_alpot.cli.data.merge:merge', 'Put data sets together.'),
}


@click.group(
    'alpot.pes', cls=LazyVerdiGroup, registry=COMMANDS, context_settings={'help_option_names': ['-h', '--help']}
)
def data() -> None:
    """Data sets of labelled structures (PESData).

    \b
    Examples:
      verdi data alpot.pes import labels.xyz --level-of-theory "VASP PBE 520 eV" --energies total
      verdi data alpot.pes list --element Si
      verdi data alpot.pes export 1234 train.xyz --split train
    """
