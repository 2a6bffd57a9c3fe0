"""Committees trained by MACE itself: what is shared, what is the same, and what is said of the outcome."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aiida_alpot.worker.frames import read_extxyz
from aiida_alpot.worker.potentials import load_committee
from aiida_alpot.worker.training.mace.shared_data import LOADERS
from aiida_alpot.worker.training.trainer import TrainingFailed

SEEDS = (1, 2, 1)


@pytest.fixture(scope='module')
def committee(new_job, tmp_path_factory):
    """Three members, two of them with one seed, and a letter for each call of the loaders of MACE."""
    import mace.cli.run_train as run_train

    folder = tmp_path_factory.mktemp('committee')
    calls = {name: folder / name for name in LOADERS}
    with pytest.MonkeyPatch.context() as patch:
        for name, path in calls.items():
            path.touch()
            patch.setattr(run_train, name, counted(getattr(run_train, name), path))
        job = new_job(folder / 'job')
        runs = job.finish([job.member(index, seed) for index, seed in enumerate(SEEDS)])
    return runs, {name: path.read_text() for name, path in calls.items()}


def counted(function: Callable[..., Any], path: Path) -> Callable[..., Any]:
    """Writes a letter whenever it is called, in whatever process."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        with path.open('a') as stream:
            stream.write('x')
        return function(*args, **kwargs)

    return wrapper


def weights(path: Path) -> list[np.ndarray]:
    """Parameters and buffers of a model."""
    import torch

    return [value.numpy() for value in torch.load(path, weights_only=False).state_dict().values()]


class TestCommittee:
    """Members of one job."""

    def test_ended_well(self, committee) -> None:
        """With a learning curve of all epochs, and a model that is better than at the beginning."""
        runs, _ = committee
        for run in runs:
            assert run.code == 0, run.printed[-2000:]
            assert [epoch.epoch for epoch in run.trainer.history(run.member)] == [0, 1, 2, 3]
            assert min(run.losses[1:]) < 0.9 * run.losses[0]
            history = run.trainer.history(run.member)
            assert all(epoch.train_loss is not None for epoch in history[1:])
            assert all(None not in (epoch.energy, epoch.forces, epoch.stress) for epoch in history)

    def test_data_are_made_once(self, committee) -> None:
        """Files are parsed once, and neighbour lists of train and validation made once, for all members."""
        assert committee[1] == {'get_dataset_from_xyz': 'x', 'load_dataset_for_path': 'xx'}

    def test_nothing_of_mace_is_changed_in_the_parent(self, committee) -> None:
        """Which may go on to do something else."""
        import mace.cli.run_train as run_train
        import mace.tools
        import torch

        for function in (run_train.get_dataset_from_xyz, run_train.load_dataset_for_path, mace.tools.train):
            assert function.__module__.startswith('mace.')
        assert not torch.cuda.is_initialized()

    def test_seeds(self, committee) -> None:
        """Equal seeds, equal weights; others, others."""
        one, other, again = (weights(run.result.model) for run in committee[0])
        assert all(np.array_equal(a, b) for a, b in zip(one, again, strict=True))
        assert any(not np.array_equal(a, b) for a, b in zip(one, other, strict=True))

    def test_result(self, committee, data) -> None:
        """What was in the loss, in full, and all options in force."""
        result = committee[0][0].result
        assert result.loss_name == 'WeightedEnergyForcesStressLoss'
        assert result.loss_weights == {'energy': 1.0, 'forces': 10.0, 'stress': 100.0}
        losses = committee[0][0].losses
        assert result.epoch == int(np.argmin(losses[1:])) + 1
        assert result.version.startswith('0.')
        assert result.checkpoint is None
        options = result.hyper_parameters
        assert (options['r_max'], options['num_channels'], options['seed'], options['lr']) == (4.0, 16, 1, 0.02)
        assert options['E0s'] == {'29': -50.0, '79': -80.0}
        assert 15 < options['avg_num_neighbors'] < 30
        json.dumps(dict(options), allow_nan=False)
        assert str(data.train.parent) not in json.dumps(options)

    def test_models_are_potentials(self, committee, data) -> None:
        """On the CPU, with the errors that MACE had said of the chosen epoch, and the reference energies."""
        runs, _ = committee
        frames = list(read_extxyz(data.validation))
        models = load_committee([run.result.model for run in runs])
        assert models.elements == data.elements and models.cutoff == 4.0
        found = models.evaluate([frame.unlabelled() for frame in frames])
        for row, run in enumerate(runs):
            chosen = run.trainer.history(run.member)[run.result.epoch]
            errors = [(e - frame.energy) / len(frame) for e, frame in zip(found.energy[row], frames, strict=True)]
            assert math.isclose(np.sqrt(np.mean(np.square(errors))), chosen.energy, rel_tol=1e-6)
            forces = found.forces[row] - np.concatenate([frame.forces for frame in frames])
            assert math.isclose(np.sqrt(np.mean(np.square(forces))), chosen.forces, rel_tol=1e-6)
            stress = found.stress[row] - np.array([frame.stress for frame in frames])
            assert math.isclose(np.sqrt(np.mean(np.square(stress))), chosen.stress, rel_tol=1e-6)

    def test_same_as_the_program(self, committee, make_job, monkeypatch: pytest.MonkeyPatch) -> None:
        """`mace_run_train`, which is run where MACE has other names inside, gives the same numbers and result."""
        from aiida_alpot.worker.training.mace import job as inside

        monkeypatch.setattr(inside, 'can_run_inside', lambda: False)
        job = make_job()
        (plain,), run = job.finish([job.member()]), committee[0][0]
        assert plain.code == 0, plain.printed[-2000:]
        assert not (plain.member.folder / 'checkpoints' / 'state.json').exists()
        for one, other in zip(plain.trainer.history(plain.member), run.trainer.history(run.member), strict=True):
            values = zip(dataclasses.astuple(one), dataclasses.astuple(other), strict=True)
            assert all(a == b or math.isclose(a, b, rel_tol=1e-9) for a, b in values), (one, other)
        assert (plain.result.epoch, plain.result.loss_name) == (run.result.epoch, run.result.loss_name)
        assert plain.result.loss_weights == run.result.loss_weights
        assert plain.result.hyper_parameters['num_channels'] == 16
        pairs = zip(weights(plain.result.model), weights(run.result.model), strict=True)
        assert all(np.allclose(a, b, rtol=1e-9, atol=1e-12) for a, b in pairs)
        assert plain.trainer.has_checkpoint(plain.member)
        member = job.member(1, indices=np.array([2, 2, 0]))
        job.trainer.prepare(job.task, member)
        assert len(list(read_extxyz(member.folder / 'train.xyz'))) == 3
        assert '--train_file=train.xyz' in job.trainer.command(job.task, member)


