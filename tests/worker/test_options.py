"""Checks of what users write."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from aiida_alpot.worker.options import boolean, build, choice, device, integer, lookup, number, numbers


@dataclass(frozen=True)
class Settings:
    temperature: float
    steps: int = 10


def test_unknown_option_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"unknown setting 'temprature'. Did you mean 'temperature'\?"):
        build(Settings, {'temprature': 300.0}, 'setting')


def test_missing_option() -> None:
    with pytest.raises(ValueError, match="setting 'temperature' is missing"):
        build(Settings, {'steps': 1}, 'setting')


def test_lookup_names_all_that_is_known() -> None:
    assert lookup({'a': 1}, 'a', 'thing') == 1
    with pytest.raises(ValueError, match=r"unknown thing 'q'. Known: rattle, strain."):
        lookup({'rattle': 1, 'strain': 2}, 'q', 'thing')


@pytest.mark.parametrize('value', ['1', None, True, float('nan'), float('inf'), -1.0, 3.0])
def test_number_refuses(value: object) -> None:
    with pytest.raises(ValueError, match=r'`x` is .* expected a number in \[0, 2\]'):
        number('x', value, 0, 2)


def test_number_bounds() -> None:
    assert number('x', 0, 0, 2) == 0.0 and number('x', 2.0, 0, 2) == 2.0
    with pytest.raises(ValueError, match=r'\(0, 2\]'):
        number('x', 0.0, 0, 2, exclusive=True)


def test_integer_numbers_choice() -> None:
    assert integer('n', 3, 1) == 3
    for value in (0, 2.0, True, '3'):
        with pytest.raises(ValueError, match='whole number at least 1'):
            integer('n', value, 1)
    assert numbers('x', [1, 2.5], 0, 3) == (1.0, 2.5)
    with pytest.raises(ValueError, match='expected a list of numbers'):
        numbers('x', 'abc', 0, 3)
    with pytest.raises(ValueError, match='Did you mean'):
        choice('dtype', 'float46', ['float64', 'float32'])


@pytest.mark.parametrize('value', ['cpu', 'mps', 'cuda', 'cuda:1', 'xpu:0'])
def test_device(value):
    assert device('device', value) == value


@pytest.mark.parametrize('value', ['gpu', 'cuda:', 'cpu:0', '', None, 0])
def test_device_that_torch_does_not_know(value):
    with pytest.raises(ValueError, match=r'`device` is .*expected cpu, cuda'):
        device('device', value)


@pytest.mark.parametrize('value', ['no', 0, 1, None])
def test_what_only_looks_like_a_boolean(value: object) -> None:
    """A word or a number would be taken for its truth value."""
    assert boolean('on', True) is True and boolean('on', False) is False
    with pytest.raises(ValueError, match=f'`on` is {value!r}, expected true or false'):
        boolean('on', value)
