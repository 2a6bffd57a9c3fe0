"""``verdi data alpot.potential`` and ``verdi data alpot.committee``: trained models on the command line."""

from __future__ import annotations

import click

from aiida_alpot.cli.lazy import LazyVerdiGroup

HELP = {'help_option_names': ['-h', '--help']}

#: Each command: where its function is, and what the list of commands says about it.
POTENTIAL_COMMANDS: dict[str, tuple[str, str]] = {
    'import': ('aiida_alpot.cli.models.of_potentials:import_file', 'Bring in a model that was trained elsewhere.'),
    'show': ('aiida_alpot.cli.models.of_potentials:show', 'Show what a model is and what it was trained on.'),
}
COMMITTEE_COMMANDS: dict[str, tuple[str, str]] = {
    'show': ('aiida_alpot.cli.models.of_committees:show', 'Show what a committee is and what it was trained on.'),
    'export': ('aiida_alpot.cli.models.of_committees:export', 'Write the models into a folder.'),
}


@click.group('alpot.potential', cls=LazyVerdiGroup, registry=POTENTIAL_COMMANDS, context_settings=HELP)
def potential() -> None:
    """Single trained models (PotentialData), such as foundation models.

    \b
    Examples:
      verdi data alpot.potential import mace-mp-0b3-medium.model
      verdi data alpot.potential show 1234
    """


@click.group('alpot.committee', cls=LazyVerdiGroup, registry=COMMITTEE_COMMANDS, context_settings=HELP)
def committee() -> None:
    """Committees of trained models (CommitteeData).

    \b
    Examples:
      verdi data alpot.committee show 1234
      verdi data alpot.committee export 1234 models
    """
