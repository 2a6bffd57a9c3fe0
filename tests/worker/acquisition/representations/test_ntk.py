"""The NTK of one backward pass against a loop over structures, against finite differences and by hand."""

import numpy as np
import pytest

from aiida_alpot.worker.acquisition.representations.ntk import chosen_parameters
from aiida_alpot.worker.acquisition.representations.sketch import Sketch, standard_error
from aiida_alpot.worker.frames.frame import Frame


def graph_of(committee, frame):
    return committee._graph([committee._neighbourhood(frame)])[0]


def energy(committee, model, frame):
    import torch

    data = {**graph_of(committee, frame), 'head': torch.zeros(1, dtype=torch.int64)}
    return model(data, compute_force=False)['energy'].sum()


def gradients_one_by_one(committee, model, frames, parameters):
    """Each structure alone: forward, backward by the weights themselves."""
    import torch

    for parameter in parameters:
        parameter.requires_grad_(True)
    rows = []
    for frame in frames:
        pieces = torch.autograd.grad(energy(committee, model, frame), parameters, allow_unused=True)
        pieces = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, pieces, strict=True)]
        rows.append(np.concatenate([piece.numpy().ravel() for piece in pieces]))
    for parameter in parameters:
        parameter.requires_grad_(False)
    return np.array(rows)


@pytest.mark.parametrize('kind', ['MACE', 'ScaleShiftMACE'])
@pytest.mark.parametrize(('dtype', 'tolerance'), [('float64', 1e-12), ('float32', 1e-6)])
def test_equals_one_structure_after_the_other(models, frames, kind, dtype, tolerance):
    from aiida_alpot.worker.potentials.mace import MACECommittee

    committee = MACECommittee([models[kind]], dtype=dtype)
    rows = committee.evaluate(frames, features=['ntk']).features['ntk']
    expected = gradients_one_by_one(committee, models[kind], frames, [models[kind].node_embedding.linear.weight])
    assert rows.shape == (6, 4 * 4) and rows.dtype == np.dtype(dtype)
    scale = np.abs(expected).max()
    assert scale > 0.01
    np.testing.assert_allclose(rows, expected, atol=tolerance * max(scale, 1.0))
    models[kind].double()


def test_follows_finite_differences_of_a_weight(committee, models, frames):
    import torch

    model = models['ScaleShiftMACE']
    rows = committee.evaluate(frames[:2], features=['ntk']).features['ntk']
    weight, step = model.node_embedding.linear.weight, 1e-5
    for column in (0, 5, 11):
        energies = []
        for sign in (1.0, -1.0):
            with torch.no_grad():
                weight[column] += sign * step
            energies.append(committee.evaluate(frames[:2]).energy[0])
            with torch.no_grad():
                weight[column] -= sign * step
        np.testing.assert_allclose(rows[:, column], (energies[0] - energies[1]) / (2 * step), atol=1e-8)


def test_includes_the_scale_and_not_the_isolated_atoms(committee, models, frames):
    import torch

    model = models['ScaleShiftMACE']
    rows = committee.evaluate(frames, features=['ntk']).features['ntk']
    with torch.no_grad():
        model.scale_shift.scale *= 3.0
        model.atomic_energies_fn.atomic_energies += 7.0
    scaled = committee.evaluate(frames, features=['ntk']).features['ntk']
    with torch.no_grad():
        model.scale_shift.scale /= 3.0
        model.atomic_energies_fn.atomic_energies -= 7.0
    np.testing.assert_allclose(scaled, 3.0 * rows, atol=1e-12)


def test_two_copies_far_apart_have_twice_the_row(committee, frames):
    """The gradient is a sum over atoms: by hand, a structure and its copy out of reach give 1 + 1."""
    water = frames[2]
    pair = Frame(
        np.tile(water.numbers, 2),
        np.concatenate([water.positions, water.positions + 50.0]),
        np.zeros((3, 3)),
        water.pbc,
    )
    one, two = committee.evaluate([water, pair], features=['ntk']).features['ntk']
    np.testing.assert_allclose(two, 2.0 * one, atol=1e-12)


