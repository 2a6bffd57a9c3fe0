"""What metatrain leaves in the folder of a member: ``outputs/<date>/<time>/`` for each attempt."""

from __future__ import annotations

import csv
import math
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from aiida_alpot.worker.training.metatrain.options import GRADIENTS, TARGET
from aiida_alpot.worker.training.trainer import CorruptCheckpoint, Epoch

COLUMNS: Mapping[str, str] = {
    'train_loss': 'training loss',
    'loss': 'validation loss',
    'energy': 'validation energy RMSE (per atom)',
    'forces': 'validation forces RMSE',
    'stress': 'validation virial RMSE (per atom)',
}
UNITS: Mapping[str, float] = {'': 1.0, 'eV': 1.0, 'meV': 1e-3, 'eV/A': 1.0, 'meV/A': 1e-3}
TERMS: Mapping[str, str] = {'energy': 'training energy RMSE', 'forces': 'training forces', 'stress': 'training virial'}
"""How the columns begin that are there only if a property is in the loss."""


def attempts(folder: Path) -> list[Path]:
    """Folders of the attempts, in order of time."""
    return sorted(path for path in folder.glob('outputs/*/*') if path.is_dir())


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of an interrupted training, the newest first."""
    found = []
    for order, attempt in enumerate(attempts(folder)):
        for path in attempt.glob('model_*.ckpt'):
            if match := re.fullmatch(r'model_(\d+)\.ckpt', path.name):
                found.append((int(match[1]), order, path))
    return [path for *_, path in sorted(found, reverse=True)]


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that can be read; ``None`` where there is none at all.

    :raises CorruptCheckpoint: where there are some and none can be read.
    """
    found = checkpoints(folder)
    for path in found:
        if is_whole(path):
            return path
    if found:
        raise CorruptCheckpoint(
            f'{found[0]} cannot be read, so the interrupted training cannot be gone on from: delete {folder} to start '
            'it anew'
        )
    return None


def is_whole(path: Path) -> bool:
    """Whether a file that torch has written, an archive with checksums, is complete; nothing of it is run."""
    try:
        with zipfile.ZipFile(path) as archive:
            # In what is cut off, one of the archives that metatensor puts into it may be found as the last.
            return any(name.endswith('/data.pkl') for name in archive.namelist()) and archive.testzip() is None
    except (OSError, zipfile.BadZipFile, EOFError):
        return False


def read_curve(folder: Path, density: float | None) -> list[Epoch]:
    """The epochs of all attempts; where one went back to a checkpoint, those before that it has done again.

    :param density: atoms per volume, by which the virial of an atom becomes a stress, A^-3.
    """
    epochs: dict[int, Epoch] = {}
    for attempt in attempts(folder):
        rows = [_epoch(row, density) for row in _rows(attempt / 'train.csv')]
        if rows:
            epochs = {number: epoch for number, epoch in epochs.items() if number < rows[0].epoch}
        epochs |= {epoch.epoch: epoch for epoch in rows}
    return [epochs[number] for number in sorted(epochs)]


def _rows(path: Path) -> Iterator[dict[str, float]]:
    """Rows of a table whose second line has units, in eV and A; a line that is being written is left out."""
    try:
        # newline='' keeps the line breaks, by which a line that is cut off is known.
        with path.open(newline='') as stream:
            lines = [line for line in stream if line.endswith('\n')]
    except FileNotFoundError:
        return
    table = list(csv.reader(lines))
    if len(table) < 2:
        return
    names, units, *rows = table
    for row in rows:
        if len(row) == len(names):
            yield {
                name: _number(text) * UNITS.get(unit.strip(), math.nan)
                for name, unit, text in zip(names, units, row, strict=True)
            }


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _epoch(row: Mapping[str, float], density: float | None) -> Epoch:
    values: dict[str, Any] = {name: row.get(column) for name, column in COLUMNS.items()}
    if values['stress'] is not None:
        values['stress'] = None if density is None else values['stress'] * density
    return Epoch(epoch=int(row['Epoch']) + 1, **values)


def loss_weights(folder: Path, options: Mapping[str, Any]) -> dict[str, float]:
    """Weight of each property in the loss of the last attempt; 0 for one without a label.

    metatrain states weights of gradients that it has not found, too. Whether it has is told by what it measured.

    :param options: all that were in force, as metatrain has written them.
    """
    loss = options['architecture']['training']['loss'][TARGET]
    weights = {'energy': float(loss['weight'])}
    for name, gradient in GRADIENTS.items():
        weights[name] = float(loss['gradients'].get(gradient, {}).get('weight', 0.0))
    header = _header(folder)
    return {
        name: weight if any(column.startswith(TERMS[name]) for column in header) else 0.0
        for name, weight in weights.items()
    }


def _header(folder: Path) -> list[str]:
    """Names of the columns of the last attempt that has any."""
    for attempt in reversed(attempts(folder)):
        path = attempt / 'train.csv'
        if path.is_file() and (names := path.read_text().partition('\n')[0].strip()):
            return names.split(',')
    return []


def options_in_force(folder: Path) -> dict[str, Any] | None:
    """All options of the last attempt, as metatrain has expanded them; ``None`` where it has not come to that."""
    import yaml

    for attempt in reversed(attempts(folder)):
        path = attempt / 'options_restart.yaml'
        if path.is_file():
            found: dict[str, Any] = yaml.safe_load(path.read_text())
            return found
    return None
