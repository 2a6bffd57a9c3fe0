"""Explorations of argon with real LAMMPS, driven by a Lennard-Jones committee, and real explorers."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from aiida import orm
from aiida.engine import run_get_node
from ase.build import bulk

from aiida_alpot.campaign.environment import Environment
from aiida_alpot.data.committee import CommitteeData
from aiida_alpot.data.pes import PESData
from aiida_alpot.data.potential import PotentialData
from aiida_alpot.worker.frames import Frame
from aiida_alpot.workflows.exploration import ExplorationWorkChain

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which('alpot-md') is None, reason='needs alpot-md and LAMMPS'),
]
QUIET = {'temperatures': [30.0], 'ensembles': ['nvt'], 'timestep': 2.0, 'start_origins': []}


@pytest.fixture
def explore(environment: Environment, campaign_codes: dict[str, str]) -> Callable[..., Any]:
    """Run an exploration from 32 atoms of argon."""
    code = environment.codes['alpot-explore']

    def run(parameters: dict[str, Any] | None = None, depths: Any = (1.0, 1.1), **overrides: Any) -> Any:
        builder = ExplorationWorkChain.get_builder_from_protocol(
            campaign_codes['md'], protocol='fast', seed=3, overrides={**QUIET, **overrides}, explore_code=code
        )
        builder.parameters = orm.Dict({**builder.parameters.get_dict(), **(parameters or {})})
        builder.committee = committee(depths).store()
        builder.structures = PESData(frames=[argon(seed) for seed in range(3)]).store()
        builder.max_concurrent = orm.Int(2)
        return run_get_node(builder)[1]

    return run


def argon(seed: int) -> Frame:
    """32 atoms, slightly displaced."""
    atoms = bulk('Ar', 'fcc', 5.35, cubic=True).repeat(2)
    atoms.rattle(0.05, seed=seed)
    return Frame.from_atoms(atoms, lineage=f'argon-{seed}', origin='rattle')


def committee(depths: Any) -> CommitteeData:
    """Lennard-Jones potentials that differ in their depth."""
    members = []
    for index, depth in enumerate(depths):
        parameters = {'epsilon': 0.0104 * depth, 'sigma': 3.4, 'rc': 7.0, 'ro': 5.0, 'smooth': True}
        description = {
            'calculator': 'ase.calculators.lj.LennardJones',
            'parameters': parameters,
            'elements': ['Ar'],
            'cutoff': 7.0,
        }
        text = json.dumps(description).encode()
        fields: dict[str, Any] = {'trainer': 'mace', 'elements': ['Ar'], 'cutoff': 7.0, 'dtype': 'float64'}
        members.append(PotentialData(io.BytesIO(text), f'{index}.json', seed=index, **fields))
    return CommitteeData.from_potentials(members)


def test_several_conditions_in_one_job(explore: Callable) -> None:
    """Two trajectories of one job and a third in another: each has its own conditions, frames and rows."""
    node = explore(
        temperatures=[20.0, 40.0, 60.0], n_steps=60, runs_per_job=2, uncertainty={'lower': None}, max_temperature=500.0
    )
    assert node.is_finished_ok, node.exit_message
    assert len(node.called) == 3  # two jobs, and what collects them
    report = node.outputs.report.get_dict()
    assert report['reasons'] == {'completed': 3} and report['counts']['n_kept'] == 18 == len(node.outputs.frames)
    assert [row['temperature'] for row in report['trajectories']] == [20.0, 40.0, 60.0]
    assert {row['n_steps_done'] for row in report['trajectories']} == {60}
    jobs = [child for child in node.called if child.process_label == 'MDCalculation']
    assert sorted(len(job.outputs.results['runs']) for job in jobs) == [1, 2]
    frames = node.outputs.frames
    assert set(frames.column('lineage').tolist()) == {row['lineage'] for row in report['trajectories']}
    assert frames.n_labelled == 0 and frames.origins == {'md': 18}
    both = next(job for job in jobs if len(job.outputs.results['runs']) == 2).outputs.deviations
    table = {name: both.get_array(name) for name in ('run', 'temperature', 'step', 'max_force_deviation')}
    hot, cold = (table['temperature'][table['run'] == run].mean() for run in (1, 0))
    assert hot > cold and np.isfinite(table['max_force_deviation']).all()
    assert table['step'][table['run'] == 0].tolist() == list(range(0, 61, 10))


def test_interrupted_trajectories_go_on(explore: Callable) -> None:
    """Time and again, from the restart file, to the last step; no step is sampled twice."""
    node = explore(
        {'max_seconds': 3},
        n_steps=5000,
        sample_every=250,
        restart_every=200,
        uncertainty={'lower': None},
        max_restarts=20,
    )
    assert node.is_finished_ok, node.exit_message
    (row,) = node.outputs.report['trajectories']
    assert row['restarts'] >= 1 and (row['reason'], row['n_steps_done']) == ('completed', 5000)
    parts = [orm.load_node(pk) for pk in row['pks']]
    assert [part.exit_status for part in parts] == [312] * row['restarts'] + [0]
    frames = list(node.outputs.frames)
    steps = sorted(frame.metadata['step'] for frame in frames)
    assert steps == list(range(250, 5001, 250)) and {frame.lineage for frame in frames} == {'md:3:0'}
    starts = [part.outputs.results['runs'][0]['first_step'] for part in parts]
    assert starts == sorted(starts) and starts[0] == 0 and starts[1] > 0


def test_halted_where_the_committee_does_not_know(explore: Callable) -> None:
    """The frame beyond the bound is there, with those before; the deviation is bounded as it is."""
    bounds = {'unit': 'eV/A', 'lower': 0.01, 'upper': 1.0, 'calibrated': False, 'keep_before': 1}
    node = explore(n_steps=400, sample_every=400, temperatures=[200.0], uncertainty=bounds, depths=(1.0, 1.2))
    assert node.is_finished_ok, node.exit_message
    (row,) = node.outputs.report['trajectories']
    assert row['reason'] == 'halted' and row['max_expected_error'] > 0.01 and row['n_uncertain'] == 1
    assert row['n_steps_done'] < 400
    whys = {frame.metadata['why'] for frame in node.outputs.frames}
    assert whys <= {'uncertain', 'before'} and 'uncertain' in whys


def test_a_trajectory_that_fails(explore: Callable) -> None:
    """What the others sampled is the pool, and the report says which and why (peer defect 17)."""
    # The temperature of 32 atoms fluctuates by 15 %: one trajectory cannot stay below the bound, the other does.
    hot = {'max_temperature': 155.0, 'thermostat_damping': 50.0, 'n_steps': 1500, 'uncertainty': {'lower': None}}
    node = explore(temperatures=[20.0, 150.0], sample_every=20, **hot)
    assert node.is_finished_ok, node.exit_message
    reasons = [row['reason'] for row in node.outputs.report['trajectories']]
    assert reasons == ['completed', 'temperature'] and len(node.outputs.frames) >= 75
    node = explore(temperatures=[150.0], sample_every=1500, **hot)
    assert node.exit_status == 310 and 'the temperature' in node.exit_message
    assert node.outputs.report['reasons'] == {'temperature': 1}


def test_explorers(explore: Callable) -> None:
    """Their candidates are in the same pool, by their origin."""
    search = {'composition': {'Ar': 4}, 'volume': [35.0, 40.0], 'n': 2}
    explorers = [{'explorer': 'relaxation', 'n_runs': 2}, {'explorer': 'random_search', 'settings': search}]
    node = explore(n_steps=20, uncertainty={'lower': None}, explorers=explorers)
    assert node.is_finished_ok, node.exit_message
    assert set(node.outputs.frames.origins) == {'md', 'relaxation', 'random_search'}
    rows = node.outputs.report['trajectories']
    assert [row.get('explorer') for row in rows] == [None, 'relaxation', 'relaxation', 'random_search']
    assert all(row['n_kept'] > 0 for row in rows) and rows[1]['starts'] != rows[2]['starts']
