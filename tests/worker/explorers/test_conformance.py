"""Our own explorers, by the kit that those of other packages are checked with; and the kit itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.units import kB

from aiida_alpot.worker import registry
from aiida_alpot.worker.explorers import EXPLORERS, Explorer, Limits, Outcome, make_explorer
from aiida_alpot.worker.explorers.conformance import check_explorer
from aiida_alpot.worker.frames.frame import Frame
from aiida_alpot.worker.potentials import load_committee

from .conftest import NO_LIMITS, bipyramid

CLUSTERS = {'composition': {'Ar': 4}, 'volume': [6.0, 16.0], 'n': 4, 'periodic': False, 'every': 3}


@pytest.mark.parametrize(
    ('name', 'settings', 'n_starts'),
    [
        ('relaxation', {'every': 2, 'fmax': 1e-6, 'optimizer': 'fire'}, 1),
        ('relaxation', {'every': 1, 'fmax': 1e-6, 'keep_start': True}, 1),
        ('random_search', {**CLUSTERS, 'min_distance': 0.45}, 0),
        ('basin_hopping', {'n_hops': 6, 'temperature': 1 / kB, 'every': 10}, 1),
        ('minima_hopping', {'n_hops': 3, 'temperature': 1000.0, 'timestep': 10.0, 'md_every': 20}, 1),
        ('neb', {'interpolation': 'linear', 'every': 2, 'max_steps': 12, 'fmax': 1e-4}, 2),
    ],
)
def test_our_explorers(reduced_lj, name: str, settings: dict, n_starts: int) -> None:
    moved = bipyramid().positions + np.outer([1, 0, 0, 0, 0, 0, 0], [0.1, 0.1, 0.1])
    starts = [bipyramid().replace(positions=moved), bipyramid()]
    no_limits = Limits(**NO_LIMITS)
    check_explorer(lambda: make_explorer(name, settings), reduced_lj, starts[:n_starts], limits=no_limits)


@pytest.mark.parametrize(
    ('name', 'settings'),
    [
        ('relaxation', {'relax_cell': True, 'max_steps': 12, 'every': 3, 'optimizer': 'fire'}),
        ('basin_hopping', {'n_hops': 8, 'max_steps': 20, 'fmax': 3.0, 'step_width': 0.2, 'every': 2}),
        ('neb', {'max_steps': 3, 'n_images': 3, 'relax_ends': False, 'every': 1}),
    ],
)
def test_with_a_mace_committee(mace_files: Callable[..., list[Path]], name: str, settings: dict) -> None:
    """A slab of carbide with real models: interrupted and repeated runs give the same bytes there too."""
    atoms = bulk('SiC', 'zincblende', 4.36, cubic=True)
    atoms.center(vacuum=5.0, axis=2)
    atoms.set_pbc((True, True, False))
    atoms.rattle(0.05, seed=1)
    first = Frame.from_atoms(atoms)
    atoms.rattle(0.05, seed=2)
    starts = [first, Frame.from_atoms(atoms)]
    committee = load_committee(mace_files(['C', 'Si']))
    explorer = make_explorer(name, settings)
    check_explorer(lambda: explorer, committee, starts[: explorer.n_starts])


@dataclass
class Drunk(Explorer):
    """Draws from the global random numbers."""

    n_steps: int = 12

    def explore(self, starts, watch, seed: int) -> Outcome:
        atoms = watch.atoms(starts[0])
        for step in range(self.n_steps):
            atoms.positions += 0.01 * np.random.normal(size=atoms.positions.shape)  # noqa: NPY002
            atoms.get_forces()
            watch.keep(atoms, 'step', step=step)
        return Outcome('completed', 'walked')


@dataclass
class Deaf(Drunk):
    """Goes on when it is told to stop."""

    def explore(self, starts, watch, seed: int) -> Outcome:
        atoms, rng = watch.atoms(starts[0]), np.random.default_rng(seed)
        for step in range(self.n_steps):
            atoms.positions += 0.01 * rng.normal(size=atoms.positions.shape)
            try:
                atoms.get_forces()
                watch.keep(atoms, 'step', step=step)
            except Exception:  # noqa: BLE001 -- that is what is wrong with it
                continue
        return Outcome('completed', 'walked')


@dataclass
class Writer(Deaf):
    """Leaves a file behind."""

    def explore(self, starts, watch, seed: int) -> Outcome:
        Path('trace.txt').write_text('here')
        return super().explore(starts, watch, seed)


@dataclass
class Grower(Deaf):
    """Stretches the vacuum."""

    def explore(self, starts, watch, seed: int) -> Outcome:
        atoms = watch.atoms(starts[0])
        for step in range(self.n_steps):
            atoms.set_cell(atoms.cell.array + 0.1 * np.eye(3))
            atoms.get_forces()
            watch.keep(atoms, 'step', step=step)
        return Outcome('completed', 'grown')


@pytest.mark.parametrize(
    ('kind', 'message'),
    [
        (Drunk, 'the same seed gave other frames'),
        (Writer, 'it wrote trace.txt into the working folder'),
        (Deaf, 'let EndedError through'),
        (Grower, 'along an axis that is not periodic'),
    ],
)
def test_the_kit_finds_what_is_wrong(
    reduced_lj, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AssertionError, match=message):
        check_explorer(kind, reduced_lj, [bipyramid()])


def test_entry_points_of_other_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = {'alpot.explorers': [EntryPoint('drunk', 'tests_of_conformance:Drunk', 'alpot.explorers')]}
    monkeypatch.setattr(registry, 'entry_points', lambda group: entries[group])
    monkeypatch.setattr(EntryPoint, 'load', lambda self: Drunk)
    registry.from_packages.cache_clear()
    try:
        explorer = make_explorer('drunk', {'n_steps': 3})
        assert isinstance(explorer, Drunk) and explorer.n_steps == 3
        with pytest.raises(ValueError, match="Did you mean 'drunk'"):
            make_explorer('drunkard', {})
        with pytest.raises(ValueError, match="Did you mean 'n_steps'"):
            make_explorer('drunk', {'n_step': 3})
    finally:
        registry.from_packages.cache_clear()


@pytest.mark.parametrize('name', EXPLORERS)
def test_each_setting_is_documented(name: str) -> None:
    """By the class itself, or by the one that it takes it from: the docs are made of it."""
    texts = ''.join(kind.__doc__ or '' for kind in EXPLORERS[name].__mro__)
    for field in fields(EXPLORERS[name]):
        assert f':param {field.name}:' in texts, field.name
