"""Checkpoints of a member: complete at any moment, the best of all attempts, and read through before use."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from aiida_alpot.worker.training.mace.checkpoints import LAST, STATE, Checkpoints, best_of, check_file
from aiida_alpot.worker.training.trainer import CorruptCheckpoint


def write(path: Path) -> None:
    """A file such as torch writes."""
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('weights', b'1234567890' * 100)


def names(folder: Path) -> set[str]:
    """Files there."""
    return {path.name for path in folder.iterdir()}


def test_last_and_best_are_kept(tmp_path: Path) -> None:
    """And nothing else; the loss is remembered by the next attempt."""
    checkpoints = Checkpoints(tmp_path)
    assert LAST not in checkpoints and checkpoints.loss(1) == float('inf') and checkpoints.chosen(1) == 0
    for epoch, loss in ((1, 3.0), (2, 1.0), (5, 2.0)):
        checkpoints.keep(write, epoch, loss, stage=1)
    again = Checkpoints(tmp_path)
    assert again.epoch(LAST) == 5 and again.chosen(1) == 2 and again.loss(1) == 1.0
    assert names(tmp_path) == {'epoch-2.pt', 'epoch-5.pt', STATE}
    again.keep(write, 6, 1.5, stage=1)
    assert again.chosen(1) == 2 and names(tmp_path) == {'epoch-2.pt', 'epoch-6.pt', STATE}
    again.check()


def test_stages_have_losses_of_their_own(tmp_path: Path) -> None:
    """MACE changes the weights of the loss between them."""
    checkpoints = Checkpoints(tmp_path)
    checkpoints.keep(write, 1, 1.0, stage=1)
    assert checkpoints.chosen(2) == 1
    checkpoints.keep(write, 2, 50.0, stage=2)
    assert (checkpoints.chosen(1), checkpoints.chosen(2)) == (1, 2)
    assert checkpoints.path(best_of(2)) == checkpoints.path(LAST)


def test_killed_while_writing(tmp_path: Path) -> None:
    """The set of before is complete."""
    checkpoints = Checkpoints(tmp_path)
    checkpoints.keep(write, 1, 1.0, stage=1)

    def killed(path: Path) -> None:
        path.write_bytes(b'PK half')
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        checkpoints.keep(killed, 2, 0.5, stage=1)
    again = Checkpoints(tmp_path)
    again.check()
    assert again.epoch(LAST) == 1
    again.keep(write, 3, 0.4, stage=1)
    assert names(tmp_path) == {'epoch-3.pt', STATE}


@pytest.mark.parametrize('damage', ['truncated', 'flipped', 'nonsense', 'missing'])
def test_corrupt(tmp_path: Path, damage: str) -> None:
    """Found before it is used."""
    checkpoints = Checkpoints(tmp_path)
    checkpoints.keep(write, 1, 1.0, stage=1)
    path = tmp_path / 'epoch-1.pt'
    content = path.read_bytes()
    if damage == 'missing':
        path.unlink()
    else:
        flipped = content[:200] + bytes([content[200] ^ 1]) + content[201:]
        path.write_bytes({'truncated': content[:300], 'flipped': flipped, 'nonsense': b'nonsense'}[damage])
    with pytest.raises(CorruptCheckpoint, match=r'epoch-1\.pt cannot be read .*start it afresh'):
        checkpoints.check()
    with pytest.raises(CorruptCheckpoint):
        check_file(path)


def test_corrupt_state(tmp_path: Path) -> None:
    """Too."""
    (tmp_path / STATE).write_text(json.dumps({})[:1])
    with pytest.raises(CorruptCheckpoint, match='cannot be read'):
        Checkpoints(tmp_path)
