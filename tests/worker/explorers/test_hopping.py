"""Basin hopping and minima hopping on Lennard-Jones clusters, whose minima are known (Cambridge Cluster Database)."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.units import kB

from aiida_alpot.worker.explorers import Limits, make_explorer
from aiida_alpot.worker.explorers.base import EndedError
from aiida_alpot.worker.explorers.minima_hopping import draw_velocities
from aiida_alpot.worker.frames.frame import Frame

from .conftest import bipyramid, lj_cluster

LJ7 = (-16.505384, -15.935043, -15.593211, -15.533060)
"""All four minima of the cluster of seven."""
LJ13 = -44.326801


@pytest.mark.parametrize('seed', [0, 1])
def test_basin_hopping_finds_all_minima_of_lj7(watch, reduced_lj, seed: int) -> None:
    settings = {'n_hops': 40, 'temperature': 0.8 / kB, 'fmax': 0.005, 'step_width': 0.4}
    keeper = watch(reduced_lj)
    outcome = make_explorer('basin_hopping', settings).explore([lj_cluster(7, seed)], keeper, seed)
    assert sorted(outcome.results['minima']) == pytest.approx(LJ7, abs=1e-5)
    assert outcome.results['minima'][outcome.results['lowest']] == pytest.approx(LJ7[0], abs=1e-5)
    assert sum(outcome.results['visits']) == 1 + 40 - outcome.results['n_failed']
    keeper.assess()
    frames = keeper.frames()
    minima = [frame for frame in frames if frame.metadata['why'] == 'minimum']
    assert [frame.metadata['minimum'] for frame in minima] == [0, 1, 2, 3]
    energies = [frame.metadata['potential_energy'] for frame in minima]
    assert energies == pytest.approx(outcome.results['minima'], abs=1e-9)
    assert {frame.metadata['why'] for frame in frames} == {'minimum', 'attempt'}


def test_basin_hopping_finds_the_icosahedron(watch, reduced_lj) -> None:
    settings = {'n_hops': 30, 'temperature': 0.8 / kB, 'fmax': 0.01, 'step_width': 0.4, 'keep_attempts': False}
    outcome = make_explorer('basin_hopping', settings).explore([lj_cluster(13, 2)], watch(reduced_lj), 2)
    assert min(outcome.results['minima']) == pytest.approx(LJ13, abs=1e-4)


def test_minima_hopping_finds_minima_of_lj7(watch, reduced_lj) -> None:
    """It leaves the funnel that it starts in, keeps the tops of its paths, and comes to the ground state."""
    settings = {'n_hops': 12, 'temperature': 900.0, 'timestep': 10.0, 'fmax': 0.005, 'energy_difference': 0.7}
    keeper = watch(reduced_lj)
    outcome = make_explorer('minima_hopping', settings).explore([lj_cluster(7, 1)], keeper, 1)
    found = np.array(outcome.results['minima'])
    assert found.min() == pytest.approx(LJ7[0], abs=1e-5)
    assert len(found) > 1
    keeper.assess()
    frames = keeper.frames()
    tops = [frame.metadata['potential_energy'] for frame in frames if frame.metadata['why'] == 'transition']
    assert len(tops) == 12 and min(tops) > found.min()


def test_equal_seeds_equal_runs(watch, reduced_lj) -> None:
    for name, settings in (('basin_hopping', {'n_hops': 3}), ('minima_hopping', {'n_hops': 2, 'max_md_steps': 50})):
        results = []
        for seed in (5, 5, 6):
            keeper = watch(reduced_lj)
            outcome = make_explorer(name, settings).explore([lj_cluster(7, 1)], keeper, seed)
            keeper.assess()
            results.append((outcome, [frame.frame_id for frame in keeper.frames()]))
        assert results[0] == results[1], name
        assert results[0][1] != results[2][1], name


@pytest.mark.parametrize('name', ['basin_hopping', 'minima_hopping'])
def test_failed_moves_are_counted(watch, reduced_lj, name: str) -> None:
    """A move that falls apart is no move; too many in a row end the run."""
    keeper = watch(reduced_lj, limits=Limits(max_force=30.0, max_energy_drop=None))
    wild = {
        'basin_hopping': {'step_width': 2.0, 'max_failures': 3},
        'minima_hopping': {'temperature': 1e5, 'max_temperature': 1e6, 'timestep': 2.0, 'max_failures': 2},
    }
    with pytest.raises(EndedError, match='in a row fell apart: reduce') as error:
        make_explorer(name, wild[name]).explore([bipyramid()], keeper, 0)
    assert error.value.status == 'exploded'
    keeper.assess()
    assert keeper.frames()[0].metadata['why'] == 'minimum'


@pytest.mark.parametrize('name', ['basin_hopping', 'minima_hopping'])
def test_start_that_does_not_converge(watch, reduced_lj, name: str) -> None:
    outcome = make_explorer(name, {'max_steps': 1}).explore([lj_cluster(7, 1)], watch(reduced_lj), 0)
    assert outcome.status == 'not_converged' and 'the start' in outcome.message


def test_velocities() -> None:
    """Of the temperature asked for, without drift, and without rotation in vacuum."""
    atoms = Atoms('Ar400', np.random.default_rng(1).normal(size=(400, 3)) * 10)
    draw_velocities(atoms, 300.0, np.random.default_rng(2))
    assert atoms.get_temperature() == pytest.approx(300.0, rel=0.1)
    assert np.abs(atoms.get_momenta().sum(axis=0)).max() < 1e-9
    assert np.abs(atoms.get_angular_momentum()).max() < 1e-8
    atoms.set_cell(30 * np.eye(3))
    atoms.set_pbc(True)
    draw_velocities(atoms, 300.0, np.random.default_rng(2))
    assert np.abs(atoms.get_angular_momentum()).max() > 1.0


def test_one_atom_cannot_hop() -> None:
    atom = Frame(np.array([18]), np.zeros((1, 3)), np.zeros((3, 3)), np.zeros(3, dtype=bool))
    for name in ('basin_hopping', 'minima_hopping'):
        with pytest.raises(ValueError, match='one atom'):
            make_explorer(name, {}).check([atom])
