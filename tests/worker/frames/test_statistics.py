"""Statistics of a data set against plain numpy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

from aiida_alpot.worker.frames import ISOLATED_ATOM, Frame, FrameStore, statistics, write_shard
from aiida_alpot.worker.frames.statistics import Range, describe


@pytest.fixture
def frames(make_frame: Callable[..., Frame]) -> list[Frame]:
    """Frames of many sizes, some without labels, one open, two isolated atoms, and repeated ones."""
    frames = [
        make_frame(i, n_atoms=1 + i % 7, split=('train', 'test', '')[i % 3], origin=('md', 'rattle')[i % 2])
        for i in range(40)
    ]
    frames[3] = make_frame(3, labelled=False)
    frames[4] = make_frame(4, pbc=(True, True, False))
    atoms = [
        Frame.from_atoms(Atoms('C'), energy=energy, origin=ISOLATED_ATOM, level_of_theory='pbe')
        for energy in (-147.0, -148.0)
    ]
    # The same structure at the same level, and at another one.
    return [*frames, *atoms, frames[0], frames[1].replace(level_of_theory='lda')]


@pytest.mark.parametrize('chunk', [1, 10, 10**6])
def test_against_numpy(frames: list[Frame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    """Whatever the size of the chunks, and over two shards."""
    monkeypatch.setattr(statistics, 'CHUNK_ATOMS', chunk)
    shards = [write_shard(frames[:20], tmp_path), write_shard(frames[20:], tmp_path)]
    with FrameStore(shards) as store:
        found = describe(store)
    isolated = [frame for frame in frames if frame.origin == ISOLATED_ATOM]
    others = [frame for frame in frames if frame.origin != ISOLATED_ATOM]
    wanted = {
        'n_atoms': [len(frame) for frame in frames],
        'volume_per_atom': [frame.volume / len(frame) for frame in frames if frame.pbc.all()],
        'energy_per_atom': [frame.energy / len(frame) for frame in others if frame.energy is not None],
        'max_force': [np.linalg.norm(frame.forces, axis=1).max() for frame in frames if frame.forces is not None],
        'pressure': [-np.trace(frame.stress) / 3 for frame in frames if frame.stress is not None],
    }
    for name, values in wanted.items():
        numbers: Range = getattr(found, name)
        assert numbers.n == len(values), name
        assert (numbers.low, numbers.high) == pytest.approx((min(values), max(values)), rel=1e-12), name
        assert numbers.mean == pytest.approx(np.mean(values), rel=1e-12), name
    assert found.isolated_atoms['C'].n == len(isolated) == 2
    assert (found.isolated_atoms['C'].low, found.isolated_atoms['C'].high) == (-148.0, -147.0)
    for origin in ('md', 'rattle', ISOLATED_ATOM):
        for split in ('train', 'test', ''):
            assert found.counts[origin, split] == sum((f.origin, f.split) == (origin, split) for f in frames)
    assert found.n_structures == len({frame.frame_id for frame in frames}) == 41
    assert found.n_repeated == 2  # one frame, and one of the two atoms


def test_nothing_labelled(make_frame: Callable[..., Frame], tmp_path: Path) -> None:
    """Ranges of nothing."""
    with FrameStore([write_shard([make_frame(0, labelled=False)], tmp_path)]) as store:
        found = describe(store)
    assert found.max_force.n == found.energy_per_atom.n == found.pressure.n == 0
    assert np.isnan(found.max_force.mean) and found.n_atoms.n == 1
