"""Every signal, calibration, selector and representation by its name in the settings, on files, with real MACE."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from aiida_alpot.worker.acquisition.calibration import CALIBRATIONS
from aiida_alpot.worker.acquisition.evaluate import main
from aiida_alpot.worker.acquisition.selectors import RULES
from aiida_alpot.worker.frames import Frame, FrameStore, write_shard
from aiida_alpot.worker.potentials import load_committee


def structures(n: int, seed: int) -> list[Frame]:
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.arange(2)] * 3, indexing='ij'), axis=-1).reshape(-1, 3) * 2.2
    return [
        Frame(
            np.array([6, 14] * 4),
            grid + rng.normal(scale=0.02 + 0.2 * rng.random(), size=(8, 3)),
            4.4 * np.eye(3),
            (True, True, True),
            origin=['md', 'rattle'][i % 2],
            lineage=f'{seed}-{i}',
        )
        for i in range(n)
    ]


@pytest.fixture
def evaluate(tmp_path: Path, mace_files: Callable, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict]:
    """Run `alpot-evaluate` on a labelled set and a pool; the labels are those of the first member, scaled."""
    monkeypatch.chdir(tmp_path)
    members = mace_files(['C', 'Si'])
    first = load_committee(members).evaluate(structures(56, 0), members=[0])
    labelled = [
        frame.replace(
            energy=float(first.energy[0, i]),
            forces=1.2 * first.forces[0, 8 * i : 8 * i + 8],
            level_of_theory='first member',
            split=['train', 'train', 'validation', 'validation', 'test', 'train', 'train', 'train'][i % 8],
        )
        for i, frame in enumerate(structures(56, 0))
    ]
    config = {
        'committee': [str(path) for path in members],
        'dataset': [str(write_shard(labelled, tmp_path / 'dataset'))],
        'pool': [str(write_shard(structures(25, 1), tmp_path / 'pool'))],
        'tolerance': {'forces': 1e-6, 'energy': 1e-9},
        'gate': {'min_distance': 0.2, 'max_force': 1e9},
        'max_select': 6,
    }

    def run(**changes: object) -> dict:
        (tmp_path / 'config.json').write_text(json.dumps({**config, **changes}))
        assert main(['config.json']) == 0
        return json.loads((tmp_path / 'evaluation.json').read_text())

    return run


@pytest.mark.parametrize('name', RULES)
def test_selectors_in_feature_space(evaluate: Callable, name: str) -> None:
    found = evaluate(selector=name)
    picks = found['selection']
    assert 1 <= len(picks) <= 6 and len({pick['index'] for pick in picks}) == len(picks)
    assert all(f'by {name} (score' in pick['reason'] for pick in picks)
    with FrameStore([next(Path('selected').glob('*.h5'))]) as store:
        assert sorted(store.column('frame_id').tolist()) == sorted(pick['frame_id'] for pick in picks)
    assert not list(Path().glob('features-*'))
    assert evaluate(selector=name)['selection'] == picks


@pytest.mark.parametrize(
    'name', ['ntk', 'activations', 'activations_sum', 'ntk_sketch', 'last_layer', 'force_ntk', 'force_gram', 'soap']
)
def test_representations(evaluate: Callable, name: str) -> None:
    if name == 'soap':
        pytest.importorskip('featomic')
    assert len(evaluate(selector={'name': 'lcmd', 'weighted': True}, representation=name)['selection']) == 6


@pytest.mark.parametrize('name', CALIBRATIONS)
@pytest.mark.parametrize('by', ['all', 'origin'])
def test_calibrations(evaluate: Callable, name: str, by: str) -> None:
    found = evaluate(calibration={'name': name, 'by': by}, min_calibration_frames=5)
    for prop in ('forces', 'energy', 'stress'):
        assert found['calibration'][prop]['kind'] == name
        assert ('groups' in found['calibration'][prop]) == (by == 'origin')
    assert found['calibration']['forces']['n_frames'] == 14
    assert all('expected' in pick['reason'] for pick in found['selection'])


def test_extrapolation_grade_of_one_member(evaluate: Callable, mace_files: Callable) -> None:
    found = evaluate(
        committee=[str(mace_files(['C', 'Si'])[0])],
        signal={'name': 'extrapolation_grade', 'clusters': 'origin'},
        calibration='isotonic',
    )
    assert found['signal']['name'] == 'extrapolation_grade'
    found_sets = {(one['species'], one['cluster']) for one in found['signal']['sets']}
    assert found_sets == {(species, origin) for species in ('C', 'Si') for origin in ('md', 'rattle')}
    grades = np.load('scores.npz')['max_force_deviation']
    assert np.isfinite(grades).all() and grades.min() >= 0


def test_residual_process_selects_by_energy(evaluate: Callable) -> None:
    found = evaluate(signal='residual_process', tolerance={'forces': 1.0, 'energy': 1e-12}, selector='lcmd')
    assert found['selection'] and all('expected energy error' in pick['reason'] for pick in found['selection'])
    assert all(pick['expected_force_error'] is None for pick in found['selection'])


def test_all_that_passes_the_gate_and_quotas(evaluate: Callable) -> None:
    found = evaluate(
        tolerance={'forces': 1e9}, candidates='all', selector='k_center', quotas={'md': 2}, normalise=False
    )
    with FrameStore([next(Path('selected').glob('*.h5'))]) as store:
        assert sorted(store.column('origin').tolist()) == ['md'] * 2 + ['rattle'] * 4
    assert found['counts']['above_threshold'] == 0


def test_what_the_test_set_is_does_not_change_the_selection(evaluate: Callable, tmp_path: Path) -> None:
    """Else the errors on it would not be those of a set that nobody has seen."""
    before = evaluate(selector='lcmd', calibration='conformal', min_calibration_frames=5)['selection']
    with FrameStore([next((tmp_path / 'dataset').glob('*.h5'))]) as store:
        kept = [frame for frame in store if frame.split != 'test']
    path = write_shard(kept, tmp_path / 'without')
    after = evaluate(selector='lcmd', calibration='conformal', min_calibration_frames=5, dataset=[str(path)])
    assert after['selection'] == before


def test_representations_that_the_potentials_cannot_give(
    evaluate: Callable, lj_files: Callable, capsys: pytest.CaptureFixture
) -> None:
    Path('config2.json').write_text(
        json.dumps(
            {
                **json.loads(Path('config.json').read_text() if Path('config.json').exists() else '{}'),
                'committee': [str(path) for path in lj_files()],
                'pool': [str(next(Path('pool').glob('*.h5')))],
                'tolerance': {'forces': 0.1},
                'selector': 'lcmd',
            }
        )
    )
    assert main(['config2.json']) == 2
    assert "cannot give the representation 'activations'" in capsys.readouterr().err
