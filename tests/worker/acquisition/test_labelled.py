"""A committee against labels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from aiida_alpot.worker.acquisition import labelled as module
from aiida_alpot.worker.acquisition.labelled import chunks, energy_pairs, evaluate_labelled, force_pairs, metrics
from aiida_alpot.worker.acquisition.signals import deviations
from aiida_alpot.worker.frames.frame import Frame


def test_metrics_against_a_naive_loop(dataset: list[Frame], make_committee: Callable) -> None:
    committee = make_committee()
    found = metrics(evaluate_labelled(dataset, committee, deviations))
    for split in ('train', 'validation', 'test'):
        frames = [f for f in dataset if f.split == split and f.origin != 'isolated_atom']
        error: dict[str, list] = {'energy': [], 'forces': [], 'stress': []}
        for frame in frames:
            p = committee.evaluate([frame])
            error['energy'].append((p.energy[:, 0] - frame.energy) / len(frame))
            error['forces'] += list((p.forces - frame.forces).reshape(2, -1).T)
            error['stress'] += [(p.stress[:, 0] - frame.stress)[:, i, j] for i in range(3) for j in range(i, 3)]
        for name, values in error.items():
            members = np.array(values)
            mean = members.mean(axis=1)
            assert found[split][name]['n'] == len(mean)
            assert found[split][name]['rmse'] == pytest.approx(np.sqrt(np.mean(mean**2)), rel=1e-10)
            assert found[split][name]['mae'] == pytest.approx(np.mean(np.abs(mean)), rel=1e-10)
            assert found[split][name]['rmse_members'] == pytest.approx(np.sqrt(np.mean(members**2, axis=0)), rel=1e-10)


def test_isolated_atoms_and_symmetric_frames_stay_out(dataset: list[Frame], make_committee: Callable) -> None:
    result = evaluate_labelled(dataset, make_committee(), deviations)
    assert result.isolated.sum() == 1 and result.symmetric.tolist()[-3:] == [True, False, True]
    d, e, frame = energy_pairs(result, 'validation')
    assert len(d) == 13 and np.allclose(e, 4 * d, rtol=1e-10) and len(set(frame)) == 13
    d, e, frame = force_pairs(result, 'validation')
    assert len(d) == 12 * 4 and np.allclose(e, 4 * d, rtol=1e-10) and len(set(frame)) == 12


def test_missing_labels(dataset: list[Frame], make_committee: Callable) -> None:
    energies = [f.replace(forces=None, stress=None) for f in dataset[:4]]
    forces = [f.replace(energy=None) for f in dataset[4:8]]
    nothing = [f.unlabelled() for f in dataset[8:12]]
    result = evaluate_labelled([*energies, *nothing, *forces], make_committee(), deviations)
    assert len(result.frame_id) == 8
    found = metrics(result)['train']
    assert (found['energy']['n'], found['forces']['n'], found['stress']['n']) == (2, 24, 12)
    assert metrics(result)['test']['energy'] == {
        'rmse': None,
        'mae': None,
        'rmse_members': None,
        'n': 0,
        'n_not_finite': 0,
    }
    assert np.isnan(result.forces_ref[:16]).all() and np.isfinite(result.forces_pred).all()
    assert len(force_pairs(result, 'validation')[0]) == 8


def test_predictions_that_are_not_finite_are_said(dataset: list[Frame], make_committee: Callable) -> None:
    bad = dataset[0].frame_id
    result = evaluate_labelled(dataset, make_committee(lambda frame: frame.frame_id == bad), deviations)
    found = metrics(result)
    assert found['train']['energy']['rmse'] is None and found['train']['energy']['n_not_finite'] == 1
    assert found['train']['forces']['n_not_finite'] == 3
    assert found['validation']['energy']['rmse'] > 0


def test_no_frames(make_committee: Callable) -> None:
    result = evaluate_labelled([], make_committee(), deviations)
    assert len(result.frame_id) == 0 and result.offsets.tolist() == [0]
    assert result.forces_ref.shape == (0, 3) and result.stress_ref.shape == (0, 3, 3)
    assert metrics(result)['train']['forces']['n'] == 0
    assert len(force_pairs(result, 'validation')[0]) == 0


def test_chunks_are_bounded_and_change_nothing(
    dataset: list[Frame], make_committee: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = evaluate_labelled(dataset, make_committee(), deviations)
    monkeypatch.setattr(module, 'CHUNK_FRAMES', 4)
    monkeypatch.setattr(module, 'CHUNK_ATOMS', 9)
    assert [len(chunk) for chunk in chunks(dataset[:8])] == [3, 3, 2]
    assert [f for chunk in chunks(dataset) for f in chunk] == dataset
    committee = make_committee()
    parts = evaluate_labelled(iter(dataset), committee, deviations)
    assert committee.largest <= 4
    for name, value in vars(whole).items():
        assert np.array_equal(value, getattr(parts, name), equal_nan=value.dtype.kind == 'f'), name
