"""``alpot-train``: what it makes, how members end, and what it refuses."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from aiida_alpot.worker.frames import read_extxyz
from aiida_alpot.worker.potentials import load_committee
from aiida_alpot.worker.training import program
from aiida_alpot.worker.training.outcome import CURVE
from aiida_alpot.worker.training.program import alone_in, main

from .conftest import prepare_job


def test_a_committee(train) -> None:
    """Models, checkpoints, curves and a report; the errors are those of the models."""
    code, report, folder = train(seeds=(7, 8, 9))
    assert code == 0 and report['stopped'] is None and list(report['members']) == ['0', '1', '2']
    assert report['reference_energies'] == {'Cu': -50.0, 'Au': -80.0}
    assert report['reference_source'] == 'isolated_atoms' and report['warnings'] == []
    assert (report['n_train'], report['n_validation'], report['parallel']) == (12, 4, 2)
    curves = np.load(folder / 'curves.npz')
    assert set(curves) == {f'{index}_{name}' for index in range(3) for name in CURVE}
    for index, member in report['members'].items():
        assert member['status'] == 'trained' and member['seed'] == 7 + int(index) and member['message'] is None
        assert member['n_epochs'] == 5 and 0 < member['epoch'] <= 5 and member['n_frames'] == 12
        assert member['model'] == f'models/{index}.json' and member['checkpoint'] == f'checkpoints/{index}.json'
        assert member['loss'] == {
            'name': 'weighted mean squares',
            'weights': {'energy': 1.0, 'forces': 10.0, 'stress': 100.0},
        }
        assert member['hyper_parameters']['n_basis'] == 10 and member['version'] == '1.0' and member['resumed'] == 0
        (attempt,) = member['attempts']
        assert (attempt['ended'], attempt['epochs'], attempt['batch_size']) == ('trained', 5, 4)
        assert curves[f'{index}_epoch'].tolist() == [0, 1, 2, 3, 4, 5]
        assert np.isnan(curves[f'{index}_train_loss'][0]) and np.isfinite(curves[f'{index}_train_loss'][1:]).all()
        assert (folder / 'members' / index / 'train.out').read_text().count('epoch') == 6
        state = json.loads((folder / 'members' / index / 'state.json').read_text())
        assert state['status'] == 'trained' and state['model'] == member['model']
    assert_errors_are_those_of_the_models(report, folder)


def assert_errors_are_those_of_the_models(report: dict, folder: Path) -> None:
    committee = load_committee([folder / member['model'] for member in report['members'].values()])
    for split in ('train', 'validation'):
        frames = list(read_extxyz(folder / 'data' / f'{split}.xyz'))
        for origin in ('all', 'rattle', 'strain'):
            some = [frame for frame in frames if origin in ('all', frame.origin)]
            found = committee.evaluate(some)
            for rows, errors in (
                *(([row], member['errors']) for row, member in enumerate(report['members'].values())),
                ([0, 1, 2], report['committee']),
            ):
                energy = found.energy[rows].mean(axis=0) - [frame.energy for frame in some]
                forces = found.forces[rows].mean(axis=0) - np.concatenate([frame.forces for frame in some])
                stress = (found.stress[rows].mean(axis=0) - [frame.stress for frame in some])[
                    (..., *np.triu_indices(3))
                ]
                expected = {'energy': energy / 4, 'forces': forces, 'stress': stress}
                assert errors[split][origin]['n'] == len(some)
                for name, values in expected.items():
                    assert errors[split][origin][name]['rmse'] == pytest.approx(np.sqrt(np.mean(values**2)))
                    assert errors[split][origin][name]['mae'] == pytest.approx(np.mean(np.abs(values)))


def test_a_trainer_that_is_a_program(train) -> None:
    """By its command, with the same result as in a forked process."""
    _, forked, one = train('forked', seeds=(3,))
    code, separate, other = train('separate', seeds=(3,), parameters={'separate': True})
    assert code == 0 and separate['members']['0']['errors'] == forked['members']['0']['errors']
    assert (one / 'models/0.json').read_bytes() == (other / 'models/0.json').read_bytes()


def test_equal_input_equal_models_and_each_seed_another(train) -> None:
    _, _, one = train('one', seeds=(3, 4), parallel=2)
    _, _, other = train('other', seeds=(3, 4), parallel=1)
    for index in (0, 1):
        assert (one / f'models/{index}.json').read_bytes() == (other / f'models/{index}.json').read_bytes()
    assert (one / 'models/0.json').read_bytes() != (one / 'models/1.json').read_bytes()


def test_resampling(train) -> None:
    code, report, _ = train(resampling={'kind': 'bootstrap'}, seeds=(1, 2))
    assert code == 0
    counts = [member['n_frames'] for member in report['members'].values()]
    assert all(5 <= count < 12 for count in counts)
    _, report, _ = train('other', resampling={'kind': 'subsample', 'fraction': 0.5}, seeds=(1,))
    assert report['members']['0']['n_frames'] == 6


def test_warm_start(train) -> None:
    """A member that goes on from another begins where that one ended."""
    _, first, folder = train('first', seeds=(1,))
    start = str(folder / first['members']['0']['checkpoint'])
    _, _, second = train('second', members=[{'index': 4, 'seed': 5, 'start': start}], epochs=1)
    begin = np.load(second / 'curves.npz')['4_loss'][0]
    end = np.load(folder / 'curves.npz')['0_loss'][-1]
    assert begin == pytest.approx(end) and (second / 'models/4.json').is_file()


# How members end.


def statuses(report: dict) -> list[str]:
    return [member['status'] for member in report['members'].values()]


def ends(member: dict) -> list[str]:
    return [attempt['ended'] for attempt in member['attempts']]


@pytest.mark.parametrize('what', ['nan', 'explode'])
def test_divergence_is_tried_again_with_a_lower_learning_rate(train, what: str) -> None:
    code, report, folder = train(
        faults=[{'what': what, 'members': [0], 'above_factor': 0.5}], parameters={'pause': 0.02}
    )
    assert code == 0 and statuses(report) == ['trained', 'trained']
    member = report['members']['0']
    assert ends(member) == ['diverged', 'trained'] and ends(report['members']['1']) == ['trained']
    assert [attempt['learning_rate_factor'] for attempt in member['attempts']] == [1.0, 0.1]
    assert np.load(folder / 'curves.npz')['0_epoch'].tolist() == [0, 1, 2, 3, 4, 5]
    assert 'epoch' in (folder / 'members/0/train_0.out').read_text()
    (warning,) = report['warnings']
    assert warning.startswith('member 0: the training loss') and '0.1 times the learning rate' in warning


def test_divergence_again_is_reported(train) -> None:
    """It is ended as soon as it is seen, not after all of its epochs."""
    code, report, folder = train(
        faults=[{'what': 'nan', 'members': [0], 'epoch': 1}], epochs=60, parameters={'pause': 0.05}
    )
    assert code == 1 and statuses(report) == ['diverged', 'trained']
    member = report['members']['0']
    assert ends(member) == ['diverged', 'diverged'] and member['attempts'][0]['epochs'] < 40
    assert 'lower `learning_rate`' in member['message'] and member['model'] is None and member['errors'] is None
    assert not (folder / 'models/0.json').exists() and report['members']['1']['errors'] is not None
    assert json.loads((folder / 'members/0/state.json').read_text())['status'] == 'diverged'


@pytest.mark.parametrize('what', ['out_of_memory', 'cuda_out_of_memory', 'killed'])
def test_out_of_memory_halves_the_batch_and_goes_on(train, what: str) -> None:
    code, report, folder = train(faults=[{'what': what, 'members': [1], 'above_batch_size': 2, 'epoch': 3}])
    assert code == 0
    member = report['members']['1']
    assert ends(member) == ['out_of_memory', 'trained'] and member['resumed'] == 1
    assert [attempt['batch_size'] for attempt in member['attempts']] == [4, 2]
    # The epochs before are not done again.
    assert np.load(folder / 'curves.npz')['1_epoch'].tolist() == [0, 1, 2, 3, 4, 5]
    assert report['warnings'] == ['member 1: out of memory at batch size 4; it goes on with 2']


@pytest.mark.parametrize(('batch_size', 'attempts'), [(4, [4, 2]), (1, [1])])
def test_out_of_memory_again_is_reported(train, batch_size: int, attempts: list[int]) -> None:
    code, report, _ = train(faults=[{'what': 'out_of_memory'}], seeds=(1,), batch_size=batch_size)
    assert code == 1 and statuses(report) == ['out_of_memory']
    assert [attempt['batch_size'] for attempt in report['members']['0']['attempts']] == attempts
    assert f'even with a batch size of {attempts[-1]}' in report['members']['0']['message']


def test_ending_well_without_a_model(train) -> None:
    code, report, _ = train(faults=[{'what': 'no_model', 'members': [1]}])
    assert code == 1 and statuses(report) == ['trained', 'no_model']
    message = report['members']['1']['message']
    assert 'ended well, but it left no model.json' in message and 'epoch 5' in message


def test_a_crash(train) -> None:
    code, report, _ = train(faults=[{'what': 'crash', 'members': [0]}])
    assert code == 1 and statuses(report) == ['failed', 'trained']
    message = report['members']['0']['message']
    assert 'exit code 1' in message and 'RuntimeError: made to fail' in message


@pytest.mark.parametrize(('what', 'missing'), [('forgets_forces', 'forces'), ('leaves_out_stress', 'stress')])
def test_a_property_that_was_not_trained(train, what: str, missing: str) -> None:
    """What was asked for has to be in the loss by the trainer's own words (defect 12 of the peer)."""
    code, report, folder = train(faults=[{'what': what, 'members': [0]}])
    assert code == 1 and statuses(report) == ['property_not_trained', 'trained']
    member = report['members']['0']
    assert member['message'].startswith(f'{missing} was asked for, but is not in the loss')
    assert member['model'] is None and not (folder / 'models/0.json').exists()


