"""Vacancies: atoms taken out at random."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aiida_alpot.worker.frames.frame import Frame
from aiida_alpot.worker.generators.derivation import derive
from aiida_alpot.worker.options import integer


@dataclass(frozen=True)
class VacancyParameters:
    """Parameters of the vacancies.

    :param n: frames made of each source frame, 1 to 10000; not two with the same atoms missing.
    :param n_vacancies: atoms taken out of each, at least 1.
    :param min_atoms: source frames with fewer atoms take no part: in a small cell a vacancy touches its images.
    """

    n: int = 1
    n_vacancies: int = 1
    min_atoms: int = 8

    def __post_init__(self) -> None:
        integer('n', self.n, 1, 10000)
        integer('n_vacancies', self.n_vacancies, 1)
        integer('min_atoms', self.min_atoms, 2)


def unsuitable(frame: Frame, parameters: VacancyParameters) -> str:
    """Frames that are too small."""
    needed = max(parameters.min_atoms, parameters.n_vacancies + 1)
    return f'has {len(frame)} atoms, vacancies need at least {needed}' if len(frame) < needed else ''


def vacancy(frame: Frame, parameters: VacancyParameters, seed: int) -> list[Frame]:
    """Copies of a frame with atoms missing; fewer than ``n`` where there are not so many ways to take them."""
    rng = np.random.default_rng(seed)
    if parameters.n_vacancies == 1:
        choices: list[tuple[int, ...]] = [(int(i),) for i in rng.permutation(len(frame))[: parameters.n]]
    else:
        # A repeated draw is dropped, not drawn again for ever: small frames may not have n different sets.
        draws = (rng.choice(len(frame), parameters.n_vacancies, replace=False) for _ in range(4 * parameters.n))
        choices = list(dict.fromkeys(tuple(sorted(map(int, draw))) for draw in draws))[: parameters.n]
    return [_without(frame, removed) for removed in choices]


def _without(frame: Frame, removed: tuple[int, ...]) -> Frame:
    keep = np.delete(np.arange(len(frame)), removed)
    return derive(frame, 'vacancy', numbers=frame.numbers[keep], positions=frame.positions[keep], removed=list(removed))
