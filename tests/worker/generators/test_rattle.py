"""Rattles."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from aiida_alpot.worker.frames.frame import Frame
from aiida_alpot.worker.generators.rattle import (
    DISTRIBUTIONS,
    RattleParameters,
    displacements,
    rattle,
    shortest_distance,
    unsuitable,
)


@pytest.mark.parametrize('distribution', DISTRIBUTIONS)
def test_isotropic(distribution: str) -> None:
    """Peer defect 3: displacements lay in the positive octant. Mean zero within 4 standard errors, unit covariance."""
    n = 10_000
    shifts = displacements(n, distribution, np.random.default_rng(1))
    assert np.all(np.abs(shifts.mean(axis=0)) < 4 / np.sqrt(n))
    assert np.allclose(np.cov(shifts.T), np.eye(3), atol=0.06)
    octants = np.bincount(((shifts > 0) @ [1, 2, 4]).astype(int), minlength=8)
    assert np.all(np.abs(octants - n / 8) < 5 * np.sqrt(n / 8))
    if distribution == 'uniform':
        assert np.linalg.norm(shifts, axis=1).max() <= np.sqrt(5)


def test_frames_have_the_amplitude_asked_for() -> None:
    frame = Frame.from_atoms(bulk('Si', cubic=True) * (4, 4, 4))  # 512 atoms
    frames = rattle(frame, RattleParameters(n=4, amplitudes=(0.02, 0.1)), seed=7)
    assert [f.metadata['generated'][-1]['amplitude'] for f in frames] == [0.02, 0.1, 0.02, 0.1]
    nearest = 5.43 * np.sqrt(3) / 4
    for made in frames:
        shift = made.positions - frame.positions
        amplitude = made.metadata['generated'][-1]['amplitude'] * nearest
        assert np.std(shift) == pytest.approx(amplitude, rel=0.08)
        assert np.all(np.abs(shift.mean(axis=0)) < 4 * amplitude / np.sqrt(512))
        assert np.array_equal(made.cell, frame.cell) and np.array_equal(made.numbers, frame.numbers)
    assert len({made.frame_id for made in frames}) == 4


def test_same_seed_same_frames() -> None:
    frame = Frame.from_atoms(bulk('Si'))
    first, again, other = (rattle(frame, RattleParameters(), seed) for seed in (3, 3, 4))
    assert [f.frame_id for f in first] == [f.frame_id for f in again]
    assert not {f.frame_id for f in first} & {f.frame_id for f in other}


def test_shortest_distance() -> None:
    assert shortest_distance(Frame.from_atoms(bulk('Si'))) == pytest.approx(5.43 * np.sqrt(3) / 4, abs=1e-9)
    # Through the boundary, and far beyond any bond.
    assert shortest_distance(
        Frame.from_atoms(Atoms('H2', [[0, 0, 0.2], [0, 0, 9.7]], cell=[30, 30, 10], pbc=True))
    ) == (pytest.approx(0.5, abs=1e-12))
    assert shortest_distance(Frame.from_atoms(Atoms('H2', [[0, 0, 0], [0, 0, 40.0]]))) == pytest.approx(40.0, abs=1e-9)


def test_one_atom_is_unsuitable() -> None:
    assert 'one atom' in unsuitable(Frame.from_atoms(bulk('Cu')), RattleParameters())


@pytest.mark.parametrize(
    'bad', [{'n': 0}, {'amplitudes': []}, {'amplitudes': [0.0]}, {'amplitudes': [0.6]}, {'distribution': 'cubic'}]
)
def test_bad_parameters(bad: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        RattleParameters(**bad)
