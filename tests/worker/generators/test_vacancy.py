"""Vacancies."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk

from aiida_alpot.worker.frames.frame import Frame
from aiida_alpot.worker.generators.vacancy import VacancyParameters, unsuitable, vacancy


@pytest.fixture
def crystal() -> Frame:
    return Frame.from_atoms(bulk('NaCl', 'rocksalt', a=5.6, cubic=True))


def test_removes_what_it_says(crystal: Frame) -> None:
    frames = vacancy(crystal, VacancyParameters(n=8), 1)
    assert sorted(f.metadata['generated'][-1]['removed'][0] for f in frames) == list(range(8))
    for f in frames:
        kept = [i for i in range(8) if i not in f.metadata['generated'][-1]['removed']]
        assert np.array_equal(f.positions, crystal.positions[kept])
        assert np.array_equal(f.numbers, crystal.numbers[kept])
        assert np.array_equal(f.cell, crystal.cell)


def test_pairs_are_different(crystal: Frame) -> None:
    frames = vacancy(crystal, VacancyParameters(n=10, n_vacancies=2), 1)
    removed = [tuple(f.metadata['generated'][-1]['removed']) for f in frames]
    assert len(set(removed)) == 10 and all(a < b for a, b in removed) and all(len(f) == 6 for f in frames)


def test_no_more_than_there_are(crystal: Frame) -> None:
    assert len(vacancy(crystal, VacancyParameters(n=50), 1)) == 8
    assert len(vacancy(crystal, VacancyParameters(n=500, n_vacancies=7), 1)) == 8


def test_small_frames_are_unsuitable(crystal: Frame) -> None:
    assert not unsuitable(crystal, VacancyParameters())
    assert 'has 8 atoms, vacancies need at least 9' in unsuitable(crystal, VacancyParameters(min_atoms=9))
    assert unsuitable(crystal, VacancyParameters(n_vacancies=8))


@pytest.mark.parametrize('bad', [{'n': 0}, {'n_vacancies': 0}, {'min_atoms': 1}])
def test_bad_parameters(bad: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        VacancyParameters(**bad)