def test_a_property_that_is_not_in_the_loss(make_job, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is missing in the result, also where the options were not understood."""
    from aiida_alpot.worker.training.mace import options

    monkeypatch.setattr(options, '_check_loss', lambda *_: None)
    job = make_job(epochs=1, parameters={'loss': 'weighted'})
    (run,) = job.finish([job.member()])
    assert run.result.loss_weights == {'energy': 1.0, 'forces': 10.0}


def test_resampled_members(make_job) -> None:
    """Frames are seen as often as drawn; elements are those of the data set all the same.

    A batch is never larger than the data, in which case MACE would train on nothing.
    """
    job = make_job(epochs=1, dtype='float32', batch_size=10)
    gold = [i for i, frame in enumerate(read_extxyz(job.task.data.train)) if set(frame.numbers) == {79}]
    rows = np.array([0, 0, 1, 1, 2]) if not gold else np.array([gold[0]] * 5)
    run, all_of_them = job.finish([job.member(0, indices=rows), job.member(1)])
    assert 'training dataset size: 5' in run.printed and 'training dataset size: 12' in all_of_them.printed
    assert run.code == 0
    assert load_committee([run.result.model, all_of_them.result.model]).elements == ('Cu', 'Au')
    assert run.result.hyper_parameters['default_dtype'] == 'float32'
    assert run.result.hyper_parameters['batch_size'] == 5 and run.losses[1] != run.losses[0]
    for finished in (run, all_of_them):  # one batch; that of two frames, which is not full, is left out
        (curve,) = (finished.member.folder / 'results').glob('*.txt')
        assert curve.read_text().count('"opt"') == 1


def test_divergence(make_job) -> None:
    """It is seen in the learning curve, and no model is left; MACE itself would keep one of nan."""
    job = make_job(learning_rate=1e300, parameters={'clip_grad': None}, epochs=2)
    (run,) = job.finish([job.member()])
    assert all(math.isnan(loss) for loss in run.losses[1:])
    assert run.code == 1 and 'no epoch had a finite loss' in run.printed
    with pytest.raises(TrainingFailed, match='without a model'):
        assert run.result


def test_patience(make_job) -> None:
    """MACE 0.3.16 says that it stops, and goes on."""
    job = make_job(learning_rate=0.3, epochs=40, parameters={'patience': 2})
    (run,) = job.finish([job.member()])
    assert run.code == 0
    assert len(run.losses) < 40
    best = int(np.argmin(run.losses[1:])) + 1
    assert run.result.epoch == best and len(run.losses) - 1 == best + 2


def test_stage_two(make_job) -> None:
    """Its model is taken, with the weights of its loss; what is not learnt stays so."""
    parameters = {'start_swa': 2, 'swa_energy_weight': 7.0, 'swa_forces_weight': 1e-4, 'loss': 'universal'}
    job = make_job(parameters=parameters, weights={'stress': 0.0})
    (run,) = job.finish([job.member()])
    assert run.code == 0
    assert run.result.model.name == 'mace_stagetwo.model' and run.result.epoch == 3
    assert run.result.loss_weights == {'energy': 7.0, 'forces': 1e-4, 'stress': 0.0}


def test_ended_well_without_a_model(make_job) -> None:
    """Its last words are reported."""
    job = make_job()
    member = job.member()
    member.folder.mkdir(parents=True)
    (member.folder / 'train.out').write_text('it began\nand went home\n\n')
    with pytest.raises(TrainingFailed, match='without a model; its last words: and went home'):
        job.trainer.result(job.task, member)
    (member.folder / 'mace.model').write_bytes(b'half a model')
    with pytest.raises(TrainingFailed, match='cannot be read'):
        job.trainer.result(job.task, member)


class TestChecks:
    """Of options against the data, before anything is loaded."""

    def test_nothing_to_say(self, make_job) -> None:
        """In the usual case."""
        assert make_job().trainer.check_task(make_job().task) == []

    def test_batches_and_epochs_that_are_lost(self, make_job) -> None:
        """With what MACE makes nothing of."""
        job = make_job(batch_size=20)
        assert (
            '12 training frames, of which MACE would train on none: 12 is taken' in job.trainer.check_task(job.task)[0]
        )
        job = make_job(batch_size=10, epochs=20, parameters={'eval_interval': 15})
        batches, epochs = job.trainer.check_task(job.task)
        assert '2 of 12 frames of each epoch' in batches
        assert 'the last 4 of 20 cannot be chosen' in epochs

    @pytest.mark.parametrize('option', ['enable_cueq', 'enable_oeq'])
    def test_a_faster_backend_that_is_not_installed(self, make_job, option: str) -> None:
        """With the remedy."""
        job = make_job(parameters={option: True})
        with pytest.raises(ValueError, match=f'`{option}` needs the package .* `pip install '):
            job.trainer.check_task(job.task)

    def test_no_cutoff(self, make_job) -> None:
        """There is nothing to take it from."""
        job = make_job(cutoff=None)
        with pytest.raises(ValueError, match='`cutoff` is null'):
            job.trainer.check_task(job.task)

    @pytest.mark.parametrize('tuning', [{'freeze': 1}, {'lora_rank': 2}, {'method': 'replay'}])
    def test_fine_tuning_of_nothing(self, make_job, tuning: dict[str, Any]) -> None:
        """Needs a model."""
        job = make_job(fine_tuning=tuning, parameters={'loss': 'universal'})
        with pytest.raises(ValueError, match='there is no model to tune: give `foundation`'):
            job.trainer.check_task(job.task)


def test_learning_rate_and_batches_after_a_failure(make_job) -> None:
    """Both are lowered, those of validation and of stage two too."""
    job = make_job(batch_size=4, parameters={'valid_batch_size': 8, 'start_swa': 2, 'swa_lr': 0.01})
    member = dataclasses.replace(job.member(), batch_size=2, learning_rate_factor=0.1, device='cuda:1')
    command = job.trainer.command(job.task, member)
    assert {'--batch_size=2', '--valid_batch_size=4', '--lr=0.002', '--swa_lr=0.001', '--device=cuda'} <= set(command)
