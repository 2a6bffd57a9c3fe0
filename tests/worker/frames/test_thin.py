"""Frames that are kept of trajectories, against what is known of them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.build import bulk, molecule

from aiida_alpot.worker.frames import Frame, FrameStore, write_shard
from aiida_alpot.worker.frames.thin import ThinSettings, distance, farthest, thin


@pytest.fixture
def crystal() -> Frame:
    return Frame.from_atoms(bulk('Si', cubic=True), lineage='md:1:0', origin='md')


@pytest.fixture
def store(tmp_path: Path) -> Callable[..., FrameStore]:
    """Open frames as a store."""

    def make(frames: list[Frame]) -> FrameStore:
        return FrameStore([write_shard(frames, tmp_path)])

    return make


def moved(frame: Frame, seed: int, amplitude: float = 0.1, **changes: Any) -> Frame:
    """The frame with its atoms displaced at random; ``step`` and what follows go to its metadata."""
    metadata = {key: changes.pop(key) for key in ('step', 'why', 'expected_force_error', 'uncertain') if key in changes}
    shift = np.random.default_rng(seed).normal(scale=amplitude, size=(len(frame), 3))
    return frame.replace(positions=frame.positions + shift, metadata=metadata, **changes)


def test_distance_of_displaced_atoms(crystal: Frame) -> None:
    """The definition itself, for small displacements in one cell."""
    other = moved(crystal, 3)
    shift = other.positions - crystal.positions
    shift -= shift.mean(axis=0)
    assert distance(crystal, other) == pytest.approx(np.sqrt((shift**2).sum(axis=1).mean()), rel=1e-10)
    assert distance(other, crystal) == pytest.approx(distance(crystal, other), rel=1e-10)
    assert distance(crystal, crystal) == 0.0


def test_distance_knows_what_is_no_motion(crystal: Frame) -> None:
    """Shifts of the whole, and atoms that are written in another cell."""
    other = moved(crystal, 3)
    expected = distance(crystal, other)
    shifted = other.replace(positions=other.positions + np.array([0.3, 2.0, -1.0]))
    assert distance(crystal, shifted) == pytest.approx(expected, rel=1e-8)
    wrapped = other.positions.copy()
    wrapped[::2] += crystal.cell[1] - 2 * crystal.cell[2]
    assert distance(crystal, other.replace(positions=wrapped)) == pytest.approx(expected, rel=1e-8)


def test_distance_of_strained_cells(crystal: Frame) -> None:
    """2.5 A times the strain, with the atoms moved along."""
    strain = np.diag([0.02, 0.0, -0.01])
    other = crystal.replace(
        cell=crystal.cell @ (np.eye(3) + strain), positions=crystal.positions @ (np.eye(3) + strain)
    )
    assert distance(crystal, other) == pytest.approx(2.5 * np.sqrt(0.02**2 + 0.01**2), rel=1e-9)


def test_distance_of_molecules_and_of_other_atoms(crystal: Frame) -> None:
    water = Frame.from_atoms(molecule('H2O'))
    other = water.replace(positions=water.positions + np.diag([0.3, 0, 0])[:, ::-1] + np.array([5.0, 1, 2]))
    shift = np.array([0.2, -0.1, -0.1])
    assert distance(water, other) == pytest.approx(np.sqrt((shift**2).mean()), rel=1e-9)
    assert distance(water, crystal) == np.inf
    slab = crystal.replace(pbc=[True, True, False])
    assert 0.05 < distance(slab, moved(slab, 1)) < 0.5


def test_farthest_points(crystal: Frame) -> None:
    """Against a search that computes each distance by itself."""
    frames = [moved(crystal, seed, 0.02 * (1 + seed % 5)) for seed in range(12)]
    table = np.array([[distance(a, b) for b in frames] for a in frames])
    chosen = [0]
    for _ in range(5):
        nearest = table[:, chosen].min(axis=1)
        chosen.append(int(nearest.argmax()))
    assert farthest(frames, max_frames=6) == chosen
    kept = farthest(frames, min_distance=0.15)
    assert min(table[i, j] for i, j in combinations(kept, 2)) >= 0.15
    assert all(table[i, kept].min() < 0.15 for i in range(12) if i not in kept)
    assert farthest([]) == []
    assert farthest([crystal, crystal, frames[1]]) == [0, 2]


def test_equal_structures_count_once(crystal: Frame, store: Callable) -> None:
    """Against each other and against what is known; nothing else is left out unless it is asked for."""
    frames = [moved(crystal, seed, step=seed) for seed in (1, 2, 1, 3)]
    with store(frames) as opened:
        target = opened.digests()[3]
        thinned = thin(opened, ThinSettings(), lambda digests: (digests == target).all(axis=1))
    assert thinned.kept.tolist() == [0, 1]
    assert thinned.counts['md:1:0'] == {
        'n_sampled': 4,
        'n_repeated': 1,
        'n_known': 1,
        'n_correlated': 0,
        'n_kept': 2,
        'n_uncertain': 0,
    }


def test_steps_that_a_restart_repeats(crystal: Frame, store: Callable) -> None:
    """The digits differ, the structure does not; other origins may have many frames of one step."""
    frames = [moved(crystal, seed, step=step) for seed, step in enumerate((10, 20, 20, 30))]
    others = [moved(crystal, 10 + seed, step=5, origin='neb', lineage='neb:1:0') for seed in range(2)]
    again = moved(crystal, 20, step=10, lineage='md:1:1')
    with store([*frames, *others, again]) as opened:
        thinned = thin(opened, ThinSettings())
    assert thinned.kept.tolist() == [0, 1, 3, 4, 5, 6]
    assert thinned.counts['md:1:0']['n_repeated'] == 1 and thinned.counts['neb:1:0']['n_repeated'] == 0


def test_uncertain_frames_go_first(crystal: Frame, store: Callable) -> None:
    """The one whose expected error is largest, and none within so many steps of it."""
    frames = [
        moved(crystal, step, step=step, why='uncertain' if error else 'interval', expected_force_error=error or 0.1)
        for step, error in ((10, 0), (20, 0.4), (30, 0.9), (40, 0.5), (60, 0))
    ]
    with store(frames) as opened:
        thinned = thin(opened, ThinSettings(min_steps=15))
        assert thinned.kept.tolist() == [0, 2, 4]
        assert thinned.counts['md:1:0']['n_uncertain'] == 3 and thinned.counts['md:1:0']['n_correlated'] == 2
        assert thin(opened, ThinSettings(max_frames=1)).kept.tolist() == [2]
        assert len(thin(opened, ThinSettings(max_frames=3)).kept) == 3
        assert thin(opened, ThinSettings(min_distance=100.0)).kept.tolist() == [2]
        assert len(thin(opened, ThinSettings(min_distance=1e-6, max_frames=99)).kept) == 5


def test_uncertain_candidates_of_explorers(crystal: Frame, store: Callable) -> None:
    """They say so in a word of their own."""
    marks = {'expected_force_error': 0.2}
    frames = [moved(crystal, i, why='minimum', uncertain=i == 1, origin='basin_hopping', **marks) for i in range(3)]
    with store(frames) as opened:
        thinned = thin(opened, ThinSettings(max_frames=1))
    assert thinned.kept.tolist() == [1] and thinned.counts['md:1:0']['n_uncertain'] == 1


def test_each_trajectory_by_itself(crystal: Frame, store: Callable) -> None:
    frames = [moved(crystal, seed, 0.01, step=seed, lineage=f'md:1:{seed % 2}') for seed in range(6)]
    with store(frames) as opened:
        thinned = thin(opened, ThinSettings(min_distance=1.0))
    assert thinned.kept.tolist() == [0, 1]
    assert {count['n_kept'] for count in thinned.counts.values()} == {1}


@pytest.mark.parametrize('settings', [{'min_steps': -1}, {'min_distance': -0.1}, {'max_frames': 0}, {'min_steps': 1.5}])
def test_refusals(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f'`keep.{next(iter(settings))}`'):
        ThinSettings(**settings)
