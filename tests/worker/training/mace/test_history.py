"""Learning curves from the results file of MACE."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from aiida_alpot.worker.training.mace.history import History, end_line


def line(mode: str, epoch: int | None, loss: float, **more: Any) -> str:
    """A line as MACE writes it."""
    return json.dumps({'loss': loss, 'mode': mode, 'epoch': epoch, **more}) + '\n'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Of the results file."""
    return tmp_path / 'train.txt'


def test_one_attempt(path: Path) -> None:
    """Epoch 0 is before training; batches are averaged; an epoch may not be evaluated."""
    errors = {'rmse_e_per_atom': 0.1, 'rmse_f': 0.2, 'rmse_stress': 0.3, 'head': 'Default'}
    path.write_text(
        line('eval', None, 5.0, **errors)
        + line('opt', 0, 4.0)
        + line('opt', 0, 2.0)
        + line('eval', 0, 2.5, **errors)
        + line('opt', 1, 1.0)
    )
    before, first, second = History(path).epochs()
    assert (before.epoch, before.train_loss, before.loss) == (0, None, 5.0)
    assert (first.epoch, first.train_loss, first.loss) == (1, 3.0, 2.5)
    assert (first.energy, first.forces, first.stress) == (0.1, 0.2, 0.3)
    assert (second.epoch, second.train_loss, second.loss) == (2, 1.0, None)


def test_only_what_is_new_is_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a line is written in two parts."""
    history = History(path)
    assert history.epochs() == []
    whole = line('eval', 0, 2.0)
    path.write_text(line('eval', None, 3.0) + whole[:9])
    assert [epoch.loss for epoch in history.epochs()] == [3.0]
    with path.open('a') as stream:
        stream.write(whole[9:])
    parsed = []
    loads = json.loads
    monkeypatch.setattr(json, 'loads', lambda text: parsed.append(text) or loads(text))
    assert [epoch.loss for epoch in history.epochs()] == [3.0, 2.0]
    assert len(parsed) == 1
    path.write_text(line('eval', None, 9.0))  # another training in the same folder
    assert [epoch.loss for epoch in history.epochs()] == [9.0]


def test_attempts_are_merged(path: Path) -> None:
    """What was done after the checkpoint is left out, and a line that was cut short too."""
    path.write_text(
        line('eval', None, 9.0)
        + ''.join(line('opt', epoch, 1.0) + line('eval', epoch, 5.0 - epoch) for epoch in range(3))
        + line('opt', 3, 100.0)
        + line('opt', 3, 100.0)[:20]
    )
    end_line(path)
    with path.open('a') as stream:
        stream.write(line('eval', None, 4.0) + line('opt', 2, 2.0) + line('eval', 2, 3.5))
    found = History(path).epochs()
    assert [(epoch.epoch, epoch.loss) for epoch in found] == [(0, 9.0), (1, 5.0), (2, 4.0), (3, 3.5)]
    assert found[-1].train_loss == 2.0


def test_heads_of_replay_do_not_count(path: Path) -> None:
    """The epoch is chosen by the data set."""
    path.write_text(line('eval', 0, 1.0, head='pt_head') + line('eval', 0, 2.0, head='Default'))
    assert [epoch.loss for epoch in History(path).epochs()] == [2.0]
    path.write_text(line('eval', 0, 2.0, head='Default') + line('eval', 0, 1.0, head='pt_head'))
    assert [epoch.loss for epoch in History(path).epochs()] == [2.0]


def test_what_is_not_finite(path: Path) -> None:
    """As MACE writes it, or spoilt."""
    path.write_text(line('opt', 0, math.nan) + line('eval', 0, math.inf, rmse_f=math.nan) + 'nonsense\n[1]\n')
    (epoch,) = History(path).epochs()
    assert math.isnan(epoch.train_loss or 0) and math.isnan(epoch.loss or 0) and math.isnan(epoch.forces or 0)
    assert epoch.energy is None
