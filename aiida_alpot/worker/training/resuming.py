"""Going on with the trainings of an earlier job that was stopped, or killed."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from aiida_alpot.worker.frames import hash_file
from aiida_alpot.worker.training.config import TrainConfig
from aiida_alpot.worker.training.outcome import FOR_GOOD, Outcome, take_over
from aiida_alpot.worker.training.plain import plain, read_json, write_json
from aiida_alpot.worker.training.trainer import Task

JOB_FILE = 'job.json'
FREE = ('parallel', 'device')
"""Settings that may differ between a job and the one that goes on with it."""


def describe(config: TrainConfig, task: Task) -> dict[str, Any]:
    """All that decides what the members become, as plain values."""
    settings = {name: value for name, value in asdict(config.settings).items() if name not in FREE}
    files = {'train': task.data.train, 'validation': task.data.validation, 'replay': task.replay}
    members = {
        str(member.index): {'seed': member.seed, 'start': hash_file(member.start) if member.start else None}
        for member in config.members
    }
    content: dict[str, Any] = plain(
        {
            'settings': settings,
            'data': {name: hash_file(path) if path else None for name, path in files.items()},
            'reference_energies': dict(task.data.reference_energies),
            'foundation': hash_file(config.foundation) if config.foundation else None,
            'members': members,
        }
    )
    return content


def check_same(description: Mapping[str, Any], earlier: Path) -> bool:
    """Whether an earlier job has got so far that there is something to go on with.

    :raises ValueError: where it was another training, naming what differs.
    """
    found = read_json(earlier / JOB_FILE)
    if found is None:
        return False
    common = set(found['members']) & set(description['members'])
    for content in (found, ours := dict(description)):
        content['members'] = {index: content['members'][index] for index in common}
    differing = differences(found, ours)
    if differing:
        raise ValueError(
            f'the training in {earlier} was another one ({"; ".join(differing[:3])}), so it cannot be gone on with: '
            'leave `earlier` out and start in an empty folder, or correct the settings'
        )
    return True


def differences(one: Any, other: Any, name: str = '') -> list[str]:
    """What differs between two plain values, as ``name was x, is y``."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        keys = [*one, *(key for key in other if key not in one)]
        return [
            sentence
            for key in keys
            for sentence in differences(one.get(key), other.get(key), f'{name}.{key}' if name else str(key))
        ]
    return [] if one == other else [f'`{name}` was {one!r}, is {other!r}']


def bring_in(description: Mapping[str, Any], earlier: Path | None, folder: Path) -> dict[int, Outcome]:
    """Take what an earlier job has into this one, and write down what this one is.

    :param earlier: ``None``: none but one in `folder` itself.
    :return: outcomes of the members that need no more training.
    :raises ValueError: where it was another training.
    """
    source = folder if (folder / JOB_FILE).is_file() or earlier is None else earlier
    known = check_same(description, source)
    done = {}
    for index in map(int, description['members']):
        there, here = source / 'members' / str(index), folder / 'members' / str(index)
        if not known or not there.is_dir():
            continue
        outcome = Outcome.read(there)
        if outcome is not None and outcome.status in FOR_GOOD and take_over(outcome, source, folder):
            done[index] = outcome
        if source is not folder:
            _copy_tree(there, here)
        if index not in done:
            (here / 'state.json').unlink(missing_ok=True)
    write_json(folder / JOB_FILE, description)
    return done


def _copy_tree(there: Path, here: Path) -> None:
    """A copy that is there complete or not at all, so that a kill in the middle leaves nothing misleading."""
    if here.exists():
        return
    temporary = here.with_name(f'.{here.name}')
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(there, temporary, symlinks=True)
    temporary.rename(here)
