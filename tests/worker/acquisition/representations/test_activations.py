"""Invariant channels of the hidden states."""

import numpy as np

from aiida_alpot.worker.acquisition.representations.activations import invariant_channels


def test_layout(models):
    """4x0e+4x1o, then 4x0e: four scalars, twelve components of vectors left out, four scalars."""
    assert [columns.tolist() for columns in invariant_channels(models['MACE'])] == [[0, 1, 2, 3], [16, 17, 18, 19]]


def test_parity_and_order_of_irreps():
    """Odd scalars change their sign in a mirror: they are left out, wherever they stand."""
    from types import SimpleNamespace

    def layer(irreps):
        return SimpleNamespace(linear=SimpleNamespace(irreps_out=irreps))

    model = SimpleNamespace(products=[layer('2x1o+1x0o+3x0e'), layer('1x0e+1x2e')])
    assert [columns.tolist() for columns in invariant_channels(model)] == [[7, 8, 9], [10]]


def test_agrees_with_the_descriptors_of_mace(models, committee, frames, tmp_path):
    import torch
    from mace.calculators import MACECalculator

    torch.save(models['ScaleShiftMACE'], tmp_path / 'member.model')
    calculator = MACECalculator(model_paths=str(tmp_path / 'member.model'), device='cpu', default_dtype='float64')
    predictions = committee.evaluate(frames, features=['activations_per_atom'])
    expected = np.concatenate([calculator.get_descriptors(frame.to_atoms()) for frame in frames])
    np.testing.assert_allclose(predictions.features['activations_per_atom'], expected, atol=1e-10)


def test_mean_sum_and_atoms(committee, frames):
    predictions = committee.evaluate(frames, features=['activations', 'activations_sum', 'activations_per_atom'])
    atoms = predictions.features['activations_per_atom']
    parts = np.split(atoms, predictions.offsets[1:-1])
    assert atoms.shape == (sum(len(frame) for frame in frames), 8)
    np.testing.assert_allclose(predictions.features['activations_sum'], [p.sum(axis=0) for p in parts], atol=1e-12)
    np.testing.assert_allclose(predictions.features['activations'], [p.mean(axis=0) for p in parts], atol=1e-12)
