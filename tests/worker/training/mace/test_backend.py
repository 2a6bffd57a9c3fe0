"""A faster backend is compared with the usual one, and models are exported."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest

from aiida_alpot.worker.training.trainer import TrainingFailed


@pytest.fixture(scope='module')
def model_and_frames(foundation):
    """A trained model, and graphs of validation frames in single precision."""
    import torch
    from mace.data import AtomicData, config_from_atoms
    from mace.tools import AtomicNumberTable
    from mace.tools.torch_tools import default_dtype

    from aiida_alpot.worker.frames import read_extxyz

    model = torch.load(foundation.result.model, weights_only=False)
    table = AtomicNumberTable([29, 79])
    with default_dtype('float32'):
        frames = [
            AtomicData.from_config(config_from_atoms(frame.unlabelled().to_atoms()), z_table=table, cutoff=4.0)
            for frame in read_extxyz(foundation.task.data.validation)
        ]
    return model, frames


def test_equal(model_and_frames) -> None:
    """Passes, with the deviation."""
    from aiida_alpot.worker.training.mace.backend import verify

    model, frames = model_and_frames
    assert verify(model, frames, 'cpu', lambda model, device: deepcopy(model)) == (0.0, 0.0)


@pytest.mark.parametrize(('change', 'words'), [(1e-4, 'deviates'), (float('nan'), 'nan')])
def test_different(model_and_frames, change: float, words: str) -> None:
    """Fails, with the deviation and the remedy."""
    from aiida_alpot.worker.training.mace.backend import verify

    def spoilt(model, device: str):
        copy = deepcopy(model)
        with __import__('torch').no_grad():
            copy.scale_shift.scale += change
        return copy

    model, frames = model_and_frames
    with pytest.raises(TrainingFailed, match=f'(?s){words}.*train without `enable_cueq`'):
        verify(model, frames, 'cpu', spoilt)


def test_in_a_training(make_job, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is made after the training where a faster backend was used, unless it is not wanted."""
    from aiida_alpot.worker.training.mace import job as inside
    from aiida_alpot.worker.training.mace.trainer import MaceTrainer

    def broken(model, device: str):
        raise TrainingFailed(f'compared on {device}')

    monkeypatch.setattr(inside, 'FASTER', {'ema': broken})  # any flag that does nothing else
    monkeypatch.setattr(MaceTrainer, '_check_packages', lambda self: None)
    for verify, code in ((True, 1), (False, 0)):
        job = make_job(str(verify), epochs=1, verify_backend=verify, parameters={'ema': True})
        (run,) = job.finish([job.member()])
        assert run.code == code, run.printed[-2000:]
        assert ('compared on cpu' in run.printed) is verify


def test_torchscript(foundation, model_and_frames, tmp_path: Path) -> None:
    """It computes the same without the classes of MACE."""
    import torch

    from aiida_alpot.worker.training.mace.backend import _double
    from aiida_alpot.worker.training.mace.export import export_torchscript

    path = export_torchscript(foundation.result.model, tmp_path / 'exported.pt')
    _, frames = model_and_frames
    from mace.tools import torch_geometric

    batch = torch_geometric.Batch.from_data_list(frames)
    scripted = torch.jit.load(str(path))(_double(batch))['energy'].detach().numpy()
    model = torch.load(foundation.result.model, weights_only=False)
    np.testing.assert_allclose(scripted, model(_double(batch))['energy'].detach().numpy(), rtol=1e-12)
