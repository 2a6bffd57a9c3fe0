"""Protocols: named sets of defaults in a YAML file for each work chain; mistyped overrides are refused."""

from __future__ import annotations

import copy
import difflib
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import yaml
from aiida.orm import Node

OPEN = '__open__'
"""Key that marks a mapping of a protocol file as open: its keys belong to another program, or to AiiDA."""


class _Loader(yaml.SafeLoader):
    """YAML as of version 1.2: ``on`` and ``no`` are words, as a step has a key ``on``, and 1e-9 is a number."""

    yaml_implicit_resolvers = {
        first: [resolver for resolver in resolvers if resolver[0] != 'tag:yaml.org,2002:bool']
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Loader.add_implicit_resolver(
    'tag:yaml.org,2002:bool', re.compile('^(?:true|True|TRUE|false|False|FALSE)$'), list('tTfF')
)
_Loader.add_implicit_resolver(
    'tag:yaml.org,2002:float', re.compile(r'^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$'), list('-+.0123456789')
)


def load_yaml(text: str) -> Any:
    """Content of a protocol, of a file of overrides or of a campaign."""
    return yaml.load(text, Loader=_Loader)  # a safe loader


def merge(defaults: Mapping[str, Any], overrides: Mapping[str, Any], path: str = '') -> dict[str, Any]:
    """Merge overrides into defaults, recursively; a mapping inside an open one can be taken out by null.

    :param path: name of the mapping, for the error.
    :raises ValueError: for a key that the defaults do not have, unless the mapping is marked as open.
    """
    merged = copy.deepcopy(dict(defaults))
    for key, value in overrides.items():
        where = f'{path}.{key}' if path else str(key)
        if key not in merged and not merged.get(OPEN, False):
            known = [name for name in merged if name != OPEN]
            close = difflib.get_close_matches(str(key), known, n=1)
            hint = f'did you mean `{close[0]}`?' if close else f'known here: {", ".join(sorted(known))}.'
            raise ValueError(f'unknown option `{where}`: {hint}')
        if isinstance(merged.get(key), dict) and not (value is None and merged.get(OPEN, False)):
            if not isinstance(value, Mapping):
                raise ValueError(f'option `{where}` must be a mapping, found {value!r}.')
            merged[key] = merge(merged[key], value, where)
        else:
            merged[key] = value if isinstance(value, Node) else copy.deepcopy(value)  # a copy of a node is another one
    return merged


def _strip_markers(value: Any) -> Any:
    """The value without the markers of open mappings."""
    if isinstance(value, dict):
        return {key: _strip_markers(item) for key, item in value.items() if key != OPEN}
    return value


class ProtocolMixin:
    """Gives a work chain its protocols, from the YAML file of the same name beside this one."""

    STAGE = ''
    """Name of the stage, which is where the options of the work chain stand in a campaign; for errors."""

    @classmethod
    def _protocol_file(cls) -> pathlib.Path:
        return pathlib.Path(__file__).with_name(f'{cls.__module__.rpartition(".")[2]}.yaml')

    @classmethod
    def _load_protocols(cls) -> dict[str, Any]:
        return load_yaml(cls._protocol_file().read_text())

    @classmethod
    def get_default_protocol(cls) -> str:
        """Name of the protocol used where none is given."""
        return cls._load_protocols()['default_protocol']

    @classmethod
    def get_available_protocols(cls) -> dict[str, str]:
        """Names of the protocols and what each is for."""
        return {name: values['description'] for name, values in cls._load_protocols()['protocols'].items()}

    @classmethod
    def get_protocol_inputs(
        cls, protocol: str | None = None, overrides: Mapping[str, Any] | pathlib.Path | None = None
    ) -> dict[str, Any]:
        """Plain values of a protocol, with overrides merged in.

        :param protocol: one of :meth:`get_available_protocols`.
        :param overrides: nested values that replace those of the protocol, or the path of a YAML file with them.
        :raises ValueError: for an unknown protocol or an unknown option.
        """
        data = cls._load_protocols()
        protocol = protocol or data['default_protocol']
        if protocol not in data['protocols']:
            raise ValueError(f'unknown protocol `{protocol}`: choose one of {", ".join(data["protocols"])}.')
        chosen = {key: value for key, value in data['protocols'][protocol].items() if key != 'description'}
        inputs = merge(data['default_inputs'], chosen, cls.STAGE)
        values = load_yaml(overrides.read_text()) if isinstance(overrides, pathlib.Path) else overrides
        return _strip_markers(merge(inputs, values or {}, cls.STAGE))
