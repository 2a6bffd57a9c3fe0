"""The profile that a command works in."""

from __future__ import annotations

import click

profile_option = click.option('-p', '--profile', help='AiiDA profile; by default the default profile.')


def with_profile(name: str | None) -> None:
    """Load a profile.

    :raises click.ClickException: where there is none, or none of this name.
    """
    from aiida import load_profile
    from aiida.common.exceptions import ConfigurationError, ProfileConfigurationError

    try:
        load_profile(name)
    except (ConfigurationError, ProfileConfigurationError) as exception:
        raise click.ClickException(f'{exception}. Make a profile with `aiida-alpot setup`, or name one.') from exception
