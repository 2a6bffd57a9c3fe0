"""Checks of what users write: unknown names are refused with the nearest right one, values with their range."""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

Options = TypeVar('Options')


def unknown_name(name: object, known: Iterable[str], what: str) -> str:
    """Sentence that refuses a name: what was found, the nearest known name, and all of them."""
    names = list(known)
    nearest = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    hint = f' Did you mean {nearest[0]!r}?' if nearest else ''
    return f'unknown {what} {name!r}.{hint} Known: {", ".join(names) or "none"}.'


def lookup(registry: Mapping[str, Options], name: object, what: str) -> Options:
    """The entry of a registry.

    :raises ValueError: for a name that is not in it, naming the nearest one that is.
    """
    if not isinstance(name, str) or name not in registry:
        raise ValueError(unknown_name(name, registry, what))
    return registry[name]


def build(options_class: type[Options], given: Mapping[str, Any], what: str, beside: Iterable[str] = ()) -> Options:
    """Instance of an options dataclass from a mapping.

    :param what: what the options belong to, for the message, e.g. ``parameter of `rattle```.
    :param beside: names that are known elsewhere, to be named when an unknown one is refused.
    :raises ValueError: for an unknown or missing option, or a value that the dataclass refuses.
    """
    fields = {f.name: f for f in dataclasses.fields(options_class) if f.init}  # type: ignore[arg-type]
    for name in given:
        if name not in fields:
            raise ValueError(unknown_name(name, [*fields, *beside], what))
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in given:
            raise ValueError(f'{what} {name!r} is missing: it has no default')
    return options_class(**given)


def number(
    name: str, value: object, low: float = -math.inf, high: float = math.inf, *, exclusive: bool = False
) -> float:
    """A finite number within bounds.

    :param exclusive: the lower bound itself is refused.
    :raises ValueError: naming the option, the value and the range.
    """
    valid = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not valid or not low <= value <= high or (exclusive and value == low):  # type: ignore[operator]
        bracket = '(' if exclusive or low == -math.inf else '['
        raise ValueError(
            f'`{name}` is {value!r}, expected a number in {bracket}{low}, {high}{")" if high == math.inf else "]"}'
        )
    return float(value)  # type: ignore[arg-type]


def integer(name: str, value: object, low: int, high: float = math.inf) -> int:
    """A whole number within bounds.

    :raises ValueError: naming the option, the value and the range.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        limit = f'at least {low}' if high == math.inf else f'in {low}..{int(high)}'
        raise ValueError(f'`{name}` is {value!r}, expected a whole number {limit}')
    return value


def numbers(name: str, value: object, low: float, high: float, *, exclusive: bool = False) -> tuple[float, ...]:
    """A list of finite numbers within bounds, possibly empty.

    :raises ValueError: naming the option and what is wrong with it.
    """
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
        raise ValueError(f'`{name}` is {value!r}, expected a list of numbers')
    return tuple(number(name, item, low, high, exclusive=exclusive) for item in value)


def boolean(name: str, value: object) -> bool:
    """True or false, and nothing that only looks like it.

    :raises ValueError: naming the option and the value.
    """
    if not isinstance(value, bool):
        raise ValueError(f'`{name}` is {value!r}, expected true or false')
    return value


def choice(name: str, value: object, known: Iterable[str]) -> str:
    """One of several words.

    :raises ValueError: naming the nearest one.
    """
    names = list(known)
    if value not in names:
        raise ValueError(unknown_name(value, names, f'value of `{name}`:'))
    return str(value)


def device(name: str, value: object) -> str:
    """Where torch computes: ``cpu``, ``mps``, ``cuda``, ``xpu``; the last two with a number where there are several.

    :raises ValueError: naming the option and what it can be.
    """
    if not isinstance(value, str) or not re.fullmatch(r'cpu|mps|(cuda|xpu)(:\d+)?', value):
        raise ValueError(f'`{name}` is {value!r}, expected cpu, cuda, cuda:0, ...')
    return value
