"""Files of active sets."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np

from aiida_alpot.worker.acquisition.extrapolation.active_set import ActiveSet
from aiida_alpot.worker.acquisition.extrapolation.active_sets import ActiveSets

FORMAT = 'aiida-alpot active sets'
VERSION = 1
_ARRAYS = ('index', 'rows', 'matrix')
_NUMBERS = ('number', 'cluster', 'rank', 'dtype', 'n_environments', 'n_left_out', 'largest_grade')


def save_active_sets(sets: ActiveSets, path: Path | str) -> None:
    """Write a ``.npz`` file: the same active sets give the same bytes. It holds numbers and text, no pickle."""
    header = {
        'format': FORMAT,
        'version': VERSION,
        'model_hash': sets.model_hash,
        'representation': sets.representation,
        'sets': [{name: getattr(one, name) for name in _NUMBERS} for one in sets.sets],
    }
    arrays = {f'{name}_{place}': getattr(one, name) for place, one in enumerate(sets.sets) for name in _ARRAYS}
    with open(path, 'wb') as stream:
        np.savez(stream, header=np.array(json.dumps(header, sort_keys=True)), **arrays)


def load_active_sets(path: Path | str, *, model_hash: str, representation: str) -> ActiveSets:
    """Active sets of a file, for features of one model.

    :param model_hash: SHA-256 of the file of the model that is used; likewise
    :param representation: name of its features.
    :raises ValueError: for a file of another kind or version, or of another model or other features.
    """
    sets = read_active_sets(path)
    sets.check(model_hash, representation)
    return sets


def read_active_sets(path: Path | str) -> ActiveSets:
    """Active sets of a file, whatever they are of: which model and features, they say.

    :raises ValueError: for a file of another kind or version.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        header = json.loads(str(arrays['header']))
        version = header['version'] if header['format'] == FORMAT else None
    except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f'{path} is no file of active sets: choose them with `choose_active_sets`') from error
    if version != VERSION:
        raise ValueError(f'{path} has the version {version}, expected {VERSION}: choose the active sets anew')
    found = tuple(
        ActiveSet(**numbers, **{name: arrays[f'{name}_{place}'] for name in _ARRAYS})
        for place, numbers in enumerate(header['sets'])
    )
    return ActiveSets(found, header['model_hash'], header['representation'])
