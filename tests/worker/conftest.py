"""Potentials that are ready at once: tiny random MACE models and analytic ASE calculators."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from ase.data import atomic_numbers


def build_mace(elements: Sequence[str], cutoff: float = 4.0):
    """A MACE model in float64: 8 channels, two interactions."""
    import mace  # noqa: F401 -- before e3nn
    import torch
    from e3nn import o3
    from mace import modules
    from mace.tools.torch_tools import default_dtype

    numbers = sorted(atomic_numbers[symbol] for symbol in elements)
    with default_dtype('float64'):
        return modules.ScaleShiftMACE(
            r_max=cutoff,
            num_bessel=4,
            num_polynomial_cutoff=5,
            max_ell=2,
            interaction_cls=modules.interaction_classes['RealAgnosticResidualInteractionBlock'],
            interaction_cls_first=modules.interaction_classes['RealAgnosticResidualInteractionBlock'],
            num_interactions=2,
            num_elements=len(numbers),
            hidden_irreps=o3.Irreps('8x0e'),
            MLP_irreps=o3.Irreps('8x0e'),
            atomic_energies=-3.0 * np.arange(1, len(numbers) + 1),
            avg_num_neighbors=10.0,
            atomic_numbers=numbers,
            correlation=2,
            gate=torch.nn.functional.silu,
            radial_MLP=[8],
            atomic_inter_scale=20.0,
            atomic_inter_shift=0.1,
        )


def randomise(model, seed: int) -> None:
    """New random weights; building a model anew for each member would take seconds."""
    rng = np.random.default_rng(seed)
    for parameter in model.parameters():
        parameter.data.copy_(parameter.data.new_tensor(rng.normal(size=tuple(parameter.shape))))


@pytest.fixture(scope='session')
def mace_files(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[Path]]:
    """Factory of the files of tiny random MACE models."""
    made: dict[tuple, list[Path]] = {}

    def make(elements: Sequence[str], n_members: int = 2, cutoff: float = 4.0) -> list[Path]:
        import torch

        key = (tuple(elements), n_members, cutoff)
        if key not in made:
            directory = tmp_path_factory.mktemp('mace')
            made[key] = [directory / f'member_{seed}.model' for seed in range(n_members)]
            model = build_mace(elements, cutoff)
            for seed, path in enumerate(made[key]):
                randomise(model, seed)
                torch.save(model, path)
        return made[key]

    return make


@pytest.fixture
def lj_files(tmp_path: Path) -> Callable[..., list[Path]]:
    """Factory of Lennard-Jones argon, smooth at the cutoff; the members differ in their well depth."""

    def make(n_members: int = 2, **parameters: float) -> list[Path]:
        paths = [tmp_path / f'lj_{index}.json' for index in range(n_members)]
        for index, path in enumerate(paths):
            values = {
                'epsilon': 0.0104 * (1 + 0.1 * index),
                'sigma': 3.4,
                'rc': 7.0,
                'ro': 5.0,
                'smooth': True,
                **parameters,
            }
            path.write_text(
                json.dumps(
                    {
                        'calculator': 'ase.calculators.lj.LennardJones',
                        'parameters': values,
                        'elements': ['Ar'],
                        'cutoff': 7.0,
                    }
                )
            )
        return paths

    return make
