"""What alpot-train left, however it ended."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiida import orm

from aiida_alpot.calculations.train import TrainCalculation
from aiida_alpot.data.pes import PESData
from aiida_alpot.parsers.train import CODES, architecture, plain
from aiida_alpot.worker.training import outcome
from aiida_alpot.worker.training.settings import parse_settings

PARAMETERS = {'trainer': 'mace', 'cutoff': 4.5, 'dtype': 'float32', 'parameters': {'num_channels': 8}}
WEIGHTS = {'energy': 1.0, 'forces': 10.0, 'stress': 100.0}
ERRORS = {'train': {'all': {'n': 2, 'energy': {'rmse': 0.01, 'mae': 0.01}}}}


def member(index: int, status: str = 'trained', **changes: Any) -> dict[str, Any]:
    """What the program says of a member."""
    trained = status == 'trained'
    return {
        'index': index,
        'seed': 40 + index,
        'status': status,
        'message': None if trained else f'it is {status}',
        'model': f'models/{index}.model' if trained else None,
        'checkpoint': None,
        'epoch': 5 if trained else None,
        'n_epochs': 7,
        'loss': {'name': 'universal', 'weights': WEIGHTS} if trained else None,
        'hyper_parameters': {'model': 'MACE', 'r_max': 4.5},
        'version': '0.3.16',
        'attempts': [{'learning_rate_factor': 1.0, 'batch_size': 4, 'ended': status, 'seconds': 1.0, 'epochs': 7}],
        'resumed': 0,
        'n_frames': 2,
        'errors': ERRORS,
        'curve': str(index),
        **changes,
    }


def summary(*members: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """What the program says at its end."""
    return {
        'stopped': None,
        'reference_energies': {'C': -150.0, 'Si': -100.0},
        'reference_source': 'isolated_atoms',
        'warnings': ['the sky is falling'],
        'n_train': 2,
        'n_validation': 1,
        'parallel': 2,
        'seconds': 3.0,
        'members': {str(of['index']): of for of in members},
        'committee': ERRORS,
        **changes,
    }


@pytest.fixture
def dataset(make_frame: Callable, aiida_profile: Any) -> PESData:
    """What was trained on."""
    return PESData(frames=[make_frame(i, numbers=[14, 6, 14, 6], split=s) for i, s in enumerate(('train', 'test'))])


@pytest.fixture
def job(parse: Callable, dataset: PESData, tmp_path: Path) -> Callable[..., Any]:
    """Parse a training of members 0 and 1 that left these: models of those that say so, unless ``files`` are named."""

    def run(
        said: Mapping[str, Any] | str | None,
        *states: Mapping[str, Any],
        log: str | None = 'member 0: epoch 5\n',
        files: tuple[str, ...] | None = None,
        exit_status: int | None = None,
        **inputs: orm.Data,
    ) -> Any:
        entries = [*states, *(said['members'].values() if isinstance(said, Mapping) else ())]
        named = [of.get(kind) for of in entries for kind in ('model', 'checkpoint')]
        for name in filter(None, named if files is None else files):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(name.encode())
        retrieved = {f'members/{of["index"]}/state.json': json.dumps(of) for of in states}
        if log is not None:
            retrieved['job.out'] = log
        if said is not None:
            retrieved['training.json'] = said if isinstance(said, str) else json.dumps(said)
        given: dict[str, orm.Data] = {
            'dataset': dataset,
            'parameters': orm.Dict(PARAMETERS),
            'members': orm.List([{'index': 0, 'seed': 40}, {'index': 1, 'seed': 41}]),
        }
        return parse('alpot.train', retrieved, given | inputs, exit_status=exit_status)

    return run


def write_curves(folder: Path, *indices: int) -> None:
    """Learning curves as the program writes them."""
    curves = {f'{i}_{name}': np.array([0.0, np.nan, float(i)]) for i in indices for name in outcome.CURVE}
    np.savez(folder / 'curves.npz', **curves)


class TestTrained:
    """All went well."""

    def test_potentials(self, job: Callable, dataset: PESData, tmp_path: Path) -> None:
        """With all that one must know of them."""
        outputs, node = job(summary(member(0, checkpoint='checkpoints/0.ckpt'), member(1)))
        assert node.exit_status == 0, node.exit_message
        assert set(outputs['potentials']) == {'member_0', 'member_1'}
        potential = outputs['potentials']['member_0']
        assert potential.get_content() == b'models/0.model' and potential.suffix == '.model'
        with potential.open(potential.checkpoint_path) as stream:
            assert stream.read() == b'checkpoints/0.ckpt'
        assert outputs['potentials']['member_1'].checkpoint_path is None
        assert (potential.trainer, potential.trainer_version, potential.architecture) == ('mace', '0.3.16', 'MACE')
        assert (potential.elements, potential.cutoff, potential.dtype, potential.seed) == (
            ['C', 'Si'],
            4.5,
            'float32',
            40,
        )
        assert potential.data_hash == dataset.content_hash and potential.level_of_theory == ['pbe']
        assert potential.reference_energies == {'C': -150.0, 'Si': -100.0} and potential.started_from is None
        attributes = potential.base.attributes
        assert attributes.get('epoch') == 5 and attributes.get('loss')['weights'] == WEIGHTS

    def test_what_the_model_itself_says_counts(self, job: Callable) -> None:
        """Elements and cutoff, where the program tells them."""
        outputs, _ = job(summary(member(0, elements=['Si'], cutoff=6.0), member(1)))
        assert outputs['potentials']['member_0'].elements == ['Si']
        assert outputs['potentials']['member_0'].cutoff == 6.0

    def test_results(self, job: Callable) -> None:
        """Errors, attempts and warnings; what is a node of its own is not repeated."""
        outputs, _ = job(summary(member(0), member(1)))
        results = outputs['results'].get_dict()
        assert results['members']['1']['errors'] == results['committee'] == ERRORS
        assert results['members']['0']['attempts'][0]['batch_size'] == 4
        assert results['warnings'] == ['the sky is falling'] and results['reference_source'] == 'isolated_atoms'
        assert not {'model', 'checkpoint', 'curve'} & set(results['members']['0'])

    def test_curves(self, job: Callable, tmp_path: Path) -> None:
        """One node a member, nan where nothing was said."""
        write_curves(tmp_path, 0, 1)
        outputs, _ = job(summary(member(0), member(1)))
        assert set(outputs['curves']) == {'member_0', 'member_1'}
        curve = outputs['curves']['member_1']
        assert sorted(curve.get_arraynames()) == sorted(outcome.CURVE)
        assert curve.get_array('loss')[2] == 1.0 and np.isnan(curve.get_array('loss')[1])

    def test_no_curves(self, job: Callable, tmp_path: Path) -> None:
        """A file cut short is none."""
        write_curves(tmp_path, 0, 1)
        (tmp_path / 'curves.npz').write_bytes((tmp_path / 'curves.npz').read_bytes()[:200])
        outputs, node = job(summary(member(0), member(1)))
        assert node.exit_status == 0 and 'curves' not in outputs

    def test_done_before_the_scheduler_ended_it(self, job: Callable) -> None:
        """Where all is there, the job is one that went well."""
        assert job(summary(member(0), member(1)), exit_status=120)[1].exit_status == 0

    def test_started_from(self, job: Callable, make_committee: Callable) -> None:
        """The model that a member went on from, by its content."""
        start = make_committee(2, elements=('C', 'Si'))
        members = orm.List([{'index': 0, 'seed': 40, 'start': 1}, {'index': 1, 'seed': 41, 'start': 0}])
        parameters = orm.Dict({**PARAMETERS, 'cutoff': None})
        outputs, _ = job(summary(member(0), member(1)), start=start, members=members, parameters=parameters)
        made = [outputs['potentials'][f'member_{index}'] for index in range(2)]
        assert [potential.started_from for potential in made] == start.member_hashes[::-1]
        assert made[0].cutoff == 5.0

    def test_not_finite(self, job: Callable) -> None:
        """JSON has NaN, the database has not."""
        entry = member(1, hyper_parameters={'clip': float('inf')}, errors={'train': float('nan')})
        outputs, _ = job(summary(member(0), entry))
        assert outputs['results']['members']['1']['errors'] == {'train': None}
        assert outputs['potentials']['member_1'].hyper_parameters == {'clip': None}


class TestFailures:
    """One exit code a cause; what was trained is kept."""

    @pytest.mark.parametrize(
        ('status', 'code', 'sentence'),
        [
            (outcome.FAILED, 310, 'member 1 failed: it is failed'),
            (outcome.PROPERTY_NOT_TRAINED, 311, 'member 1 was not trained on all that was asked for: it is'),
            (outcome.NO_MODEL, 313, 'the trainer ended well, but left no model of member 1: it is no_model'),
            (outcome.DIVERGED, 314, 'member 1 diverged, also when it was started again with a lower learning rate'),
            (outcome.OUT_OF_MEMORY, 315, 'the memory did not suffice for member 1, also with half the batch size'),
            (outcome.CORRUPT_CHECKPOINT, 317, 'what member 1 was to go on from cannot be read: it is corrupt'),
            ('of a later version', 310, 'member 1 failed: it is of a later version'),
        ],
    )
    def test_status(self, job: Callable, status: str, code: int, sentence: str) -> None:
        """As the program says."""
        outputs, node = job(summary(member(0), member(1, status)))
        assert node.exit_status == code and sentence in node.exit_message
        assert set(outputs['potentials']) == {'member_0'} and set(outputs['results']['members']) == {'0', '1'}

    def test_every_status_has_a_code(self) -> None:
        """None is left to the last resort."""
        known = {outcome.TRAINED, outcome.STOPPED, *CODES}
        assert known == {getattr(outcome, name) for name in dir(outcome) if name.isupper()} & {
            *known,
            *outcome.FOR_GOOD,
        }

    @pytest.mark.parametrize('weights', [{'energy': 1.0, 'forces': 10.0}, {**WEIGHTS, 'stress': 0.0}, {}])
    def test_property_not_in_the_loss(self, job: Callable, weights: dict[str, float]) -> None:
        """Looked at from here too: asked for and not trained on, no potential comes of it (peer defect 12)."""
        outputs, node = job(summary(member(0), member(1, loss={'name': 'WeightedLoss', 'weights': weights})))
        assert (
            node.exit_status == 311
            and 'stress asked for but not in the loss: WeightedLoss'
            in node.exit_message.replace('energy, forces, ', '')
        )
        assert set(outputs['potentials']) == {'member_0'}

    def test_a_model_that_did_not_come_back(self, job: Callable) -> None:
        """Though it was trained."""
        outputs, node = job(summary(member(0), member(1)), files=('models/0.model',))
        assert node.exit_status == 313 and 'models/1.model did not come back' in node.exit_message
        assert set(outputs['potentials']) == {'member_0'}

    def test_out_of_memory_by_the_scheduler(self, job: Callable) -> None:
        """Which ends the whole job."""
        outputs, node = job(
            None, member(0), exit_status=TrainCalculation.exit_codes.ERROR_SCHEDULER_OUT_OF_MEMORY.status
        )
        assert node.exit_status == 315 and set(outputs['potentials']) == {'member_0'}

    def test_bad_input(self, job: Callable) -> None:
        """In the words of the program."""
        outputs, node = job(None, log='alpot-train: `epochs` is 0\n')
        assert node.exit_status == 316 and not outputs
        assert node.exit_message == 'alpot-train refused its input: `epochs` is 0'

    def test_a_program_that_fails(self, job: Callable) -> None:
        """Another such job would fail, too."""
        log = 'Traceback (most recent call last):\n  File "x"\nModuleNotFoundError: No module named mace\n'
        outputs, node = job(None, log=log)
        assert node.exit_status == 310 and not outputs
        assert node.exit_message == 'alpot-train failed: ModuleNotFoundError: No module named mace'

    def test_nothing_retrieved(self, job: Callable) -> None:
        """Not even the log."""
        outputs, node = job(None, log=None)
        assert node.exit_status == 301 and not outputs

    def test_a_member_of_which_nothing_is_said(self, job: Callable) -> None:
        """No member is forgotten."""
        _, node = job(summary(member(0)))
        assert node.exit_status == 310 and 'member 1 failed: nothing is said of it' in node.exit_message


class TestInterruptions:
    """Another job can go on; nothing of this is taken from the cache."""

    def test_codes_invalidate_the_cache(self) -> None:
        """A job that was stopped is no answer to the same question."""
        codes = TrainCalculation.exit_codes
        assert codes.ERROR_STOPPED.invalidates_cache and codes.ERROR_INTERRUPTED.invalidates_cache
        assert not codes.ERROR_DIVERGED.invalidates_cache

    @pytest.mark.parametrize(
        ('stopped', 'exit_status', 'reason'),
        [
            ('walltime', None, 'by itself, ahead of the walltime'),
            ('signal', None, 'by a signal'),
            (None, 120, 'by the scheduler, at the walltime'),
            ('walltime', 120, 'by itself, ahead of the walltime'),
        ],
    )
    def test_stopped(self, job: Callable, stopped: str | None, exit_status: int | None, reason: str) -> None:
        """Whoever stopped it, and how far it came."""
        said = summary(member(0), member(1, outcome.STOPPED, n_epochs=3), stopped=stopped)
        outputs, node = job(said, exit_status=exit_status)
        assert node.exit_status == 312
        assert f'the training was stopped ({reason}) after 10 epochs of all members together' in node.exit_message
        assert set(outputs['potentials']) == {'member_0'} and outputs['results']['stopped'] == stopped

    def test_stopped_comes_before_failures(self, job: Callable) -> None:
        """So that the other members are gone on with."""
        said = summary(member(0, outcome.DIVERGED), member(1, outcome.STOPPED), stopped='walltime')
        assert job(said)[1].exit_status == 312

    @pytest.mark.parametrize('said', [None, '', json.dumps(summary(member(0), member(1)))[:300]])
    def test_killed(self, job: Callable, said: str | None) -> None:
        """At any time: members that had ended are there with their curves, however the summary was cut."""
        curve = [[0, None, 2.0, None, None, None], [1, 0.5, 1.0, 0.1, 0.2, None]]
        outputs, node = job(said, member(0, curve=curve, result={}))
        assert node.exit_status == 318 and 'its last words: member 0: epoch 5' in node.exit_message
        assert set(outputs['potentials']) == {'member_0'} and set(outputs['results']['members']) == {'0'}
        assert outputs['curves']['member_0'].get_array('loss').tolist() == [2.0, 1.0]
        assert np.isnan(outputs['curves']['member_0'].get_array('stress')).all()

    def test_how_far_it_came_before_it_was_killed(self, job: Callable) -> None:
        """By what it printed last of each member."""
        log = 'member 0: begins\nmember 0: epoch 5\nmember 1: epoch 2\nmember 0: trained\nmember 1: epoch 12\nmem'
        outputs, node = job(None, member(0), log=log)
        assert node.exit_status == 318
        members = outputs['results']['members']
        assert members['0']['status'] == 'trained' and members['0']['n_epochs'] == 7
        assert (members['1']['status'], members['1']['n_epochs'], members['1']['seed']) == ('stopped', 12, 41)

    def test_killed_before_anything(self, job: Callable) -> None:
        """Or while it loaded."""
        outputs, node = job(None, log='')
        assert node.exit_status == 318 and not outputs

    @pytest.mark.parametrize('kept', range(0, 200, 17))
    def test_truncated_state(self, job: Callable, parse: Callable, kept: int) -> None:
        """A state cut short at any place is none."""
        text = json.dumps(member(0))
        inputs = {'parameters': orm.Dict(PARAMETERS), 'members': orm.List([{'index': 0, 'seed': 40}])}
        outputs, node = parse('alpot.train', {'job.out': 'x', 'members/0/state.json': text[:kept]}, inputs)
        assert node.exit_status == 318 and not outputs

    def test_node_failure(self, job: Callable) -> None:
        """As for one that was killed."""
        status = TrainCalculation.exit_codes.ERROR_SCHEDULER_NODE_FAILURE.status
        assert job(None, member(0), exit_status=status)[1].exit_status == 318


def test_plain() -> None:
    """Whatever JSON holds."""
    assert plain({'a': [1, float('nan'), {'b': float('inf')}], 'c': 'x', 'd': True}) == {
        'a': [1, None, {'b': None}],
        'c': 'x',
        'd': True,
    }


@pytest.mark.parametrize(
    ('options', 'parameters', 'name'),
    [
        ({'model': 'FoundationMACE'}, {'model': 'MACE'}, 'MACE'),
        ({'model': 'ScaleShiftMACE'}, {}, 'ScaleShiftMACE'),
        ({}, {'name': 'pet', 'model': {'cutoff': 3.0}}, 'pet'),
        ({'architecture': {'name': 'soap_bpnn'}}, {}, 'soap_bpnn'),
        ({}, {}, None),
    ],
)
def test_architecture(options: dict[str, Any], parameters: dict[str, Any], name: str | None) -> None:
    """As the trainer names it."""
    assert architecture(parse_settings({'trainer': 'x', 'parameters': parameters}), options) == name