def test_only_rows_of_elements_that_are_present(committee, frames):
    rows = committee.evaluate(frames, features=['ntk']).features['ntk'].reshape(len(frames), 4, 4)
    present = np.array([[number in frame.numbers for number in (1, 6, 8, 14)] for frame in frames])
    assert (np.abs(rows).max(axis=2) > 0).tolist() == present.tolist()


def test_elements_choose_and_order_the_rows(committee, frames):
    molecules = frames[:3]
    rows = committee.evaluate(molecules, features=['ntk']).features['ntk'].reshape(3, 4, 4)
    chosen = committee.evaluate(molecules, features={'ntk': {'elements': ['O', 'H', 'C']}}).features['ntk']
    np.testing.assert_array_equal(chosen.reshape(3, 3, 4), rows[:, [2, 0, 1]])


@pytest.mark.parametrize(
    ('elements', 'message'),
    [(['H', 'C', 'O'], 'frames contain Si, which `elements`'), (['H', 'W'], 'names W, which the model does not know')],
)
def test_elements_that_cannot_be(committee, frames, elements, message):
    with pytest.raises(ValueError, match=message):
        committee.evaluate(frames, features={'ntk': {'elements': elements}})


@pytest.mark.parametrize('name', ['ntk', 'force_ntk', 'force_gram', 'activations', 'last_layer'])
def test_invariant_under_rotation_and_permutation(committee, frames, turned, name):
    rows = committee.evaluate(frames, features=[name]).features[name]
    others = committee.evaluate([turned(frame) for frame in frames], features=[name]).features[name]
    np.testing.assert_allclose(others, rows, atol=1e-10 * max(1.0, np.abs(rows).max()))
    assert np.ptp(rows, axis=0).max() > 1e-3


def test_an_embedding_with_another_factor_is_refused(committee, models, frames):
    linear = models['ScaleShiftMACE'].node_embedding.linear
    handle = linear.register_forward_hook(lambda module, inputs, output: 2.0 * output)
    with pytest.raises(ValueError, match='is no table of weights'):
        committee.evaluate(frames, features=['ntk'])
    handle.remove()


class TestWiderChoice:
    def test_equals_the_projected_gradient(self, committee, models, frames):
        model = models['ScaleShiftMACE']
        names = ['products', 'readouts']
        options = {'parameters': names, 'size': 64, 'seed': 3, 'kind': 'gaussian'}
        rows = committee.evaluate(frames, features={'ntk_sketch': options}).features['ntk_sketch']
        chosen = [p for n, p in model.named_parameters() if n.split('.')[0] in names and p.numel()]
        full = gradients_one_by_one(committee, model, frames, chosen)
        np.testing.assert_allclose(rows, Sketch(full.shape[1], 64, 3, 'gaussian').project(full), atol=1e-10)
        assert not any(parameter.requires_grad for parameter in model.parameters())

    def test_of_the_embedding_alone_is_the_ntk(self, committee, frames):
        options = {'parameters': ['node_embedding'], 'size': 8 * 512}
        found = committee.evaluate(frames, features={'ntk': {}, 'ntk_sketch': options}).features
        cosines = [rows @ rows.T / np.outer(*2 * [np.linalg.norm(rows, axis=1)]) for rows in found.values()]
        assert np.abs(cosines[0] - cosines[1]).max() < 4 * standard_error(8 * 512)

    def test_a_name_that_no_parameter_has(self, committee, frames):
        with pytest.raises(ValueError, match="begins with 'product': they begin with interactions, node_embedding"):
            committee.evaluate(frames, features={'ntk_sketch': {'parameters': ['product']}})

    def test_names_are_matched_by_whole_words(self, models):
        model = models['MACE']
        assert chosen_parameters(model, ['interactions.1']) == [
            p for n, p in model.named_parameters() if n.startswith('interactions.1.') and p.numel()
        ]
