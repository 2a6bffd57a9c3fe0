"""The learning curve that ``mace_run_train`` writes line by line into its results file."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiida_alpot.worker.training.trainer import Epoch

REPLAY_HEAD = 'pt_head'
"""MACE's name for the head of the frames that a foundation model was trained on."""


@dataclass
class _Batches:
    """Loss of the batches of an epoch so far."""

    total: float = 0.0
    n: int = 0


class History:
    """A results file that may still grow; only what is new is read.

    MACE counts epochs from 0 and says ``null`` before training, each time that it is started anew. What an earlier
    attempt did after the epoch that was gone on from is left out.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._restart()

    def _restart(self) -> None:
        self._offset = 0
        self._batches: dict[int, _Batches] = {}
        self._evaluated: dict[int, dict[str, Any]] = {}
        self._starting = False

    def epochs(self) -> list[Epoch]:
        """All epochs of which something is known, in order."""
        self._read()
        return [self._epoch(number) for number in sorted({*self._batches, *self._evaluated})]

    def _epoch(self, number: int) -> Epoch:
        batches = self._batches.get(number)
        errors = self._evaluated.get(number, {})
        return Epoch(
            epoch=number,
            train_loss=batches.total / batches.n if batches else None,
            loss=errors.get('loss'),
            energy=errors.get('rmse_e_per_atom'),
            forces=errors.get('rmse_f'),
            stress=errors.get('rmse_stress'),
        )

    def _read(self) -> None:
        if not self.path.is_file() or self.path.stat().st_size < self._offset:
            self._restart()
        if not self.path.is_file():
            return
        with self.path.open('rb') as stream:
            stream.seek(self._offset)
            new = stream.read()
        complete = new[: new.rfind(b'\n') + 1]  # the last line may be in the making, or cut short
        self._offset += len(complete)
        for line in complete.splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict):
                self._add(record)

    def _add(self, record: dict[str, Any]) -> None:
        epoch = record.get('epoch')
        if epoch is None:
            self._starting = True
        elif self._starting:
            self._starting = False
            self._forget_from(epoch + 1)
        if record.get('mode') == 'opt' and epoch is not None:
            batches = self._batches.setdefault(epoch + 1, _Batches())
            batches.total += _number(record.get('loss'))
            batches.n += 1
        elif record.get('mode') == 'eval' and record.get('head') != REPLAY_HEAD:
            values = {key: _number(value) for key, value in record.items() if key == 'loss' or key.startswith('rmse')}
            if epoch is not None:
                self._evaluated[epoch + 1] = values
            else:
                self._evaluated.setdefault(0, values)

    def _forget_from(self, number: int) -> None:
        for kept in (self._batches, self._evaluated):
            for later in [n for n in kept if n >= number]:
                del kept[later]


def _number(value: Any) -> float:
    """What is not finite, or no number, as nan."""
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else math.nan


def end_line(path: Path) -> None:
    """End a last line that was cut short, so that what is appended begins a line of its own."""
    if path.is_file() and path.stat().st_size:
        with path.open('rb+') as stream:
            stream.seek(-1, 2)
            if stream.read(1) != b'\n':
                stream.write(b'\n')
