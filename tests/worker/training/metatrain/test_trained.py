"""Committees that metatrain has trained: what is in their loss, and what they predict."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms

from aiida_alpot.worker.frames import Frame
from aiida_alpot.worker.potentials import load_committee
from aiida_alpot.worker.training.metatrain import MetatrainTrainer
from aiida_alpot.worker.training.settings import Weights

pytest.importorskip('metatrain', reason='metatrain is not installed: pip install aiida-alpot[metatrain]')

COMMITTEES = ['pet', 'soap_bpnn']
# The curve is printed with five digits.
DIGITS = 2e-4


@pytest.fixture(params=COMMITTEES)
def trained(request):
    return request.getfixturevalue(request.param)


def rmse(values):
    return float(np.sqrt(np.mean(np.square(values))))


def atoms_of(frame: Frame) -> Atoms:
    return Atoms(frame.numbers, frame.positions, cell=frame.cell, pbc=frame.pbc)


def test_every_property_is_in_the_loss(trained):
    """Peer defect 12: only the energies were."""
    for result in trained.results:
        assert result.loss_name == 'mse'
        assert result.loss_weights == {'energy': 1.0, 'forces': 10.0, 'stress': 2.0}
        assert result.version.startswith('20')
    hypers = trained.results[0].hyper_parameters
    assert hypers['training']['atomic_baseline'] == {'energy': {29: 0.4, 79: -0.3}}
    assert hypers['atomic_types'] == [29, 79]


def test_the_curve_agrees_with_what_the_chosen_epoch_predicts(trained):
    """The units and the sign of every property: metatrain measures in meV, and virials in place of stresses."""
    frames = trained.job.validation
    predictions = trained.committee.evaluate(frames)
    sizes = np.array([len(frame) for frame in frames])
    energies = np.array([frame.energy for frame in frames])
    forces = np.concatenate([frame.forces for frame in frames])
    density = np.mean([len(frame) / frame.volume for frame in frames])
    virials = [frame.volume / len(frame) for frame in frames]
    for index, result in enumerate(trained.results):
        curve = trained.job.trainer.history(trained.job.members[index])
        assert [epoch.epoch for epoch in curve] == list(range(1, trained.job.task.settings.epochs + 1))
        chosen = curve[result.epoch - 1]
        assert chosen.loss == min(epoch.loss for epoch in curve)
        assert chosen.energy == pytest.approx(rmse((predictions.energy[index] - energies) / sizes), rel=DIGITS)
        assert chosen.forces == pytest.approx(rmse(predictions.forces[index] - forces), rel=DIGITS)
        errors = np.array([predictions.stress[index, n] - frame.stress for n, frame in enumerate(frames)])
        virial = rmse(errors * np.array(virials)[:, None, None])
        # The virial of PET, which learns to be invariant, is not quite symmetric, as ours is made to be.
        assert chosen.stress == pytest.approx(virial * density, rel=1e-3)
        assert chosen.stress == pytest.approx(rmse(errors), rel=0.1)


def test_predictions_are_those_of_the_calculator_of_metatomic(trained):
    from metatomic_ase import MetatomicCalculator

    frame = trained.job.validation[0]
    predictions = trained.committee.evaluate([frame])
    tolerance = 1e-10 if trained.job.task.settings.dtype == 'float64' else 1e-5
    atoms = atoms_of(frame)
    atoms.calc = MetatomicCalculator(str(trained.models[1]), device='cpu')
    assert predictions.energy[1, 0] == pytest.approx(atoms.get_potential_energy(), abs=tolerance)
    assert np.abs(predictions.forces[1] - atoms.get_forces()).max() < tolerance
    assert np.abs(predictions.stress[1, 0] - atoms.get_stress(voigt=False)).max() < tolerance


def test_forces_and_stresses_are_derivatives_of_the_energy(pet):
    frame, h = pet.job.validation[0], 1e-4
    predictions = pet.committee.evaluate([frame])
    moved = []
    for sign in (1, -1):
        positions = frame.positions.copy()
        positions[1, 2] += sign * h
        strain = np.eye(3)
        strain[0, 1] += sign * h / 2
        strain[1, 0] += sign * h / 2
        moved.append(Frame(frame.numbers, positions, frame.cell, frame.pbc))
        moved.append(Frame(frame.numbers, frame.positions @ strain, frame.cell @ strain, frame.pbc))
    energy = pet.committee.evaluate(moved).energy
    assert predictions.forces[:, 1, 2] == pytest.approx(-(energy[:, 0] - energy[:, 2]) / (2 * h), abs=1e-6)
    assert predictions.stress[:, 0, 0, 1] == pytest.approx(
        (energy[:, 1] - energy[:, 3]) / (2 * h) / frame.volume, abs=1e-7
    )


def test_members_differ_by_their_seeds_alone_and_are_the_same_by_fork_and_by_command(pet, make_job):
    predictions = pet.committee.evaluate(pet.job.validation)
    assert predictions.forces.std(axis=0).max() > 1e-3
    again = make_job(epochs=12, learning_rate=0.01).train(seed=pet.job.members[1].seed)
    weights, same = (
        torch.load(path, weights_only=False)['model_state_dict']
        for path in (pet.results[1].checkpoint, again.checkpoint)
    )
    # Not the whole numbers: what metatrain never uses of a table it leaves as it finds the memory.
    numbers = [name for name, value in weights.items() if isinstance(value, torch.Tensor) and value.is_floating_point()]
    assert len(numbers) > 10
    assert all(torch.equal(weights[name], same[name]) for name in numbers)


def test_forces_that_are_asked_for_improve_them(make_job, soap_bpnn):
    architecture = soap_bpnn.job.task.settings.parameters
    options = {'epochs': 8, 'learning_rate': 0.01, 'dtype': 'float32'}
    job = make_job(architecture, weights={'energy': 1.0, 'forces': 0.0, 'stress': 0.0}, **options)
    result = job.train(seed=soap_bpnn.job.members[0].seed)
    assert result.loss_weights == {'energy': 1.0, 'forces': 0.0, 'stress': 0.0}
    assert all(epoch.forces is None and epoch.stress is None for epoch in job.trainer.history(job.members[0]))
    frames = job.validation
    forces = np.concatenate([frame.forces for frame in frames])
    trained = rmse(soap_bpnn.committee.evaluate(frames, [0]).forces[0] - forces)
    assert trained < 0.9 * rmse(load_committee([result.model]).evaluate(frames).forces[0] - forces)


def test_forces_that_metatrain_drops_have_no_weight(make_job):
    """It takes them from a file only where all frames have them, and says otherwise no more than a line."""
    job = make_job(epochs=1)
    member = job.member()
    text = (member.folder / 'options.yaml').read_text()
    (member.folder / 'options.yaml').write_text(text.replace('REF_forces', 'REF_force'))
    assert job.run() == 0, job.output()
    result = job.trainer.result(job.task, member)
    assert result.hyper_parameters['training']['loss']['energy']['gradients']['positions']['weight'] == 10.0
    assert result.loss_weights == {'energy': 1.0, 'forces': 0.0, 'stress': 2.0}


def test_frames_without_a_label_are_learnt_by_what_they_have(make_job):
    job = make_job(epochs=2, without=(0, 3, 4))
    result = job.train()
    assert result.loss_weights == {'energy': 1.0, 'forces': 10.0, 'stress': 2.0}
    assert np.isfinite([epoch.train_loss for epoch in job.trainer.history(job.members[0])]).all()
    text = (job.task.folder / 'data' / 'metatrain_train.xyz').read_text()
    assert text.count('stress="nan') == 3


def test_gap_is_not_fitted_to_frames_without_a_label(make_job):
    job = make_job(without=(0,))
    weights = {'energy': 1.0, 'forces': 1.0, 'stress': 0.0}
    gap = MetatrainTrainer(replace(job.task.settings, weights=Weights(**weights), parameters={'name': 'gap'}))
    with pytest.raises(ValueError, match='some lack one: leave these out'):
        gap.check_task(replace(job.task, settings=gap.settings))
    complete = make_job(weights=weights).task
    assert 'earlier models have no influence' in gap.check_task(replace(complete, settings=gap.settings))[0]


def test_a_member_sees_its_rows(make_job):
    job = make_job(epochs=1)
    few = job.train(0, indices=np.array([1, 3, 5, 6, 8]))
    often = job.train(1, indices=np.array([0, 0, 0, 1, 2, 2, 5, 9]))
    assert (job.members[0].folder / 'rows.txt').read_text().split() == ['1', '3', '5', '6', '8']
    from aiida_alpot.worker.frames import read_extxyz

    frames = list(read_extxyz(job.task.data.train))
    seen = list(read_extxyz(job.members[1].folder / 'train.xyz'))
    assert [frame.energy for frame in seen] == [frames[row].energy for row in (0, 0, 0, 1, 2, 2, 5, 9)]
    assert few.loss_weights == often.loss_weights
    # A set smaller than a batch is one batch; metatrain would refuse it.
    assert 'batch_size: 2\n' in (job.member(2, indices=np.array([1, 2])).folder / 'options.yaml').read_text()


def test_a_slurm_job_of_several_tasks_trains_each_member_for_itself(make_job, monkeypatch):
    for name, value in {'SLURM_JOB_ID': '7', 'SLURM_PROCID': '0', 'SLURM_NTASKS': '4'}.items():
        monkeypatch.setenv(name, value)
    assert make_job(epochs=1).train().epoch == 1


def test_an_error_is_printed_with_its_cause(make_job):
    job = make_job(epochs=1)
    member = job.member()
    text = (member.folder / 'options.yaml').read_text()
    (member.folder / 'options.yaml').write_text(text.replace('REF_energy', 'energies'))
    assert job.run() == 1
    assert 'Traceback' in job.output()
    assert "energy key 'energies' was not found" in job.output()


def test_the_accelerator_is_chosen_by_the_environment(make_job, monkeypatch):
    job = make_job()
    member = job.member(device='cuda:1', threads=3)
    text = (member.folder / 'options.yaml').read_text()
    assert 'device: cuda\n' in text
    assert 'num_workers: 2' in text
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    assert job.trainer.command(job.task, member)[:2] == ['env', 'CUDA_VISIBLE_DEVICES=1']
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '4,6')
    assert job.trainer.command(job.task, member)[:2] == ['env', 'CUDA_VISIBLE_DEVICES=6']
