"""The files of frames as metatrain can read them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aiida_alpot.worker.frames import read_extxyz, write_extxyz
from aiida_alpot.worker.frames.formats.styles import STYLES
from aiida_alpot.worker.training.trainer import ENERGY_KEY, FORCES_KEY, STRESS_KEY, Task

KEYS: Mapping[str, str] = {'energy': ENERGY_KEY, 'forces': FORCES_KEY, 'stress': STRESS_KEY}
_LATTICE = re.compile(r'Lattice="([^"]*)"')
_LABELS = {name: re.compile(rf'[\s:]{key}[=:]') for name, key in KEYS.items()}


@dataclass(frozen=True)
class Entry:
    """One frame of a file.

    :param start: its first byte.
    :param end: the byte after its last.
    :param volume: A^3; 0 without a cell.
    :param labels: names of the properties that it has a label of.
    """

    start: int
    end: int
    n_atoms: int
    volume: float
    labels: frozenset[str]


@dataclass(frozen=True)
class Files:
    """What metatrain reads.

    :param keys: under which the label of each property is in both files.
    :param density: atoms per volume of the validation frames that have a stress, A^-3; ``None``: none has.
    """

    train: Path
    validation: Path
    keys: Mapping[str, str]
    density: float | None


def survey(path: Path) -> list[Entry]:
    """The frames of an extended XYZ that we have written."""
    entries = []
    with path.open('rb') as stream:
        start = 0
        while header := stream.readline():
            n_atoms = int(header)
            comment = stream.readline().decode()
            for _ in range(n_atoms):
                stream.readline()
            found = _LATTICE.search(comment)
            cell = np.array(found[1].split(), dtype=float).reshape(3, 3) if found else np.zeros((3, 3))
            labels = frozenset(name for name, pattern in _LABELS.items() if pattern.search(comment))
            end = stream.tell()
            entries.append(Entry(start, end, n_atoms, float(abs(np.linalg.det(cell))), labels))
            start = end
    return entries


def training_files(task: Task) -> Files:
    """The files of all members.

    metatrain takes a property from a file only where all its frames have a label of it, and drops it with no more than
    a line in its log elsewhere. Where some lack one, copies are written in which theirs is NaN, which its losses leave
    out.

    :raises ValueError: where a frame has no energy, or a stress without a cell.
    """
    properties = {'energy', *task.settings.properties}
    entries = {path: survey(path) for path in (task.data.train, task.data.validation)}
    stressed = [entry for entry in entries[task.data.validation] if 'stress' in entry.labels and entry.volume > 0]
    density = float(np.mean([entry.n_atoms / entry.volume for entry in stressed])) if stressed else None
    if all(is_complete(entry, properties) for found in entries.values() for entry in found):
        return Files(task.data.train, task.data.validation, KEYS, density)
    train, validation = (path.with_name(f'metatrain_{path.name}') for path in entries)
    for source, target in zip(entries, (train, validation), strict=True):
        write_extxyz(read_extxyz(source), target, style='metatrain')
    style = STYLES['metatrain']
    return Files(train, validation, {name: style.key(name) for name in KEYS}, density)


def is_complete(entry: Entry, properties: set[str]) -> bool:
    """Whether metatrain can use all labels of a frame that are to be learnt."""
    return properties <= entry.labels and (entry.volume > 0 or 'stress' not in properties)


def write_rows(source: Path, rows: Sequence[int], target: Path) -> None:
    """Write some frames of a file, each as often as its row is given.

    metatrain takes rows of a file, too, but fails on a batch in which one of them is twice.
    """
    entries = survey(source)
    with source.open('rb') as stream, target.open('wb') as out:
        for row in rows:
            stream.seek(entries[row].start)
            out.write(stream.read(entries[row].end - entries[row].start))
