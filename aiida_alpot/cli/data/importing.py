"""``verdi data alpot.pes import``."""

from __future__ import annotations

import dataclasses
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aiida_alpot.cli.data.common import ARCHIVE, numbered, quiet_archives, sentence, with_profile
from aiida_alpot.worker.frames import PROPERTIES, hash_file
from aiida_alpot.worker.frames.formats import FORMATS, STYLES, LabelDeclaration, read_frames
from aiida_alpot.worker.frames.formats.declaration import (
    DIPOLE_UNITS,
    ENERGIES,
    ENERGY_UNITS,
    FORCE_UNITS,
    LENGTH_UNITS,
    MISSING,
    STRESS_SIGNS,
    STRESS_UNITS,
    VOIGT_ORDERS,
)

if TYPE_CHECKING:
    from aiida_alpot.data.pes import PESData

OPTION_NAMES = {
    'reference_energies': 'reference',
    'keys': 'key',
    'properties': 'property',
    'metadata_keys': 'metadata-key',
    'array_keys': 'array-key',
}
"""Options that are named otherwise than the fields of a label declaration, as they may be repeated."""


@click.command('import')
@click.argument('path', type=click.Path(exists=True, path_type=Path), metavar='FILE')
@click.option(
    '-F',
    '--format',
    'format_',
    type=click.Choice([*FORMATS, ARCHIVE]),
    help='Format of FILE, by default told by its suffix (.xyz, .extxyz, .db, .traj, .h5, .aiida).',
)
@click.option('--level-of-theory', help='What the labels were calculated with, such as "VASP PBE 520 eV".')
@click.option(
    '--energies',
    type=click.Choice(ENERGIES),
    help='Total energies, or energies from which a constant an atom was subtracted (see --reference).',
)
@click.option(
    '--reference',
    'references',
    multiple=True,
    metavar='ELEMENT=EV',
    help='Energy in eV that is added for each atom of an element, for relative energies.',
)
@click.option('--energy-unit', type=click.Choice(list(ENERGY_UNITS)), help='[default: eV]')
@click.option('--length-unit', type=click.Choice(list(LENGTH_UNITS)), help='[default: A]')
@click.option('--force-unit', type=click.Choice(list(FORCE_UNITS)), help='[default: energy unit / length unit]')
@click.option('--stress-unit', type=click.Choice(list(STRESS_UNITS)), help='Needed where the file has a stress.')
@click.option('--stress-sign', type=click.Choice(list(STRESS_SIGNS)), help='What a positive stress means.')
@click.option('--voigt-order', type=click.Choice(list(VOIGT_ORDERS)), help='Order of six numbers.  [default: ase]')
@click.option('--virials', is_flag=True, help='Make the stress of virials: stress = -virial / volume.')
@click.option('--dipole-unit', type=click.Choice(list(DIPOLE_UNITS)), help='Needed where the file has dipoles.')
@click.option('--style', type=click.Choice(list(STYLES)), help='Set of keys under which the labels are.')
@click.option(
    '--key', 'keys', multiple=True, metavar='PROPERTY=KEY', help='Key of a property, such as energy=dft_energy.'
)
@click.option(
    '--property',
    'properties',
    multiple=True,
    type=click.Choice([*PROPERTIES, 'none']),
    help='Take only these labels, or none; may be repeated.',
)
@click.option(
    '--missing',
    type=click.Choice(MISSING),
    help='Where some frames lack energy or forces: refuse the file, drop these frames, or keep them with what they '
    'have.  [default: refuse]',
)
@click.option('--lineage-key', help='Key of the lineage; without, each frame is its own.')
@click.option('--origin-key', help='Key of the origin.')
@click.option('--split-key', help='Key of the split.')
@click.option('--origin', help='Origin of all frames.  [default: import]')
@click.option('--metadata-key', 'metadata_keys', multiple=True, help='Key that is kept as metadata; may be repeated.')
@click.option('--array-key', 'array_keys', multiple=True, help='Column that is kept as user array; may be repeated.')
@click.option('--allow-mixed-levels', is_flag=True, help='Accept labels of several levels of theory in one data set.')
@click.option('-L', '--label', default='', help='Label of the data set.')
@click.option('-D', '--description', default='', help='Description of the data set.')
@with_profile
def import_file(
    path: Path, format_: str | None, allow_mixed_levels: bool, label: str, description: str, **given: Any
) -> None:
    """Make a data set of a file of structures, with labels or without, or import an AiiDA archive.

    A file that aiida-alpot wrote needs no option. Of any other, nothing is guessed: where its numbers could mean
    several things, the file is refused, and the message names the option that says what they are.

    \b
    Examples:
      verdi data alpot.pes import dataset.xyz
      verdi data alpot.pes import vasp.xyz --level-of-theory "VASP PBE 520 eV" \\
          --energies total --stress-unit eV/A^3 --lineage-key trajectory
      verdi data alpot.pes import shifted.xyz --level-of-theory "VASP PBE 520 eV" \\
          --energies relative --reference Si=-0.82 --key energy=e_coh --missing drop
      verdi data alpot.pes import labels.db --energies total
      verdi data alpot.pes import sets.aiida
    """
    options = declared(given)
    if format_ == ARCHIVE or (format_ is None and path.suffix == '.aiida'):
        named = sorted({*options, *(['allow_mixed_levels'] if allow_mixed_levels else [])})
        if named or label or description:
            raise ValueError(
                f'an archive holds nodes as they are: leave out the options ({", ".join(named) or "label"})'
            )
        _import_archive(path)
        return
    _import_frames(path, format_, options, allow_mixed_levels, label, description)


