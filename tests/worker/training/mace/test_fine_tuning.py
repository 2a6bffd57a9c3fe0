"""Foundation models are tuned: naively, in part, by LoRA and with replay."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from aiida_alpot.worker.frames import read_extxyz, write_extxyz
from aiida_alpot.worker.potentials import load_committee

UNIVERSAL = {'loss': 'universal'}


def load(path: Path):
    """A model."""
    import torch

    return torch.load(path, weights_only=False)


def reference_energies(model) -> list[float]:
    """Of a model with one head."""
    return model.atomic_energies_fn.atomic_energies.reshape(-1).tolist()


@pytest.fixture(scope='module')
def shifted(data, frames, new_data):
    """The data set at another level of theory: atoms of Cu are 2 eV higher, those of Au 1 eV lower."""
    shift = {29: 2.0, 79: -1.0}

    def at_other_level(frame):
        return frame.replace(energy=frame.energy + sum(shift[int(number)] for number in frame.numbers))

    made = new_data(*([at_other_level(frame) for frame in frames[split]] for split in ('train', 'validation')))
    return dataclasses.replace(made, reference_energies={'Cu': -48.0, 'Au': -81.0})


@pytest.fixture(scope='module')
def copper(frames, new_data):
    """Frames of Cu alone, which the foundation model knows with Au."""
    return [frame.replace(numbers=np.full(len(frame), 29)) for frame in frames['train'][:6]]


class TestNaive:
    """On the data set alone."""

    @pytest.fixture(scope='class')
    def run(self, new_job, shifted, foundation, tmp_path_factory):
        """Tuned at another level of theory."""
        job = new_job(tmp_path_factory.mktemp('naive'), data=shifted, task={'foundation': foundation.result.model})
        (sentence,) = job.trainer.check_task(job.task)
        assert 'of another reference' in sentence and '(Cu by +2.00 eV, Au by -1.00 eV)' in sentence
        return job.finish([job.member()])[0]

    def test_reference_energies_are_replaced(self, run, foundation) -> None:
        """MACE 0.3.16 would print the new ones and keep those of the model; so the loss is that of before."""
        assert run.code == 0, run.printed[-2000:]
        assert reference_energies(load(run.result.model)) == [-48.0, -81.0]
        assert run.losses[0] == pytest.approx(min(foundation.losses[1:]), rel=1e-6)
        assert run.result.hyper_parameters['max_num_epochs'] == 3 and run.result.hyper_parameters['lr'] == 0.02

    def test_fewer_elements(self, make_job, new_data, copper, foundation) -> None:
        """The tuned model has those of the data set, or by option all."""
        data = new_data(copper, copper)
        for keep, elements in ((False, ('Cu',)), (True, ('Cu', 'Au'))):
            parameters = {'foundation_model_elements': keep}
            task = {'foundation': foundation.result.model}
            job = make_job(str(keep), data=data, task=task, epochs=1, parameters=parameters, cutoff=None)
            (run,) = job.finish([job.member()])
            assert run.code == 0, run.printed[-2000:]
            assert load_committee([run.result.model]).elements == elements
            assert reference_energies(load(run.result.model)) == [-50.0, -80.0][: len(elements)]

    def test_without_isolated_atoms(self, make_job, shifted, foundation) -> None:
        """Energies fitted to the labels would hold the cohesion twice: the shift between the levels is found."""
        absurd = {'Cu': -53.0, 'Au': -84.0}
        data = dataclasses.replace(shifted, reference_source='least_squares', reference_energies=absurd)
        job = make_job(data=data, task={'foundation': foundation.result.model})
        (sentence,) = job.trainer.check_task(job.task)
        assert 'do not go with the foundation model' in sentence
        member = job.member()
        job.trainer.load(job.task)
        job.trainer.prepare(job.task, member)
        energies = np.array(reference_energies(load(member.folder / 'start.model')))
        model = load_committee([foundation.result.model])
        labelled = list(read_extxyz(data.train))
        predicted = model.evaluate([frame.unlabelled() for frame in labelled]).energy[0]
        counts = np.array([[np.sum(frame.numbers == number) for number in (29, 79)] for frame in labelled])
        residual = np.array([frame.energy for frame in labelled]) - predicted
        expected = np.array([-50.0, -80.0]) + np.linalg.lstsq(counts.astype(float), residual, rcond=None)[0]
        np.testing.assert_allclose(energies, expected, rtol=1e-9)


class TestInPart:
    """Of the weights."""

    def test_frozen_layers(self, make_job, foundation) -> None:
        """Embedding and interactions stay as they are, readouts do not."""
        job = make_job(epochs=1, task={'foundation': foundation.result.model}, fine_tuning={'freeze': 5})
        (run,) = job.finish([job.member()])
        assert run.code == 0, run.printed[-2000:]
        before, after = (dict(load(path).named_parameters()) for path in (foundation.result.model, run.result.model))
        changed = {name.split('.')[0] for name in before if not bool((before[name] == after[name]).all())}
        assert changed == {'products', 'readouts'}

    def test_lora(self, make_job, foundation) -> None:
        """What was learnt is in the weights of a usual model."""
        tuning = {'lora_rank': 2}
        job = make_job(epochs=2, task={'foundation': foundation.result.model}, fine_tuning=tuning)
        (run,) = job.finish([job.member()])
        assert run.code == 0, run.printed[-2000:]
        model = load(run.result.model)
        assert not any('lora' in name for name, _ in model.named_parameters())
        before = load(foundation.result.model).state_dict()
        assert set(before) == set(model.state_dict())
        assert bool(
            (before['interactions.0.linear_up.weight'] != model.state_dict()['interactions.0.linear_up.weight']).any()
        )
        chosen = run.trainer.history(run.member)[run.result.epoch]
        frames = list(read_extxyz(run.task.data.validation))
        found = load_committee([run.result.model]).evaluate([frame.unlabelled() for frame in frames])
        forces = found.forces[0] - np.concatenate([frame.forces for frame in frames])
        assert np.sqrt(np.mean(np.square(forces))) == pytest.approx(chosen.forces, rel=1e-6)


class TestReplay:
    """With frames of what the model was trained on."""

    @pytest.fixture(scope='class')
    def job(self, new_job, new_data, copper, data, foundation, tmp_path_factory):
        """On Cu, replaying frames of Cu and Au."""
        folder = tmp_path_factory.mktemp('replay')
        return new_job(
            folder / 'job',
            data=new_data(copper, copper),
            task={'foundation': foundation.result.model, 'replay': data.train},
            fine_tuning={'method': 'replay'},
            epochs=2,
            parameters=UNIVERSAL,
        )

    @pytest.fixture(scope='class')
    def run(self, job):
        """The outcome."""
        assert job.trainer.check_task(job.task) == []
        return job.finish([job.member()])[0]

    def test_options(self, run) -> None:
        """The learning rate that was asked for is kept to; MACE would take 0.0001."""
        assert run.code == 0, run.printed[-2000:]
        options = run.result.hyper_parameters
        assert (options['lr'], options['ema'], options['ema_decay']) == (0.02, True, 0.99999)
        assert run.result.loss_name == 'UniversalLoss'

    def test_replayed_frames(self, run, data) -> None:
        """One of ten is held out; the curve is that of the data set."""
        written = [run.task.folder / 'data' / f'replay_{name}.xyz' for name in ('train', 'validation')]
        assert [len(list(read_extxyz(path))) for path in written] == [10, 2]
        assert 'head: pt_head' in run.printed and len(run.losses) == 3

    def test_model_has_one_head(self, run) -> None:
        """That of the data set, with the energies of the model that MACE made."""
        both, one = run.member.folder / 'mace.model', run.result.model
        assert load(both).heads == ['pt_head', 'Default'] and load(one).heads == ['Default']
        frames = [frame.unlabelled() for frame in read_extxyz(run.task.data.validation)]
        two, single = (load_committee([path]).evaluate(frames) for path in (both, one))
        np.testing.assert_allclose(two.energy, single.energy, atol=1e-9)
        np.testing.assert_allclose(two.forces, single.forces, atol=1e-9)
        chosen = run.trainer.history(run.member)[run.result.epoch]
        labels = np.concatenate([frame.forces for frame in read_extxyz(run.task.data.validation)])
        assert np.sqrt(np.mean(np.square(single.forces[0] - labels))) == pytest.approx(chosen.forces, rel=1e-6)

    def test_data_are_shared(self, job, run) -> None:
        """Nothing is loaded in the process of a member."""
        assert 'Training set 1/1' not in run.printed

    def test_default_learning_rate(self, new_job, job, tmp_path: Path) -> None:
        """Is that of MACE for this method."""
        task = {'foundation': job.task.foundation, 'replay': job.task.replay}
        options = {'fine_tuning': {'method': 'replay'}, 'learning_rate': None, 'parameters': UNIVERSAL}
        other = new_job(tmp_path, data=job.task.data, task=task, **options)
        assert '--lr=0.0001' in other.trainer.command(other.task, other.member())

    def test_next_round(self, new_job, job, run, tmp_path: Path) -> None:
        """Goes on from the tuned model; the replay keeps the reference energies of the foundation model."""
        start = run.result.model
        task = {'foundation': job.task.foundation, 'replay': job.task.replay, 'starts': (start,)}
        options = {'fine_tuning': {'method': 'replay'}, 'epochs': 2, 'parameters': UNIVERSAL}
        other = new_job(tmp_path, data=job.task.data, task=task, **options)
        (again,) = other.finish([other.member(start=start)])
        assert again.code == 0, again.printed[-2000:]
        assert again.losses[0] == pytest.approx(min(run.losses[1:]), rel=1e-6)
        both = load(again.member.folder / 'mace.model').atomic_energies_fn.atomic_energies
        assert both.tolist() == [[-50.0, -80.0], [-50.0, -80.0]]


class TestRefused:
    """Before anything is trained."""

    def test_unknown_elements(self, make_job, new_data, frames, foundation) -> None:
        """Of the data set."""
        silver = [frame.replace(numbers=np.full(len(frame), 47)) for frame in frames['train'][:2]]
        job = make_job(data=new_data(silver, silver), task={'foundation': foundation.result.model})
        with pytest.raises(ValueError, match='the foundation model does not know Ag'):
            job.trainer.check_task(job.task)

    def test_another_cutoff_or_architecture(self, make_job, foundation) -> None:
        """MACE would take those of the model without a word."""
        parameters = {'max_L': 1, 'hidden_irreps': None, 'MLP_irreps': '8x0e'}
        job = make_job(cutoff=5.0, parameters=parameters, task={'foundation': foundation.result.model})
        with pytest.raises(ValueError, match='the foundation model is not what is asked for') as refused:
            job.trainer.check_task(job.task)
        for words in ('`cutoff` is 5.0 A, but that of the model is 4 A', '`max_L` is 1', "`MLP_irreps` is '8x0e'"):
            assert words in str(refused.value)

    @pytest.mark.parametrize('content', [b'', b'nonsense', b'PK\x03\x04 torn'])
    def test_unreadable(self, make_job, tmp_path: Path, content: bytes) -> None:
        """The sentence names the file."""
        path = tmp_path / 'foundation.model'
        path.write_bytes(content)
        job = make_job(task={'foundation': path})
        with pytest.raises(ValueError, match=r'the foundation model, .*foundation\.model, cannot be read'):
            job.trainer.check_task(job.task)

    def test_no_mace_model(self, make_job, tmp_path: Path) -> None:
        """E.g. its weights alone."""
        import torch

        torch.save({'weights': torch.zeros(3)}, tmp_path / 'weights.model')
        job = make_job(task={'foundation': tmp_path / 'weights.model'})
        with pytest.raises(ValueError, match='is a dict, expected one of MACE'):
            job.trainer.check_task(job.task)

    def test_unknown_head(self, make_job, foundation) -> None:
        """With those that there are."""
        task = {'foundation': foundation.result.model}
        job = make_job(parameters={'foundation_head': 'omat'}, task=task)
        with pytest.raises(ValueError, match="no head 'omat': give `foundation_head` as one of Default"):
            job.trainer.check_task(job.task)

    def test_replay_that_is_not_there_or_not_used(self, make_job, foundation, data) -> None:
        """Both are mistakes."""
        task = {'foundation': foundation.result.model}
        job = make_job(task=task, fine_tuning={'method': 'replay'}, parameters=UNIVERSAL)
        with pytest.raises(ValueError, match='give `foundation`, and `replay`'):
            job.trainer.check_task(job.task)
        job = make_job(task={**task, 'replay': data.train})
        with pytest.raises(ValueError, match='`replay` is given and would not be used'):
            job.trainer.check_task(job.task)


def test_replay_of_one_frame(make_job, foundation, frames, tmp_path: Path) -> None:
    """There is nothing to hold out."""
    write_extxyz(frames['train'][:1], tmp_path / 'one.xyz')
    task = {'foundation': foundation.result.model, 'replay': tmp_path / 'one.xyz'}
    job = make_job(task=task, fine_tuning={'method': 'replay'}, parameters=UNIVERSAL)
    job.trainer.check_task(job.task)
    assert any(word.startswith('--pt_train_file') for word in job.trainer.command(job.task, job.member()))
