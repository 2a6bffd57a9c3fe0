"""A committee of trained interatomic potentials."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aiida.common.exceptions import ValidationError
from aiida.orm import Data

from .model_attributes import ModelAttributes, check_model_attributes, check_seed
from .potential import PotentialData

MEMBER_DIRECTORY = 'members'
SHARED_ATTRIBUTES = ('trainer', 'elements', 'cutoff', 'dtype')


class CommitteeData(ModelAttributes, Data):
    """One or more models of the same kind, whose disagreement measures their uncertainty. The first member drives.

    Made by :meth:`from_potentials`; the files are the repository objects ``members/<i><suffix>``.
    """

    @classmethod
    def from_potentials(cls, potentials: Sequence[PotentialData], **kwargs: Any) -> CommitteeData:
        """Committee of these potentials, in this order.

        :raises ValueError: for no potentials, and for potentials of different elements, cutoff, trainer or dtype.
        """
        _check_alike(potentials)
        node = cls(**kwargs)
        names = [f'{index}{potential.suffix}' for index, potential in enumerate(potentials)]
        for name, potential in zip(names, potentials, strict=True):
            with potential.open(mode='rb') as stream:
                node.base.repository.put_object_from_filelike(stream, f'{MEMBER_DIRECTORY}/{name}')
        node.base.attributes.set_many(
            {
                **{key: getattr(potentials[0], key) for key in SHARED_ATTRIBUTES},
                'seeds': [potential.seed for potential in potentials],
                'n_members': len(potentials),
                'filenames': names,
            }
        )
        return node

    def _validate(self) -> bool:
        super()._validate()
        attributes = self.base.attributes.all
        names = attributes.get('filenames', [])
        if not names or attributes.get('n_members') != len(names) or len(attributes.get('seeds', [])) != len(names):
            raise ValidationError('a committee needs at least one member: build it by `CommitteeData.from_potentials`')
        check_model_attributes(attributes)
        for seed in attributes['seeds']:
            check_seed(seed)
        found = {str(path / name) for path, _, files in self.base.repository.walk() for name in files}
        listed = {f'{MEMBER_DIRECTORY}/{name}' for name in names}
        if found != listed:
            raise ValidationError(f'the repository holds {sorted(found)}, expected {sorted(listed)}: build it again')
        return True

    @property
    def seeds(self) -> list[int]:
        """Seed of the training of each member."""
        return self.base.attributes.get('seeds')

    @property
    def n_members(self) -> int:
        """Number of members."""
        return self.base.attributes.get('n_members')

    @property
    def member_filenames(self) -> list[str]:
        """Name of each member's file, without directory, in order."""
        return list(self.base.attributes.get('filenames'))

    def copy_list(self, directory: str) -> list[tuple[str, str, str]]:
        """Entries for ``CalcInfo.local_copy_list`` that put every member, in order, into a directory."""
        return [(self.uuid, f'{MEMBER_DIRECTORY}/{name}', f'{directory}/{name}') for name in self.member_filenames]

    def export(self, directory: Path | str) -> list[Path]:
        """Write the members' files into a directory, which is made if it does not exist; their paths in order."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        for name in self.member_filenames:
            with (
                self.base.repository.open(f'{MEMBER_DIRECTORY}/{name}', 'rb') as source,
                open(directory / name, 'wb') as target,
            ):
                shutil.copyfileobj(source, target)
        return [directory / name for name in self.member_filenames]


def _check_alike(potentials: Sequence[PotentialData]) -> None:
    if not potentials:
        raise ValueError('a committee needs at least one potential')
    for key in SHARED_ATTRIBUTES:
        values = [getattr(potential, key) for potential in potentials]
        if any(value != values[0] for value in values):
            raise ValueError(f'the members of a committee must have one {key}, found {values}: train them alike')
