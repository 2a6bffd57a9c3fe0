"""Errors of members and of their mean, with labels and predictions that are not there or not finite."""

from __future__ import annotations

import math

import numpy as np
import pytest

from aiida_alpot.worker.potentials import Predictions
from aiida_alpot.worker.training.errors import Errors
from aiida_alpot.worker.training.outcome import Attempt, Outcome, curve_of, not_trained
from aiida_alpot.worker.training.plain import plain, read_json, write_json
from aiida_alpot.worker.training.trainer import Epoch, Result


def predictions(frames, energy, forces, stress) -> Predictions:
    offsets = np.cumsum([0, *map(len, frames)])
    return Predictions(np.array(energy), np.array(forces), np.array(stress), offsets)


def test_by_hand(make_frame) -> None:
    """Two members, one frame of two atoms and one of four: everything per atom and per component."""
    frames = [make_frame(1, 2, origin='md', energy=1.0), make_frame(2, 4, origin='', energy=3.0, stress=None)]
    forces = np.concatenate([frame.forces for frame in frames])
    stress = np.stack([frames[0].stress, np.zeros((3, 3))])
    errors = Errors(2)
    found = predictions(frames, [[1.2, 3.8], [0.8, 3.8]], [forces + 0.1, forces - 0.3], [stress + 0.01, stress])
    errors.add(
        'train', frames[:1], predictions(frames[:1], found.energy[:, :1], found.forces[:, :2], found.stress[:, :1])
    )
    errors.add(
        'train', frames[1:], predictions(frames[1:], found.energy[:, 1:], found.forces[:, 2:], found.stress[:, 1:])
    )
    first, mean = errors.report(0)['train'], errors.report(-1)['train']
    assert set(first) == {'all', 'md', 'unknown'}
    assert [first[origin]['n'] for origin in ('all', 'md', 'unknown')] == [2, 1, 1]
    assert first['all']['energy'] == pytest.approx({'rmse': math.sqrt((0.1**2 + 0.2**2) / 2), 'mae': 0.15})
    assert first['md']['forces'] == pytest.approx({'rmse': 0.1, 'mae': 0.1})
    assert first['all']['stress'] == pytest.approx({'rmse': 0.01, 'mae': 0.01})
    assert first['unknown']['stress'] is None
    assert mean['all']['energy'] == pytest.approx({'rmse': math.sqrt(0.2**2 / 2), 'mae': 0.1})
    assert mean['all']['forces'] == pytest.approx({'rmse': 0.1, 'mae': 0.1})
    assert errors.report(1)['train']['all']['forces'] == pytest.approx({'rmse': 0.3, 'mae': 0.3})


def test_what_is_not_finite(make_frame) -> None:
    """A member that predicts nan has no error that is a number; the others have."""
    frame = make_frame(1, 2, energy=1.0)
    forces = np.stack([frame.forces, np.full((2, 3), np.nan)])
    stress = np.stack([frame.stress, np.full((3, 3), np.nan)])[:, None]
    errors = Errors(2)
    errors.add('validation', [frame], predictions([frame], [[1.0], [np.nan]], forces, stress))
    good, bad = (plain(errors.report(row))['validation']['all'] for row in (0, 1))
    assert good['energy'] == good['forces'] == {'rmse': 0.0, 'mae': 0.0}
    assert bad['energy'] == bad['forces'] == {'rmse': None, 'mae': None}


@pytest.mark.parametrize(
    ('weights', 'missing'),
    [
        ({'energy': 1.0, 'forces': 10.0, 'stress': 1.0}, []),
        ({'energy': 1.0, 'forces': 10.0}, ['stress']),
        ({'energy': 0.0, 'forces': 10.0, 'stress': math.nan}, ['energy', 'stress']),
        ({}, ['energy', 'forces', 'stress']),
    ],
)
def test_properties_in_the_loss(tmp_path, weights: dict[str, float], missing: list[str]) -> None:
    result = Result(tmp_path / 'a.model', 3, 'mse', weights)
    assert not_trained(result, ('energy', 'forces', 'stress')) == missing
    assert not_trained(result, ('forces',)) == [name for name in missing if name == 'forces']


def test_an_outcome_is_read_as_it_was_written(tmp_path) -> None:
    curve = curve_of([Epoch(0, loss=1.0), Epoch(1, 2.0, 0.5, 0.1, 0.2, math.nan)])
    attempt = Attempt(0.1, 2, 'trained', 1.5, 1)
    written = Outcome(3, 5, 'trained', None, 7, [attempt], 1, curve, {'epoch': 1}, 'models/3.json')
    written.write(tmp_path)
    found = Outcome.read(tmp_path)
    assert found.entry() == written.entry() and found.attempts == [attempt] and found.result == {'epoch': 1}
    assert np.array_equal(found.curve, curve, equal_nan=True)
    (tmp_path / 'state.json').write_text('{"index": 3')
    assert Outcome.read(tmp_path) is None and Outcome.read(tmp_path / 'nowhere') is None


def test_plain_values(tmp_path) -> None:
    given = {'a': np.float32(0.5), 'b': [math.inf, np.nan], 'c': {1: tmp_path}, 'd': np.arange(2), 'e': (True, None)}
    assert plain(given) == {'a': 0.5, 'b': [None, None], 'c': {'1': str(tmp_path)}, 'd': [0, 1], 'e': [True, None]}
    write_json(tmp_path / 'sub/file.json', given)
    assert read_json(tmp_path / 'sub/file.json') == plain(given)
    assert read_json(tmp_path / 'none.json') is None
