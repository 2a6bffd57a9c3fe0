"""What the file of a trained model says of itself: ``python -m aiida_alpot.worker.potentials.describe FILE``.

It prints one JSON object: ``trainer``, ``elements``, ``cutoff`` (A), ``dtype``, ``architecture`` and, where the file
holds them, ``reference_energies`` (eV). **Trust**: loading a model can run any code that it contains.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ase.data import chemical_symbols

from aiida_alpot.worker.options import unknown_name


def describe(path: Path | str) -> dict[str, Any]:
    """What is known of a model.

    :raises ValueError: for another kind of file, or one that cannot be loaded.
    """
    path = Path(path)
    if path.suffix not in READERS:
        raise ValueError(f'the file {path.name} ends in {unknown_name(path.suffix, READERS, "suffix of a model:")}')
    if not path.is_file():
        raise ValueError(f'there is no file {path}')
    try:
        return READERS[path.suffix](path)
    except ImportError as exception:
        raise ValueError(
            f'{exception.name or exception} is not installed here, which is needed to load {path.name}: install it, '
            'or give `trainer`, `elements`, `cutoff` and `dtype`'
        ) from exception
    except Exception as exception:  # whatever a pickle that is none of ours raises
        first = (str(exception).strip() or type(exception).__name__).splitlines()[0]
        raise ValueError(f'{path.name} cannot be loaded: {first}') from exception


def _mace(path: Path) -> dict[str, Any]:
    import torch

    model = torch.load(path, map_location='cpu', weights_only=False)
    if not hasattr(model, 'atomic_numbers') or not hasattr(model, 'r_max'):
        raise ValueError(f'it holds a {type(model).__name__}: give the .model file that MACE writes, no checkpoint')
    elements = [chemical_symbols[number] for number in model.atomic_numbers.tolist()]
    found: dict[str, Any] = {
        'trainer': 'mace',
        'elements': elements,
        'cutoff': round(float(model.r_max), 6),
        'dtype': str(next(model.parameters()).dtype).rpartition('.')[2],
        'architecture': type(model).__name__,
    }
    energies = model.atomic_energies_fn.atomic_energies.detach().reshape(-1, len(elements))
    if len(energies) == 1:  # with several heads there are as many sets of them
        found['reference_energies'] = dict(zip(elements, energies[0].tolist(), strict=True))
    return found


def _metatomic(path: Path) -> dict[str, Any]:
    from metatomic.torch import load_atomistic_model

    return _of_capabilities(load_atomistic_model(str(path)))


def _checkpoint(path: Path) -> dict[str, Any]:
    import torch
    from metatrain.utils.io import model_from_checkpoint

    checkpoint = torch.load(path, map_location='cpu', weights_only=False)
    model = model_from_checkpoint(checkpoint, context='export')
    return {**_of_capabilities(model.export()), 'architecture': str(checkpoint['architecture_name'])}


def _of_capabilities(model: Any) -> dict[str, Any]:
    capabilities = model.capabilities()
    lists = [options.engine_cutoff('angstrom') for options in model.requested_neighbor_lists()]
    return {
        'trainer': 'metatrain',
        'elements': [chemical_symbols[number] for number in sorted(capabilities.atomic_types)],
        'cutoff': round(float(max(lists, default=capabilities.interaction_range)), 6),
        'dtype': capabilities.dtype,
    }


READERS: Mapping[str, Callable[[Path], dict[str, Any]]] = {'.model': _mace, '.pt': _metatomic, '.ckpt': _checkpoint}
"""What reads a file of a model, by its suffix."""


def main(arguments: Sequence[str]) -> int:
    """Print what a file says of itself; 2 where it cannot be read, with the reason on stderr."""
    if len(arguments) != 1:
        print('give one file of a model', file=sys.stderr)
        return 2
    try:
        print(json.dumps(describe(arguments[0])))
    except ValueError as exception:
        print(exception, file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
