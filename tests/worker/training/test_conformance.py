"""The kit that trainers prove themselves with: a trainer of another package that does, and some that do not."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aiida_alpot.worker.frames import Frame
from aiida_alpot.worker.training import conformance, data
from aiida_alpot.worker.training.conformance import Kit, check_trainer, made_up_frames


def test_a_trainer_of_another_package(linear, tmp_path: Path) -> None:
    from alpot_linear import LinearTrainer

    check_trainer(LinearTrainer, {'pause': 0.1}, tmp_path)


def test_the_made_up_frames() -> None:
    """Their energies are those of atoms plus what binds them; only those of test frames mislead."""
    frames = made_up_frames()
    assert [frame.frame_id for frame in frames] == [frame.frame_id for frame in made_up_frames()]
    assert len({frame.frame_id for frame in frames}) == len(frames)
    for frame in frames:
        alone = sum(conformance.REFERENCE_ENERGIES[symbol] for symbol in frame.to_atoms().symbols)
        assert frame.split == 'test' or -5.0 < (frame.energy - alone) / len(frame) <= 0.0


# Trainers with one fault each.


def misspelt_options_are_taken(trainer: type) -> type:
    class Broken(trainer):
        def check_options(self) -> None:
            pass

    return Broken


def members_are_the_same(trainer: type) -> type:
    class Broken(trainer):
        def train(self, task, member) -> None:
            super().train(task, replace(member, seed=1))

    return Broken


def the_seed_is_ignored(trainer: type) -> type:
    class Broken(trainer):
        def train(self, task, member) -> None:
            super().train(task, replace(member, seed=int(np.random.default_rng().integers(2**31))))

    return Broken


def nothing_is_learnt(trainer: type) -> type:
    class Broken(trainer):
        def train(self, task, member) -> None:
            super().train(task, replace(member, learning_rate_factor=1e-9))

    return Broken


def changed_result(**fields: Any) -> Callable[[type], type]:
    def change(trainer: type) -> type:
        class Broken(trainer):
            def result(self, task, member):
                return replace(super().result(task, member), **fields)

        return Broken

    return change


def changed_model(change: Callable[[dict[str, Any]], None]) -> Callable[[type], type]:
    def of(trainer: type) -> type:
        class Broken(trainer):
            def _finish(self, task, member, state) -> None:
                super()._finish(task, member, state)
                description = json.loads((member.folder / 'model.json').read_text())
                change(description)
                (member.folder / 'model.json').write_text(json.dumps(description))

        return Broken

    return of


def forces_are_no_derivative(model: dict[str, Any]) -> None:
    model['calculator'] = 'alpot_linear.calculator.WrongForces'


def stress_is_of_the_other_sign(model: dict[str, Any]) -> None:
    model['calculator'] = 'alpot_linear.calculator.WrongStress'


def without_reference_energies(model: dict[str, Any]) -> None:
    model['parameters']['reference_energies'] = {'Cu': 0.0, 'Au': 0.0}


def no_checkpoints(trainer: type) -> type:
    class Broken(trainer):
        def has_checkpoint(self, member) -> bool:
            return False

    return Broken


def it_begins_anew(trainer: type) -> type:
    class Broken(trainer):
        def prepare(self, task, member) -> None:
            for name in ('checkpoint.json', 'history.jsonl'):
                (member.folder / name).unlink(missing_ok=True)
            super().prepare(task, member)

    return Broken


def the_curve_repeats_epochs(trainer: type) -> type:
    class Broken(trainer):
        def history(self, member):
            found = super().history(member)
            return [*found, *found[-2:]]

    return Broken


@pytest.mark.parametrize(
    ('change', 'check', 'words'),
    [
        (misspelt_options_are_taken, 'options', 'misspelt options are lost'),
        (members_are_the_same, 'models', 'the two members are the same'),
        (the_seed_is_ignored, 'seeds', 'two trainings with one seed differ'),
        (nothing_is_learnt, 'committee', 'expected below'),
        (changed_result(loss_weights={'energy': 1.0}), 'committee', 'forces, stress was asked for, but is not in'),
        (changed_result(version=''), 'committee', 'version'),
        (changed_result(hyper_parameters={}), 'committee', 'no hyper-parameters'),
        (changed_model(without_reference_energies), 'committee', 'the validation error of the energy'),
        (changed_model(stress_is_of_the_other_sign), 'committee', 'the validation error of the stress'),
        (changed_model(forces_are_no_derivative), 'models', 'the forces differ from -dE/dx'),
        (the_curve_repeats_epochs, 'committee', 'do not go up one by one'),
        (no_checkpoints, 'interruptions', r'there is no checkpoint at epoch \d, so'),
        (it_begins_anew, 'interruptions', 'it begins anew: it is at epoch [01]'),
    ],
)
def test_faults_are_found(linear, tmp_path: Path, monkeypatch, change, check: str, words: str) -> None:
    from alpot_linear import LinearTrainer

    monkeypatch.setattr(conformance, 'PATIENCE', 20.0)
    slow = {'parameters': {'pause': 0.1}} if check == 'interruptions' else {'parameters': {}}
    kit = Kit(change(LinearTrainer), tmp_path, {'epochs': 8, 'batch_size': 4, **slow})
    with pytest.raises(AssertionError, match=words):
        if check in ('models', 'seeds'):
            folder = conformance.check_committee(kit)
            getattr(conformance, f'check_{check}')(kit, folder)
        else:
            getattr(conformance, f'check_{check}')(kit)


def test_frames_that_leak_are_found(linear, tmp_path: Path, monkeypatch) -> None:
    """Were the test frames written, the check would say so."""
    from alpot_linear import LinearTrainer

    def leak(self, split: str) -> list[Frame]:
        return [frame for frame in made_up_frames() if len(frame) > 1]

    monkeypatch.setattr(data.TrainingFrames, 'frames', leak)
    kit = Kit(LinearTrainer, tmp_path, {'epochs': 1, 'batch_size': 4, 'parameters': {}})
    folder = kit.finish('leaky', {0: 1})
    with pytest.raises(AssertionError, match=r'test frames are in data/train\.xyz'):
        conformance.check_test_frames(kit, folder)