def test_a_property_that_was_not_asked_for_may_be_missing(train) -> None:
    code, report, _ = train(seeds=(1,), weights={'stress': 0.0})
    assert code == 0 and set(report['members']['0']['loss']['weights']) == {'energy', 'forces'}
    assert report['members']['0']['errors']['validation']['all']['stress']['rmse'] > 0


def test_a_corrupt_start(train, tmp_path: Path) -> None:
    start = tmp_path / 'start.json'
    start.write_text('{"coefficients"')
    members = [{'index': 0, 'seed': 1, 'start': str(start)}, {'index': 1, 'seed': 2}]
    code, report, _ = train(members=members)
    assert code == 1 and statuses(report) == ['corrupt_checkpoint', 'trained']
    assert 'start.json is no checkpoint' in report['members']['0']['message']


def test_a_model_that_is_no_potential(train, monkeypatch) -> None:
    """What cannot be evaluated is no model, whatever the trainer thinks."""
    from alpot_linear import LinearTrainer

    finish = LinearTrainer._finish

    def damaged(self, task, member, state) -> None:
        finish(self, task, member, state)
        if member.index == 1:
            (member.folder / 'model.json').write_text('{"calculator": "no.such.Thing"}')

    monkeypatch.setattr(LinearTrainer, '_finish', damaged)
    code, report, _ = train()
    assert code == 1 and statuses(report) == ['trained', 'no_model']
    assert 'cannot be read as a potential' in report['members']['1']['message']
    assert any('errors could not be evaluated' in warning for warning in report['warnings'])


