"""Protocols and their overrides."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiida import orm

from aiida_alpot.workflows.active_learning import STAGES, ActiveLearningWorkChain
from aiida_alpot.workflows.protocols import OPEN, load_yaml, merge

CHAINS = {'active_learning': ActiveLearningWorkChain, **STAGES}
DEFAULTS = {'a': 1, 'nested': {'cutoff': 5.0, 'deep': {'x': 1}}, 'free': {OPEN: True, 'known': 1}}

# What the description of each protocol promises, against the one before it in the list.
PROMISES = {
    'active_learning': [('balanced', 'stringent', 'max_rounds', '<'), ('fast', 'balanced', 'max_rounds', '<')],
    'augmentation': [
        ('fast', 'balanced', 'generators.rattle.n', '<'),
        ('balanced', 'stringent', 'generators.rattle.n', '<'),
        ('balanced', 'stringent', 'generators.strain.n_random', '<'),
    ],
    'labelling': [
        ('fast', 'balanced', 'conv_thr_per_atom', '>'),
        ('balanced', 'stringent', 'conv_thr_per_atom', '>'),
        ('fast', 'balanced', 'pw_protocol', '!='),
        ('balanced', 'stringent', 'pw_protocol', '!='),
    ],
    'training': [
        ('fast', 'balanced', 'parameters.mace.num_channels', '<'),
        ('balanced', 'stringent', 'parameters.mace.num_channels', '<'),
        ('fast', 'balanced', 'parameters.metatrain.name', '!='),
        ('fast', 'balanced', 'device', '!='),
        ('balanced', 'stringent', 'epochs', '<'),
    ],
    'exploration': [('fast', 'balanced', 'n_steps', '<'), ('balanced', 'stringent', 'n_steps', '<')],
    'evaluation': [('fast', 'balanced', 'max_select', '<'), ('balanced', 'stringent', 'tolerance.forces', '>')],
}


def lookup(values: dict[str, Any], path: str) -> Any:
    """A nested value by its dotted path."""
    for key in path.split('.'):
        values = values[key]
    return values


def markers(values: Any) -> list[Any]:
    """Markers of open mappings that are left anywhere in nested values."""
    if not isinstance(values, dict):
        return []
    return [key for key in values if key == OPEN] + [m for value in values.values() for m in markers(value)]


def test_merge_is_nested_and_leaves_its_arguments() -> None:
    """Only what is named changes, at any depth, and nothing is shared with the arguments."""
    overrides = {'nested': {'deep': {'x': [2]}}}
    merged = merge(DEFAULTS, overrides)
    assert merged == {**DEFAULTS, 'nested': {'cutoff': 5.0, 'deep': {'x': [2]}}}
    merged['nested']['deep']['x'].append(3)
    assert overrides == {'nested': {'deep': {'x': [2]}}} and DEFAULTS['nested']['deep'] == {'x': 1}


@pytest.mark.parametrize(
    ('overrides', 'sentence'),
    [
        ({'nested': {'deep': {'xx': 1}}}, 'unknown option `stage.nested.deep.xx`: did you mean `x`?'),
        ({'nested': {'cutof': 1}}, 'unknown option `stage.nested.cutof`: did you mean `cutoff`?'),
        ({'zzz': 1}, 'unknown option `stage.zzz`: known here: a, free, nested.'),
        ({'nested': 3}, 'option `stage.nested` must be a mapping, found 3.'),
    ],
)
def test_merge_refuses(overrides: dict[str, Any], sentence: str) -> None:
    """A mistyped key is named with its full path and the nearest right one."""
    with pytest.raises(ValueError) as error:
        merge(DEFAULTS, overrides, 'stage')
    assert str(error.value) == sentence


def test_open_mappings_take_any_key() -> None:
    """Where keys belong to another program none is refused; below the open mapping the rule holds again."""
    assert merge(DEFAULTS, {'free': {'new': 2}})['free'] == {OPEN: True, 'known': 1, 'new': 2}
    with pytest.raises(ValueError, match=r'unknown option `free.sub.b`'):
        merge({'free': {OPEN: True, 'sub': {'a': 1}}}, {'free': {'sub': {'b': 1}}})


@pytest.mark.parametrize('name', CHAINS)
def test_every_protocol_loads(name: str) -> None:
    """The three of them, each described, with equal keys, without markers, the default among them."""
    chain = CHAINS[name]
    available = chain.get_available_protocols()
    assert list(available) == ['fast', 'balanced', 'stringent']
    assert all(description.endswith('.') for description in available.values())
    assert chain.get_default_protocol() == 'balanced'
    inputs = {protocol: chain.get_protocol_inputs(protocol) for protocol in available}
    assert len({tuple(sorted(values)) for values in inputs.values()}) == 1
    assert chain.get_protocol_inputs() == inputs['balanced']
    assert [markers(values) for values in inputs.values()] == [[], [], []]


@pytest.mark.parametrize('name', CHAINS)
def test_protocols_differ_as_they_say(name: str) -> None:
    """A more stringent protocol asks for more."""
    compare = {'<': lambda a, b: a < b, '>': lambda a, b: a > b, '!=': lambda a, b: a != b}
    for lower, higher, path, sign in PROMISES[name]:
        values = [lookup(CHAINS[name].get_protocol_inputs(protocol), path) for protocol in (lower, higher)]
        assert compare[sign](*values), (lower, higher, path, values)


@pytest.mark.parametrize('name', STAGES)
def test_fast_needs_no_gpu(name: str) -> None:
    """The protocol for rehearsals runs on any machine."""
    values = CHAINS[name].get_protocol_inputs('fast')
    assert values.get('device') == ('cpu' if name in ('training', 'exploration', 'evaluation') else None)


def test_overrides_from_a_file(tmp_path: Path) -> None:
    """A YAML file does what the same mapping does; an empty one nothing."""
    path = tmp_path / 'overrides.yaml'
    path.write_text('n_members: 7\nparameters: {mace: {num_channels: 9, new_option_of_mace: 1}}\n')
    values = STAGES['training'].get_protocol_inputs('fast', path)
    assert (values['n_members'], values['parameters']['mace']['num_channels']) == (7, 9)
    assert values['parameters']['mace']['new_option_of_mace'] == 1
    fast = STAGES['training'].get_protocol_inputs('fast')['parameters']
    assert values['parameters']['mace']['max_L'] == fast['mace']['max_L']
    assert values['parameters']['metatrain'] == fast['metatrain']
    path.write_text('')
    assert STAGES['training'].get_protocol_inputs('fast', path) == STAGES['training'].get_protocol_inputs('fast')
    path.write_text('n_member: 7\n')
    with pytest.raises(ValueError, match=r'`training.n_member`: did you mean `n_members`\?'):
        STAGES['training'].get_protocol_inputs('fast', path)


def test_nodes_are_not_copied(aiida_profile: Any) -> None:
    """A copy of a node is another node, without its history."""
    node = orm.Int(3).store()
    training = {'training': {'foundation': node}}
    outer = ActiveLearningWorkChain.get_protocol_inputs('fast', training)['training']
    assert STAGES['training'].get_protocol_inputs('fast', outer)['foundation'] is node


def test_on_is_a_word_in_yaml() -> None:
    """A step of a plan acts `on` another; YAML 1.1 would read that as true."""
    assert load_yaml('{on: strain, off: no, keep: false, deep: {yes: True}}') == {
        'on': 'strain',
        'off': 'no',
        'keep': False,
        'deep': {'yes': True},
    }
    assert load_yaml('[1e-9, 1E4, -2.5e+3, .5e1, 1.0, 12, e5]') == [1e-9, 1e4, -2.5e3, 5.0, 1.0, 12, 'e5']
    with pytest.raises(yaml.YAMLError):
        load_yaml('!!python/object/apply:os.getcwd []')


def test_unknown_protocol_is_refused() -> None:
    """The remedy is the list of those there are."""
    with pytest.raises(ValueError, match=r'unknown protocol `quick`: choose one of fast, balanced, stringent\.'):
        ActiveLearningWorkChain.get_protocol_inputs('quick')


@pytest.mark.parametrize('name', CHAINS)
def test_every_chain_has_a_builder(name: str) -> None:
    """Each builder takes protocol and overrides by name."""
    parameters = inspect.signature(CHAINS[name].get_builder_from_protocol).parameters
    assert {'protocol', 'overrides'} <= set(parameters)
