"""The data of a training: which frames it sees, written once for all members.

Splits come with the frames. Nothing here can reach those of split ``test``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from ase.data import chemical_symbols

from aiida_alpot.worker.frames import ISOLATED_ATOM, Frame, FrameStore, check_one_level, write_extxyz
from aiida_alpot.worker.training.reference_energies import ReferenceEnergies, reference_energies
from aiida_alpot.worker.training.trainer import TrainingData

TRAIN, VALIDATION = 'train', 'validation'
SEEN = (TRAIN, VALIDATION)
"""The splits that a training sees."""


class TrainingFrames:
    """Those labelled frames of a store that a training may see.

    Isolated atoms are apart: they set the reference energies and are no training frames.

    :param properties: names of those that are to be learnt; a frame without a label of any of them is left out.
    :raises ValueError: where a split has no labelled frame, a property no label, labels are of several levels of
        theory, or a lineage is in split ``test`` too.
    """

    def __init__(self, store: FrameStore, properties: Sequence[str]) -> None:
        check_one_level(store.levels_of_theory())
        self._store = store
        splits, isolated = store.column('split'), store.column('origin') == ISOLATED_ATOM
        has = {name: store.has(name) for name in ('energy', *properties)}
        usable = np.any([has[name] for name in properties], axis=0) & ~isolated
        _refuse_leakage(store, splits, usable)
        self._rows = {split: np.flatnonzero(usable & (splits == split)) for split in SEEN}
        self._isolated = np.flatnonzero(isolated & (splits != 'test') & has['energy'])
        for split in SEEN:
            if not len(self._rows[split]):
                raise ValueError(
                    f'the data set has no labelled frame in split `{split}`: label more frames or change the fractions '
                    'of the splits'
                )
            for name in properties:
                if not has[name][self._rows[split]].any():
                    raise ValueError(
                        f'`weights.{name}` is above 0, but no frame of split `{split}` has a label of it: label the '
                        f'{name}, or set the weight to 0'
                    )

    def __len__(self) -> int:
        return sum(map(len, self._rows.values()))

    def rows(self, split: str) -> np.ndarray:
        """Indices into the store of the frames of a split, shape (n,).

        :raises ValueError: for ``test``, which no training sees.
        """
        if split not in self._rows:
            raise ValueError(f'a training sees the splits {" and ".join(SEEN)} only, not {split!r}')
        return self._rows[split]

    def frames(self, split: str) -> Iterator[Frame]:
        """The frames of a split, streamed."""
        return self._store.select(self.rows(split).tolist())

    def isolated_atoms(self) -> dict[str, list[float]]:
        """Energies of the isolated atoms by chemical symbol, eV."""
        energies = defaultdict(list)
        for frame in self._store.select(self._isolated.tolist()):
            if len(frame) == 1 and frame.energy is not None:
                energies[chemical_symbols[frame.numbers[0]]].append(frame.energy)
        return dict(energies)


def _refuse_leakage(store: FrameStore, splits: np.ndarray, usable: np.ndarray) -> None:
    lineages, codes = store.categories('lineage')
    shared = np.intersect1d(codes[splits == 'test'], codes[usable & np.isin(splits, SEEN)])
    names = [lineages[code] for code in shared.tolist() if lineages[code]]
    if names:
        raise ValueError(
            f'frames of the lineage {names[0]!r} are both in split `test` and in what is trained on ({len(names)} such '
            'lineages), so the test would tell nothing: give all frames of a lineage the same split'
        )


@dataclass
class _Survey:
    """What is learnt of frames as they pass by on their way to a file."""

    properties: Sequence[str]
    compositions: list[dict[int, int]] = field(default_factory=list)
    energies: list[float | None] = field(default_factory=list)
    labels: list[tuple[bool, ...]] = field(default_factory=list)

    def of(self, frames: Iterator[Frame]) -> Iterator[Frame]:
        """The same frames."""
        for frame in frames:
            numbers, counts = np.unique(frame.numbers, return_counts=True)
            self.compositions.append(dict(zip(numbers.tolist(), counts.tolist(), strict=True)))
            self.energies.append(frame.energy)
            self.labels.append(tuple(getattr(frame, name) is not None for name in self.properties))
            yield frame

    @property
    def numbers(self) -> set[int]:
        """Atomic numbers that occur."""
        return {number for composition in self.compositions for number in composition}

    def counts(self, numbers: Sequence[int]) -> np.ndarray:
        """Number of atoms of each element in each frame, shape (n, K)."""
        return np.array([[composition.get(number, 0) for number in numbers] for composition in self.compositions])


@dataclass(frozen=True, eq=False)
class Prepared:
    """The data of all members, and what is known about the training frames.

    :param content: elements and properties that training frames have.
    :param has: whether a training frame has each of them, shape (n, k).
    """

    data: TrainingData
    content: tuple[str, ...]
    has: np.ndarray


def write_training_data(store: FrameStore, folder: Path, properties: Sequence[str]) -> TrainingData:
    """Write ``train.xyz`` and ``validation.xyz`` into a folder, and find the reference energies.

    :param properties: names of those that are to be learnt.
    :raises ValueError: for a data set that nothing, or nothing consistent, can be learnt from.
    """
    return prepare(TrainingFrames(store, properties), folder, properties).data


def prepare(frames: TrainingFrames, folder: Path, properties: Sequence[str]) -> Prepared:
    """As :func:`write_training_data`, with what the resampling has to know."""
    folder.mkdir(parents=True, exist_ok=True)
    surveys = {split: _Survey(properties) for split in SEEN}
    for split in SEEN:
        write_extxyz(surveys[split].of(frames.frames(split)), folder / f'{split}.xyz')
    train, validation = surveys[TRAIN], surveys[VALIDATION]
    numbers = sorted(train.numbers | validation.numbers)
    counts, labels = train.counts(numbers), np.array(train.labels)
    elements = tuple(chemical_symbols[number] for number in numbers)
    reference = _reference(elements, frames, counts, train.energies)
    unseen = [chemical_symbols[number] for number in sorted(validation.numbers - train.numbers)]
    data = TrainingData(
        train=folder / f'{TRAIN}.xyz',
        validation=folder / f'{VALIDATION}.xyz',
        n_train=len(train.energies),
        n_validation=len(validation.energies),
        elements=elements,
        reference_energies=reference.energies,
        reference_source=reference.source,
        n_labelled=dict(zip(properties, labels.sum(axis=0).tolist(), strict=True)),
        warnings=(*reference.warnings, *map(_unseen, unseen)),
    )
    has = np.hstack([counts > 0, labels])
    columns = np.flatnonzero(has.any(axis=0))
    names = (*elements, *properties)
    return Prepared(data, tuple(names[column] for column in columns.tolist()), has[:, columns])


def _reference(
    elements: Sequence[str], frames: TrainingFrames, counts: np.ndarray, energies: Sequence[float | None]
) -> ReferenceEnergies:
    rows = [row for row, energy in enumerate(energies) if energy is not None]
    total = np.array([energy for energy in energies if energy is not None], dtype=float)
    return reference_energies(elements, frames.isolated_atoms(), counts[rows], total)


def _unseen(symbol: str) -> str:
    return (
        f'{symbol} occurs in validation frames only, so nothing is learnt about it: label training frames with {symbol}'
    )


def write_replay(store: FrameStore, path: Path) -> int:
    """Write the labelled frames that a foundation model was trained on, those of split ``test`` left out.

    :return: their number.
    :raises ValueError: where there are none, or labels are of several levels of theory.
    """
    check_one_level(store.levels_of_theory())
    labelled = store.has('energy') & store.has('forces') & (store.column('split') != 'test')
    rows = np.flatnonzero(labelled & (store.column('origin') != ISOLATED_ATOM))
    if not len(rows):
        raise ValueError('`replay` has no labelled frame: give frames that the foundation model was trained on')
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_extxyz(store.select(rows.tolist()), path)
