"""Models that a training goes on from: a foundation model, or the member of an earlier round."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mace  # noqa: F401 -- before e3nn
import numpy as np
import torch
from ase.data import chemical_symbols
from mace.data import AtomicData
from mace.tools import AtomicNumberTable, torch_geometric
from mace.tools.scripts_utils import extract_config_mace_model, remove_pt_head
from mace.tools.torch_tools import default_dtype

from aiida_alpot.worker.potentials.mace_model import check_model

OF_OPTION = {
    'num_interactions': 'num_interactions',
    'max_ell': 'max_ell',
    'correlation': 'correlation',
    'num_radial_basis': 'num_bessel',
    'num_cutoff_basis': 'num_polynomial_cutoff',
    'radial_type': 'radial_type',
    'pair_repulsion': 'pair_repulsion',
    'distance_transform': 'distance_transform',
    'radial_MLP': 'radial_MLP',
    'MLP_irreps': 'MLP_irreps',
    'hidden_irreps': 'hidden_irreps',
    'interaction': 'interaction_cls',
}
"""Options of mace_run_train that say what a model is made of, and their names in the configuration of a model."""

SAME_CUTOFF = 1e-4
"""Cutoffs that differ by less, A, are the same: models are stored in single precision, too."""


def load_model(path: Path, what: str) -> torch.nn.Module:
    """A MACE model on the CPU.

    **Trust**: it is a pickle, and loading a pickle can run any code.

    :param what: the model in the sentence of an error.
    :raises ValueError: where the file is no MACE model that can be gone on from.
    """
    try:
        model = torch.load(path, map_location='cpu', weights_only=False)
    except Exception as error:  # whatever a pickle may raise
        words = (str(error) or repr(error)).splitlines()[0][:200]
        raise ValueError(
            f'{what}, {path}, cannot be read ({words}): give a .model file that MACE has written with a version that '
            'fits the one installed here'
        ) from error
    check_model(model, f'{what}, {path},')
    return model


def with_one_head(model: torch.nn.Module, head: str | None = None) -> torch.nn.Module:
    """The model for one of its heads.

    :param head: by default the first that is not that of the frames of replay.
    :raises ValueError: for a head that it does not have.
    """
    heads = list(getattr(model, 'heads', ['Default']))
    if head is not None and head not in heads:
        raise ValueError(f'the model has no head {head!r}: give `foundation_head` as one of {", ".join(heads)}')
    if len(heads) == 1:
        return model
    parameter = next(model.parameters())
    with default_dtype(parameter.dtype):
        return remove_pt_head(model.to('cpu'), head).to(parameter.dtype)


def elements_of(model: torch.nn.Module) -> tuple[str, ...]:
    """Chemical symbols, by atomic number."""
    return tuple(chemical_symbols[number] for number in model.atomic_numbers.tolist())


def reference_energies_of(model: torch.nn.Module) -> dict[str, float]:
    """Energy of the isolated atom by element, eV, of a model with one head."""
    energies = model.atomic_energies_fn.atomic_energies.detach().reshape(-1).tolist()
    return dict(zip(elements_of(model), energies, strict=True))


def set_reference_energies(model: torch.nn.Module, energies: Mapping[str, float]) -> None:
    """Replace the energies of isolated atoms, eV; elements that are not named keep theirs.

    MACE 0.3.16 prints the E0s that it is given, and overwrites them with those of the model that it goes on from
    where that has as many elements.
    """
    both = {**reference_energies_of(model), **energies}
    tensor = model.atomic_energies_fn.atomic_energies
    values = torch.tensor([both[symbol] for symbol in elements_of(model)], dtype=tensor.dtype)
    tensor.copy_(values.reshape(tensor.shape))


def contradictions(model: torch.nn.Module, options: Mapping[str, Any], cutoff: float | None) -> list[str]:
    """Options of the architecture that are not those of the model; MACE would ignore them without a word."""
    config = extract_config_mace_model(model)
    hidden = [(mul, ir.l) for mul, ir in config['hidden_irreps']]
    found = [
        (name, options[name], config[key])
        for name, key in OF_OPTION.items()
        if name in options and _plain(options[name]) != _plain(config[key])
    ]
    for name, value in (('num_channels', hidden[0][0]), ('max_L', max(degree for _, degree in hidden))):
        if name in options and options[name] != value:
            found.append((name, options[name], value))
    sentences = [f'`{name}` is {given!r}, but that of the model is {_plain(own)}' for name, given, own in found]
    if cutoff is not None and abs(cutoff - float(model.r_max)) > SAME_CUTOFF:
        sentences.append(f'`cutoff` is {cutoff} A, but that of the model is {float(model.r_max):.4g} A (null takes it)')
    return sentences


def _plain(value: Any) -> str:
    """A value of either side in one form: ``[8, 8]``, ``16x0e+16x1o``, a number without needless decimals."""
    if isinstance(value, type):
        return value.__name__
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return f'{value:g}'
    return re.sub(r'\s', '', str(value))


def estimated_reference_energies(
    model: torch.nn.Module, composition: np.ndarray, elements: Sequence[str], labels: np.ndarray, predicted: np.ndarray
) -> dict[str, float]:
    """Reference energies with which the interactions of a model explain labels of another level of theory best, eV.

    What labels and predictions differ by is fitted by least squares, an energy for each element, and added to the
    reference energies of the model. Energies that are fitted to the labels alone would contain the cohesion, which the
    model adds once more.

    :param composition: number of atoms of each of ``elements`` (K) in each frame, shape (n, K).
    :param labels: total energies, shape (n,), eV.
    :param predicted: those of the model, shape (n,), eV.
    """
    own = reference_energies_of(model)
    shift, *_ = np.linalg.lstsq(composition.astype(float), labels - predicted, rcond=None)
    return {symbol: own[symbol] + float(change) for symbol, change in zip(elements, shift, strict=True)}


def predict_energies(model: torch.nn.Module, configurations: Sequence[Any], batch_size: int = 8) -> np.ndarray:
    """Total energies of configurations of MACE, shape (n,), eV; nothing is differentiated."""
    table = AtomicNumberTable([int(number) for number in model.atomic_numbers])
    dtype = next(model.parameters()).dtype
    with default_dtype(dtype), torch.no_grad():
        graphs = [AtomicData.from_config(c, z_table=table, cutoff=float(model.r_max)) for c in configurations]
        loader = torch_geometric.dataloader.DataLoader(graphs, batch_size=batch_size, shuffle=False)
        energies = [model(batch.to_dict(), compute_force=False)['energy'] for batch in loader]
    return torch.cat(energies).numpy().astype(np.float64)
