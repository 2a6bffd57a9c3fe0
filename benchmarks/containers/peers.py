"""What people keep labelled structures in today."""

from __future__ import annotations

import io
import pickle
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import ase.db
import ase.db.sqlite
import ase.io
import ase.io.extxyz
import h5py
import lmdb
import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from .contents import ARRAYS, BATCH, to_arrays, to_batch

Batches = Iterator[dict[str, np.ndarray]]


class Container(ABC):
    """A data set on disk, at ``path`` and at nothing else that starts with its name."""

    name: str
    how_to_merge: str

    def __init__(self, path: Path) -> None:
        self.path = path

    @abstractmethod
    def write(self, source: Iterable[Atoms]) -> None:
        """Write structures as they stream in."""

    @abstractmethod
    def arrays(self) -> Batches:
        """Everything, as arrays of :data:`BATCH` structures at a time."""

    @abstractmethod
    def atoms(self) -> Iterator[Atoms]:
        """Everything, as ASE structures with their labels."""

    @abstractmethod
    def pick(self, indices: Sequence[int]) -> Iterator[Atoms]:
        """Some of the structures; in which order does not matter."""

    @abstractmethod
    def merge(self, source: Iterable[Atoms]) -> int:
        """Add structures; the bytes that are stored for it."""

    def files(self) -> list[Path]:
        """What it consists of."""
        return sorted(self.path.parent.glob(f'{self.path.name}*'))

    def n_bytes(self) -> int:
        """Size on disk."""
        return sum(file.stat().st_size for path in self.files() for file in (path, *path.rglob('*')) if file.is_file())

    def remove(self) -> None:
        """Remove it where it exists."""
        for path in self.files():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _grown_by(self, append: Callable[[Iterable[Atoms]], None], source: Iterable[Atoms]) -> int:
        before = self.n_bytes()
        append(source)
        return self.n_bytes() - before


def batched(items: Iterable[Any]) -> Iterator[list[Any]]:
    """Items in lists of :data:`BATCH`."""
    iterator = iter(items)
    while batch := list(islice(iterator, BATCH)):
        yield batch


def to_atoms(record: dict[str, Any]) -> Atoms:
    """ASE structure of arrays of one structure."""
    atoms = Atoms(record['numbers'], record['positions'], cell=record['cell'], pbc=record['pbc'])
    labels = {name: record[name] for name in ('energy', 'forces', 'stress')}
    atoms.calc = SinglePointCalculator(atoms, **labels)
    return atoms


class Extxyz(Container):
    """One file of extended XYZ, with ASE."""

    name = 'ASE extxyz'
    how_to_merge = 'append to the file'

    def write(self, source: Iterable[Atoms], mode: str = 'w') -> None:
        # `ase.io.write` makes a list of all structures first; what it calls then does not.
        with open(self.path, mode) as stream:
            ase.io.extxyz.write_xyz(stream, source)

    def arrays(self) -> Batches:
        yield from map(to_batch, batched(map(to_arrays, self.atoms())))

    def atoms(self) -> Iterator[Atoms]:
        return ase.io.iread(self.path, index=':', format='extxyz')

    def pick(self, indices: Sequence[int]) -> Iterator[Atoms]:
        # Asking ASE for one structure costs a scan of the file each time: one scan for all, and only the wanted parsed.
        wanted = set(indices)
        with open(self.path) as stream:
            for index in range(max(wanted) + 1):
                count = stream.readline()
                lines = list(islice(stream, int(count) + 1))
                if index in wanted:
                    yield next(ase.io.extxyz.read_xyz(io.StringIO(''.join([count, *lines])), index=0))

    def merge(self, source: Iterable[Atoms]) -> int:
        return self._grown_by(lambda source: self.write(source, mode='a'), source)