def declared(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a label declaration that were given, as its class takes them."""
    options = {name: value for name, value in given.items() if value}
    if 'properties' in options:
        names = tuple(name for name in options['properties'] if name != 'none')
        if names and len(names) != len(options['properties']):
            raise ValueError('--property none says that no labels are taken, and others are named: leave one out')
        options['properties'] = names
    references = {
        symbol: _number('--reference', symbol, value)
        for symbol, value in _pairs('--reference', options.pop('references', ())).items()
    }
    if references:
        options['reference_energies'] = references
    if 'keys' in options:
        options['keys'] = _pairs('--key', options['keys'])
    return options


def with_option_names(text: str) -> str:
    """A message about a label declaration with its fields written as the options of the command.

    Fields are recognised in backquotes, with a value (``missing='drop'``), and bare where their name is no plain word.
    """
    text = text.replace('properties=()', '--property none')
    for field in dataclasses.fields(LabelDeclaration):
        option = f'--{OPTION_NAMES.get(field.name, field.name.replace("_", "-"))}'
        text = text.replace(f'`{field.name}`', f'`{option}`')
        text = re.sub(rf"\b{field.name}='([^']*)'", rf'{option} \1', text)
        if '_' in field.name:
            text = re.sub(rf'\b{field.name}\b', option, text)
    return text


def _pairs(option: str, given: tuple[str, ...]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in given:
        name, separator, value = text.partition('=')
        if not separator or not name or not value or name in pairs:
            raise ValueError(f'{option} {text!r} is not understood: write NAME=VALUE, once for each name')
        pairs[name] = value
    return pairs


def _number(option: str, name: str, value: str) -> float:
    try:
        return float(value)
    except ValueError as exception:
        raise ValueError(f'{option} {name}={value}: expected a number in eV') from exception


def _import_archive(path: Path) -> None:
    from aiida_alpot.data.archives import import_archive

    with quiet_archives():
        nodes, n_new = import_archive(path)
    click.echo(f'{numbered(len(nodes), "data set")} in {path}, {n_new} new in this profile.')
    for node in nodes:
        click.echo(f'Data set {node.pk} ({node.uuid}): {numbered(node.n_frames, "frame")}.')


def _import_frames(
    path: Path, format_: str | None, options: dict[str, Any], allow_mixed_levels: bool, label: str, description: str
) -> None:
    from aiida_alpot.data.pes import PESData

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always', UserWarning)
        try:
            declaration = LabelDeclaration.from_dict(options) if options else None
            frames = read_frames(path, format=format_, declaration=declaration)
            node = PESData(frames=frames, allow_mixed_levels=allow_mixed_levels)
        except ValueError as exception:
            raise ValueError(with_option_names(str(exception))) from exception
    for warning in caught:
        if issubclass(warning.category, UserWarning):
            click.echo(f'Warning: {sentence(warning.message)}', err=True)
    known = find_equal(node)
    if known is not None:
        click.echo(f'These frames are in this profile already: nothing was stored. Data set {known.pk} ({known.uuid}).')
        return
    node.source = source_of(path, options)
    node.label, node.description = label or path.name, description
    node.store()
    levels = ', '.join(node.levels_of_theory) or 'none'
    click.echo(
        f'{numbered(node.n_frames, "frame")}, {node.n_labelled} with energy and forces; level of theory: {levels}.'
    )
    click.echo(f'Data set {node.pk} ({node.uuid}).')


def find_equal(node: PESData) -> PESData | None:
    """A stored data set with the same frames in the same order, if there is one."""
    from aiida import orm

    query = orm.QueryBuilder().append(type(node), filters={'attributes.content_hash': node.content_hash})
    return query.first(flat=True)


def source_of(path: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """Where a data set was read from, as AiiDA keeps it: name and SHA-256 of the file, and what was said about it."""
    return {'uri': path.name, 'extras': {'sha256': hash_file(path), 'options': dict(options)}}
