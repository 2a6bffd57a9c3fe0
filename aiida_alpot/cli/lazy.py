"""Groups of commands of ``verdi`` that are imported when they are called."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click
from aiida.cmdline.groups import VerdiCommandGroup


class LazyVerdiGroup(VerdiCommandGroup):
    """A group of `verdi` whose commands are imported when they are called.

    :param registry: by the name of each command, where its function is and what the list of commands says about it.
    """

    def __init__(self, *args: Any, registry: Mapping[str, tuple[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.registry = registry

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all commands, in the order of the registry."""
        return list(self.registry)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command; an unknown one is refused with the nearest names."""
        if cmd_name in self.registry and cmd_name not in self.commands:
            module, function = self.registry[cmd_name][0].split(':')
            self.add_command(getattr(import_module(module), function), cmd_name)
        return super().get_command(ctx, cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands from the registry alone."""
        with formatter.section('Commands'):
            formatter.write_dl([(name, summary) for name, (_, summary) in self.registry.items()])
