"""Files of active sets."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from aiida_alpot.worker.acquisition.extrapolation import (
    ActiveSets,
    choose_active_sets,
    load_active_sets,
    save_active_sets,
)

MODEL = 'ab' * 32


@pytest.fixture
def sets() -> ActiveSets:
    rng = np.random.default_rng(0)
    features = (rng.standard_normal((300, 3)) @ rng.standard_normal((3, 6))).astype(np.float32)
    clusters = np.where(rng.random(300) < 0.5, 'bulk', 'surface')
    numbers = rng.choice([1, 8], 300)
    return choose_active_sets(
        features, numbers, clusters=clusters, model_hash=MODEL, representation='activations_per_atom'
    )


def test_what_is_loaded_is_what_was_saved(sets: ActiveSets, tmp_path: Path):
    save_active_sets(sets, tmp_path / 'sets.npz')
    loaded = load_active_sets(tmp_path / 'sets.npz', model_hash=MODEL, representation='activations_per_atom')
    assert loaded.as_dict() == sets.as_dict()
    rng = np.random.default_rng(1)
    new, numbers = rng.standard_normal((40, 6)), rng.choice([1, 8, 9], 40)
    assert loaded.grade_atoms(new, numbers).grade.tobytes() == sets.grade_atoms(new, numbers).grade.tobytes()
    for one, other in zip(loaded.sets, sets.sets, strict=True):
        np.testing.assert_array_equal(one.rows, other.rows)
        np.testing.assert_array_equal(one.index, other.index)


def test_the_same_sets_are_the_same_bytes(sets: ActiveSets, tmp_path: Path):
    save_active_sets(sets, tmp_path / 'one.npz')
    save_active_sets(sets, tmp_path / 'two')  # no suffix is added
    assert (tmp_path / 'one.npz').read_bytes() == (tmp_path / 'two').read_bytes()


def test_another_model_is_refused(sets: ActiveSets, tmp_path: Path):
    save_active_sets(sets, tmp_path / 'sets.npz')
    with pytest.raises(
        ValueError, match=r"of the model 'abababababab', but the features .* of the model 'cdcdcdcdcdcd'"
    ):
        load_active_sets(tmp_path / 'sets.npz', model_hash='cd' * 32, representation='activations_per_atom')
    with pytest.raises(ValueError, match=r"'activations_per_atom'.*'soap_per_atom'"):
        load_active_sets(tmp_path / 'sets.npz', model_hash=MODEL, representation='soap_per_atom')


@pytest.mark.parametrize('content', [b'', b'text', json.dumps({'format': 'x'}).encode()])
def test_a_file_of_another_kind(content: bytes, tmp_path: Path):
    (tmp_path / 'file').write_bytes(content)
    with pytest.raises(ValueError, match='is no file of active sets'):
        load_active_sets(tmp_path / 'file', model_hash=MODEL, representation='x')


def test_arrays_of_others_and_later_versions(tmp_path: Path):
    np.savez(tmp_path / 'a.npz', x=np.ones(2))
    with pytest.raises(ValueError, match='is no file of active sets'):
        load_active_sets(tmp_path / 'a.npz', model_hash=MODEL, representation='x')
    np.save(tmp_path / 'a.npy', np.ones(2))
    with pytest.raises(ValueError, match='is no file of active sets'):
        load_active_sets(tmp_path / 'a.npy', model_hash=MODEL, representation='x')
    header = json.dumps({'format': 'aiida-alpot active sets', 'version': 2})
    np.savez(tmp_path / 'b.npz', header=np.array(header))
    with pytest.raises(ValueError, match='has the version 2, expected 1'):
        load_active_sets(tmp_path / 'b.npz', model_hash=MODEL, representation='x')
    with pytest.raises(FileNotFoundError):
        load_active_sets(tmp_path / 'none.npz', model_hash=MODEL, representation='x')
