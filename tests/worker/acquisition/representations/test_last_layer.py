"""Last-layer features: the energy is a linear function of them."""

from types import SimpleNamespace

import numpy as np
import pytest

from aiida_alpot.worker.acquisition.representations.last_layer import last_linear


def test_energy_is_linear_in_them(committee, frames):
    rng = np.random.default_rng(0)
    many = [
        frame.replace(positions=frame.positions + 0.05 * rng.normal(size=(len(frame), 3)))
        for frame in frames[:5]
        for _ in range(6)
    ]
    predictions = committee.evaluate(many, features=['last_layer', 'last_layer_per_atom'])
    rows = predictions.features['last_layer']
    assert rows.shape == (30, 4 + 6)
    references = [sum(-3.0 * ([1, 6, 8, 14].index(n) + 1) for n in frame.numbers) for frame in many]
    rest = predictions.energy[0] - np.array(references)
    # The shift of the energies is one more constant an atom.
    design = np.column_stack([rows, [len(frame) for frame in many]])
    weights, *_ = np.linalg.lstsq(design, rest, rcond=None)
    np.testing.assert_allclose(design @ weights, rest, atol=1e-9)
    sums = np.add.reduceat(predictions.features['last_layer_per_atom'], predictions.offsets[:-1])
    np.testing.assert_allclose(sums, rows, atol=1e-12)


def test_a_readout_of_another_kind():
    with pytest.raises(ValueError, match='readout of the model is a SimpleNamespace'):
        last_linear(SimpleNamespace(weights=1))
