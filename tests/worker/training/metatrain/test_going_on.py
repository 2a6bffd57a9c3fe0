"""Trainings that go on: after an interruption, from an earlier round, from a foundation model."""

import gzip
import os
import zipfile
from importlib.resources import files

import numpy as np
import pytest
import torch
import yaml

from aiida_alpot.worker.potentials import load_committee
from aiida_alpot.worker.training.metatrain.checkpoints import check_checkpoint, read_checkpoint
from aiida_alpot.worker.training.metatrain.options import architecture_of
from aiida_alpot.worker.training.metatrain.outputs import newest_checkpoint, read_curve
from aiida_alpot.worker.training.settings import parse_settings
from aiida_alpot.worker.training.trainer import CorruptCheckpoint, TrainingFailed

pytest.importorskip('metatrain', reason='metatrain is not installed: pip install aiida-alpot[metatrain]')

SOAP_BPNN = {
    'name': 'soap_bpnn',
    'model': {'soap': {'max_angular': 2, 'max_radial': 2}, 'bpnn': {'num_neurons_per_layer': 8}},
}


def cut(path):
    """Leave half of a file."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


@pytest.fixture(scope='module')
def killed(make_job):
    """A training of SOAP-BPNN that was killed after the third epoch of 12, and has gone on to its end."""
    job = make_job(SOAP_BPNN, epochs=12, learning_rate=0.01, dtype='float32')
    member = job.member()
    assert not job.trainer.has_checkpoint(member)
    job.kill_after(2)
    (first,) = (path for path in (member.folder / 'outputs').glob('*/*'))
    left = sorted(path.name for path in first.glob('*.ckpt'))
    before = job.trainer.history(member)
    assert job.trainer.has_checkpoint(member)
    job.trainer.prepare(job.task, member)
    start = newest_checkpoint(member.folder)
    code = job.run()
    assert code == 0, job.output()
    return job, left, before, start


def test_a_killed_training_goes_on_from_its_newest_checkpoint(killed):
    job, _, before, start = killed
    assert f'Restarting training from {str(start)!r}' in job.output()
    curve = job.trainer.history(job.members[0])
    assert [epoch.epoch for epoch in curve] == list(range(1, 13))
    number = int(start.stem.partition('_')[2])
    assert curve[: number + 1] == before[: number + 1]
    # What went on is the same training: another start would be at the loss of the first epoch.
    assert curve[number + 1].loss < curve[0].loss
    assert job.trainer.result(job.task, job.members[0]).epoch > 3


def test_only_whole_and_new_checkpoints_are_kept(killed):
    _, left, _, _ = killed
    numbered = [name for name in left if name.startswith('model_')]
    assert 1 <= len(numbered) <= 3  # three where it was killed between writing one and removing another


def test_a_checkpoint_that_cannot_be_read_is_passed_over_and_none_is_an_error(killed, tmp_path):
    job, *_ = killed
    member = job.members[0]
    folder = tmp_path / 'outputs' / '2026-01-01' / '00-00-00'
    folder.mkdir(parents=True)
    source = newest_checkpoint(member.folder)
    for number in (3, 12):
        (folder / f'model_{number}.ckpt').write_bytes(source.read_bytes())
    assert newest_checkpoint(tmp_path).name == 'model_12.ckpt'
    cut(folder / 'model_12.ckpt')
    assert newest_checkpoint(tmp_path).name == 'model_3.ckpt'
    cut(folder / 'model_3.ckpt')
    with pytest.raises(CorruptCheckpoint, match=r'model_12.ckpt cannot be read'):
        newest_checkpoint(tmp_path)


def test_a_curve_that_is_being_written(tmp_path):
    names = 'Epoch,learning rate,training loss,validation loss,validation energy RMSE (per atom),validation forces RMSE'
    first, second = (tmp_path / 'outputs' / '2026-01-01' / name for name in ('10-00-00', '11-00-00'))
    assert read_curve(tmp_path, None) == []
    for folder in (first, second):
        folder.mkdir(parents=True)
    (first / 'train.csv').write_text('')
    assert read_curve(tmp_path, None) == []
    rows = ['   0,1e-3,4.0,2.0, 50.0,100.0', '   1,1e-3,3.0,nan, 40.0, 90.0', '   2,1e-3,2.0,1.0, 30.0, 80.0']
    (first / 'train.csv').write_text('\n'.join([names, ',,,,meV,meV/A', *rows, '   3,1e-3,2.']))
    curve = read_curve(tmp_path, None)
    assert [epoch.epoch for epoch in curve] == [1, 2, 3]
    assert curve[0].energy == pytest.approx(0.05)
    assert curve[0].forces == pytest.approx(0.1)
    assert curve[0].stress is None
    assert np.isnan(curve[1].loss)
    # The second attempt went back to the first epoch and has not come as far yet.
    (second / 'train.csv').write_text('\n'.join([names, ',,,,meV,meV/A', '   1,1e-3,2.5,1.5, 35.0, 85.0', '']))
    assert [(epoch.epoch, epoch.loss) for epoch in read_curve(tmp_path, None)] == [(1, 2.0), (2, 1.5)]


@pytest.mark.parametrize('name', ['pet', 'soap_bpnn'])
def test_a_warm_start_begins_where_the_earlier_round_ended(name, request, make_job):
    trained = request.getfixturevalue(name)
    settings = trained.job.task.settings
    job = make_job(settings.parameters, epochs=8, learning_rate=0.001, dtype=settings.dtype)
    start = trained.results[0].checkpoint
    result = job.train(start=start, seed=99)
    first, best = (
        trained.job.trainer.history(trained.job.members[0])[place - 1] for place in (1, trained.results[0].epoch)
    )
    curve = job.trainer.history(job.members[0])
    assert len(curve) == 2  # a quarter
    assert curve[0].epoch == 1
    assert curve[0].loss < first.loss - 0.5 * (first.loss - best.loss)
    assert result.hyper_parameters['training']['learning_rate'] == pytest.approx(0.0005)
    assert result.loss_weights == {'energy': 1.0, 'forces': 10.0, 'stress': 2.0}
    assert load_committee([result.model]).evaluate(job.validation).forces.shape == (1, 16, 3)


def test_a_member_of_a_warm_start_that_is_tried_again_has_both_factors(pet, make_job):
    job = make_job(epochs=8, warm_start={'epochs': 5, 'learning_rate_factor': 0.25})
    member = job.member(start=pet.results[0].checkpoint, learning_rate_factor=0.1)
    training = yaml.safe_load((member.folder / 'options.yaml').read_text())['architecture']['training']
    assert training['num_epochs'] == 5
    assert training['learning_rate'] == pytest.approx(0.003 * 0.25 * 0.1)
    assert training['finetune']['method'] == 'full'


def test_a_start_that_cannot_be_gone_on_from(pet, soap_bpnn, make_job, tmp_path):
    job = make_job()
    with pytest.raises(TrainingFailed, match=r"'soap_bpnn'.*give the same"):
        job.member(start=soap_bpnn.results[0].checkpoint)
    with pytest.raises(TrainingFailed, match=r'give its checkpoint \(.ckpt\)'):
        job.member(start=pet.results[0].model)
    torch.save({'of': 'something else'}, tmp_path / 'other.ckpt')
    with pytest.raises(TrainingFailed, match='no checkpoint of metatrain'):
        job.member(start=tmp_path / 'other.ckpt')
    broken = tmp_path / 'broken.ckpt'
    broken.write_bytes(pet.results[0].checkpoint.read_bytes())
    cut(broken)
    with pytest.raises(CorruptCheckpoint, match=r'broken.ckpt cannot be read'):
        job.member(start=broken)
    parameters = pet.job.task.settings.parameters
    other = {**parameters, 'model': {**parameters['model'], 'd_node': 16}}
    with pytest.raises(TrainingFailed, match=r'`model.d_node` = 8, but 16'):
        make_job(other).member(start=pet.results[0].checkpoint)


def test_a_foundation_model_is_compared_with_what_is_asked_for(pet, make_job, tmp_path):
    foundation = pet.results[0].checkpoint
    with pytest.raises(ValueError, match=r'cutoff of 3.5 A, but `cutoff` is 4.0: give `cutoff: 3.5`'):
        make_job(foundation=foundation, cutoff=4.0)
    with pytest.raises(ValueError, match=r'no `foundation` is given'):
        make_job(fine_tuning={'lora_rank': 2})
    job = make_job(foundation=foundation, cutoff=None)
    task = job.task
    from dataclasses import replace

    elements = replace(task, data=replace(task.data, elements=('Ni', 'Cu', 'Au')))
    with pytest.raises(ValueError, match='knows Cu Au, but not Ni'):
        job.trainer.check_task(elements)
    with pytest.raises(ValueError, match='metatrain has no replay'):
        job.trainer.check_task(replace(task, replay=tmp_path / 'replay.xyz'))
    broken = tmp_path / 'broken.ckpt'
    broken.write_bytes(foundation.read_bytes())
    cut(broken)
    with pytest.raises(ValueError, match=r'`foundation`:.*cannot be read'):
        job.trainer.check_task(replace(task, foundation=broken))


def test_a_foundation_model_of_an_older_metatrain_is_brought_up_to_date(make_job, tmp_path):
    """The oldest that metatrain has kept of itself."""
    source = files('metatrain') / 'pet' / 'tests' / 'checkpoints' / 'model-v1_trainer-v1.ckpt.gz'
    if not source.is_file():
        pytest.skip('this installation of metatrain has no old checkpoints')
    old = tmp_path / 'old.ckpt'
    old.write_bytes(gzip.decompress(source.read_bytes()))
    with pytest.raises(ValueError, match='knows H C N O, but not Cu Au'):
        make_job({'name': 'pet'}, foundation=old, cutoff=4.5)
    found = read_checkpoint(old)
    architecture = architecture_of(parse_settings({'trainer': 'metatrain', 'cutoff': None}))
    check_checkpoint(found, old, architecture, ('C', 'H'), 4.5)
    with pytest.raises(ValueError, match=r'`cutoff` is 5.0: give `cutoff: 4.5`'):
        check_checkpoint(found, old, architecture, ('C', 'H'), 5.0)
    with pytest.raises(ValueError, match='999 of its format'):
        check_checkpoint({**found, 'model_ckpt_version': 999}, old, architecture, ('C', 'H'), 4.5)


def changed(before, after):
    """Names of the parameters that differ between two checkpoints."""
    first, second = (torch.load(path, weights_only=False)['best_model_state_dict'] for path in (before, after))
    return {
        name
        for name, value in second.items()
        if isinstance(value, torch.Tensor) and name in first and not torch.equal(value, first[name])
    }


def test_low_rank_updates_of_a_foundation_model_and_their_next_round(pet, make_job):
    foundation = pet.results[0].checkpoint
    job = make_job(foundation=foundation, epochs=2, fine_tuning={'lora_rank': 2})
    result = job.train()
    assert result.hyper_parameters['training']['finetune']['config'] == {'alpha': 4.0, 'rank': 2}
    assert 'Applied finetuning strategy: lora' in job.output()
    assert load_committee([result.model]).evaluate(job.validation).energy.shape == (1, 4)
    # The next round need not know: layers that are there stay.
    later = make_job(epochs=4)
    again = later.train(start=result.checkpoint)
    assert 'Applied finetuning strategy: lora' in later.output()
    curves = [job.trainer.history(job.members[0]), later.trainer.history(later.members[0])]
    assert curves[1][0].loss < 1.1 * curves[0][-1].loss
    assert load_committee([again.model]).evaluate(later.validation).energy.shape == (1, 4)


def test_the_heads_of_a_foundation_model_alone(pet, make_job):
    foundation = pet.results[0].checkpoint
    architecture = {**pet.job.task.settings.parameters, 'training': {'finetune': {'method': 'heads'}}}
    result = make_job(architecture, foundation=foundation, epochs=2).train()
    moved = changed(foundation, result.checkpoint)
    assert moved
    assert all('_heads' in name or '_last_layers' in name for name in moved)


def test_a_trainer_that_leaves_no_model(make_job):
    job = make_job()
    member = job.member()
    with pytest.raises(TrainingFailed, match=r'left no .*model.pt'):
        job.trainer.result(job.task, member)
    with zipfile.ZipFile(member.folder / 'model.pt', 'w') as archive:
        archive.writestr('model/data.pkl', os.urandom(4096))
    with pytest.raises(TrainingFailed, match='has written no options'):
        job.trainer.result(job.task, member)
    cut(member.folder / 'model.pt')
    with pytest.raises(TrainingFailed, match='cut off'):
        job.trainer.result(job.task, member)
