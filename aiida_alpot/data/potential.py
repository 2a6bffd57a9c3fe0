"""One trained interatomic potential."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import IO, Any

from aiida.common.exceptions import ValidationError
from aiida.orm import Data

from .model_attributes import (
    OF_MEMBER,
    OF_TRAINING,
    ModelAttributes,
    check_model_attributes,
    check_seed,
    sorted_elements,
)
from .objects import object_hash

CHECKPOINT_DIRECTORY = 'checkpoint'
DESCRIBE = 'aiida_alpot.worker.potentials.describe'
"""Module that says what a file holds; it is run in a process of its own, as it needs torch."""


class PotentialData(ModelAttributes, Data):
    """The file of one trained model, what a training can start from, and what one must know to use it.

    :param file: path or binary file object of the model.
    :param filename: name in the repository; its suffix says what kind of model it is, e.g. ``.model`` for MACE.
    :param trainer: what trained it, e.g. ``mace``.
    :param elements: chemical symbols it knows.
    :param cutoff: distance up to which an atom sees its neighbours directly, A.
    :param seed: seed of the training; ``None`` where it is not known.
    :param dtype: ``float64`` or ``float32``.
    :param checkpoint: path of the file from which a later training starts; ``None``: the model itself serves.
    :param kwargs: what else is known (:data:`~aiida_alpot.data.model_attributes.OF_TRAINING` and ``OF_MEMBER``), and
        what any node takes.
    """

    def __init__(
        self,
        file: str | Path | IO[bytes] | None = None,
        filename: str | Path | None = None,
        *,
        trainer: str | None = None,
        elements: Sequence[str] | None = None,
        cutoff: float | None = None,
        seed: int | None = None,
        dtype: str | None = None,
        checkpoint: str | Path | None = None,
        **kwargs: Any,
    ) -> None:
        given: dict[str, Any] = {name: kwargs.pop(name, None) for name in (*OF_TRAINING, *OF_MEMBER)}
        super().__init__(**kwargs)
        given |= {'trainer': trainer, 'seed': seed, 'dtype': dtype}
        if elements is not None:
            given['elements'] = sorted_elements(elements)
        if cutoff is not None:
            given['cutoff'] = float(cutoff)
        if file is not None:
            given['filename'] = self._put(file, filename)
            given['sha256'] = object_hash(self, given['filename'])
        if checkpoint is not None:
            given['checkpoint'] = Path(checkpoint).name
            self.base.repository.put_object_from_file(str(checkpoint), f'{CHECKPOINT_DIRECTORY}/{given["checkpoint"]}')
        self.base.attributes.set_many({key: value for key, value in given.items() if value is not None})

    def _put(self, file: str | Path | IO[bytes], filename: str | Path | None) -> str:
        if isinstance(file, (str, Path)):
            name = str(filename or Path(file).name)
            self.base.repository.put_object_from_file(str(Path(file).absolute()), name)
            return name
        name = str(filename or os.path.basename(getattr(file, 'name', '')))
        if not name:
            raise ValueError('`filename` is missing: give the name of the model, whose suffix says what kind it is')
        self.base.repository.put_object_from_filelike(file, name)
        return name

    @classmethod
    def from_file(cls, path: str | Path, **known: Any) -> PotentialData:
        """A model that was trained elsewhere, such as a foundation model; unstored.

        **Trust**: what the file says of itself is read in another process, by loading it, which can run any code that
        it contains.

        :param path: ``.model`` of MACE, ``.pt`` or ``.ckpt`` of metatrain.
        :param known: attributes that need not be read; where ``trainer``, ``elements``, ``cutoff`` and ``dtype`` are
            among them, the file is not loaded.
        :raises ValueError: for what is no model, or cannot be loaded here.
        """
        path = Path(path).absolute()
        if not path.is_file():
            raise ValueError(f'there is no file {path}')
        read = {} if {'trainer', 'elements', 'cutoff', 'dtype'} <= set(known) else describe(path)
        return cls(path, **{**read, **known})

    def _validate(self) -> bool:
        super()._validate()
        attributes = self.base.attributes.all
        check_model_attributes(attributes)
        check_seed(attributes.get('seed'))
        found = {str(folder / name) for folder, _, names in self.base.repository.walk() for name in names}
        listed = {attributes.get('filename')}
        if 'checkpoint' in attributes:
            listed.add(f'{CHECKPOINT_DIRECTORY}/{attributes["checkpoint"]}')
        if found != listed:
            raise ValidationError(f'the repository holds {sorted(found)}, expected one model: give its `file`')
        if object_hash(self, self.filename) != attributes['sha256']:
            raise ValidationError('the model is not the one that was given: build the node again')
        return True

    @property
    def filename(self) -> str:
        """Name of the model in the repository."""
        return self.base.attributes.get('filename')

    @property
    def suffix(self) -> str:
        """Suffix of the file, which says what kind of model it is."""
        return PurePath(self.filename).suffix

    @property
    def sha256(self) -> str:
        """SHA-256 of the model."""
        return self.base.attributes.get('sha256')

    @property
    def seed(self) -> int | None:
        """Seed of the training, where it is known."""
        return self.base.attributes.get('seed', None)

    @property
    def started_from(self) -> str | None:
        """SHA-256 of the model that the training started from; ``None`` where it started from scratch."""
        return self.base.attributes.get('started_from', None)

    @property
    def checkpoint_path(self) -> str | None:
        """Path in the repository of what a training can start from, where it is not the model itself."""
        name = self.base.attributes.get('checkpoint', None)
        return None if name is None else f'{CHECKPOINT_DIRECTORY}/{name}'

    @contextmanager
    def open(self, path: str | None = None, mode: str = 'rb') -> Iterator[IO[Any]]:
        """The model, or another object of the repository, as a file object."""
        with self.base.repository.open(path or self.filename, mode) as stream:
            yield stream

    @contextmanager
    def as_path(self) -> Iterator[Path]:
        """The model as a file, as long as the context lasts."""
        with self.base.repository.as_path(self.filename) as path:
            yield path

    def get_content(self, mode: str = 'rb') -> Any:
        """The bytes of the model."""
        with self.open(mode=mode) as stream:
            return stream.read()

    def start_entry(self, directory: str) -> tuple[str, str, str]:
        """Entry for ``CalcInfo.local_copy_list`` that puts what a training starts from into a directory."""
        source = self.checkpoint_path or self.filename
        return (self.uuid, source, f'{directory}/{PurePath(source).name}')


def describe(path: Path) -> dict[str, Any]:
    """What the file of a model says of itself: ``trainer``, ``elements``, ``cutoff``, ``dtype``, perhaps more.

    :raises ValueError: with what the process said that tried to read it.
    """
    done = subprocess.run([sys.executable, '-W', 'ignore', '-m', DESCRIBE, str(path)], capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ['it did not say why']
        raise ValueError(f'{path} cannot be read as a model: {lines[-1].strip()}')
    return dict(json.loads(done.stdout.splitlines()[-1]))
