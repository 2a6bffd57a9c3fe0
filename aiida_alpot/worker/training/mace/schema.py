"""What ``mace_run_train`` takes, as its own source says it. Neither torch nor mace is imported for this."""

from __future__ import annotations

import argparse
import ast
import difflib
import importlib
import json
import sys
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

STUB = '_alpot_mace_tools'
"""Name under which the folder ``mace/tools`` is a package without its ``__init__``, which imports torch."""

OTHERWISE = ''
"""Stands for all losses that MACE does not name."""

KINDS = {
    'int': 'a whole number',
    'float': 'a number',
    'str2bool': 'true or false',
    'check_float_or_none': 'a number or null',
}
"""What MACE's converters of values expect, in words."""


@cache
def mace_folder() -> Path:
    """Where the package is installed.

    :raises ValueError: where it is not.
    """
    spec = find_spec('mace')
    if spec is None or not spec.submodule_search_locations:
        raise ValueError('MACE is not installed here: `pip install mace-torch`')
    return Path(next(iter(spec.submodule_search_locations)))


@cache
def parser() -> argparse.ArgumentParser:
    """The parser of ``mace_run_train``."""
    package = ModuleType(STUB)
    package.__path__ = [str(mace_folder() / 'tools')]
    sys.modules.setdefault(STUB, package)
    made: argparse.ArgumentParser = importlib.import_module(f'{STUB}.arg_parser').build_default_arg_parser()
    return made


@cache
def actions() -> Mapping[str, argparse.Action]:
    """Options by each of their names."""
    found = {}
    for action in parser()._actions:
        for name in action.option_strings:
            if name.startswith('--') and action.dest not in ('help', 'config'):
                found[name.lstrip('-')] = action
    return found


def default(name: str) -> Any:
    """What MACE takes for an option that is not given."""
    return actions()[name].default


def read(name: str, value: Any) -> tuple[str, Any]:
    """Name of an option, of its aliases the one that MACE uses itself, and its value as MACE will understand it.

    :raises ValueError: for an unknown name, naming the nearest, or a value that MACE refuses.
    """
    if name not in actions():
        raise ValueError(_unknown(name))
    action = actions()[name]
    if action.nargs == 0:
        return action.dest, _read_flag(name, action, value)
    try:
        text = _text(value)
        understood = action.type(text) if callable(action.type) else text
    except (ValueError, TypeError, argparse.ArgumentTypeError) as error:
        kind = KINDS.get(getattr(action.type, '__name__', ''), 'another value')
        raise ValueError(f'`{name}` of mace_run_train is {value!r}, expected {kind} ({error})') from error
    if action.choices is not None and understood not in action.choices:
        known = ', '.join(map(str, action.choices))
        raise ValueError(f'`{name}` of mace_run_train is {value!r}, expected one of {known}')
    return action.dest, understood


def _unknown(name: object) -> str:
    """Sentence that refuses a name. There are too many to list them all."""
    nearest = difflib.get_close_matches(str(name), actions(), n=1, cutoff=0.5)
    hint = f' Did you mean {nearest[0]!r}?' if nearest else ''
    return f'mace_run_train has no option {name!r}.{hint} `mace_run_train --help` lists all.'


def _read_flag(name: str, action: argparse.Action, value: Any) -> Any:
    if not isinstance(value, bool):
        raise ValueError(f'`{name}` of mace_run_train is {value!r}, expected true or false')
    if not value and action.default == action.const:
        raise ValueError(f'`{name}` of mace_run_train is always on, it cannot be switched off: leave it out')
    return action.const if value else action.default


def _text(value: Any) -> str:
    """A value as it is written on the command line."""
    if isinstance(value, (list, tuple, dict)):
        return json.dumps(value)
    return str(value)


def arguments(options: Mapping[str, Any]) -> list[str]:
    """The command line that gives these options."""
    line = []
    for name, value in options.items():
        if actions()[name].nargs == 0:
            line += [f'--{name}'] if value else []
        else:
            line.append(f'--{name}={_text(value)}')
    return line


@cache
def loss_weights(function: str) -> Mapping[str, Mapping[str, Any]]:
    """The weights in each loss, read from the function of MACE's ``tools/scripts_utils.py`` that makes it.

    :param function: ``get_loss_fn``, or ``get_swa`` for stage two.
    :return: by the name of the loss, and by property: name of the option that sets the weight, or a fixed number.
        Under :data:`OTHERWISE`: what it is for all other names. Empty where the source is not understood.
    """
    tree = ast.parse((mace_folder() / 'tools' / 'scripts_utils.py').read_text(encoding='utf-8'))
    made: dict[str, dict[str, Any]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == function:
            for statement in node.body:
                if isinstance(statement, ast.If) and _compared(statement) and len(_branches(statement)) > 2:
                    made |= {name: _weights(body) for name, body in _branches(statement)}
    return made


def _compared(statement: ast.If) -> str | None:
    """The name of the loss for which a branch is taken."""
    test = statement.test
    if isinstance(test, ast.Compare) and ast.unparse(test.left) == 'args.loss':
        right = test.comparators[0]
        return right.value if isinstance(right, ast.Constant) and isinstance(right.value, str) else None
    return None


def _branches(statement: ast.If) -> list[tuple[str, list[ast.stmt]]]:
    found = []
    rest: list[ast.stmt] = [statement]
    while len(rest) == 1 and isinstance(rest[0], ast.If) and (name := _compared(rest[0])):
        found.append((name, rest[0].body))
        rest = rest[0].orelse
    return [*found, (OTHERWISE, rest)] if rest else found


def _weights(body: list[ast.stmt]) -> dict[str, Any]:
    """Properties whose weight is given to the first call of a branch that takes weights."""
    for node in (node for statement in body for node in ast.walk(statement)):
        if isinstance(node, ast.Call):
            given = {
                k.arg.removesuffix('_weight'): k.value for k in node.keywords if k.arg and k.arg.endswith('_weight')
            }
            if given:
                return {name: _value(value) for name, value in given.items()}
    return {}


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.value if isinstance(node, ast.Constant) else ast.unparse(node)