def test_a_foreign_parser_that_stumbles(train, monkeypatch) -> None:
    """A learning curve that cannot be read is a warning."""
    from alpot_linear import LinearTrainer

    def stumble(*_) -> None:
        raise IndexError('made up')

    monkeypatch.setattr(LinearTrainer, 'history', stumble)
    code, report, _ = train(seeds=(1,))
    assert code == 0 and report['members']['0']['n_epochs'] == 0
    assert 'the learning curve of member 0 cannot be read (IndexError' in report['warnings'][0]


# What is refused.


def refused(tmp_path: Path, frames, capsys, **given) -> str:
    folder = prepare_job(tmp_path, 'job', frames, **given)
    code = main([str(folder / 'train.json')], folder)
    assert code == 2 and not (folder / 'members').exists() and not (folder / 'training.json').exists()
    sentence = capsys.readouterr().err
    assert sentence.startswith('alpot-train: ') and 'Traceback' not in sentence
    return sentence


@pytest.mark.parametrize(
    ('given', 'words'),
    [
        ({'epoch': 5}, "'epochs'"),
        ({'weights': {'force': 1.0}}, "'forces'"),
        ({'weights': {'energy': 0.0, 'forces': 0.0, 'stress': 0.0}}, 'nothing would be learnt'),
        ({'trainer': 'lineer'}, "Did you mean 'linear'"),
        ({'trainer': ...}, "'trainer' is missing"),
        ({'parameters': {'n_bases': 4}}, "Did you mean 'n_basis'"),
        ({'cutoff': None}, '`cutoff` is not given'),
        ({'epochs': 0}, '`epochs` is 0'),
        ({'batch_size': 2.5}, '`batch_size` is 2.5'),
        ({'max_seconds': -1}, '`max_seconds` is -1'),
        ({'members': []}, '`members` is []'),
        ({'members': ...}, '`members` is None'),
        ({'members': [{'index': 0}]}, "'seed' is missing"),
        ({'members': [{'index': 0, 'seed': 1}, {'index': 0, 'seed': 2}]}, 'have the index 0'),
        ({'members': [{'index': 0, 'seed': 1}, {'index': 1, 'seed': 1}]}, 'have the seed 1'),
        ({'members': [{'index': 0, 'seed': 1, 'start': 'none.json'}]}, 'none.json, which `members.start` names'),
        ({'dataset': []}, '`dataset` is empty'),
        ({'dataset': 'a.h5'}, 'expected a list of shards'),
        ({'dataset': ['no.h5']}, 'no.h5, which `dataset` names'),
        ({'foundation': 'no.model'}, 'no.model, which `foundation` names'),
        ({'earlier': 'nowhere'}, "`earlier` is 'nowhere'"),
    ],
)
def test_bad_settings(linear, tmp_path: Path, frames, capsys, given: dict, words: str) -> None:
    assert words in refused(tmp_path, frames, capsys, **given)


