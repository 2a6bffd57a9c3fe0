"""Registries that other packages add to."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from aiida_alpot.worker.options import unknown_name


@cache
def from_packages(group: str) -> dict[str, Any]:
    """What installed packages offer under a group of entry points, not loaded yet; by name."""
    return {entry.name: entry for entry in entry_points(group=group)}


def find(own: Mapping[str, Any], group: str, name: object, what: str) -> Any:
    """The entry of a registry: ours, or that of an installed package.

    :param own: what comes with this package; its names cannot be taken by others.
    :param group: of the entry points.
    :raises ValueError: for a name that nobody offers, naming the nearest one.
    """
    if isinstance(name, str) and name in own:
        return own[name]
    others = from_packages(group)
    if not isinstance(name, str) or name not in others:
        raise ValueError(unknown_name(name, [*own, *sorted(set(others) - set(own))], what))
    return others[name].load()
