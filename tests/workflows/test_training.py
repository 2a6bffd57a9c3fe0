"""Training of a committee: what is refused, how the members are shared out to jobs, and what follows an interruption.

The jobs are of a program that stands in for alpot-train and does as it is told.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiida import orm
from aiida.common import AttributeDict
from aiida.engine import run_get_node

from aiida_alpot.calculations.train import TrainCalculation
from aiida_alpot.data.pes import PESData
from aiida_alpot.data.potential import PotentialData
from aiida_alpot.worker.frames import write_shard
from aiida_alpot.workflows import training
from aiida_alpot.workflows.training import TrainingWorkChain, checked_settings
from aiida_alpot.workflows.training_jobs import first_jobs, following_job

STAND_IN = """
import json, os, pathlib, sys
import numpy as np
config = json.loads(pathlib.Path('train.json').read_text())
told, resumed = config['parameters'].get('told', 'train'), 'earlier' in config
if told == 'refuse':
    sys.exit('alpot-train: it is refused')
indices = [member['index'] for member in config['members']]
left = {'stop once': [] if resumed else indices[1:], 'kill once': [] if resumed else indices[1:],
        'kill second once': [] if resumed else [index for index in indices if index == 1],
        'stop': indices[1:], 'kill': indices, 'diverge': [1], 'diverge all': indices}.get(told, [])
weights = {'energy': 1.0, 'forces': 10.0, 'stress': 100.0}
members = {}
for member in config['members']:
    index = member['index']
    status = 'trained' if index not in left else 'diverged' if 'diverge' in told else 'stopped'
    entry = {'index': index, 'seed': member['seed'], 'status': status, 'message': None if status == 'trained' else told,
             'n_epochs': 10 if status == 'trained' else 4 + 2 * (resumed and told == 'stop once'), 'model': None,
             'checkpoint': None, 'version': '1', 'hyper_parameters': {}, 'loss': {'name': 'l', 'weights': weights}}
    if status == 'trained':
        entry.update(model=f'models/{index}.model', epoch=9)
        os.makedirs('models', exist_ok=True)
        pathlib.Path(entry['model']).write_text(f'{index} {member["seed"]} {member["start"]}')
        os.makedirs(f'members/{index}', exist_ok=True)
        pathlib.Path(f'members/{index}/state.json').write_text(json.dumps({**entry, 'curve': [[9, 1, 1, 1, 1, None]]}))
    members[str(index)] = entry
curves = {f'{index}_loss': np.ones(2) for index, entry in members.items() if entry['model']}
print('a line of the program')
if 'kill' not in told or not left:
    stopped = 'walltime' if 'stop' in told and left else None
    np.savez('curves.npz', **curves)
    pathlib.Path('training.json').write_text(json.dumps({
        'stopped': stopped, 'warnings': [f'job of {indices}'], 'reference_energies': {'Si': -1.0},
        'seconds': 2.0, 'committee': {}, 'members': members}))
