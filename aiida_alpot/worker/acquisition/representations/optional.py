"""Libraries that are not always there."""

from __future__ import annotations

import importlib
from types import ModuleType


def require(module: str, package: str, purpose: str) -> ModuleType:
    """Import a module of an optional package.

    :param package: its name for pip.
    :param purpose: what needs it.
    :raises ImportError: if it is not installed, with the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f'{purpose} needs the package {package}, which is not installed ({error}): run "pip install {package}"'
        ) from error
