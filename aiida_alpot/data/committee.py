"""A committee of trained interatomic potentials."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

from aiida.common.exceptions import ValidationError
from aiida.orm import Data

from .model_attributes import OF_TRAINING, ModelAttributes, check_model_attributes, check_seed
from .potential import PotentialData

MEMBER_DIRECTORY = 'members'
CHECKPOINT_DIRECTORY = 'checkpoints'
SHARED_ATTRIBUTES = ('trainer', 'elements', 'cutoff', 'dtype')


class CommitteeData(ModelAttributes, Data):
    """One or more models of the same kind, whose disagreement measures their uncertainty. The first member drives.

    Made by :meth:`from_potentials`; the files are the repository objects ``members/<i><suffix>`` and, of members that
    have what a training starts from beside their model, ``checkpoints/<i><suffix>``.
    """

    @classmethod
    def from_potentials(cls, potentials: Sequence[PotentialData], **kwargs: Any) -> CommitteeData:
        """Committee of these potentials, in this order. What is known of the training of all alike, is kept.

        :raises ValueError: for no potentials, and for potentials of different elements, cutoff, trainer or dtype.
        """
        _check_alike(potentials)
        node = cls(**kwargs)
        names, checkpoints = [], []
        for index, potential in enumerate(potentials):
            names.append(f'{index}{potential.suffix}')
            node._put(potential, potential.filename, f'{MEMBER_DIRECTORY}/{names[-1]}')
            source = potential.checkpoint_path
            checkpoints.append(None if source is None else f'{index}{PurePath(source).suffix}')
            if source is not None:
                node._put(potential, source, f'{CHECKPOINT_DIRECTORY}/{checkpoints[-1]}')
        first = potentials[0].base.attributes.all
        alike = [
            key for key in OF_TRAINING if key in first and all(_same(key, first, other) for other in potentials[1:])
        ]
        node.base.attributes.set_many(
            {
                **{key: first[key] for key in (*SHARED_ATTRIBUTES, *alike)},
                'hyper_parameters': _common([potential.hyper_parameters for potential in potentials]),
                'seeds': [potential.seed for potential in potentials],
                'n_members': len(potentials),
                'filenames': names,
                'checkpoints': checkpoints,
                'sha256': [potential.sha256 for potential in potentials],
            }
        )
        return node

    def _put(self, potential: PotentialData, source: str, target: str) -> None:
        with potential.open(source) as stream:
            self.base.repository.put_object_from_filelike(stream, target)

    def _validate(self) -> bool:
        super()._validate()
        attributes = self.base.attributes.all
        names, checkpoints = attributes.get('filenames', []), attributes.get('checkpoints', [])
        lengths = {len(names), len(checkpoints), len(attributes.get('seeds', [])), attributes.get('n_members')}
        if not names or len(lengths) > 1:
            raise ValidationError('a committee needs at least one member: build it by `CommitteeData.from_potentials`')
        check_model_attributes(attributes)
        for seed in attributes['seeds']:
            check_seed(seed)
        found = {str(path / name) for path, _, files in self.base.repository.walk() for name in files}
        listed = {f'{MEMBER_DIRECTORY}/{name}' for name in names}
        listed |= {f'{CHECKPOINT_DIRECTORY}/{name}' for name in checkpoints if name is not None}
        if found != listed:
            raise ValidationError(f'the repository holds {sorted(found)}, expected {sorted(listed)}: build it again')
        return True

    @property
    def seeds(self) -> list[int | None]:
        """Seed of the training of each member, where it is known."""
        return self.base.attributes.get('seeds')

    @property
    def n_members(self) -> int:
        """Number of members."""
        return self.base.attributes.get('n_members')

    @property
    def member_filenames(self) -> list[str]:
        """Name of each member's file, without directory, in order."""
        return list(self.base.attributes.get('filenames'))

    @property
    def member_hashes(self) -> list[str]:
        """SHA-256 of each member's model."""
        return list(self.base.attributes.get('sha256'))

    def copy_list(self, directory: str) -> list[tuple[str, str, str]]:
        """Entries for ``CalcInfo.local_copy_list`` that put every member, in order, into a directory."""
        return [(self.uuid, f'{MEMBER_DIRECTORY}/{name}', f'{directory}/{name}') for name in self.member_filenames]

    def start_list(self, directory: str) -> list[tuple[str, str, str]]:
        """Entries for ``CalcInfo.local_copy_list`` that put what the training of each member starts from, in order.

        It is the checkpoint of the member, or its model where the model itself serves.
        """
        paths = [
            f'{MEMBER_DIRECTORY}/{name}' if checkpoint is None else f'{CHECKPOINT_DIRECTORY}/{checkpoint}'
            for name, checkpoint in zip(self.member_filenames, self.base.attributes.get('checkpoints'), strict=True)
        ]
        return [(self.uuid, path, f'{directory}/{PurePath(path).name}') for path in paths]

    def export(self, directory: Path | str, *, checkpoints: bool = False) -> list[Path]:
        """Write the members' files into a directory, which is made if it does not exist; their paths in order.

        :param checkpoints: in place of the models, what a training of each member starts from.
        """
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        written = []
        for _, source, target in (self.start_list if checkpoints else self.copy_list)('.'):
            written.append(directory / PurePath(target).name)
            with self.base.repository.open(source, 'rb') as stream, open(written[-1], 'wb') as file:
                shutil.copyfileobj(stream, file)
        return written


def _same(key: str, first: dict[str, Any], other: PotentialData) -> bool:
    return bool(other.base.attributes.get(key, None) == first[key])


def _common(options: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Those options that are the same for all; a seed may be among them."""
    return {name: value for name, value in options[0].items() if all(of.get(name) == value for of in options[1:])}


def _check_alike(potentials: Sequence[PotentialData]) -> None:
    if not potentials:
        raise ValueError('a committee needs at least one potential')
    for key in SHARED_ATTRIBUTES:
        values = [getattr(potential, key) for potential in potentials]
        if any(value != values[0] for value in values):
            raise ValueError(f'the members of a committee must have one {key}, found {values}: train them alike')
