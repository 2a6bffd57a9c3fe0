"""What the documentation takes from the package itself: commands, entry points, inputs, outputs, exit codes, options.

Everything is written into ``reference/generated``, which is not under version control. No AiiDA profile is needed.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import click
import yaml
from aiida.engine import CalcJob, Process

from aiida_alpot.cli.data import data
from aiida_alpot.cli.main import main
from aiida_alpot.cli.models import committee, potential
from aiida_alpot.worker.acquisition.calibration import CALIBRATIONS
from aiida_alpot.worker.acquisition.config import Choice, EvaluationConfig
from aiida_alpot.worker.acquisition.gate import GateSettings
from aiida_alpot.worker.acquisition.representations import REPRESENTATIONS
from aiida_alpot.worker.acquisition.selectors import GIVEN, RULES, SELECTORS
from aiida_alpot.worker.acquisition.signals import SIGNALS
from aiida_alpot.worker.explorers import EXPLORERS
from aiida_alpot.worker.frames.thin import ThinSettings
from aiida_alpot.worker.generators import GENERATORS
from aiida_alpot.worker.md.lammps_input import MDSettings
from aiida_alpot.worker.md.schedule import ScheduleSettings
from aiida_alpot.worker.md.uncertainty import UncertaintySettings

REMEDIES = Path(__file__).with_name('remedies.yaml')
GROUPS = {
    'aiida.workflows': 'Work chains',
    'aiida.calculations': 'Calculations',
    'aiida.parsers': 'Parsers',
    'aiida.data': 'Data',
    'aiida.cmdline.data': 'Commands of verdi',
    'console_scripts': 'Programs',
}
DATA_COMMANDS = {f'verdi data {group.name}': group for group in (data, potential, committee)}
NOT_SHOWN = ('metadata', 'monitors', 'remote_folder')
"""Inputs that every process of AiiDA has."""


def write_all(directory: Path) -> None:
    """Write every generated page and fragment into a directory, which is made where it is missing.

    Pages end in ``.md``, fragments that other pages include in ``.inc``. A file that would not change is left alone, so
    that Sphinx does not read it again.
    """
    directory.mkdir(parents=True, exist_ok=True)
    contents = {
        'cli.md': cli_page(),
        'entry_points.inc': entry_point_tables(),
        'exit_codes.inc': exit_code_tables(),
        'work_chains.inc': '\n'.join(process_section(cls) for cls in processes('aiida.workflows')),
        'calculations.inc': '\n'.join(process_section(cls) for cls in processes('aiida.calculations')),
        'generators.inc': generator_sections(),
        'md_settings.inc': option_table(MDSettings, leave_out=('seed',)),
        'uncertainty.inc': option_table(UncertaintySettings, leave_out=('calibration',)),
        'schedule.inc': option_table(ScheduleSettings),
        'keep.inc': option_table(ThinSettings),
        'explorers.inc': '\n'.join(f'### {name}\n\n{option_table(cls)}' for name, cls in EXPLORERS.items()),
        'gate.inc': option_table(GateSettings),
        'evaluation.inc': option_table(EvaluationConfig, leave_out=('committee', 'tolerance', 'pool', 'dataset')),
        'signals.inc': function_table(SIGNALS),
        'selectors.inc': function_table({**SELECTORS, **RULES}),
        'calibrations.inc': function_table(CALIBRATIONS),
        'representations.inc': function_table({name: made.function for name, made in REPRESENTATIONS.items()}),
        'representation_options.inc': function_options(
            {name: (made.function, made.options) for name, made in REPRESENTATIONS.items()}
        ),
        'selector_options.inc': function_options({name: (rule, rule_options(rule)) for name, rule in RULES.items()}),
    }
    for name, content in contents.items():
        path = directory / name
        if not path.exists() or path.read_text() != content:
            path.write_text(content)


def cli_page() -> str:
    """The help of every command of ``aiida-alpot`` and of those that we add to ``verdi data``."""
    groups = {'aiida-alpot': main, **DATA_COMMANDS}
    sections = [section for name, group in groups.items() for section in _command_sections(group, name)]
    return '\n'.join(['# Command line\n', *sections])


def _command_sections(group: click.Group, name: str) -> Iterator[str]:
    context = click.Context(group, info_name=name, terminal_width=100)
    yield f'## {name}\n\n```text\n{group.get_help(context)}\n```\n'
    for command_name in group.list_commands(context):
        command = group.get_command(context, command_name)
        assert command is not None, f'{command_name} is registered but does not exist'
        child = click.Context(command, info_name=command_name, parent=context, terminal_width=100)
        yield f'### {name} {command_name}\n\n```text\n{command.get_help(child)}\n```\n'


def table(heading: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [heading, ('---',) * len(heading), *rows]
    return '\n'.join(f'| {" | ".join(cell.replace("|", chr(92) + "|") for cell in line)} |' for line in lines) + '\n'


# Processes.


def processes(*groups: str) -> list[type[Process]]:
    """The processes of this package, by entry point."""
    names = {point.name: point for group in groups for point in entry_points(group=group)}
    return [names[name].load() for name in sorted(names) if name.startswith('alpot.')]


def entry_point_tables() -> str:
    """All entry points, by group."""
    sections = []
    for group, title in GROUPS.items():
        points = [point for point in entry_points(group=group) if point.value.startswith('aiida_alpot.')]
        rows = [(f'`{point.name}`', f'`{point.value}`') for point in sorted(points, key=lambda point: point.name)]
        sections.append(f'## {title}\n\nGroup `{group}`.\n\n{table(("name", "object"), rows)}')
    return '\n'.join(sections)


def own_exit_codes(cls: type[Process]) -> dict[str, Any]:
    """Exit codes that a process has beyond those of AiiDA, or of the plugin whose process it extends."""
    base = next(parent for parent in cls.__mro__ if not parent.__module__.startswith('aiida_alpot'))
    inherited = base.spec().exit_codes if issubclass(base, Process) else {}
    codes = {name: code for name, code in cls.spec().exit_codes.items() if name not in inherited}
    return dict(sorted(codes.items(), key=lambda item: item[1].status))


def exit_code_tables() -> str:
    """Exit codes of every process and what to do, from ``remedies.yaml``; both must name the same."""
    remedies: Mapping[str, Mapping[str, str]] = yaml.safe_load(REMEDIES.read_text())
    found = {cls.__name__: own_exit_codes(cls) for cls in processes('aiida.workflows', 'aiida.calculations')}
    documented = {(process, name) for process, names in remedies.items() for name in names}
    defined = {(process, name) for process, names in found.items() for name in names}
    if documented != defined:
        raise ValueError(f'{REMEDIES.name} and the exit codes differ in {sorted(documented ^ defined)}: correct it')
    sections = []
    for process, codes in found.items():
        rows = [
            (f'{code.status}', f'`{name}`', code.message.replace('{', '*').replace('}', '*'), remedies[process][name])
            for name, code in codes.items()
        ]
        sections.append(f'### `{process}`\n\n{table(("code", "name", "message", "what to do"), rows)}')
    return '\n'.join(sections)


def process_section(cls: type[Process]) -> str:
    """Inputs, outputs and outline of a process, from its spec."""
    spec = cls.spec()
    point = next(
        point.name
        for group in ('aiida.workflows', 'aiida.calculations')
        for point in entry_points(group=group)
        if point.value == f'{cls.__module__}:{cls.__name__}'
    )
    lines = [f'## {cls.__name__}\n', f'Entry point `{point}`.\n', f'{inspect.cleandoc(cls.__doc__ or "")}\n']
    heading = ('name', 'type', 'what it is')
    lines += ['**Inputs**\n', table(heading, list(_input_rows(spec)))]
    lines += ['**Outputs**\n', table(heading, list(_output_rows(cls)))]
    return '\n'.join(lines).replace('``', '`')


def _input_rows(spec: Any) -> Iterator[tuple[str, str, str]]:
    exposed = {namespace: classes for namespace, classes in spec._exposed_inputs.items() if namespace}
    for name, port in spec.inputs.items():
        if name in NOT_SHOWN:
            continue
        if name in exposed:
            (process, names), *_ = exposed[name].items()
            taken = ', '.join(f'`{input_}`' for input_ in names if input_ not in NOT_SHOWN)
            yield f'`{name}`', 'namespace', f'Of the inputs of `{process.__name__}`: {taken}.'
        else:
            yield f'`{name}`', _type(port), _help(port)


def _output_rows(cls: type[Process]) -> Iterator[tuple[str, str, str]]:
    of_aiida = CalcJob.spec().outputs if issubclass(cls, CalcJob) else {}
    for name, port in cls.spec().outputs.items():
        if name not in of_aiida:
            yield f'`{name}`', _type(port), _help(port)


def _type(port: Any) -> str:
    types = port.valid_type or ()
    names = [of.__name__ for of in (types if isinstance(types, tuple) else (types,)) if of is not type(None)]
    if hasattr(port, 'items'):
        names.insert(0, 'namespace of' if names else 'namespace')
    has_default = getattr(port, 'has_default', lambda: False)()
    return ' '.join(names) + ('' if port.required and not has_default else ', optional')


def _help(port: Any) -> str:
    return ' '.join((port.help or '').split())


# Options.


def parameter_texts(cls: Any) -> dict[str, str]:
    """What the docstring of a class or function says about each parameter."""
    text = inspect.cleandoc(cls.__doc__ or '')
    found = re.findall(r':param (\w+):(.*?)(?=\n:|\Z)', text, flags=re.DOTALL)
    return {name: ' '.join(words.split()).replace('``', '`') for name, words in found}


def option_table(cls: type, leave_out: tuple[str, ...] = ()) -> str:
    """Fields of a dataclass of options with their defaults and what its docstring says of them."""
    # What a class inherits is documented where it comes from.
    texts = {name: text for base in reversed(cls.__mro__) for name, text in parameter_texts(base).items()}
    rows = []
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        if field.name in leave_out:
            continue
        default = field.default if field.default is not dataclasses.MISSING else None
        shown = '' if field.default_factory is not dataclasses.MISSING else f'`{_yaml(default)}`'
        rows.append((f'`{field.name}`', shown, _without_roles(texts[field.name])))
    return table(('option', 'default', 'what it is'), rows)


def _without_roles(text: str) -> str:
    return re.sub(r':\w+:`([^`]*)`', r'`\1`', text)


def _yaml(value: Any) -> str:
    """A default as one writes it in YAML."""
    if isinstance(value, tuple):
        return f'[{", ".join(map(_yaml, value))}]'
    if value is None or isinstance(value, bool):
        return 'null' if value is None else str(value).lower()
    if isinstance(value, Choice):
        return value.name
    return str(value)


def generator_sections() -> str:
    """What each generator does and its parameters."""
    sections = []
    for name, generator in GENERATORS.items():
        on = ', else '.join(f'`{step}`' for step in generator.default_on)
        summary = inspect.cleandoc(generator.function.__doc__ or '').split('\n\n')[0].replace('\n', ' ')
        sections.append(f'### `{name}`\n\n{summary} Acts on {on} by default.\n\n{option_table(generator.parameters)}')
    return '\n'.join(sections)


def function_table(registry: Mapping[str, Any]) -> str:
    """Names of a registry and what each function says it does."""
    rows = []
    for name, function in registry.items():
        summary = inspect.cleandoc(function.__doc__ or '').split('\n\n')[0]
        summary = re.sub(r':math:`([^`]*)`', r'$\1$', ' '.join(summary.split()))
        rows.append((f'`{name}`', _without_roles(summary.replace('|', '\\vert ').replace('``', '`'))))
    return table(('name', 'what it does'), rows)


def rule_options(rule: Callable[..., Any]) -> tuple[str, ...]:
    """Options of a rule of batch selection."""
    return tuple(name for name in inspect.signature(rule).parameters if name not in GIVEN)


def function_options(registry: Mapping[str, tuple[Callable[..., Any], tuple[str, ...]]]) -> str:
    """Options of the functions of a registry, with their defaults and what the docstrings say of them.

    A function that describes none of its options refers to another one, and is left out.
    """
    rows = []
    for name, (function, options) in registry.items():
        texts = parameter_texts(function)
        parameters = inspect.signature(function).parameters
        for option in options if set(options) & set(texts) else ():
            shown = f'`{_yaml(parameters[option].default)}`'
            rows.append((f'`{name}`', f'`{option}`', shown, _without_roles(texts.get(option, ''))))
    return table(('name', 'option', 'default', 'what it is'), rows)
