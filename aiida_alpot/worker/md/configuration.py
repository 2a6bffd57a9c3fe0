"""What ``driver.json`` says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import atomic_numbers


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
    :param max_deviation: the frame at which the largest deviation of the forces exceeds it, eV/A, is kept whatever its
        step; ``None`` for no bound. That the run ends there is up to the script.
    :param device: where the potentials run.
    :param dtype: their precision.
    :param rotation: takes vectors (rows) from LAMMPS' orientation back to that of the start frame, shape (3, 3).
    :param cell: of the start frame, shape (3, 3), A; kept along axes that are not periodic.
    :param origin: of the sampled frames.
    :param lineage: of the sampled frames.
    :param metadata: of the sampled frames; step, temperature and pressure come on top.
    """

    elements: list[str]
    committee: list[str]
    driving_member: int = 0
    committee_every: int = 10
    sample_every: int = 100
    n_steps: int | None = None
    max_temperature: float | None = None
    max_deviation: float | None = None
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
        for name in ('rotation', 'cell'):
            if np.shape(getattr(self, name)) != (3, 3):
                raise ValueError(f'`{name}` must be three rows of three numbers')

    @classmethod
    def read(cls, path: Path) -> DriverConfiguration:
        """Read ``driver.json``; the paths of the members become absolute.

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
        try:
            return cls(**content)
        except (TypeError, ValueError) as error:
            raise ValueError(f'{path}: {error}') from error
