"""Data sets of structures and their labels: samples of a potential energy surface."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from aiida.common.exceptions import ValidationError
from aiida.orm import Data
from ase import Atoms

from aiida_alpot.worker.frames import (
    PROPERTIES,
    Frame,
    FrameStore,
    check_one_level,
    check_shard_name,
    upgrade_shard,
    write_shard,
)
from aiida_alpot.worker.frames.shard import SUFFIX

from .objects import list_stored_objects, object_hash, open_random_access

SHARD_DIRECTORY = 'shards'

SUMMARY_KEYS = (
    'n_frames',
    'n_atoms',
    'elements',
    'chemical_systems',
    'n_labelled',
    *(f'n_{name}' for name in PROPERTIES),
    'arrays',
    'origins',
    'splits',
    'levels_of_theory',
    'schema_version',
)


class PESData(Data):
    """An immutable, ordered list of frames, kept as HDF5 shards that are named by the hash of their content.

    AiiDA stores equal objects once, so data sets that share shards share their bytes, and nothing here rewrites a
    shard. A shard is listed once in a data set; single frames are not compared, so two shards may hold the same frame
    (:func:`~aiida_alpot.calculations.functions.extend_dataset` adds only what is new).

    The attributes hold what one queries: what :meth:`FrameStore.summary` counts, ``shards`` and ``content_hash``. Where
    the content of a data set comes from (``source``) does not enter its hash.

    :param frames: at least one frame; they are streamed into one shard.
    :param allow_mixed_levels: accept labels of more than one level of theory.
    :raises ValueError: for no frames, and for labels of different levels of theory.
    """

    _hash_ignored_attributes = (*Data._hash_ignored_attributes, 'source')

    def __init__(
        self, frames: Iterable[Frame] | None = None, *, allow_mixed_levels: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if frames is not None:
            with tempfile.TemporaryDirectory() as directory:
                self._put_file(write_shard(frames, directory))
            self._describe(allow_mixed_levels)

    @classmethod
    def from_shards(cls, paths: Sequence[Path | str], *, allow_mixed_levels: bool = False, **kwargs: Any) -> PESData:
        """Data set of shards that exist as files, in this order.

        :raises ValueError: for no shards, files that are no shards, and a shard whose name promises other content.
        """
        node = cls(**kwargs)
        for path in paths:
            node._put_file(Path(path))
        node._describe(allow_mixed_levels)
        return node

    @classmethod
    def merge(cls, nodes: Sequence[PESData], *, allow_mixed_levels: bool = False, **kwargs: Any) -> PESData:
        """Data set that lists the shards of others, one after the other; a shard that several have is listed once."""
        node = cls(**kwargs)
        node._put_shards_of(nodes)
        node._describe(allow_mixed_levels)
        return node

    def extended(self, frames: Iterable[Frame], *, allow_mixed_levels: bool = False) -> PESData:
        """Unstored data set with the shards of this one and one more of new frames."""
        node = type(self)()
        node._put_shards_of([self])
        with tempfile.TemporaryDirectory() as directory:
            node._put_file(write_shard(frames, directory))
        node._describe(allow_mixed_levels)
        return node

    def select(self, indices: Iterable[int]) -> PESData:
        """Unstored data set of some of the frames, in this order, in a shard of their own."""
        with self.open_store() as store:
            # Levels that may stand together in all may stand together in some.
            return type(self)(frames=store.select(indices), allow_mixed_levels=True)

    def upgraded(self) -> PESData:
        """Unstored data set of the same frames in shards of the schema version of today; this one stays as it is."""
        with ExitStack() as stack, tempfile.TemporaryDirectory() as directory:
            sources = [open_random_access(stack, self, shard_path(digest)) for digest in self.shards]
            paths = [upgrade_shard(source, directory) for source in sources]
            return type(self).from_shards(paths, allow_mixed_levels=True)

    def _put_file(self, path: Path) -> None:
        digest = check_shard_name(path)
        if digest not in self.shards:
            self.base.repository.put_object_from_file(str(path), shard_path(digest))
            self.base.attributes.set('shards', [*self.shards, digest])

    def _put_shards_of(self, sources: Sequence[PESData]) -> None:
        """List the shards of others: by reference where the repository of the profile has them, else by copying."""
        if all(source.is_stored and source.backend is self.backend for source in sources):
            list_stored_objects(self, sources)
            self.base.attributes.set('shards', list(dict.fromkeys(x for source in sources for x in source.shards)))
            return
        for source in sources:
            for digest in source.shards:
                if digest not in self.shards:
                    with source.base.repository.open(shard_path(digest), 'rb') as stream:
                        self.base.repository.put_object_from_filelike(stream, shard_path(digest))
                    self.base.attributes.set('shards', [*self.shards, digest])

    def _describe(self, allow_mixed_levels: bool) -> None:
        if not self.shards:
            raise ValueError('a data set needs at least one shard')
        with self.open_store() as store:
            if not allow_mixed_levels:
                check_one_level(store.levels_of_theory())
            self.base.attributes.set_many(store.summary())
        self.base.attributes.set('content_hash', content_hash(self.shards))

    def _validate(self) -> bool:
        """Refuse to store what is empty, incomplete or damaged; runs before anything enters the database."""
        super()._validate()
        if not self.shards:
            raise ValidationError('a data set needs at least one frame: give `frames`, or use `PESData.from_shards`')
        missing = [key for key in (*SUMMARY_KEYS, 'content_hash') if key not in self.base.attributes.all]
        if missing or self.content_hash != content_hash(self.shards):
            raise ValidationError(f'the attributes of the data set are incomplete or altered {missing}: build it again')
        listed = {shard_path(digest) for digest in self.shards}
        found = {str(path / name) for path, _, names in self.base.repository.walk() for name in names}
        if listed != found:
            raise ValidationError(f'the repository holds {sorted(found)}, expected {sorted(listed)}: build it again')
        for digest in self.shards:
            if object_hash(self, shard_path(digest)) != digest:
                raise ValidationError(f'shard {digest} does not hold the bytes its name promises: build it again')
        return True

    @property
    def shards(self) -> list[str]:
        """SHA-256 of each shard, in the order of the frames."""
        return list(self.base.attributes.get('shards', []))

    @property
    def content_hash(self) -> str:
        """Hash of the list of shards: equal for data sets that hold the same shards in the same order."""
        return self.base.attributes.get('content_hash')

    @property
    def summary(self) -> dict[str, Any]:
        """The counts among the attributes, as :meth:`FrameStore.summary` gives them."""
        attributes = self.base.attributes.all
        return {key: attributes[key] for key in SUMMARY_KEYS}

    @property
    def n_frames(self) -> int:
        """Number of frames."""
        return self.base.attributes.get('n_frames')

    @property
    def n_atoms(self) -> int:
        """Number of atoms of all frames together."""
        return self.base.attributes.get('n_atoms')

    @property
    def n_labelled(self) -> int:
        """Number of frames with energy and forces."""
        return self.base.attributes.get('n_labelled')

    @property
    def elements(self) -> list[str]:
        """Chemical symbols, by atomic number."""
        return self.base.attributes.get('elements')

    @property
    def chemical_systems(self) -> dict[str, int]:
        """Number of frames of each set of elements, such as ``Ge-Si``."""
        return self.base.attributes.get('chemical_systems')

    @property
    def origins(self) -> dict[str, int]:
        """Number of frames of each origin."""
        return self.base.attributes.get('origins')

    @property
    def splits(self) -> dict[str, int]:
        """Number of frames in each split."""
        return self.base.attributes.get('splits')

    @property
    def levels_of_theory(self) -> dict[str, int]:
        """Number of labelled frames of each base of a level of theory."""
        return self.base.attributes.get('levels_of_theory')

    @property
    def schema_version(self) -> int:
        """Version of the schema of the frames."""
        return self.base.attributes.get('schema_version')

    def __len__(self) -> int:
        return self.base.attributes.get('n_frames', 0)

    def __bool__(self) -> bool:
        """A node is true also while it is empty, as any other node."""
        return True

    def __iter__(self) -> Iterator[Frame]:
        """The frames in order, streamed."""
        with self.open_store() as store:
            yield from store

    def frame(self, index: int) -> Frame:
        """One frame; for many use :meth:`open_store` once."""
        with self.open_store() as store:
            return store[index]

    def atoms(self, index: int) -> Atoms:
        """One frame as an ASE structure; for many use :meth:`open_store` once."""
        with self.open_store() as store:
            return store.atoms(index)

    def column(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """One array of the frames ``start:stop``, see :meth:`FrameStore.column`."""
        with self.open_store() as store:
            return store.column(name, start, stop)

    @contextmanager
    def open_store(self) -> Iterator[FrameStore]:
        """The frames as a :class:`FrameStore` that reads the repository's objects in place."""
        with ExitStack() as stack:
            sources = [open_random_access(stack, self, shard_path(digest)) for digest in self.shards]
            yield stack.enter_context(FrameStore(sources))

    def copy_list(self, directory: str) -> list[tuple[str, str, str]]:
        """Entries for ``CalcInfo.local_copy_list`` that put every shard, in order, into a directory."""
        return [(self.uuid, shard_path(digest), f'{directory}/{digest}{SUFFIX}') for digest in self.shards]


def shard_path(digest: str) -> str:
    """Path of a shard in the repository of a node."""
    return f'{SHARD_DIRECTORY}/{digest}{SUFFIX}'


def content_hash(shards: Sequence[str]) -> str:
    """SHA-256 of a list of shards."""
    return hashlib.sha256('\n'.join(shards).encode()).hexdigest()
