"""The registry of representations."""

import subprocess
import sys

import numpy as np
import pytest

from aiida_alpot.worker.acquisition.representations import REPRESENTATIONS, Representation, resolve
from aiida_alpot.worker.potentials import load_committee


def test_names_and_options():
    asked = resolve({'ntk': {'elements': ['H']}, 'activations': {}})
    assert [(feature.name, feature.options) for feature in asked] == [('ntk', {'elements': ['H']}), ('activations', {})]
    assert [feature.name for feature in resolve(['soap', 'ntk'])] == ['soap', 'ntk'] and resolve(()) == ()
    assert [feature.name for feature in resolve('ntk')] == ['ntk']


@pytest.mark.parametrize(
    ('features', 'message'),
    [
        (['ntk', 'acsf'], "names 'acsf', expected names of ntk"),
        (['ntk', 'ntk'], 'names one twice'),
        ({'ntk': {'element': ['H']}}, "'ntk' has no option element: it has elements"),
        ({'activations': {'size': 3}}, 'no option size: it has none'),
        ({'morgan': {'frames': []}}, 'no option frames: it has radius, n_bits'),
    ],
)
def test_what_cannot_be(features, message):
    with pytest.raises(ValueError, match=message):
        resolve(features)


def test_every_entry_is_described():
    for name, representation in REPRESENTATIONS.items():
        assert representation.summary.endswith('.') and 'shape' in representation.summary, name
        assert (representation.of_recording is None) != (representation.of_frames is None)
    with pytest.raises(ValueError, match='needs a function'):
        _ = Representation().function


def test_calculators_give_none_of_a_model(lj_files):
    with pytest.raises(ValueError, match='ASE calculators cannot give the features ntk: they give none'):
        load_committee(lj_files()).evaluate([], features=['ntk'])


def test_all_in_one_pass(committee, frames):
    import torch

    names = [name for name, kind in REPRESENTATIONS.items() if kind.of_recording is not None]
    predictions = committee.evaluate(frames, features={n: {'size': 16} if n == 'ntk_sketch' else {} for n in names})
    assert list(predictions.features) == names
    for name, rows in predictions.features.items():
        assert len(rows) == (predictions.offsets[-1] if name.endswith('_per_atom') else len(frames))
        assert rows.dtype == np.float64 and np.isfinite(rows).all()
    assert torch.is_grad_enabled()


def test_imports_nothing_heavy():
    code = (
        'import sys, aiida_alpot.worker.acquisition.representations\n'
        'heavy = {"torch", "mace", "e3nn", "dscribe", "rdkit", "sklearn", "aiida"} & set(sys.modules)\n'
        'assert not heavy, heavy'
    )
    subprocess.run([sys.executable, '-c', code], check=True)
