"""Defects of a peer's evaluation, end to end; those of single functions are guarded where the functions are tested."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.lj import LennardJones

from aiida_alpot.worker.acquisition.evaluate import main
from aiida_alpot.worker.frames import FrameStore, write_shard
from aiida_alpot.worker.frames.frame import Frame

REPEATS = [(1, 1, 1), (2, 1, 1), (2, 2, 1), (4, 2, 2), (4, 4, 4), (8, 8, 4)]
"""Of a cell of one atom: 1 to 256 atoms."""
ERROR = 4.0
"""Errors in units of the deviation: wells of 1.00 and 1.10 against a label of 1.25."""


def argon(n: int, seed: int, *, labels: bool) -> list[Frame]:
    rng = np.random.default_rng(seed)
    frames = []
    for i in range(n):
        atoms = bulk('Ar', a=5.26 * (1 + 0.02 * rng.normal())).repeat(REPEATS[i % len(REPEATS)])
        atoms.positions += 0.05 * rng.normal(size=atoms.positions.shape)
        atoms.calc = LennardJones(epsilon=1.25 * 0.0104, sigma=3.4, rc=7.0, ro=5.0, smooth=True)
        if labels:
            atoms.get_forces()
        split = ('validation', 'train')[i // len(REPEATS) % 2]
        frames.append(
            Frame.from_atoms(atoms, labels=labels, split=split, level_of_theory='LJ' if labels else '', lineage=f'{i}')
        )
    return frames


@pytest.fixture
def evaluated(tmp_path: Path, lj_files: Callable, monkeypatch: pytest.MonkeyPatch) -> dict:
    """The report of an evaluation of frames of all sizes."""
    monkeypatch.chdir(tmp_path)
    config = {
        'committee': [str(path) for path in lj_files(2)],
        'dataset': [str(write_shard(argon(36, 0, labels=True), tmp_path / 'dataset'))],
        'pool': [str(write_shard(argon(12, 1, labels=False), tmp_path / 'pool'))],
        'tolerance': {'forces': 0.01, 'energy': 0.004},
        'gate': {'min_distance': 0.3},
    }
    Path('config.json').write_text(json.dumps(config))
    assert main(['config.json']) == 0
    return json.loads(Path('evaluation.json').read_text())


def test_the_energy_threshold_is_per_atom_whatever_the_sizes(evaluated: dict) -> None:
    """Peer defect 1: total-energy disagreement was set against errors per atom, so that the threshold was a hundred
    times too high with frames of 1 to 256 atoms."""
    calibration = evaluated['calibration']['energy']
    assert calibration['slope'] == pytest.approx(ERROR, rel=1e-6) and calibration['n_frames'] == 18
    assert evaluated['thresholds']['energy'] == {'tolerance': 0.004, 'deviation': pytest.approx(0.001, rel=1e-6)}
    scores = np.load('scores.npz')
    np.testing.assert_allclose(scores['expected_energy_error'], ERROR * scores['energy_deviation'], rtol=1e-6)


def test_results_are_files_that_anyone_can_read_and_nothing_that_was_sent(evaluated: dict, tmp_path: Path) -> None:
    """Peer defect 18: the evaluation returned a pickle, and every structure and model again."""
    sent = [tmp_path / name for name in ('lj_0.json', 'lj_1.json', 'config.json')]
    sent += [path for folder in ('pool', 'dataset') for path in (tmp_path / folder).iterdir()]
    results = {path for path in tmp_path.rglob('*') if path.is_file()} - set(sent)
    assert {path.suffix for path in results} <= {'.json', '.npz', '.h5'}
    for path in results:
        assert path.read_bytes() not in [original.read_bytes() for original in sent]
        if path.suffix == '.npz':
            with np.load(path, allow_pickle=False) as arrays:
                assert all(arrays[key].dtype != object for key in arrays)
    (selected,) = (path for path in results if path.suffix == '.h5')
    with FrameStore([selected]) as store:
        assert len(store) == evaluated['counts']['selected'] == 10


def test_frames_are_evaluated_many_at_a_time(
    tmp_path: Path, mace_files: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Peer defect 18: the evaluation went one structure at a time."""
    from aiida_alpot.worker.potentials.mace import MACECommittee

    passes = []
    one_pass = MACECommittee._evaluate_batch

    def count(self, batch, members, features):  # type: ignore[no-untyped-def]
        passes.append(len(batch))
        return one_pass(self, batch, members, features)

    monkeypatch.setattr(MACECommittee, '_evaluate_batch', count)
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    cells = [bulk('SiC', 'zincblende', a=4.36 + 0.05 * rng.normal()) for _ in range(200)]
    config = {
        'committee': [str(path) for path in mace_files(['C', 'Si'])],
        'pool': [str(write_shard([Frame.from_atoms(atoms) for atoms in cells], tmp_path / 'pool'))],
        'tolerance': {'forces': 0.01},
        'gate': {'min_distance': 0.1, 'max_force': 1e9},
        'keep_predictions': False,  # else the second evaluation has nothing left to do
    }
    for size, most in ((None, 10), (50, 4)):
        passes.clear()
        Path('config.json').write_text(json.dumps({**config, 'batch_size': size}))
        assert main(['config.json']) == 0
        assert sum(passes) == 200 and len(passes) <= most
