"""What metatrain says of its architectures, and where each of them keeps what every training has.

metatrain is imported inside of the functions: this module is imported where it is not installed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from aiida_alpot.worker.options import unknown_name

DEFAULT = 'pet'
CUTOFFS: Mapping[str, tuple[str, ...]] = {
    'pet': ('cutoff',),
    'soap_bpnn': ('soap', 'cutoff', 'radius'),
    'gap': ('soap', 'cutoff', 'radius'),
    'experimental.dpa3': ('descriptor', 'repflow', 'e_rcut'),
    'experimental.mace': ('r_max',),
    'experimental.space': ('cutoff',),
}
"""Place of the cutoff among the options of the model."""


def defaults_of(name: object) -> dict[str, Any]:
    """The options of an architecture with their defaults: ``model`` and ``training``.

    :raises ValueError: for a name that metatrain does not have, naming the nearest.
    """
    from metatrain.utils import architectures

    if not isinstance(name, str):
        raise ValueError(f'`parameters.name` is {name!r}, expected the name of an architecture, e.g. {DEFAULT!r}')
    known = sorted(architectures.find_all_architectures())
    if name not in known:
        try:
            architectures.check_architecture_name(name)
            hint = ''
        except ValueError as error:  # says more where one of this name is experimental
            hint = f' {error}'
        raise ValueError(unknown_name(name, known, 'architecture of metatrain') + hint)
    try:
        found: dict[str, Any] = architectures.get_default_hypers(name, base_precision=64)
    except ImportError:  # something that it needs is not installed: its options can be read all the same
        architectures.preload_documentation_module(name)
        found = architectures.get_default_hypers(name, base_precision=64)
    return found


def import_architecture(name: str) -> Any:
    """The module of an architecture.

    :raises ValueError: where packages that it needs are not installed, saying how to install them.
    """
    from metatrain.utils.architectures import import_architecture as load

    try:
        return load(name)
    except ImportError as error:
        extra = name.rpartition('.')[2].replace('_', '-')
        missing = getattr(error.__cause__, 'name', None) or error.__cause__
        raise ValueError(
            f'the architecture {name!r} cannot be loaded ({missing} is not installed, or fails): install what it needs '
            f'by `pip install "metatrain[{extra}]"` where the training runs, or take another architecture'
        ) from error


def check_block(block: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Let metatrain check the options of an architecture.

    :param block: name, model and training, complete.
    :param defaults: the same, as metatrain has them.
    :raises ValueError: for what it refuses; for an unknown option the nearest one is named.
    """
    from metatrain.utils.architectures import check_architecture_options
    from metatrain.utils.pydantic import MetatrainValidationError

    try:
        with alone():
            check_architecture_options(name=block['name'], options=dict(block))
    except MetatrainValidationError as error:
        raise ValueError(' '.join(_sentence(found, defaults) for found in error.errors)) from error


def _sentence(error: Mapping[str, Any], defaults: Mapping[str, Any]) -> str:
    """What pydantic found, with the place in our words."""
    place = [str(part) for part in error['loc']]
    if error['type'] != 'extra_forbidden' or not place:
        return f'`parameters.{".".join(place)}` is {error.get("input")!r}: {error["msg"]}.'
    known: Any = defaults
    for part in place[:-1]:
        known = known.get(part, {}) if isinstance(known, Mapping) else {}
    return unknown_name(place[-1], known, f'option of `parameters.{".".join(place[:-1])}`')


@contextmanager
def alone() -> Iterator[None]:
    """Hide the tasks of a SLURM job: metatrain would take them for ranks of one training, and wait for them."""
    hidden = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith('SLURM_')}
    try:
        yield
    finally:
        os.environ.update(hidden)


def merged(*blocks: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings in one; of two values the later is taken."""
    result: dict[str, Any] = {}
    for block in blocks:
        for name, value in block.items():
            both = isinstance(value, Mapping) and isinstance(result.get(name), Mapping)
            result[name] = merged(result[name], value) if both else value
    return result


def nested(path: Sequence[str], value: Any) -> dict[str, Any]:
    """A value at a place of a nested mapping."""
    for name in reversed(path):
        value = {name: value}
    return dict(value)


def look_up(block: Mapping[str, Any], path: Sequence[str]) -> Any:
    """The value at a place of a nested mapping; ``None`` where there is none."""
    value: Any = block
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value
