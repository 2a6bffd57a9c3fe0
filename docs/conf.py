"""Configuration of the documentation."""

from __future__ import annotations

import sys
from pathlib import Path

from sphinx.application import Sphinx

import aiida_alpot

sys.path.insert(0, str(Path(__file__).parent))
import generate

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


def setup(app: Sphinx) -> None:
    """Connect what is taken from the package itself."""
    app.connect('builder-inited', lambda app: generate.write_all(Path(app.srcdir) / 'reference' / 'generated'))