def test_a_resampling_that_cannot_be(linear, tmp_path: Path, frames, capsys) -> None:
    pure = [
        frame if len(frame) == 1 else frame.replace(numbers=[29 + 50 * (i % 2)] * 4) for i, frame in enumerate(frames)
    ]
    sentence = refused(tmp_path, pure, capsys, resampling={'kind': 'subsample', 'fraction': 0.05})
    assert (
        'none of 1000 draws of 1 of the 12 training frames' in sentence and 'larger `resampling.fraction`' in sentence
    )


def test_replay_without_a_foundation_model(linear, tmp_path: Path, frames, capsys) -> None:
    shard = next(prepare_job(tmp_path, 'other', frames).parent.glob('*.h5'))
    assert 'without `foundation`' in refused(tmp_path, frames, capsys, replay=[str(shard)])


def test_replay(train, frames, tmp_path: Path) -> None:
    """Its frames are written, without those of split `test`."""
    shard = next(prepare_job(tmp_path, 'other', frames).parent.glob('*.h5'))
    code, _, folder = train(seeds=(1,), foundation=str(shard), replay=[str(shard)])
    assert code == 0
    written = list(read_extxyz(folder / 'data/replay.xyz'))
    assert len(written) == 16 and {frame.split for frame in written} == {'train', 'validation'}


@pytest.mark.parametrize('split', ['train', 'validation'])
def test_no_labelled_frame(linear, tmp_path: Path, frames, capsys, split: str) -> None:
    some = [frame.unlabelled() if frame.split == split else frame for frame in frames]
    sentence = refused(tmp_path, some, capsys)
    assert f'no labelled frame in split `{split}`' in sentence


@pytest.mark.parametrize('split', ['train', 'validation'])
def test_labels_that_are_asked_for_and_absent(linear, tmp_path: Path, frames, capsys, split: str) -> None:
    """Refused, and not, as MACE does it, trained without a word."""
    some = [frame.replace(stress=None) if frame.split == split else frame for frame in frames]
    assert f'`weights.stress` is above 0, but no frame of split `{split}`' in refused(tmp_path, some, capsys)


def test_mixed_levels_of_theory(linear, tmp_path: Path, frames, capsys) -> None:
    mixed = [frames[0].replace(level_of_theory='dft'), *frames[1:]]
    assert 'come from 2 levels of theory' in refused(tmp_path, mixed, capsys)


def test_isolated_atoms_of_another_level(linear, tmp_path: Path, frames, capsys) -> None:
    mixed = [frame.replace(level_of_theory='dft') if len(frame) == 1 else frame for frame in frames]
    assert 'isolated atoms included' in refused(tmp_path, mixed, capsys)


def test_a_trainer_that_is_not_installed(linear, tmp_path: Path, frames, capsys, monkeypatch) -> None:
    from alpot_linear import LinearTrainer

    monkeypatch.setattr(LinearTrainer, 'requires', 'no_such_package')
    sentence = refused(tmp_path, frames, capsys)
    assert 'needs the Python package `no_such_package`' in sentence and 'install it' in sentence


def test_a_device_that_is_not_there(linear, tmp_path: Path, frames, capsys) -> None:
    assert importlib.util.find_spec('torch')
    assert 'torch sees' in refused(tmp_path, frames, capsys, device='cuda:7')


def test_no_settings(tmp_path: Path, capsys) -> None:
    assert main([str(tmp_path / 'train.json')], tmp_path) == 2
    assert 'there is no file' in capsys.readouterr().err
    (tmp_path / 'train.json').write_text('{')
    assert main([str(tmp_path / 'train.json')], tmp_path) == 2
    assert 'not valid JSON' in capsys.readouterr().err


def test_what_the_package_loads() -> None:
    """Neither torch nor AiiDA, before a trainer is asked to."""
    code = (
        'import sys, aiida_alpot.worker.training.program, aiida_alpot.worker.training.conformance\n'
        'print({"torch", "aiida", "mace", "metatrain", "matplotlib"} & set(sys.modules))'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == 'set()'


def test_one_at_a_time_in_a_folder(train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """A second job in a folder that is in use is refused, and does not touch what is there."""
    monkeypatch.setattr(program, 'LOCK_SECONDS', 0.2)
    with alone_in(tmp_path):
        assert main([str(tmp_path / 'train.json')], tmp_path) == 2
    assert f'another alpot-train is running in {tmp_path}' in capsys.readouterr().err
    code, _, _ = train(seeds=(1,))
    assert code == 0
