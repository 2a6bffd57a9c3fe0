"""Committees that are ready at once, and runs in a folder of their own."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.build import add_adsorbate, fcc100
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT

from aiida_alpot.worker.explorers import Limits, Watch
from aiida_alpot.worker.explorers.program import main
from aiida_alpot.worker.explorers.random_structures import random_structure
from aiida_alpot.worker.explorers.stream import FrameStream
from aiida_alpot.worker.frames.frame import Frame
from aiida_alpot.worker.frames.shard import write_shard
from aiida_alpot.worker.frames.store import FrameStore
from aiida_alpot.worker.potentials.ase import ASECommittee

NO_LIMITS = {'max_force': None, 'max_energy_drop': None}
"""In reduced units the bounds, which are in eV and A, mean nothing."""


class ReducedLennardJones(Calculator):
    """All pairs of a cluster in reduced units, at once: ASE's own takes twenty times as long for seven atoms."""

    implemented_properties = ['energy', 'forces']

    def calculate(self, atoms=None, properties=('energy',), system_changes=all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        vectors = self.atoms.positions[:, None] - self.atoms.positions
        square = np.square(vectors).sum(axis=-1)
        np.fill_diagonal(square, np.inf)
        epsilon, sixth = self.parameters.get('epsilon', 1.0), square**-3.0
        energy = 2.0 * epsilon * float((sixth**2 - sixth).sum())
        slope = epsilon * (48.0 * sixth**2 - 24.0 * sixth) / square
        self.results = {'energy': energy, 'forces': (slope[..., None] * vectors).sum(axis=1)}


@pytest.fixture
def emt() -> ASECommittee:
    """Effective medium theory, twice."""
    return ASECommittee([EMT(), EMT()], ['Al', 'Cu', 'Au'], 6.0)


@pytest.fixture
def reduced_lj() -> ASECommittee:
    """Lennard-Jones clusters in reduced units, and a second member that differs by 5 %."""
    return ASECommittee([ReducedLennardJones(), ReducedLennardJones(epsilon=1.05)], ['Ar'], 50.0)


def lj_cluster(n: int, seed: int) -> Frame:
    """A random cluster in reduced units."""
    return random_structure({'Ar': n}, (1.6, 2.0), seed, min_distance=0.45, periodic=False)


def bipyramid() -> Frame:
    """Close to the lowest minimum of seven atoms in reduced units."""
    angles = 2 * np.pi * np.arange(5) / 5
    ring = 0.95 * np.stack([np.cos(angles), np.sin(angles), 0 * angles], axis=1)
    positions = np.concatenate([ring, [[0, 0, 0.58], [0, 0, -0.58]]])
    return Frame(np.full(7, 18), positions, np.zeros((3, 3)), np.zeros(3, dtype=bool))


@pytest.fixture
def watch(tmp_path: Path) -> Callable[..., Watch]:
    """Factory of watches over a committee; their frames are under ``frames``."""

    def make(committee: ASECommittee, **options: Any) -> Watch:
        folder = tmp_path / f'run_{len(list(tmp_path.iterdir()))}'
        folder.mkdir()
        stream = FrameStream(folder)
        options.setdefault('limits', Limits(**NO_LIMITS))
        made = Watch(committee, 0, stream, origin='test', lineage='ancestor', **options)
        made.frames = lambda: read(folder, stream.finish())  # type: ignore[attr-defined]
        return made

    return make


def read(folder: Path, shards: Sequence[str]) -> list[Frame]:
    """Frames of a run."""
    if not shards:
        return []
    with FrameStore([folder / shard for shard in shards]) as store:
        return list(store)


@pytest.fixture
def adatom() -> tuple[Frame, Frame]:
    """A gold atom in two neighbouring hollows of Al(100), the example of ASE's tutorial; two layers are fixed."""
    slab = fcc100('Al', size=(2, 2, 3))
    add_adsorbate(slab, 'Au', 1.7, 'hollow')
    slab.center(axis=2, vacuum=4.0)
    fixed = {'fixed': np.array([atom.tag > 1 for atom in slab])}
    first = Frame.from_atoms(slab, arrays=fixed)
    slab.positions[-1, 0] += slab.cell[0, 0] / 2
    return first, Frame.from_atoms(slab, arrays=fixed)


@pytest.fixture
def explore(tmp_path: Path) -> Callable[..., tuple[int, Path]]:
    """Run the program on a job with starts of its own; gives the exit code and the folder."""

    def run(committee: Sequence[Path], starts: Sequence[Frame], folder: str = 'job', **job: Any) -> tuple[int, Path]:
        target = tmp_path / folder
        target.mkdir(exist_ok=True)
        shard = write_shard(starts, target / 'starts') if starts else None
        runs = [dict(one) for one in job.pop('runs')]
        for one in runs:
            if shard is not None and 'start' in one:
                places = one['start'] if isinstance(one['start'], list) else [one['start']]
                one['start'] = [[str(shard.relative_to(target)), place] for place in places]
        content = {'committee': [str(path) for path in committee], 'runs': runs, **job}
        (target / 'job.json').write_text(json.dumps(content))
        return main([str(target / 'job.json')], folder=target), target

    return run


def summary(folder: Path, index: int | None = None) -> dict[str, Any]:
    """``explore.json`` of a run, or of the program."""
    place = folder if index is None else folder / f'run_{index:04d}'
    content: dict[str, Any] = json.loads((place / 'explore.json').read_text())
    return content
