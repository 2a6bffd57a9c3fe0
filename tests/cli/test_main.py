"""The command ``aiida-alpot``."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import click
import pytest
from click.testing import CliRunner

from aiida_alpot import __version__
from aiida_alpot.cli.main import COMMANDS, main


def test_help_lists_all_commands() -> None:
    """The list names every registered command with what it does."""
    result = CliRunner().invoke(main, ['--help'])
    assert result.exit_code == 0
    for name, (_, summary) in COMMANDS.items():
        assert name in result.output
        assert summary.split()[0] in result.output


def test_version() -> None:
    """The version is the package's."""
    assert __version__ in CliRunner().invoke(main, ['--version']).output


@pytest.mark.parametrize('name', sorted(COMMANDS))
def test_command_exists(name: str) -> None:
    """What the registry names is a command, and its help works."""
    module, function = COMMANDS[name][0].split(':')
    assert isinstance(getattr(import_module(module), function), click.Command)
    result = CliRunner().invoke(main, [name, '--help'])
    assert result.exit_code == 0, result.output


def test_unknown_command_is_refused() -> None:
    """A command that does not exist is named in the error."""
    result = CliRunner().invoke(main, ['lanch'])
    assert result.exit_code == 2
    assert 'lanch' in result.output


def test_help_is_cheap() -> None:
    """The list of commands imports neither AiiDA nor any command."""
    code = (
        'import sys\nfrom click.testing import CliRunner\nfrom aiida_alpot.cli.main import main\n'
        "assert CliRunner().invoke(main, ['--help']).exit_code == 0\n"
        "print([m for m in sys.modules if m == 'aiida' or m.startswith('aiida_alpot.cli.')])"
    )
    output = subprocess.run([sys.executable, '-c', code], check=True, capture_output=True, text=True).stdout
    assert output.strip() == "['aiida_alpot.cli.main']"