"""


def build(codes: dict[str, str], dataset: PESData | None = None, **overrides: Any) -> Any:
    """Builder of the fast protocol."""
    return TrainingWorkChain.get_builder_from_protocol(
        codes['train'], dataset, seed=3, protocol='fast', overrides=overrides
    )


@pytest.fixture
def dataset(make_frame: Callable, aiida_profile: Any) -> PESData:
    """Silicon in both splits."""
    frames = [make_frame(i, numbers=[14] * 4, split=split) for i, split in enumerate(('train', 'validation', 'train'))]
    return PESData(frames=frames).store()


@pytest.fixture
def foundation(aiida_profile: Any) -> PotentialData:
    """A model that was brought in."""
    fields: dict[str, Any] = {'trainer': 'mace', 'elements': ['C', 'Si'], 'cutoff': 6.0, 'dtype': 'float32'}
    return PotentialData(io.BytesIO(b'large'), 'mp.model', **fields).store()


class TestBuilder:
    """What a protocol becomes, and what is refused before anything runs."""

    def test_builder(self, campaign_codes: dict[str, str], dataset: PESData) -> None:
        """Terms that are the same for every trainer, and options of the one that is asked for."""
        builder = build(campaign_codes, dataset, n_members=4, parameters={'mace': {'MLP_irreps': '8x0e'}})
        assert builder.dataset is dataset and builder.n_members.value == 4 and builder.packed.value is True
        values = builder.train.parameters.get_dict()
        assert values['parameters']['MLP_irreps'] == '8x0e' and values['device'] == 'cpu'
        assert not {'n_members', 'packed', 'foundation', 'options', 'metatrain'} & {*values, *values['parameters']}
        assert set(values['warm_start']) == {'epochs', 'learning_rate_factor'}
        assert builder.train.metadata.options['max_wallclock_seconds'] == 3600

    @pytest.mark.parametrize('protocol', TrainingWorkChain.get_available_protocols())
    @pytest.mark.parametrize('trainer', ['mace', 'metatrain'])
    def test_protocols_suit_both_trainers(self, protocol: str, trainer: str) -> None:
        """But for one word; the trainers themselves accept their options."""
        inputs = TrainingWorkChain.get_protocol_inputs(protocol, {'trainer': trainer})
        values = checked_settings(inputs)
        assert values['trainer'] == trainer and values['parameters'] == inputs['parameters'][trainer]

    @pytest.mark.parametrize(
        ('protocol', 'block'),
        [
            ('fast', {'name': 'pet', 'model': {'d_pet': 64}}),
            ('fast', {'name': 'pet'}),
            ('stringent', {'name': 'soap_bpnn'}),
        ],
    )
    def test_another_architecture_than_that_of_the_protocol(self, protocol: str, block: dict[str, Any]) -> None:
        """It gets none of the options that the protocol has for its own."""
        inputs = TrainingWorkChain.get_protocol_inputs(
            protocol, {'trainer': 'metatrain', 'parameters': {'metatrain': block}}
        )
        assert checked_settings(inputs)['parameters'] == block

    def test_the_architecture_of_the_protocol(self) -> None:
        """Its options are changed one by one."""
        block = {'name': 'soap_bpnn', 'model': {'soap': {'max_radial': 5}}}
        inputs = TrainingWorkChain.get_protocol_inputs('fast', {'parameters': {'metatrain': block}})
        assert inputs['parameters']['metatrain']['model']['soap'] == {'max_angular': 3, 'max_radial': 5}

    @pytest.mark.parametrize(
        ('overrides', 'sentence'),
        [
            ({'n_members': 1}, '`training.n_members`: a committee needs at least 2, found 1'),
            ({'n_members': 'three'}, "`training.n_members`: a committee needs at least 2, found 'three'"),
            ({'members': 3}, 'unknown option `training.members`: did you mean `n_members`?'),
            ({'max_concurrent': 4096}, '`training.max_concurrent`: 4096 jobs at a time'),
            ({'packed': 1}, '`training.packed` is 1, expected true or false'),
            ({'max_restarts': -1}, '`training.max_restarts` is -1'),
            ({'warm_start': {'enabled': 'yes'}}, "`warm_start.enabled` is 'yes'"),
            ({'warm_start': {'reset_every': 0}}, '`warm_start.reset_every` is 0'),
            ({'warm_start': {'epochs': 0}}, '`training`: `warm_start.epochs` is 0'),
            ({'trainer': 'metatrian'}, "`training`: unknown trainer 'metatrian'. Did you mean 'metatrain'?"),
            ({'parameters': {'metatrian': {}}}, "unknown trainer in `parameters`: 'metatrian'"),
            ({'parameters': {'mace': 3}}, 'option `training.parameters.mace` must be a mapping, found 3'),
            ({'weights': {'force': 3}}, 'unknown option `training.weights.force`: did you mean `forces`?'),
            ({'epochs': 2.5}, '`training`: `epochs` is 2.5'),
            ({'cutoff': None}, '`training.cutoff`: is null, and there is no model to take it from'),
            ({'fine_tuning': {'method': 'replay'}}, '`training`: `fine_tuning.method` is replay, but there is no'),
            ({'foundation': 'gone.model'}, "`training.foundation`: 'gone.model' is neither a file nor the PK, UUID"),
            ({'foundation': 987654}, '`training.foundation`: 987654 is neither a file nor'),
            ({'replay': 'gone.xyz'}, "`training.replay`: 'gone.xyz' is neither a file nor"),
        ],
    )
    def test_refusals(self, campaign_codes: dict[str, str], overrides: dict[str, Any], sentence: str) -> None:
        """In a sentence that names the field."""
        with pytest.raises(ValueError) as error:
            build(campaign_codes, **overrides)
        assert sentence in str(error.value)

    @pytest.mark.parametrize(
        ('trainer', 'options', 'sentence'),
        [
            ('mace', {'num_chanels': 8}, 'num_chanels'),
            ('mace', {'seed': 1}, 'seed'),
            ('metatrain', {'model': {'sope': {}}}, 'sope'),
        ],
    )
    def test_options_of_the_trainer(
        self, campaign_codes: dict[str, str], trainer: str, options: dict[str, Any], sentence: str
    ) -> None:
        """A misspelt hyper-parameter is not found by the job, but here."""
        with pytest.raises(ValueError, match=f'`training`: .*{sentence}'):
            build(campaign_codes, trainer=trainer, parameters={trainer: options})

    def test_options_of_the_other_trainer_do_not_count(self, campaign_codes: dict[str, str]) -> None:
        """They may be those of a later version."""
        builder = build(campaign_codes, parameters={'metatrain': {'something': 1}})
        assert 'something' not in builder.train.parameters.get_dict()['parameters']

    def test_trainer_that_is_not_installed_here(
        self, campaign_codes: dict[str, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """AiiDA needs no torch: the job checks."""

        def refuse(_: Any) -> None:
            raise training.TrainerNotInstalled('mace is not here')

        monkeypatch.setattr(training, 'check_options', refuse)
        assert build(campaign_codes, parameters={'mace': {'num_chanels': 8}}).train.parameters is not None


class TestModels:
    """What a training starts from, named in several ways."""

    def test_foundation(self, campaign_codes: dict[str, str], foundation: PotentialData, tmp_path: Path) -> None:
        """Node, PK, UUID; a file that the database knows is not brought in again."""
        (tmp_path / 'mp.model').write_bytes(b'large')
        for given in (foundation, foundation.pk, foundation.uuid, str(tmp_path / 'mp.model')):
            builder = build(campaign_codes, foundation=given, cutoff=None)
            assert builder.foundation.sha256 == foundation.sha256 and builder.foundation.is_stored

    def test_foundation_from_a_file(
        self, campaign_codes: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Which says itself what it is."""
        (tmp_path / 'new.model').write_bytes(b'never seen')
        said = {'trainer': 'mace', 'elements': ['Si'], 'cutoff': 5.0, 'dtype': 'float64'}
        monkeypatch.setattr('aiida_alpot.data.potential.describe', lambda _: said)
        assert build(campaign_codes, foundation=str(tmp_path / 'new.model')).foundation.elements == ['Si']
        monkeypatch.undo()
        (tmp_path / 'new.txt').write_bytes(b'never seen')
        with pytest.raises(ValueError, match=r'`training\.foundation`: .*new\.txt cannot be read as a model: .*suffix'):
            build(campaign_codes, foundation=str(tmp_path / 'new.txt'))

    @pytest.mark.parametrize(
        ('overrides', 'sentence'),
        [
            ({}, '`training.foundation`: its cutoff is 6 A, and `cutoff` is 5 A'),
            ({'cutoff': None, 'trainer': 'metatrain'}, "`training.foundation`: it is of the trainer 'mace'"),
        ],
    )
    def test_misfits(
        self,
        campaign_codes: dict[str, str],
        foundation: PotentialData,
        overrides: dict[str, Any],
        sentence: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """What can be told without loading it."""
        monkeypatch.setattr(training, 'check_options', lambda _: None)  # takes seconds for metatrain
        with pytest.raises(ValueError) as error:
            build(campaign_codes, foundation=foundation, **overrides)
        assert sentence in str(error.value)

    def test_other_elements(
        self, campaign_codes: dict[str, str], foundation: PotentialData, make_frame: Callable
    ) -> None:
        """Where the data set is known."""
        titanium = PESData(frames=[make_frame(i, numbers=[22] * 4, split=s) for i, s in enumerate(('train', 'test'))])
        with pytest.raises(ValueError, match='it knows C, Si, and there is Ti in what is trained on'):
            build(campaign_codes, titanium, foundation=foundation, cutoff=None)

    def test_replay(
        self, campaign_codes: dict[str, str], foundation: PotentialData, make_frame: Callable, tmp_path: Path
    ) -> None:
        """From a node or a file that tells what its labels are."""
        replay = PESData(frames=[make_frame(9)]).store()
        shard = write_shard([make_frame(9)], tmp_path)
        common = {'foundation': foundation, 'cutoff': None, 'fine_tuning': {'method': 'replay'}}
        for given in (replay, replay.uuid, str(shard)):
            assert build(campaign_codes, replay=given, **common).replay.content_hash == replay.content_hash
        (tmp_path / 'foreign.xyz').write_text('1\nenergy=-1.0\nSi 0 0 0\n')
        with pytest.raises(ValueError, match=r'`training\.replay`: .*`verdi data alpot\.pes import` takes such files'):
            build(campaign_codes, replay=str(tmp_path / 'foreign.xyz'), **common)
        with pytest.raises(ValueError, match=r'`training\.replay`: node \d+ is a PotentialData, expected a PESData'):
            build(campaign_codes, replay=foundation.pk, **common)
        with pytest.raises(ValueError, match='give `replay`, frames that the foundation model was trained on'):
            build(campaign_codes, **common)
        for name in ('freeze', 'lora_rank'):
            with pytest.raises(ValueError, match=f'`fine_tuning.{name}` is given, but there is no `foundation`'):
                build(campaign_codes, fine_tuning={name: 2})


class TestJobs:
    """How members are shared out, and what tells them apart."""

    def test_packed_or_not(self) -> None:
        """All in one job, or each in its own."""
        assert [job['members'] for job in first_jobs(3, True)] == [[0, 1, 2]]
        assert [job['members'] for job in first_jobs(3, False)] == [[0], [1], [2]]

    @pytest.mark.parametrize('packed', [True, False])
    def test_members_differ_in_their_seed_only(
        self, campaign_codes: dict[str, str], dataset: PESData, instantiate: Callable, packed: bool
    ) -> None:
        """The same data and options for all, the same seeds however they are shared out."""
        chain = instantiate(build(campaign_codes, dataset, n_members=3, packed=packed))
        assert chain.plan_jobs() is None and chain.ctx.n_tasks == (1 if packed else 3)
        tasks = [chain.build_task(index) for index in range(chain.ctx.n_tasks)]
        assert all(process is TrainCalculation for process, _ in tasks)
        members = [of for _, inputs in tasks for of in inputs['members'].get_list()]
        assert [of['index'] for of in members] == [0, 1, 2] and len({of['seed'] for of in members}) == 3
        expected = [training.derive_seed(3, 'member', index) for index in range(3)]
        assert [of['seed'] for of in members] == expected

    def test_warm_start(
        self, campaign_codes: dict[str, str], dataset: PESData, instantiate: Callable, make_committee: Callable
    ) -> None:
        """Each goes on from its own; where the earlier committee is smaller, the others start anew."""
        builder = build(campaign_codes, dataset, n_members=3)
        builder.start = make_committee(2).store()
        chain = instantiate(builder)
        chain.plan_jobs()
        _, inputs = chain.build_task(0)
        assert [of.get('start') for of in inputs['members'].get_list()] == [0, 1, None]
        assert inputs['start'].uuid == builder.start.uuid

    @pytest.mark.parametrize('split', ['train', 'validation'])
    def test_data_set_without_a_split(
        self, campaign_codes: dict[str, str], make_frame: Callable, instantiate: Callable, split: str
    ) -> None:
        """An exit code with the remedy, not an exception in the first child."""
        dataset = PESData(frames=[make_frame(0, split=split), make_frame(1, split='test')])
        exit_code = instantiate(build(campaign_codes, dataset)).plan_jobs()
        other = {'train': 'validation', 'validation': 'train'}[split]
        assert exit_code.status == 311
        assert f'no labelled frame in split `{other}`: label more frames or change the fractions' in exit_code.message


@pytest.fixture
def train(campaign_codes: dict[str, str], dataset: PESData, tmp_path: Path) -> Callable[..., orm.WorkChainNode]:
    """Run a training with the program that does as it is ``told``."""
    program = tmp_path / 'alpot-train'
    program.write_text(f'#!{sys.executable}\n{STAND_IN}')
    program.chmod(0o755)
    real = orm.load_code(campaign_codes['train'])
    code = orm.InstalledCode(
        label='stand-in',
        computer=real.computer,
        filepath_executable=str(program),
        default_calc_job_plugin='alpot.train',
        with_mpi=False,
    ).store()

    def run(told: str, n_members: int = 3, packed: bool = True, **inputs: Any) -> orm.WorkChainNode:
        builder = build(campaign_codes, dataset, n_members=n_members, packed=packed)
        builder.train.code = code
        parameters = builder.train.parameters.get_dict()
        builder.train.parameters = orm.Dict({**parameters, 'parameters': {'told': told}})
        for name, value in inputs.items():
            builder[name] = value
        return run_get_node(builder)[1]

    return run


def jobs_of(chain: orm.WorkChainNode) -> list[Any]:
    """Training jobs of a chain, in order."""
    return sorted((node for node in chain.called if isinstance(node, orm.CalcJobNode)), key=lambda node: node.pk)


def reports_of(chain: orm.WorkChainNode) -> str:
    """What a chain told."""
    return '\n'.join(log.message for log in orm.Log.collection.get_logs_for(chain))


def test_the_program_itself(campaign_codes: dict[str, str], dataset: PESData) -> None:
    """What only the trainer can refuse is refused by the job, where no builder from a protocol did it before."""
    builder = build(campaign_codes, dataset, n_members=2)
    builder.train.parameters = orm.Dict({**builder.train.parameters.get_dict(), 'parameters': {'num_chanels': 8}})
    node = run_get_node(builder)[1]
    assert [job.exit_status for job in jobs_of(node)] == [316]
    assert node.exit_status == 310 and "Did you mean 'num_channels'?" in node.exit_message


@pytest.mark.parametrize(
    ('status', 'epochs', 'job', 'idle'),
    [
        (312, 10, {'epochs': 0, 'idle': 0}, 0),
        (312, 10, {'epochs': 10, 'idle': 0}, None),  # it would come no further a second time
        (318, 10, {'epochs': 4, 'idle': 1}, 0),
        (318, 0, {'epochs': 0, 'idle': 0}, 1),  # a node may fail before the first epoch
        (318, 0, {'epochs': 10, 'idle': 1}, None),
        (140, 10, {'epochs': 0, 'idle': 0}, 0),
        (314, 10, {'epochs': 0, 'idle': 0}, None),
        (0, 10, {'epochs': 0, 'idle': 0}, None),
    ],
)
def test_following_job(status: int, epochs: int, job: dict[str, int], idle: int | None) -> None:
    """One that goes on is worth it as long as epochs are done."""
    results = {'members': {'0': {'n_epochs': epochs}, '1': {'n_epochs': None}}}
    child = SimpleNamespace(
        pk=7, is_finished=True, exit_status=status, outputs=AttributeDict({'results': results, 'remote_folder': 1})
    )
    following = following_job({'members': [0, 1], 'part': 2, 'parent': None, **job}, child)
    if idle is None:
        assert following is None
    else:
        assert following == {
            'members': [0, 1], 'parent': 7, 'part': 3, 'idle': idle, 'epochs': max(epochs, job['epochs'])
        }  # fmt: skip


class TestRuns:
    """With jobs that end in all ways."""

    @pytest.mark.parametrize('packed', [True, False])
    def test_all_trained(self, train: Callable, packed: bool) -> None:
        """Committee, potentials, curves and results, whichever way they were shared out."""
        node = train('train', packed=packed)
        assert node.is_finished_ok, node.exit_message
        assert len(jobs_of(node)) == (1 if packed else 3)
        outputs = node.outputs
        assert outputs.committee.n_members == 3 and len(set(outputs.committee.seeds)) == 3
        assert outputs.committee.data_hash == node.inputs.dataset.content_hash
        names = ['member_0', 'member_1', 'member_2']
        assert sorted(outputs.potentials) == sorted(outputs.curves) == names
        assert sorted(outputs.results['members']) == ['0', '1', '2']
        assert outputs.results.creator is not None and ('committee' in outputs.results.get_dict()) is packed
        assert 'warning: job of [0, 1, 2]' in reports_of(node) if packed else 'warning: job of [2]' in reports_of(node)

    def test_warm_start(self, train: Callable, make_committee: Callable) -> None:
        """The program gets the earlier members, and the models say what they come from."""
        start = make_committee(3).store()
        node = train('train', start=start)
        assert node.outputs.potentials.member_1.get_content().endswith(b'start/1.model')
        assert node.outputs.potentials.member_1.started_from == start.member_hashes[1]

    @pytest.mark.parametrize('told', ['stop once', 'kill once'])
    def test_interrupted(self, train: Callable, told: str) -> None:
        """Another job goes on in reach of the folder of the first; in the end nothing is missing."""
        node = train(told)
        assert node.is_finished_ok, node.exit_message
        first, second = jobs_of(node)
        assert first.exit_status == (312 if told == 'stop once' else 318)
        assert 'potentials__member_0' in first.base.links.get_outgoing().all_link_labels()
        assert second.inputs.parent_folder.uuid == first.outputs.remote_folder.uuid
        assert node.outputs.committee.n_members == 3
        assert f'job {first.pk} was interrupted' in reports_of(node)

    def test_interrupted_alone(self, train: Callable) -> None:
        """Only the job that was interrupted is gone on with."""
        node = train('kill second once', n_members=2, packed=False)
        assert node.is_finished_ok, node.exit_message
        first, second, third = jobs_of(node)
        assert [job.exit_status for job in (first, second, third)] == [0, 318, 0]
        assert third.inputs.members.get_list() == second.inputs.members.get_list()
        assert third.inputs.parent_folder.creator.pk == second.pk and 'parent_folder' not in first.inputs
        assert sorted(node.outputs.potentials) == ['member_0', 'member_1']

    @pytest.mark.parametrize(('told', 'n_jobs', 'status'), [('stop', 2, 312), ('kill', 2, 318)])
    def test_no_progress(self, train: Callable, told: str, n_jobs: int, status: int) -> None:
        """No epoch more than before: a further job would come no further."""
        node = train(told)
        assert node.exit_status == 310 and len(jobs_of(node)) == n_jobs
        n_trained = {'stop': 1, 'kill': 0}[told]
        assert node.exit_message.startswith(f'only {n_trained} of 3 members were trained; the first failure: ')
        assert jobs_of(node)[-1].exit_status == status and ('potentials' in node.outputs) is (told == 'stop')

    def test_restarts_are_counted(self, train: Callable) -> None:
        """None where none is wanted."""
        node = train('stop once', max_restarts=orm.Int(0))
        assert node.exit_status == 310 and len(jobs_of(node)) == 1
        assert 'the training was stopped (by itself, ahead of the walltime)' in node.exit_message
        assert node.outputs.potentials.member_0.get_content().startswith(b'0 ')

    def test_some_diverge(self, train: Callable) -> None:
        """The others make a committee."""
        node = train('diverge')
        assert node.is_finished_ok and node.outputs.committee.n_members == 2
        assert 'the committee has 2 of 3 members' in reports_of(node)
        assert 'member 1 diverged' in reports_of(node)
        assert node.outputs.results['members']['1']['status'] == 'diverged'

    @pytest.mark.parametrize(
        ('told', 'sentence'),
        [
            ('diverge all', 'only 0 of 3 members were trained; the first failure: member 0 diverged'),
            ('refuse', 'the first failure: alpot-train refused its input: it is refused'),
        ],
    )
    def test_too_few(self, train: Callable, told: str, sentence: str) -> None:
        """With the first reason; what is known is an output."""
        node = train(told)
        assert node.exit_status == 310 and sentence in node.exit_message
        assert ('results' in node.outputs) is (told != 'refuse') and 'committee' not in node.outputs
