"""Derivatives of the forces by weights."""

import numpy as np
import pytest
from ase.build import bulk

from aiida_alpot.worker.acquisition.representations.force_features import SOFTENING
from aiida_alpot.worker.frames.frame import Frame


def norms(predictions):
    squares = (predictions.forces[0] ** 2).sum(axis=1) + SOFTENING**2
    return np.sqrt(np.add.reduceat(squares, predictions.offsets[:-1]))


def test_follows_finite_differences_of_the_norm_of_the_forces(committee, models, frames):
    import torch

    rows = committee.evaluate(frames, features=['force_ntk']).features['force_ntk']
    weight, step = models['ScaleShiftMACE'].node_embedding.linear.weight, 1e-5
    for column in (1, 6, 15):
        found = []
        for sign in (1.0, -1.0):
            with torch.no_grad():
                weight[column] += sign * step
            found.append(norms(committee.evaluate(frames)))
            with torch.no_grad():
                weight[column] -= sign * step
        np.testing.assert_allclose(rows[:, column], (found[0] - found[1]) / (2 * step), atol=1e-7)
    assert np.abs(rows).max() > 1e-2


def test_forces_and_other_features_of_the_pass_stay_the_same(committee, frames):
    alone = committee.evaluate(frames, features=['ntk'])
    both = committee.evaluate(frames, features=['force_ntk', 'ntk'])
    np.testing.assert_allclose(both.forces, alone.forces, atol=1e-12)
    np.testing.assert_allclose(both.stress, alone.stress, atol=1e-12)
    np.testing.assert_allclose(both.features['ntk'], alone.features['ntk'], atol=1e-12)
    assert list(both.features) == ['force_ntk', 'ntk']


def test_vanishes_where_forces_vanish_by_symmetry(committee):
    perfect = Frame.from_atoms(bulk('Si'))
    rows = committee.evaluate([perfect, perfect.replace(numbers=[14, 6])], features=['force_ntk']).features['force_ntk']
    assert np.abs(rows[0]).max() < 1e-6


def test_an_isolated_atom_has_none(committee, frames):
    assert not committee.evaluate(frames[-1:], features=['force_ntk']).features['force_ntk'].any()


@pytest.mark.parametrize('dtype', ['float32'])
def test_single_precision(models, frames, dtype):
    from aiida_alpot.worker.potentials.mace import MACECommittee

    single = MACECommittee([models['MACE']], dtype=dtype).evaluate(frames, features=['force_ntk']).features['force_ntk']
    double = MACECommittee([models['MACE']]).evaluate(frames, features=['force_ntk']).features['force_ntk']
    np.testing.assert_allclose(single, double, atol=1e-3 * np.abs(double).max())


class TestGram:
    def test_follows_finite_differences_of_the_features(self, committee, frames):
        """The Jacobian of the last-layer features by moving atoms, contracted and projected."""
        step, size = 1e-4, 5
        chosen = [frames[2], frames[4]]
        rows = committee.evaluate(chosen, features={'force_gram': {'size': size, 'seed': 2}}).features['force_gram']
        weights = np.random.default_rng(2).normal(size=(size, 10)) / np.sqrt(size)
        for row, frame in zip(rows, chosen, strict=True):
            moved = []
            for index in range(3 * len(frame)):
                shift = np.zeros(3 * len(frame))
                shift[index] = step
                for sign in (1.0, -1.0):
                    moved.append(frame.replace(positions=frame.positions + sign * shift.reshape(-1, 3)))
            found = committee.evaluate(moved, features=['last_layer']).features['last_layer']
            jacobian = (found[::2] - found[1::2]) / (2 * step)
            fields = jacobian @ weights.T
            np.testing.assert_allclose(row, (fields.T @ fields)[np.triu_indices(size)], rtol=1e-5, atol=1e-7)

    def test_a_structure_twice_has_twice_the_row_and_seeds_differ(self, committee, frames):
        water = frames[2]
        pair = Frame(
            np.tile(water.numbers, 2),
            np.concatenate([water.positions, water.positions + 50.0]),
            np.zeros((3, 3)),
            water.pbc,
        )
        one, two = committee.evaluate([water, pair], features=['force_gram']).features['force_gram']
        assert one.shape == (16 * 17 // 2,)
        np.testing.assert_allclose(two, 2.0 * one, atol=1e-12)
        other = committee.evaluate([water], features={'force_gram': {'seed': 1}}).features['force_gram']
        assert not np.allclose(one, other[0])

    def test_an_isolated_atom_has_none(self, committee, frames):
        assert not committee.evaluate(frames[-1:], features=['force_gram']).features['force_gram'].any()
