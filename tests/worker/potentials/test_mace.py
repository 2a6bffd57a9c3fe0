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
