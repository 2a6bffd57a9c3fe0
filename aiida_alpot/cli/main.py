"""The command ``aiida-alpot``."""

from __future__ import annotations

from importlib import import_module

import click

from aiida_alpot import __version__

#: Each subcommand: where its function is, and what the list of commands says about it. Neither the list nor another
#: command imports the module.
COMMANDS: dict[str, tuple[str, str]] = {
    'setup': ('aiida_alpot.cli.setup:setup', 'Make a profile, computer, codes and pseudopotentials on this machine.'),
    'launch': ('aiida_alpot.cli.launch:launch', 'Run the campaign of a YAML file, or only check the file.'),
    'report': ('aiida_alpot.cli.report:report', 'Write the report of a campaign: a page and figures.'),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all commands, in the order of :data:`COMMANDS`."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        if cmd_name not in COMMANDS:
            return None
        module, function = COMMANDS[cmd_name][0].split(':')
        return getattr(import_module(module), function)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands from :data:`COMMANDS` alone."""
        with formatter.section('Commands'):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])


@click.group('aiida-alpot', cls=LazyGroup, context_settings={'help_option_names': ['-h', '--help']})
@click.version_option(__version__)
def main() -> None:
    """Active learning of interatomic potentials with AiiDA."""
