"""What ``driver.json`` says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import atomic_numbers

from aiida_alpot.worker.md.bias import BiasSettings
from aiida_alpot.worker.md.uncertainty import UncertaintySettings


@dataclass(frozen=True)
class DriverConfiguration:
    """How the committee drives LAMMPS, and what is kept.

    :param elements: by LAMMPS type, the first is type 1.
    :param committee: files of the members, relative to the folder of ``driver.json``.
    :param driving_member: the member that gives the forces.
    :param committee_every: all members are evaluated at every so many steps, and wherever a frame is kept.
    :param sample_every: a frame is kept every so many steps.
    :param n_steps: step at which the run is complete; ``None`` where the script alone knows.
    :param max_temperature: the run stops with an error above it, K; ``None`` for no bound.
    :param uncertainty: bounds of the uncertainty and what happens beyond them, fields of
        :class:`~aiida_alpot.worker.md.uncertainty.UncertaintySettings`; ``None``: it is noted, nothing happens.
    :param active_set: file of active sets, as :func:`.extrapolation.save_active_sets` writes it, relative to the folder
        of ``driver.json``: each frame that the committee looks at gets an extrapolation grade.
    :param bias: of uncertainty-biased dynamics, fields of :class:`~aiida_alpot.worker.md.bias.BiasSettings`; all
        members are then evaluated at each step.
    :param seed: of the velocities after a rewind.
    :param device: where the potentials run.
    :param dtype: their precision.
    :param rotation: takes vectors (rows) from LAMMPS' orientation back to that of the start frame, shape (3, 3).
    :param cell: of the start frame, shape (3, 3), A; kept along axes that are not periodic.
    :param origin: of the sampled frames.
    :param lineage: of the sampled frames.
    :param metadata: of the sampled frames; what the run knows of each comes on top.
    :raises ValueError: for values out of range, or that do not go together.
    """

    elements: list[str]
    committee: list[str]
    driving_member: int = 0
    committee_every: int = 10
    sample_every: int = 100
    n_steps: int | None = None
    max_temperature: float | None = None
    uncertainty: UncertaintySettings | Mapping[str, Any] | None = None
    active_set: str | None = None
    bias: BiasSettings | Mapping[str, Any] | None = None
    seed: int = 0
    device: str = 'cpu'
    dtype: str = 'float64'
    rotation: list[list[float]] = field(default_factory=lambda: np.eye(3).tolist())
    cell: list[list[float]] = field(default_factory=lambda: np.zeros((3, 3)).tolist())
    origin: str = 'md'
    lineage: str = 'md'
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        unknown = [symbol for symbol in self.elements if symbol not in atomic_numbers]
        if unknown or not self.elements:
            raise ValueError(f'`elements` must list one chemical symbol for each LAMMPS type, found {self.elements}')
        if not 0 <= self.driving_member < len(self.committee):
            raise ValueError(
                f'`driving_member` is {self.driving_member}: the committee has {len(self.committee)} members'
            )
        if self.committee_every < 1 or self.sample_every < 1:
            raise ValueError('`committee_every` and `sample_every` must be at least 1')
        if not 0 <= self.seed < 2**31:
            raise ValueError(f'`seed` is {self.seed}: give an integer in [0, 2**31)')
        for name in ('rotation', 'cell'):
            if np.shape(getattr(self, name)) != (3, 3):
                raise ValueError(f'`{name}` must be three rows of three numbers')
        if isinstance(self.uncertainty, Mapping):
            object.__setattr__(self, 'uncertainty', UncertaintySettings.from_dict(self.uncertainty))
        if isinstance(self.bias, Mapping):
            object.__setattr__(self, 'bias', BiasSettings.from_dict(self.bias))
        self._check_watch()

    def _check_watch(self) -> None:
        """Refuse bounds on what nobody can measure."""
        bounds = self.bounds
        if bounds is not None:
            if bounds.lower is not None and len(self.committee) < 2:
                raise ValueError(
                    '`uncertainty` bounds the force error, which a committee of one does not know: give two'
                )
            if bounds.grade_lower is not None and self.active_set is None:
                raise ValueError('`uncertainty` bounds the extrapolation grade: name the file of an `active_set`')
            if bounds.before_every is not None and bounds.before_every % self.committee_every:
                raise ValueError(
                    f'`before_every` of `uncertainty` is {bounds.before_every}: give a multiple of `committee_every`, '
                    f'{self.committee_every}'
                )
        if self.bias is not None and len(self.committee) < 2:
            raise ValueError('`bias` needs the spread of a committee: give at least two members')

    @property
    def bounds(self) -> UncertaintySettings | None:
        """The bounds of the uncertainty."""
        assert self.uncertainty is None or isinstance(self.uncertainty, UncertaintySettings)
        return self.uncertainty

    @classmethod
    def read(cls, path: Path) -> DriverConfiguration:
        """Read ``driver.json``; the paths of the members and of the active set become absolute.

        :raises ValueError: for a file that is not valid.
        """
        try:
            content = json.loads(path.read_text())
        except FileNotFoundError as error:
            raise ValueError(
                f'there is no {path}: run in the folder that holds it, or name it by -driver FILE'
            ) from error
        except json.JSONDecodeError as error:
            raise ValueError(f'{path} is not valid JSON ({error}): correct it') from error
        known = {f.name for f in fields(cls)}
        if not isinstance(content, dict) or set(content) - known:
            raise ValueError(f'{path} must be a JSON object with keys among {", ".join(sorted(known))}')
        missing = {'elements', 'committee'} - set(content)
        if missing:
            raise ValueError(f'{path} lacks {", ".join(sorted(missing))}: add it')
        content['committee'] = [str(path.parent / member) for member in content['committee']]
        if content.get('active_set') is not None:
            content['active_set'] = str(path.parent / content['active_set'])
        try:
            return cls(**content)
        except (TypeError, ValueError) as error:
            raise ValueError(f'{path}: {error}') from error
