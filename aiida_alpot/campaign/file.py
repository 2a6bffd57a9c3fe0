"""The campaign file: from YAML to a builder of the work chain, with everything refused that cannot work."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import yaml

from aiida_alpot.worker.options import unknown_name
from aiida_alpot.workflows.protocols import load_yaml

OWN_KEYS = ('structures', 'codes', 'protocol', 'options')
"""Keys of a campaign file beside those of the protocol of ``ActiveLearningWorkChain``, which it can all override."""

FILES_OF_TRAINING = ('foundation', 'replay')
"""Options of the training that can name a file, relative to the campaign file."""


def read_campaign(path: pathlib.Path | str) -> dict[str, Any]:
    """Content of a campaign file, structure files read.

    :returns: the keys of the file; ``structures`` maps the name of each file to ASE ``Atoms``.
    :raises ValueError: for a file that is not there, is not YAML, or names a structure file that cannot be read.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise ValueError(f'there is no campaign file {path}.')
    try:
        content = load_yaml(path.read_text())
    except yaml.YAMLError as exception:
        raise ValueError(f'{path} is not valid YAML: {_one_line(exception)}') from exception
    if not isinstance(content, dict):
        raise ValueError(f'{path} must hold a mapping with at least `structures` and `codes`.')
    content['structures'] = _read_structures(path.parent, content.get('structures'))
    _find_files(path.parent, content.get('training'))
    return content


def _find_files(folder: pathlib.Path, training: Any) -> None:
    """Make the paths of files that a training starts from those from here; what is no file there stays."""
    for name in FILES_OF_TRAINING:
        given = training.get(name) if isinstance(training, dict) else None
        if isinstance(given, str) and (folder / given).is_file():
            training[name] = str(folder / given)


def _read_structures(folder: pathlib.Path, names: Any) -> dict[str, Any]:
    """Structures of the files that a campaign names, relative to its folder."""
    import ase.io

    if isinstance(names, str):
        names = [names]
    if not names:
        raise ValueError(
            '`structures`: the list is empty; name at least one structure file (any format that ASE reads).'
        )
    if not isinstance(names, list):
        raise ValueError(f'`structures`: expected a list of file names, found {names!r}.')
    structures = {}
    stems = [pathlib.Path(str(name)).stem for name in names]
    for name in names:
        file = folder / str(name)
        if not file.is_file():
            raise ValueError(f'`structures`: there is no file {file}.')
        try:
            images = ase.io.read(file, ':')
        except Exception as exception:  # ASE's readers raise whatever they stumble over
            raise ValueError(
                f'`structures`: {file} cannot be read as a structure: {_one_line(exception)}'
            ) from exception
        label = file.stem if stems.count(file.stem) == 1 else str(name)
        for index, atoms in enumerate(images):
            structures[f'{label}_{index}' if len(images) > 1 else label] = atoms
    return structures


def _one_line(exception: Exception) -> str:
    """What an exception of another library says, in one line."""
    return ' '.join(str(exception).split()) or type(exception).__name__


def campaign_builder(content: Mapping[str, Any]) -> Any:
    """Builder of ``ActiveLearningWorkChain`` for the content of a campaign file.

    :raises ValueError: for anything that cannot work, naming the field and the remedy.
    """
    from aiida_alpot.workflows.active_learning import ActiveLearningWorkChain

    known = [*OWN_KEYS, *ActiveLearningWorkChain.get_protocol_inputs()]
    for key in content:
        if key not in known:
            raise ValueError(unknown_name(key, known, 'key'))
    codes = content.get('codes')
    if not isinstance(codes, Mapping):
        raise ValueError('`codes`: missing; name the codes `pw`, `train`, `md` and `evaluate`.')
    options = content.get('options') or {}
    if not isinstance(options, Mapping) or not all(isinstance(values, Mapping) for values in options.values()):
        raise ValueError('`options`: expected options of the jobs by stage, e.g. `labelling: {account: mine}`.')
    return ActiveLearningWorkChain.get_builder_from_protocol(
        content['structures'],
        codes,
        protocol=content.get('protocol'),
        overrides={key: value for key, value in content.items() if key not in OWN_KEYS},
        options=options,
    )


def load_campaign(path: pathlib.Path | str) -> Any:
    """Builder for a campaign file; needs a loaded profile.

    :raises ValueError: for anything that cannot work, naming the field and the remedy.
    """
    return campaign_builder(read_campaign(path))
