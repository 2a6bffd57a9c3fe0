"""A committee trained on a GPU, beside one on the CPU: ``make test-gpu``. Without a GPU these tests are skipped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aiida_alpot.worker.frames import write_shard
from aiida_alpot.worker.potentials import load_committee
from aiida_alpot.worker.training.conformance import made_up_frames
from aiida_alpot.worker.training.program import main

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason='torch sees no GPU on this machine')

FRAMES = made_up_frames(24, 6, 0)
PARAMETERS = {'num_channels': 16, 'max_L': 0, 'correlation': 2, 'max_ell': 2}


@pytest.fixture(scope='module')
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Folder and report of a committee of three, by device."""
    found = {}
    for device in ('cpu', 'cuda'):
        folder = tmp_path_factory.mktemp(device)
        shard = write_shard(FRAMES, folder)
        config = {
            'trainer': 'mace',
            'epochs': 20,
            'batch_size': 4,
            'device': device,
            'parameters': PARAMETERS,
            'members': [{'index': i, 'seed': i + 1} for i in range(3)],
            'dataset': [shard.name],
        }
        (folder / 'train.json').write_text(json.dumps(config))
        assert main([str(folder / 'train.json')], folder) == 0
        found[device] = (folder, json.loads((folder / 'training.json').read_text()))
    return found


def test_trains_as_on_the_cpu(trained: dict[str, tuple[Path, dict[str, Any]]]) -> None:
    """The first epochs are the same to rounding; afterwards sums in another order lead elsewhere, as well as there."""
    curves = {device: np.load(folder / 'curves.npz') for device, (folder, _) in trained.items()}
    for member in range(3):
        on_cpu, on_gpu = (curves[device][f'{member}_loss'][:2] for device in ('cpu', 'cuda'))
        assert np.allclose(on_cpu, on_gpu, rtol=1e-4)
    errors = {
        device: report['committee']['validation']['all']['forces']['rmse'] for device, (_, report) in trained.items()
    }
    assert errors['cuda'] == pytest.approx(errors['cpu'], rel=0.3)


@pytest.mark.parametrize(('dtype', 'tolerance'), [('float64', 1e-9), ('float32', 1e-4)])
def test_evaluates_as_on_the_cpu(trained: dict[str, tuple[Path, dict[str, Any]]], dtype: str, tolerance: float) -> None:
    """Energies (eV), forces (eV/A) and stresses (eV/A^3) of the same models."""
    folder, report = trained['cuda']
    paths = [folder / member['model'] for member in report['members'].values()]
    on_cpu, on_gpu = (
        load_committee(paths, device=device, dtype=dtype).evaluate(FRAMES[:8]) for device in ('cpu', 'cuda')
    )
    for name in ('energy', 'forces', 'stress'):
        assert np.allclose(getattr(on_cpu, name), getattr(on_gpu, name), rtol=0.0, atol=tolerance), name
