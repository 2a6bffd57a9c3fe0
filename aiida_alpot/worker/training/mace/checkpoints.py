"""The checkpoints of one member: the last, from which it goes on, and the best of all attempts.

MACE itself keeps the best epoch of one attempt only, and removes it before it has written its successor.
"""

from __future__ import annotations

import json
import math
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aiida_alpot.worker.training.trainer import CorruptCheckpoint

FOLDER = 'checkpoints'
STATE = 'state.json'
LAST = 'last'


def best_of(stage: int) -> str:
    """Name of the best checkpoint of a stage (1, or 2 after MACE has changed the weights of the loss)."""
    return f'best_{stage}'


class Checkpoints:
    """Files in a folder, and a small one that says what they are; it is replaced when they are complete.

    So a process that is killed at any moment leaves a complete set.

    :raises CorruptCheckpoint: where the small file cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._kept: dict[str, dict[str, Any]] = {}
        if (folder / STATE).is_file():
            try:
                self._kept = json.loads((folder / STATE).read_text(encoding='utf-8'))
            except ValueError as error:
                raise _corrupt(folder / STATE, str(error)) from error

    def __contains__(self, kind: str) -> bool:
        return kind in self._kept

    def path(self, kind: str) -> Path:
        """File of a checkpoint."""
        return self.folder / self._kept[kind]['file']

    def epoch(self, kind: str) -> int:
        """Number of epochs that had been done."""
        return int(self._kept[kind]['epoch'])

    def loss(self, stage: int) -> float:
        """Lowest loss of a stage so far; infinite before the first."""
        return float(self._kept.get(best_of(stage), {}).get('loss', math.inf))

    def chosen(self, stage: int) -> int:
        """Epoch of the model of a stage; where the second was not reached, it is that of the first."""
        return next((self.epoch(kind) for kind in (best_of(stage), best_of(1)) if kind in self), 0)

    def keep(self, write: Callable[[Path], None], epoch: int, loss: float, stage: int) -> None:
        """Keep a checkpoint as the last, and as the best of its stage where its loss is the lowest.

        :param write: writes the checkpoint into a new file.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        name = f'epoch-{epoch}.pt'
        unfinished = self.folder / f'{name}.part'
        write(unfinished)
        _to_disk(unfinished)
        os.replace(unfinished, self.folder / name)
        entry = {'file': name, 'epoch': epoch, 'loss': loss}
        kept = {**self._kept, LAST: entry}
        if loss < self.loss(stage):
            kept[best_of(stage)] = entry
        self._replace_state(kept)
        in_use = {entry['file'] for entry in kept.values()}
        for path in self.folder.glob('epoch-*.pt*'):
            if path.name not in in_use:
                path.unlink()

    def check(self) -> None:
        """Read all files through.

        :raises CorruptCheckpoint: for one that is not there or not what was written.
        """
        for kind in self._kept:
            check_file(self.path(kind))

    def _replace_state(self, kept: dict[str, dict[str, Any]]) -> None:
        unfinished = self.folder / f'{STATE}.part'
        unfinished.write_text(json.dumps(kept), encoding='utf-8')
        _to_disk(unfinished)
        os.replace(unfinished, self.folder / STATE)
        self._kept = kept


def _to_disk(path: Path) -> None:
    """A file that takes the place of another has to be on disk before, where the machine may fail."""
    with path.open('rb+') as stream:
        os.fsync(stream.fileno())


def check_file(path: Path) -> None:
    """Read a file that torch has written; torch is not needed for it, because it is a zip archive with check sums.

    :raises CorruptCheckpoint: where it is not there, or not what was written.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (OSError, zipfile.BadZipFile) as error:
        raise _corrupt(path, str(error)) from error
    if damaged:
        raise _corrupt(path, f'the check sum of {damaged} is wrong')


def _corrupt(path: Path, what: str) -> CorruptCheckpoint:
    return CorruptCheckpoint(
        f'{path} cannot be read ({what}), so the training cannot go on from it: start it afresh, or restore the file'
    )
