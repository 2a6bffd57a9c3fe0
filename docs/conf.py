"""Configuration of the documentation."""

from __future__ import annotations

from pathlib import Path

import click
from sphinx.application import Sphinx

import aiida_alpot
from aiida_alpot.cli.main import main

project = 'aiida-alpot'
author = 'The aiida-alpot developers'
copyright = f'2026, {author}'
release = version = aiida_alpot.__version__

extensions = ['myst_parser', 'sphinx.ext.autodoc', 'sphinx.ext.graphviz', 'sphinx.ext.viewcode']
myst_enable_extensions = ['colon_fence', 'deflist', 'dollarmath']
exclude_patterns = ['_build']
html_theme = 'furo'
html_title = f'aiida-alpot {release}'
graphviz_output_format = 'svg'

autodoc_default_options = {'members': True, 'member-order': 'bysource'}
autodoc_typehints = 'signature'


def write_cli_reference(app: Sphinx) -> None:
    """Write the help of every command to a page, from the commands themselves."""
    context = click.Context(main, info_name='aiida-alpot', terminal_width=100)
    sections = ['# Command line\n', f'```text\n{main.get_help(context)}\n```\n']
    for name in main.list_commands(context):
        command = main.get_command(context, name)
        assert command is not None, f'{name} is registered but does not exist'
        child = click.Context(command, info_name=name, parent=context, terminal_width=100)
        sections.append(f'## aiida-alpot {name}\n\n```text\n{command.get_help(child)}\n```\n')
    page = Path(app.srcdir) / 'reference' / 'generated' / 'cli.md'
    page.parent.mkdir(exist_ok=True)
    content = '\n'.join(sections)
    if not page.exists() or page.read_text() != content:
        page.write_text(content)


def setup(app: Sphinx) -> None:
    """Connect what is generated."""
    app.connect('builder-inited', write_cli_reference)
