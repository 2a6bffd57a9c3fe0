"""What the file of a model says of itself."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aiida_alpot.worker.potentials.describe import describe

TINY = {'d_pet': 8, 'd_head': 8, 'd_node': 8, 'd_feedforward': 8, 'num_heads': 1, 'num_gnn_layers': 1}


def run(path: Path) -> subprocess.CompletedProcess[str]:
    """Ask in a process of its own, as the data node does."""
    command = [sys.executable, '-W', 'ignore', '-m', 'aiida_alpot.worker.potentials.describe', str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_mace(mace_files: Callable[..., list[Path]]) -> None:
    """Elements, cutoff, precision and energies of atoms."""
    (path,) = mace_files(['Si', 'C'], n_members=1, cutoff=4.5)
    assert describe(path) == {
        'trainer': 'mace',
        'elements': ['C', 'Si'],
        'cutoff': 4.5,
        'dtype': 'float64',
        'architecture': 'ScaleShiftMACE',
        'reference_energies': {'C': -3.0, 'Si': -6.0},
    }
    done = run(path)
    assert done.returncode == 0 and json.loads(done.stdout.splitlines()[-1]) == describe(path)


def test_single_precision(mace_files: Callable[..., list[Path]], tmp_path: Path) -> None:
    """The cutoff is a round number again."""
    import torch

    model = torch.load(mace_files(['Si'], n_members=1, cutoff=4.1)[0], weights_only=False)
    torch.save(model.to(torch.float32), tmp_path / 'single.model')
    found = describe(tmp_path / 'single.model')
    assert (found['cutoff'], found['dtype']) == (4.1, 'float32')


@pytest.fixture(scope='module')
def pet(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A PET of metatrain that was not trained: its checkpoint and what is exported of it."""
    pytest.importorskip('metatrain', reason='metatrain is not installed: pip install metatrain')
    import torch
    from metatrain.pet import PET
    from metatrain.utils.architectures import get_default_hypers
    from metatrain.utils.data import DatasetInfo
    from metatrain.utils.data.target_info import get_energy_target_info

    folder = tmp_path_factory.mktemp('pet')
    hypers: dict[str, Any] = {**get_default_hypers('pet', base_precision=64)['model'], **TINY, 'cutoff': 4.0}
    target = get_energy_target_info('energy', {'unit': 'eV'}, add_position_gradients=True)
    model = PET(hypers, DatasetInfo(length_unit='angstrom', atomic_types=[14, 6], targets={'energy': target}))
    model.to(torch.float64)
    torch.save(model.get_checkpoint(), folder / 'model.ckpt')
    model.export().save(str(folder / 'model.pt'))
    return {'.ckpt': folder / 'model.ckpt', '.pt': folder / 'model.pt'}


@pytest.mark.parametrize('suffix', ['.ckpt', '.pt'])
def test_metatrain(pet: dict[str, Path], suffix: str) -> None:
    """A checkpoint says what the exported model says, and the architecture."""
    found = describe(pet[suffix])
    assert found.pop('architecture', 'not said') == {'.ckpt': 'pet', '.pt': 'not said'}[suffix]
    assert found == {'trainer': 'metatrain', 'elements': ['C', 'Si'], 'cutoff': 4.0, 'dtype': 'float64'}


def test_what_is_no_model(tmp_path: Path) -> None:
    """One sentence, and no traceback."""
    (tmp_path / 'broken.model').write_bytes(b'not a pickle')
    with pytest.raises(ValueError, match=r'broken\.model cannot be loaded: '):
        describe(tmp_path / 'broken.model')
    with pytest.raises(ValueError, match=r"ends in unknown suffix of a model: '\.xyz'"):
        describe(tmp_path / 'frames.xyz')
    with pytest.raises(ValueError, match='there is no file'):
        describe(tmp_path / 'gone.pt')
    done = run(tmp_path / 'gone.pt')
    assert done.returncode == 2 and 'Traceback' not in done.stderr and 'there is no file' in done.stderr


def test_a_checkpoint_of_mace_is_no_model(tmp_path: Path) -> None:
    """Which is what people take for it."""
    import torch

    torch.save({'model': {}, 'epoch': 3}, tmp_path / 'mace_epoch-3.model')
    with pytest.raises(ValueError, match=r'it holds a dict: give the \.model file that MACE writes, no checkpoint'):
        describe(tmp_path / 'mace_epoch-3.model')
