"""Whether a faster backend computes what the usual one does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import mace  # noqa: F401 -- before e3nn
import torch
from mace.tools import torch_geometric
from mace.tools.torch_tools import default_dtype

from aiida_alpot.worker.training.trainer import TrainingFailed

ENERGY_TOLERANCE = 1e-6
"""eV/atom."""
FORCES_TOLERANCE = 1e-5
"""eV/A."""
N_FRAMES = 8

Convert = Callable[[torch.nn.Module, str], torch.nn.Module]


def to_cuequivariance(model: torch.nn.Module, device: str) -> torch.nn.Module:
    """MACE's own conversion."""
    from mace.cli.convert_e3nn_cueq import run

    return run(deepcopy(model), device=device)


def to_openequivariance(model: torch.nn.Module, device: str) -> torch.nn.Module:
    """MACE's own conversion."""
    from mace.cli.convert_e3nn_oeq import run

    return run(deepcopy(model), device=device)


def verify(model: torch.nn.Module, frames: Sequence[Any], device: str, convert: Convert) -> tuple[float, float]:
    """Compare a model with its conversion in double precision.

    :param frames: ``AtomicData`` of MACE.
    :return: largest deviations, eV/atom and eV/A.
    :raises TrainingFailed: where one is above its tolerance.
    """
    usual = deepcopy(model).to(device).double().eval()
    batch = torch_geometric.Batch.from_data_list(list(frames)).to(device)
    with default_dtype('float64'):
        expected, found = usual(_double(batch)), convert(usual, device).double().eval()(_double(batch))
    n_atoms = batch.ptr[1:] - batch.ptr[:-1]
    energy = float(((found['energy'] - expected['energy']) / n_atoms).abs().max())
    forces = float((found['forces'] - expected['forces']).abs().max())
    if not (energy <= ENERGY_TOLERANCE and forces <= FORCES_TOLERANCE):
        raise TrainingFailed(
            f'the model as it was trained, on the faster backend, deviates from the one that is kept by {energy:.2g} '
            f'eV/atom and {forces:.2g} eV/A on validation frames, more than {ENERGY_TOLERANCE:g} and '
            f'{FORCES_TOLERANCE:g}: train without `enable_cueq` and `enable_oeq`, or update the packages'
        )
    return energy, forces


def _double(batch: Any) -> dict[str, Any]:
    """The input of a model, in double precision; of its own, because a pass adds to it."""
    values = batch.to_dict()
    return {
        name: value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value
        for name, value in values.items()
    }
