"""Batched MACE against MACE's own ASE calculator."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from aiida_alpot.worker.frames.frame import Frame
from aiida_alpot.worker.potentials import load_committee


def distorted(atoms, seed):
    rng = np.random.default_rng(seed)
    atoms = atoms.copy()
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.05 * rng.normal(size=(3, 3))), scale_atoms=True)
    atoms.positions += 0.1 * rng.normal(size=atoms.positions.shape)
    return atoms


def structures():
    shuffled = distorted(bulk('Si', cubic=True), 1)
    shuffled.numbers = [42, 14, 6, 14, 42, 6, 6, 42]
    left_handed = distorted(bulk('Si'), 2)
    left_handed.set_cell(left_handed.cell.array[[1, 0, 2]])
    slab = distorted(bulk('Si', cubic=True), 3)
    slab.pbc = (True, True, False)
    slab.positions += [0.0, 0.0, 30.0]
    molecule = Atoms('CSiMo', [[0.0, 0.0, 0.0], [1.6, 0.2, 0.0], [0.3, 1.9, 0.4]])
    return {
        'cubic': bulk('Si', cubic=True),
        'shuffled': shuffled,
        'smaller than the cutoff': distorted(bulk('Si'), 4),
        'left-handed': left_handed,
        'slab': slab,
        'molecule': molecule,
        'isolated atom': Atoms('C'),
    }


@pytest.fixture(scope='module')
def files(mace_files):
    return mace_files(['C', 'Si', 'Mo'], n_members=2)


@pytest.fixture(scope='module')
def committee(files):
    return load_committee(files, batch_size=3)


def test_agrees_with_the_ase_calculator(files, committee):
    from mace.calculators import MACECalculator

    named = structures()
    frames = [Frame.from_atoms(atoms) for atoms in named.values()]
    predictions = committee.evaluate(frames)
    assert predictions.energy.shape == (2, len(frames)) and predictions.forces.shape == (2, predictions.offsets[-1], 3)
    for member, path in enumerate(files):
        calculator = MACECalculator(model_paths=str(path), device='cpu', default_dtype='float64')
        for index, (name, atoms) in enumerate(named.items()):
            atoms.calc = calculator
            here = slice(*predictions.offsets[index : index + 2])
            assert predictions.energy[member, index] == pytest.approx(atoms.get_potential_energy(), abs=1e-10), name
            np.testing.assert_allclose(predictions.forces[member, here], atoms.get_forces(), atol=1e-10, err_msg=name)
            if atoms.pbc.all():
                np.testing.assert_allclose(predictions.stress[member, index], atoms.get_stress(voigt=False), atol=1e-12)
            assert predictions.atomic_energies[member, here].sum() == pytest.approx(
                predictions.energy[member, index], abs=1e-10
            )
    assert np.abs(predictions.forces).max() > 0.1  # the random models do something
    assert np.ptp(predictions.energy, axis=0)[0] > 1e-3  # and differ


def test_stress_of_a_slab_refers_to_its_own_cell(committee):
    atoms = structures()['slab']
    step, energies = 1e-5, []
    for sign in (1.0, -1.0):
        strained = atoms.copy()
        strained.set_cell(atoms.cell.array @ np.diag([1.0 + sign * step, 1.0, 1.0]), scale_atoms=False)
        strained.positions[:, 0] *= 1.0 + sign * step
        energies.append(committee.evaluate([Frame.from_atoms(strained)]).energy[:, 0])
    stress = committee.evaluate([Frame.from_atoms(atoms)]).stress[:, 0, 0, 0]
    np.testing.assert_allclose(stress, (energies[0] - energies[1]) / (2 * step) / atoms.get_volume(), atol=1e-8)


def test_no_stress_without_periodicity(committee):
    predictions = committee.evaluate([Frame.from_atoms(structures()['molecule'])])
    assert np.isnan(predictions.stress).all() and np.isfinite(predictions.forces).all()


def test_only_isolated_atoms(committee):
    predictions = committee.evaluate([Frame.from_atoms(Atoms(symbol)) for symbol in ('C', 'Mo')])
    assert predictions.energy.shape == (2, 2) and not predictions.forces.any()


def test_result_does_not_depend_on_the_batches(files, committee):
    frames = [Frame.from_atoms(atoms) for atoms in structures().values()]
    one_by_one = load_committee(files, batch_size=1).evaluate(frames)
    together = committee.evaluate(frames)
    np.testing.assert_allclose(one_by_one.energy, together.energy, atol=1e-11)
    np.testing.assert_allclose(one_by_one.forces, together.forces, atol=1e-11)
    np.testing.assert_array_equal(one_by_one.offsets, together.offsets)


def test_single_precision_is_close_and_no_global_state_changes(files, committee):
    import torch

    before = torch.get_default_dtype()
    frames = [Frame.from_atoms(atoms) for atoms in structures().values()]
    single = load_committee(files, dtype='float32').evaluate(frames)
    np.testing.assert_allclose(single.forces, committee.evaluate(frames).forces, atol=1e-3)
    assert torch.get_default_dtype() is before


def test_members_must_go_together(mace_files, files):
    with pytest.raises(ValueError, match='different elements'):
        load_committee([files[0], mace_files(['Si'], n_members=1)[0]])


def test_members_must_have_one_cutoff(files, tmp_path):
    import torch

    model = torch.load(files[0], weights_only=False)
    model.r_max.fill_(4.5)
    torch.save(model, tmp_path / 'longer.model')
    with pytest.raises(ValueError, match='different cutoffs'):
        load_committee([files[0], tmp_path / 'longer.model'])


def test_what_is_no_mace_model_is_refused(tmp_path):
    import torch

    torch.save(torch.nn.Linear(1, 1), tmp_path / 'other.model')
    with pytest.raises(ValueError, match='is a Linear, expected one of MACE'):
        load_committee([tmp_path / 'other.model'])


def test_elements_and_cutoff(committee):
    assert (committee.elements, committee.cutoff, committee.n_members) == (('C', 'Si', 'Mo'), 4.0, 2)


def frames_of_many_sizes(n=20):
    rng = np.random.default_rng(8)
    made = []
    for index in range(n):
        atoms = bulk('Si').repeat((1 + index % 3, 1, 1))
        atoms.positions += 0.1 * rng.normal(size=atoms.positions.shape)
        made.append(Frame.from_atoms(atoms))
    return made


def assert_same(found, expected):
    np.testing.assert_allclose(found.energy, expected.energy, atol=1e-11)
    np.testing.assert_allclose(found.forces, expected.forces, atol=1e-11)
    np.testing.assert_allclose(found.stress, expected.stress, atol=1e-13)
    np.testing.assert_array_equal(found.offsets, expected.offsets)
    for name, rows in expected.features.items():
        np.testing.assert_allclose(found.features[name], rows, atol=1e-11)


FEATURES = ('ntk', 'activations', 'activations_per_atom')


def test_batches_are_packed_to_the_memory(files, monkeypatch):
    from aiida_alpot.worker.potentials.mace import MACECommittee

    sizes = []
    inside = MACECommittee._evaluate_batch

    def counting(self, batch, members, features):
        sizes.append(sum(self._cost.of(structure) for structure in batch))
        return inside(self, batch, members, features)

    monkeypatch.setattr(MACECommittee, '_evaluate_batch', counting)
    frames = frames_of_many_sizes()
    expected = load_committee(files, batch_size=1).evaluate(frames, features=FEATURES)
    largest = max(sizes)
    sizes.clear()
    found = load_committee(files, memory=4 * largest).evaluate(frames, features=FEATURES)
    assert max(sizes) <= 4 * largest and len(sizes) == 4
    assert_same(found, expected)
    sizes.clear()
    load_committee(files).evaluate(frames)
    assert len(sizes) == 1  # all of it fits


def test_neighbours_are_found_once_for_all_members(committee, monkeypatch):
    from aiida_alpot.worker.potentials import neighbours

    calls = []
    inside = neighbours.neighbour_edges
    monkeypatch.setattr(neighbours, 'neighbour_edges', lambda *args: calls.append(1) or inside(*args))
    frames = frames_of_many_sizes(5)
    committee.evaluate(frames, features=FEATURES)
    assert len(calls) == 5


def test_halved_where_the_memory_runs_out(files, monkeypatch):
    import torch

    from aiida_alpot.worker.potentials import mace

    inside, sizes = mace.run, []

    def small(model, graph, head, needs=frozenset()):
        sizes.append(len(graph['positions']))
        if sizes[-1] > 12:
            raise torch.OutOfMemoryError('CUDA out of memory')
        return inside(model, graph, head, needs)

    frames = frames_of_many_sizes()
    expected = load_committee(files, batch_size=1).evaluate(frames, features=FEATURES)
    monkeypatch.setattr(mace, 'run', small)
    committee = load_committee(files)
    assert_same(committee.evaluate(frames, features=FEATURES), expected)
    assert sizes[0] == 78 and max(sizes[6:]) <= 12 < min(sizes[:3])
    large = Frame.from_atoms(bulk('Si', cubic=True).repeat((2, 1, 1)))
    with pytest.raises(MemoryError, match=r'a frame of 16 atoms .* does not fit into the memory even alone'):
        committee.evaluate([*frames[:2], large])


def test_nan_passes_through_and_stays_in_its_frame(files):
    """Two atoms at one place: whatever comes of it, the other frames of the batch do not see it."""
    frames = frames_of_many_sizes(4)
    meeting = frames[2].positions.copy()
    meeting[1] = meeting[0]
    frames[2] = frames[2].replace(positions=meeting)
    committee = load_committee(files)
    found = committee.evaluate(frames, features=FEATURES)
    rest = [0, 1, 3]
    expected = committee.evaluate([frames[i] for i in rest], features=FEATURES)
    np.testing.assert_allclose(found.energy[:, rest], expected.energy, atol=1e-11)
    np.testing.assert_allclose(found.features['ntk'][rest], expected.features['ntk'], atol=1e-11)


def test_a_member_that_predicts_nan(files, tmp_path):
    import torch

    model = torch.load(files[0], weights_only=False)
    model.scale_shift.scale *= float('nan')
    torch.save(model, tmp_path / 'nan.model')
    found = load_committee([tmp_path / 'nan.model', files[1]]).evaluate(frames_of_many_sizes(3), features=FEATURES)
    assert np.isnan(found.energy[0]).all() and np.isnan(found.forces[0]).all()
    assert np.isfinite(found.energy[1]).all() and np.isfinite(found.forces[1]).all()
    assert np.isnan(found.features['ntk'][:, 8:16]).all() and np.isfinite(found.features['activations']).all()


def test_features_are_those_of_the_first_member_asked_for(committee):
    frames = frames_of_many_sizes(3)
    both = committee.evaluate(frames, features=['ntk']).features['ntk']
    second = committee.evaluate(frames, members=[1, 0], features=['ntk']).features['ntk']
    np.testing.assert_array_equal(second, committee.evaluate(frames, [1], features=['ntk']).features['ntk'])
    assert not np.allclose(both, second)
    assert committee.evaluate([], features=['ntk']).features == {}


def test_models_of_former_versions_have_no_heads(files, tmp_path):
    """As the pretrained models that most use."""
    import torch

    model = torch.load(files[0], weights_only=False)
    del model.heads
    torch.save(model, tmp_path / 'old.model')
    frames = frames_of_many_sizes(2)
    found = load_committee([tmp_path / 'old.model']).evaluate(frames)
    np.testing.assert_array_equal(found.energy, load_committee(files[:1]).evaluate(frames).energy)


def test_memory_that_cannot_be(files):
    with pytest.raises(ValueError, match=r'`memory` is -1\.0'):
        load_committee(files, memory=-1.0)


def test_the_cost_of_a_model_grows_with_its_channels(files):
    """By hand: 8 channels, L up to 2 on the edges (9 components), products of two: 8 x 9 numbers an atom and layer."""
    import torch

    from aiida_alpot.worker.potentials.mace_model import OVERHEAD, _per_atom, _per_edge, memory_cost

    model = torch.load(files[0], weights_only=False)
    assert _per_atom(model) == 2 * 8 * 9
    # Features of the sender (8), messages (8 x 9) and weights (8 for each of L = 0, 1, 2), in both layers.
    assert _per_edge(model) == 2 * (8 + 72 + 24)
    assert memory_cost([model], 8).per_edge == OVERHEAD * 8 * 1024
