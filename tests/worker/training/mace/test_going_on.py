"""Interrupted trainings go on, and members of an earlier round are gone on from."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from aiida_alpot.worker.frames import read_extxyz
from aiida_alpot.worker.potentials import load_committee
from aiida_alpot.worker.training.mace.checkpoints import LAST, Checkpoints
from aiida_alpot.worker.training.trainer import CorruptCheckpoint, Member


def kill_after(job, member: Member, epoch: int) -> None:
    """SIGKILL to the training of a member once an epoch is recorded."""
    process = job.start(member)
    until = time.monotonic() + 120
    while time.monotonic() < until and process.poll() is None:
        history = job.trainer.history(member)
        if history and history[-1].epoch >= epoch and history[-1].loss is not None:
            os.kill(process.pid, signal.SIGKILL)
        time.sleep(0.01)
    assert process.poll() == -signal.SIGKILL, (member.folder / 'train.out').read_text()[-2000:]


@pytest.fixture(scope='module')
def interrupted(new_job, tmp_path_factory):
    """A training that was killed in the middle, before it went on: its job, member and what was there."""
    job = new_job(tmp_path_factory.mktemp('killed') / 'job', epochs=14)
    member = job.member()
    kill_after(job, member, 4)
    return job, member


class TestKilled:
    """A training that was killed in the middle."""

    @pytest.fixture(scope='class')
    def run(self, interrupted):
        """The same, gone on with to its end, and the checkpoint that it went on from."""
        job, member = interrupted
        assert job.trainer.has_checkpoint(member)
        last = Checkpoints(member.folder / 'checkpoints').epoch(LAST)
        with (member.folder / 'results' / 'mace_run-1_train.txt').open('a') as stream:
            stream.write('{"loss": 0.0001, "mode": "ev')  # killed while it wrote a line
        return job.finish([member])[0], last

    def test_goes_on(self, run) -> None:
        """From the last checkpoint, to the epoch that was asked for; no epoch is lost."""
        finished, last = run
        assert finished.code == 0, finished.printed[-2000:]
        epochs = [epoch.epoch for epoch in finished.trainer.history(finished.member)]
        assert epochs == list(range(15))
        assert last >= 1
        started = finished.printed.rindex('Initial: ')
        assert f'Epoch {last}: ' in finished.printed[started:]  # as MACE counts: the one after the checkpoint
        assert f'Epoch {last - 1}: ' not in finished.printed[started:]

    def test_weights_and_optimiser_go_on(self, run) -> None:
        """The loss at the start is that of the checkpoint."""
        finished, last = run
        losses = [float(text.split('loss=')[1].split(',')[0]) for text in finished.printed.split('Initial: ')[1:]]
        recorded = finished.trainer.history(finished.member)[last].loss
        assert losses[-1] == pytest.approx(recorded, abs=1e-8)

    def test_the_best_of_all_attempts_is_taken(self, run) -> None:
        """And the model is of that epoch."""
        finished, _ = run
        best = int(np.argmin(finished.losses[1:])) + 1
        assert finished.result.epoch == best
        frames = list(read_extxyz(finished.task.data.validation))
        found = load_committee([finished.result.model]).evaluate([frame.unlabelled() for frame in frames])
        forces = found.forces[0] - np.concatenate([frame.forces for frame in frames])
        error = finished.trainer.history(finished.member)[best].forces
        assert np.sqrt(np.mean(np.square(forces))) == pytest.approx(error, rel=1e-6)

    def test_an_earlier_attempt_can_win(self, run, tmp_path: Path) -> None:
        """Where what follows the checkpoint is never as good, MACE would have taken the best of the rest."""
        finished, _ = run
        job = dataclasses.replace(finished)
        folder = job.member.folder / 'checkpoints'
        state = json.loads((folder / 'state.json').read_text())
        state['best_1']['loss'] = 0.0
        (folder / 'state.json').write_text(json.dumps(state))
        settings = dataclasses.replace(job.trainer.settings, epochs=16)
        trainer = type(job.trainer)(settings)
        from_job = type('Again', (), {'trainer': trainer, 'task': dataclasses.replace(job.task, settings=settings)})()
        again = _finish(from_job, job.member)
        assert again == 0
        assert trainer.history(job.member)[-1].epoch == 16
        result = trainer.result(from_job.task, job.member)
        assert result.epoch == state['best_1']['epoch']
        frames = list(read_extxyz(job.task.data.validation))
        found = load_committee([result.model]).evaluate([frame.unlabelled() for frame in frames])
        forces = found.forces[0] - np.concatenate([frame.forces for frame in frames])
        error = trainer.history(job.member)[result.epoch].forces
        assert np.sqrt(np.mean(np.square(forces))) == pytest.approx(error, rel=1e-6)


def _finish(job, member: Member) -> int | None:
    from aiida_alpot.worker.training.process import Process

    job.trainer.prepare(job.task, member)
    process = Process(lambda: job.trainer.run(job.task, member), member.folder, member.folder / 'train.out')
    while process.poll() is None:
        time.sleep(0.02)
    return process.code


class TestCorrupt:
    """MACE starts from scratch without a word where it cannot read a checkpoint."""

    @pytest.fixture
    def begun(self, interrupted, make_job):
        """A copy of an interrupted training."""
        import shutil

        _, member = interrupted
        job = make_job(epochs=14)
        copy = job.member()
        shutil.copytree(member.folder, copy.folder)
        return job, copy

    def test_found_before_the_start(self, begun) -> None:
        """With what to do."""
        job, member = begun
        for path in (member.folder / 'checkpoints').glob('*.pt'):
            path.write_bytes(path.read_bytes()[:-1000])
        with pytest.raises(CorruptCheckpoint, match='so the training cannot go on from it: start it afresh'):
            job.trainer.prepare(job.task, member)

    def test_of_the_program_itself(self, make_job) -> None:
        """Those of a plain mace_run_train are read through too."""
        job = make_job()
        member = job.member()
        (member.folder / 'checkpoints').mkdir(parents=True)
        assert not job.trainer.has_checkpoint(member)
        (member.folder / 'checkpoints' / 'mace_run-1_epoch-3.pt').write_bytes(b'PK')
        assert job.trainer.has_checkpoint(member)
        with pytest.raises(CorruptCheckpoint, match=r'epoch-3\.pt cannot be read'):
            job.trainer.prepare(job.task, member)

    def test_of_another_model(self, begun, make_job) -> None:
        """A checkpoint that does not fit is no reason to begin anew in silence."""
        _, member = begun
        job = make_job(epochs=14, parameters={'num_channels': 8})
        assert _finish(job, member) == 1
        assert (
            'does not fit the model, so the training cannot go on from it' in (member.folder / 'train.out').read_text()
        )


class TestWarmStart:
    """Members go on from those of an earlier round."""

    @pytest.fixture(scope='class')
    def run(self, new_job, foundation, tmp_path_factory):
        """A member that went on for two epochs."""
        model = foundation.result.model
        job = new_job(tmp_path_factory.mktemp('warm'), epochs=8, task={'starts': (model,)})
        assert job.trainer.check_task(job.task) == []
        return job.finish([job.member(seed=3, start=model)])[0]

    def test_begins_where_the_other_ended(self, run, foundation) -> None:
        """The loss before training is that of the model; all weights are taken over."""
        assert run.code == 0, run.printed[-2000:]
        assert run.losses[0] == pytest.approx(min(foundation.losses[1:]), rel=1e-9)

    def test_short_and_annealed(self, run) -> None:
        """A quarter of the epochs, half the learning rate, which falls from there."""
        assert len(run.losses) == 1 + 2
        options = run.result.hyper_parameters
        assert (options['max_num_epochs'], options['lr'], options['scheduler']) == (2, 0.01, 'ExponentialLR')
        assert options['lr_scheduler_gamma'] ** 2 == pytest.approx(0.1)

    def test_what_the_user_says_wins(self, make_job, foundation) -> None:
        """Epochs and scheduler are options."""
        parameters = {'scheduler': 'ReduceLROnPlateau', 'scheduler_patience': 3, 'start_swa': 4}
        warm = {'epochs': 5, 'learning_rate_factor': 1.0}
        job = make_job(epochs=8, warm_start=warm, parameters=parameters)
        command = job.trainer.command(job.task, job.member(start=foundation.result.model))
        asked = {'--max_num_epochs=5', '--lr=0.02', '--scheduler=ReduceLROnPlateau', '--start_swa=2'}
        assert asked <= set(command) and not any('gamma' in word for word in command)

    def test_other_architecture(self, make_job, foundation) -> None:
        """MACE would ignore what is asked for."""
        job = make_job(parameters={'num_channels': 8, 'correlation': 3}, cutoff=4.5)
        with pytest.raises(
            ValueError, match='`correlation` is 3, but that of the model is 2; `num_channels` is 8'
        ) as no:
            job.trainer.prepare(job.task, job.member(start=foundation.result.model))
        assert '`cutoff` is 4.5 A, but that of the model is 4 A' in str(no.value)

    def test_cutoff_is_taken(self, make_job, foundation) -> None:
        """From the earlier model."""
        job = make_job(cutoff=None, task={'starts': (foundation.result.model,)})
        assert '--r_max=4.0' in job.trainer.command(job.task, job.member(start=foundation.result.model))

    def test_new_elements(self, make_job, new_data, frames, foundation) -> None:
        """The member is trained from scratch, with all epochs, and that is said."""
        silver = [_with_silver(frame) for frame in frames['train'][:4]]
        job = make_job(data=new_data(silver, silver), task={'starts': (foundation.result.model,)})
        (sentence,) = job.trainer.check_task(job.task)
        assert 'does not know: this member is trained from scratch' in sentence
        member = job.member(start=foundation.result.model)
        job.trainer.prepare(job.task, member)
        command = job.trainer.command(job.task, member)
        assert '--max_num_epochs=3' in command and not any('foundation' in word for word in command)

    def test_reference_energies(self, make_job, foundation, data) -> None:
        """Fitted ones are not replaced by those that other frames would give; labels of atoms are taken."""
        model = foundation.result.model
        other = dataclasses.replace(data, reference_energies={'Cu': -49.0, 'Au': -81.0})
        for source, expected in (('least_squares', [-50.0, -80.0]), ('isolated_atoms', [-49.0, -81.0])):
            job = make_job(source, data=dataclasses.replace(other, reference_source=source))
            member = job.member(start=model)
            job.trainer.prepare(job.task, member)
            assert list(json.loads((member.folder / 'E0s.json').read_text()).values()) == expected
            assert _reference_energies(member.folder / 'start.model') == expected


def _with_silver(frame):
    numbers = frame.numbers.copy()
    numbers[0] = 47
    return frame.replace(numbers=numbers)


def _reference_energies(path: Path) -> list[float]:
    import torch

    return torch.load(path, weights_only=False).atomic_energies_fn.atomic_energies.reshape(-1).tolist()
