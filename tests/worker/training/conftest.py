"""A small data set, a trainer of another package in plain numpy, and jobs with it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from aiida_alpot.worker import registry
from aiida_alpot.worker.frames import Frame, write_shard
from aiida_alpot.worker.training.conformance import made_up_frames
from aiida_alpot.worker.training.program import main

THIRD_PARTY = Path(__file__).parent / 'third_party'


@pytest.fixture(scope='session')
def linear_package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder in which a package lies as if it were installed, with its entry point."""
    site = tmp_path_factory.mktemp('site')
    (site / 'alpot_linear').symlink_to(THIRD_PARTY / 'alpot_linear')
    info = site / 'alpot_linear-1.0.dist-info'
    info.mkdir()
    (info / 'METADATA').write_text('Metadata-Version: 2.1\nName: alpot_linear\nVersion: 1.0\n')
    (info / 'entry_points.txt').write_text('[alpot.trainers]\nlinear = alpot_linear:LinearTrainer\n')
    return site


@pytest.fixture
def linear(linear_package: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The trainer ``linear`` is installed, here and in the processes that are started."""
    monkeypatch.syspath_prepend(linear_package)
    known = os.environ.get('PYTHONPATH')
    monkeypatch.setenv('PYTHONPATH', f'{linear_package}:{known}' if known else str(linear_package))
    registry.from_packages.cache_clear()
    yield
    registry.from_packages.cache_clear()


@pytest.fixture(scope='session')
def frames() -> list[Frame]:
    """Cells of Cu and Au with labels, in all splits, and isolated atoms."""
    return made_up_frames(12, 4, 3)


@pytest.fixture
def train(linear, frames, tmp_path: Path) -> Callable[..., tuple[int, dict[str, Any], Path]]:
    """Run a job: ``train(name, faults=[...], seeds=(1, 2), frames=..., **fields)``; code, report and folder."""

    def run(name: str = 'job', **given: Any) -> tuple[int, dict[str, Any], Path]:
        folder = prepare_job(tmp_path, name, frames, **given)
        code = main([str(folder / 'train.json')], folder)
        report = folder / 'training.json'
        return code, json.loads(report.read_text()) if report.is_file() else {}, folder

    return run


def prepare_job(
    tmp_path: Path,
    name: str,
    frames: Sequence[Frame],
    seeds: Sequence[int] = (1, 2),
    faults: Sequence[dict[str, Any]] = (),
    parameters: dict[str, Any] | None = None,
    **given: Any,
) -> Path:
    """The folder of a job with its ``train.json``; what is ``...`` is left out."""
    folder = tmp_path / name
    folder.mkdir(exist_ok=True)
    shard = write_shard(frames, tmp_path)
    content = {
        'trainer': 'linear',
        'cutoff': 4.0,
        'epochs': 5,
        'batch_size': 4,
        'parallel': 2,
        'parameters': {'faults': list(faults), **(parameters or {})},
        'members': [{'index': index, 'seed': seed} for index, seed in enumerate(seeds)],
        'dataset': [str(shard)],
        **given,
    }
    (folder / 'train.json').write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))
    return folder