class AseDatabase(Container):
    """ASE's data base, in one file of SQLite."""

    name = 'ASE db (SQLite)'
    how_to_merge = 'insert rows'

    def write(self, source: Iterable[Atoms]) -> None:
        with ase.db.connect(self.path, type='db') as database:
            for atoms in source:
                database.write(atoms)

    def _rows(self) -> Iterator[Any]:
        database = ase.db.connect(self.path, type='db')
        # One query fetches all its rows at once: asked for by parts, memory stays bounded.
        for start in range(1, database.count() + 1, BATCH):
            yield from database.select(f'id>={start},id<{start + BATCH}')

    def arrays(self) -> Batches:
        for rows in batched(self._rows()):
            yield to_batch({name: getattr(row, name) for name in ARRAYS} for row in rows)

    def atoms(self) -> Iterator[Atoms]:
        return (row.toatoms() for row in self._rows())

    def pick(self, indices: Sequence[int]) -> Iterator[Atoms]:
        database = ase.db.connect(self.path, type='db')
        return (database.get_atoms(id=int(index) + 1) for index in indices)

    def merge(self, source: Iterable[Atoms]) -> int:
        return self._grown_by(self.write, source)


class Lmdb(Container):
    """A key-value store of pickled arrays, as the trainers of large potentials use it."""

    name = 'LMDB + pickle'
    how_to_merge = 'insert records'

    def _open(self, **options: Any) -> lmdb.Environment:
        # The map is address space, not file: the file grows as it is filled.
        return lmdb.open(str(self.path), subdir=False, map_size=2**38, **options)

    def _read(self) -> lmdb.Environment:
        return self._open(readonly=True, lock=False, readahead=False, meminit=False)

    def write(self, source: Iterable[Atoms]) -> None:
        with self._open(sync=False) as environment:
            start = environment.stat()['entries']
            for batch in batched(source):
                with environment.begin(write=True) as transaction:
                    for index, atoms in enumerate(batch, start):
                        transaction.put(b'%08d' % index, pickle.dumps(to_arrays(atoms), pickle.HIGHEST_PROTOCOL))
                start += len(batch)
            environment.sync()

    def _records(self) -> Iterator[dict[str, Any]]:
        with self._read() as environment, environment.begin(buffers=True) as transaction:
            yield from (pickle.loads(value) for _, value in transaction.cursor())

    def arrays(self) -> Batches:
        yield from map(to_batch, batched(self._records()))

    def atoms(self) -> Iterator[Atoms]:
        return map(to_atoms, self._records())

    def pick(self, indices: Sequence[int]) -> Iterator[Atoms]:
        with self._read() as environment, environment.begin(buffers=True) as transaction:
            for index in indices:
                yield to_atoms(pickle.loads(transaction.get(b'%08d' % index, default=b'')))

    def merge(self, source: Iterable[Atoms]) -> int:
        return self._grown_by(self.write, source)


class GroupPerFrame(Container):
    """HDF5 with one group a structure and one data set an array, as a peer among AiiDA's plugins keeps its nodes."""

    name = 'HDF5, a group a frame'
    how_to_merge = 'copy the file, add groups'

    def write(self, source: Iterable[Atoms], mode: str = 'w') -> None:
        with h5py.File(self.path, mode) as file:
            for index, atoms in enumerate(source, len(file)):
                group = file.create_group(f'{index:08d}')
                for name, value in to_arrays(atoms).items():
                    group[name] = value

    def _records(self, names: Iterable[str] | None = None) -> Iterator[dict[str, Any]]:
        with h5py.File(self.path, 'r') as file:
            for name in file if names is None else names:
                group = file[name]
                yield {array: group[array][()] for array in ARRAYS}

    def arrays(self) -> Batches:
        yield from map(to_batch, batched(self._records()))

    def atoms(self) -> Iterator[Atoms]:
        return map(to_atoms, self._records())

    def pick(self, indices: Sequence[int]) -> Iterator[Atoms]:
        return map(to_atoms, self._records(f'{index:08d}' for index in indices))

    def merge(self, source: Iterable[Atoms]) -> int:
        # A node that is stored cannot change: its file is copied into a new one.
        merged = type(self)(self.path.with_name(f'{self.path.name}-merged'))
        shutil.copyfile(self.path, merged.path)
        merged.write(source, mode='a')
        added = merged.n_bytes()
        merged.remove()
        return added


PEERS: tuple[type[Container], ...] = (Extxyz, AseDatabase, Lmdb, GroupPerFrame)
