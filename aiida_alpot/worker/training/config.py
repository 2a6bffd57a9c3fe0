"""The file of a training: its settings, its members and the files that it is made from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from aiida_alpot.worker.options import build, integer, number, unknown_name
from aiida_alpot.worker.training.settings import TrainingSettings, parse_settings


@dataclass(frozen=True)
class MemberConfig:
    """One member of the committee.

    :param start: file that it goes on from.
    """

    index: int
    seed: int
    start: Path | None = None

    def __post_init__(self) -> None:
        integer('members.index', self.index, 0)
        integer('members.seed', self.seed, 0, 2**31 - 1)


@dataclass(frozen=True)
class TrainConfig:
    """All that ``train.json`` says.

    :param members: with indices of their own.
    :param dataset: shards, in order.
    :param foundation: file of the model that all members are tuned from.
    :param replay: shards of frames that the foundation model was trained on.
    :param earlier: folder of an interrupted job of the same training.
    :param max_seconds: walltime, s.
    """

    settings: TrainingSettings
    members: tuple[MemberConfig, ...]
    dataset: tuple[Path, ...]
    foundation: Path | None = None
    replay: tuple[Path, ...] = ()
    earlier: Path | None = None
    max_seconds: float | None = None


JOB_FIELDS = ('members', 'dataset', 'foundation', 'replay', 'earlier', 'max_seconds')


def read_config(path: Path) -> TrainConfig:
    """Settings from a JSON file; paths in it are relative to its folder.

    :raises ValueError: for what cannot be, naming it.
    :raises FileNotFoundError: for a file that is not there.
    """
    try:
        given = json.loads(path.read_text(encoding='utf-8'))
    except FileNotFoundError:
        raise FileNotFoundError(f'there is no file {path}: give that with the settings of the training') from None
    except ValueError as error:
        raise ValueError(f'{path} is not valid JSON ({error}): correct it') from error
    if not isinstance(given, dict):
        raise ValueError(f'{path} holds {type(given).__name__}, expected a JSON object')
    return parse_config(given, path.resolve().parent)


def parse_config(given: Mapping[str, Any], folder: Path) -> TrainConfig:
    """Settings from plain values; see :func:`read_config`."""
    names = [field.name for field in fields(TrainingSettings)]
    for name in given:
        if name not in (*names, *JOB_FIELDS):
            raise ValueError(unknown_name(name, [*names, *JOB_FIELDS], 'option of the training'))
    max_seconds = given.get('max_seconds')
    if max_seconds is not None:
        number('max_seconds', max_seconds, 0.0, exclusive=True)
    replay = _files('replay', given.get('replay') or [], folder)
    foundation = _file('foundation', given.get('foundation'), folder)
    if replay and foundation is None:
        raise ValueError('`replay` is given without `foundation`: give the model that was trained on these frames')
    return TrainConfig(
        settings=parse_settings({name: value for name, value in given.items() if name in names}),
        members=_members(given.get('members'), folder),
        dataset=_some_files('dataset', given.get('dataset'), folder),
        foundation=foundation,
        replay=replay,
        earlier=_earlier(given.get('earlier'), folder),
        max_seconds=max_seconds,
    )


def _members(given: Any, folder: Path) -> tuple[MemberConfig, ...]:
    if not isinstance(given, list) or not given:
        raise ValueError(f'`members` is {given!r}, expected a list with at least one {{"index": 0, "seed": 1}}')
    members = []
    for entry in given:
        if not isinstance(entry, Mapping):
            raise ValueError(f'`members` holds {entry!r}, expected {{"index": 0, "seed": 1}}')
        start = _file('members.start', entry.get('start'), folder)
        members.append(build(MemberConfig, {**entry, 'start': start}, 'field of `members`'))
    for name in ('index', 'seed'):
        values = [getattr(member, name) for member in members]
        twice = sorted({value for value in values if values.count(value) > 1})
        if twice:
            raise ValueError(f'two of the `members` have the {name} {twice[0]}: give each of them its own')
    return tuple(members)


def _some_files(name: str, given: Any, folder: Path) -> tuple[Path, ...]:
    files = _files(name, given, folder)
    if not files:
        raise ValueError(f'`{name}` is empty: give at least one shard')
    return files


def _files(name: str, given: Any, folder: Path) -> tuple[Path, ...]:
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise ValueError(f'`{name}` is {given!r}, expected a list of shards')
    return tuple(path for path in (_file(name, item, folder) for item in given) if path is not None)


def _file(name: str, given: Any, folder: Path) -> Path | None:
    if given is None:
        return None
    if not isinstance(given, str):
        raise ValueError(f'`{name}` is {given!r}, expected the path of a file')
    path = folder / given
    if not path.is_file():
        raise FileNotFoundError(f'there is no file {path}, which `{name}` names: correct the path')
    return path


def _earlier(given: Any, folder: Path) -> Path | None:
    if given is None:
        return None
    if not isinstance(given, str) or not (folder / given).is_dir():
        raise FileNotFoundError(f'`earlier` is {given!r}, expected the folder of an interrupted training')
    return folder / given
