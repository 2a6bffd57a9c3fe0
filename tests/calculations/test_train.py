"""What alpot-train is given, and what is refused before."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiida import orm
from aiida.common.folders import SandboxFolder

from aiida_alpot.calculations.train import (
    TrainCalculation,
    misfit,
    requested_settings,
    validate_dataset,
    validate_members,
    validate_parameters,
)
from aiida_alpot.data.committee import CommitteeData
from aiida_alpot.data.pes import PESData
from aiida_alpot.data.potential import PotentialData
from aiida_alpot.worker.frames import Frame
from aiida_alpot.worker.training.config import parse_config

PARAMETERS = {'trainer': 'mace', 'cutoff': 5.0, 'epochs': 3, 'parameters': {'num_channels': 8}}
MEMBERS = [{'index': 0, 'seed': 11}, {'index': 2, 'seed': 12}]


@pytest.fixture
def dataset(make_frame: Callable[..., Frame], aiida_profile: Any) -> PESData:
    """Frames in all splits, in two shards."""
    splits = ['train', 'validation', 'test', 'train']
    frames = [make_frame(i, numbers=[6, 14, 14, 6], split=split) for i, split in enumerate(splits)]
    return PESData(frames=frames[:2]).extended(frames[2:]).store()


@pytest.fixture
def committee(aiida_profile: Any, tmp_path: Path) -> CommitteeData:
    """Two members, the second of which has a checkpoint beside its model."""
    (tmp_path / 'best.ckpt').write_bytes(b'checkpoint')
    fields: dict[str, Any] = {'trainer': 'mace', 'elements': ['C', 'Si'], 'cutoff': 5.0, 'dtype': 'float64'}
    members = [
        PotentialData(io.BytesIO(b'0'), 'a.model', seed=0, **fields),
        PotentialData(io.BytesIO(b'1'), 'b.model', seed=1, checkpoint=tmp_path / 'best.ckpt', **fields),
    ]
    return CommitteeData.from_potentials(members).store()


@pytest.fixture
def prepare(campaign_codes: dict[str, str], instantiate: Callable, dataset: PESData) -> Callable[..., Any]:
    """What a job is given: ``prepare(**inputs) -> (train.json, CalcInfo)``."""

    def run(**inputs: Any) -> Any:
        values: dict[str, Any] = {
            'code': orm.load_code(campaign_codes['train']),
            'dataset': dataset,
            'parameters': orm.Dict(PARAMETERS),
            'members': orm.List(MEMBERS),
        }
        process = instantiate(TrainCalculation, **(values | inputs))
        with SandboxFolder() as folder:
            info = process.prepare_for_submission(folder)
            assert folder.get_content_list() == ['train.json']
            with folder.open('train.json') as stream:
                return json.load(stream), info

    return run


def accepted(config: dict[str, Any], info: Any, folder: Path) -> Any:
    """What the program makes of the job, with every file in the place where it is copied to."""
    for _, _, target in info.local_copy_list:
        (folder / target).parent.mkdir(parents=True, exist_ok=True)
        (folder / target).write_bytes(b'')
    for _, _, target in info.remote_symlink_list or []:
        (folder / target).mkdir()
    return parse_config(config, folder)


def test_job(prepare: Callable, dataset: PESData, tmp_path: Path) -> None:
    """Settings that the program accepts; shards are copied as they are, and nothing else is made of them."""
    config, info = prepare()
    read = accepted(config, info, tmp_path)
    assert read.settings == requested_settings(orm.Dict(PARAMETERS))
    assert [(member.index, member.seed, member.start) for member in read.members] == [(0, 11, None), (2, 12, None)]
    assert [path.name for path in read.dataset] == [f'{digest}.h5' for digest in dataset.shards]
    assert len(info.local_copy_list) == len(read.dataset) == 2
    assert read.max_seconds is None and read.earlier is None and not info.remote_symlink_list
    assert info.codes_info[0].cmdline_params == ['train.json']
    # Models are outputs of their own: no second copy of them among what was retrieved.
    assert not any('models' in str(entry) or 'checkpoints' in str(entry) for entry in info.retrieve_list)
    assert {'models/*', 'checkpoints/*'} <= {entry[0] for entry in info.retrieve_temporary_list if len(entry) == 3}


def test_it_stops_ahead_of_the_walltime(prepare: Callable) -> None:
    """A part of the walltime is the program's own."""
    config, _ = prepare(metadata={'options': {'max_wallclock_seconds': 1000}})
    assert config['max_seconds'] == 950


def test_parent_folder(prepare: Callable, campaign_codes: dict[str, str], tmp_path: Path) -> None:
    """The folder of the interrupted job is within reach, and is not changed."""
    computer = orm.load_code(campaign_codes['train']).computer
    parent = orm.RemoteData(remote_path='/scratch/one', computer=computer).store()
    config, info = prepare(parent_folder=parent)
    assert info.remote_symlink_list == [(computer.uuid, '/scratch/one', 'earlier')]
    assert accepted(config, info, tmp_path).earlier == tmp_path / 'earlier'


def test_warm_start(prepare: Callable, committee: CommitteeData, tmp_path: Path) -> None:
    """Each member goes on from one of the earlier committee, by its checkpoint where it has one; others start anew."""
    members = [{'index': 0, 'seed': 1, 'start': 1}, {'index': 1, 'seed': 2, 'start': 0}, {'index': 2, 'seed': 3}]
    config, info = prepare(start=committee, members=orm.List(members))
    starts = [member.start for member in accepted(config, info, tmp_path).members]
    assert starts == [tmp_path / 'start/1.ckpt', tmp_path / 'start/0.model', None]
    assert (committee.uuid, 'checkpoints/1.ckpt', 'start/1.ckpt') in info.local_copy_list
    config, info = prepare(start=committee, members=orm.List(members[1:]))
    assert 'start/1.ckpt' not in [target for _, _, target in info.local_copy_list]


def test_fine_tuning(prepare: Callable, make_frame: Callable, tmp_path: Path) -> None:
    """Foundation model and its frames."""
    fields: dict[str, Any] = {'trainer': 'mace', 'elements': ['H', 'C', 'Si'], 'cutoff': 6.0, 'dtype': 'float32'}
    foundation = PotentialData(io.BytesIO(b'large'), 'mp.model', **fields).store()
    replay = PESData(frames=[make_frame(7)]).store()
    parameters = {**PARAMETERS, 'cutoff': None, 'fine_tuning': {'method': 'replay'}}
    config, info = prepare(foundation=foundation, replay=replay, parameters=orm.Dict(parameters))
    read = accepted(config, info, tmp_path)
    assert read.foundation == tmp_path / 'foundation/mp.model'
    assert [path.name for path in read.replay] == [f'{replay.shards[0]}.h5']


@pytest.mark.usefixtures('aiida_profile')
class TestRefusals:
    """Before the job is submitted, in a sentence."""

    @pytest.mark.parametrize(
        ('changes', 'sentence'),
        [
            ({'trainer': 'mase'}, "unknown trainer 'mase'. Did you mean 'mace'?"),
            ({'epoch': 3}, "unknown option of the training 'epoch'. Did you mean 'epochs'?"),
            ({'epochs': 0}, '`epochs` is 0, expected a whole number at least 1'),
            ({'weights': {'forces': -1}}, '`weights.forces` is -1'),
            ({'weights': {'energy': 0, 'forces': 0, 'stress': 0}}, '`weights` are all 0'),
            ({'device': 'gpu'}, '`device` is'),
            ({'max_seconds': 3}, "unknown option of the training 'max_seconds'"),
        ],
    )
    def test_parameters(self, changes: dict[str, Any], sentence: str) -> None:
        """Those that are the same for every trainer."""
        assert sentence in str(validate_parameters(orm.Dict({**PARAMETERS, **changes}), None))
        assert validate_parameters(orm.Dict(PARAMETERS), None) is None

    @pytest.mark.parametrize(
        ('members', 'sentence'),
        [
            ([], '`members` is empty'),
            ([{'seed': 1}], "a member is {'seed': 1}, expected `index` and `seed`"),
            ([{'index': 0, 'seed': -1}], '`seed` is -1'),
            ([{'index': 0, 'seed': 1}, {'index': 0, 'seed': 2}], 'two members have the same index: [0, 0]'),
            ([{'index': 0, 'seed': 1}, {'index': 1, 'seed': 1}], 'two members have the same seed: [1, 1]'),
            ([{'index': 0, 'seed': 1, 'begin': 2}], "unknown entry of a member 'begin'"),
        ],
    )
    def test_members(self, members: list[Any], sentence: str) -> None:
        """Two of one seed would be the same model twice."""
        assert sentence in str(validate_members(orm.List(members), None))

    @pytest.mark.parametrize('split', ['train', 'validation'])
    def test_missing_split(self, make_frame: Callable[..., Frame], split: str) -> None:
        """Isolated atoms are nothing to learn from."""
        other = {'train': 'validation', 'validation': 'train'}[split]
        atom = Frame(
            [14], [[5, 5, 5]], 10 * np.eye(3), [False] * 3, energy=-1.0, forces=np.zeros((1, 3)),
            origin='isolated_atom', split=split, level_of_theory='pbe',
        )  # fmt: skip
        unlabelled = make_frame(1, split=split, labelled=False)
        dataset = PESData(frames=[make_frame(0, split=other), unlabelled, atom])
        problem = str(validate_dataset(dataset, ['energy', 'forces']))
        assert f'no labelled frame in split `{split}`' in problem

    def test_missing_label(self, make_frame: Callable[..., Frame]) -> None:
        """Asked for and not there: only that property is refused (peer defect 12)."""
        frames = [make_frame(i, split=split, stress=None) for i, split in enumerate(('train', 'validation'))]
        dataset = PESData(frames=frames)
        assert '`weights.stress` is above 0, but no frame of split `train`' in str(
            validate_dataset(dataset, ['energy', 'forces', 'stress'])
        )
        assert validate_dataset(dataset, ['energy', 'forces']) is None

    def test_leakage(self, make_frame: Callable[..., Frame]) -> None:
        """A lineage in the test set and in what is trained on."""
        splits = ('train', 'validation', 'test')
        dataset = PESData(frames=[make_frame(i, split=split, lineage='one') for i, split in enumerate(splits)])
        assert "the lineage 'one' are both in split `test`" in str(validate_dataset(dataset, ['energy']))

    def test_two_levels_of_theory(self, make_frame: Callable[..., Frame]) -> None:
        """Energies that are no function of the structure."""
        frames = [make_frame(i, split=s, level_of_theory=s) for i, s in enumerate(('train', 'validation'))]
        dataset = PESData(frames=frames, allow_mixed_levels=True)
        assert 'the labels come from 2 levels of theory' in str(validate_dataset(dataset, ['energy']))

    def test_misfits(self, make_committee: Callable) -> None:
        """Another trainer, another cutoff, another element."""
        model = make_committee(elements=('C', 'Si'))
        settings = requested_settings(orm.Dict(PARAMETERS))
        assert misfit(model, settings, ['C']) is None
        assert 'it knows C, Si, and there is Ge in what is trained on' in str(misfit(model, settings, ['C', 'Ge']))
        other = requested_settings(orm.Dict({**PARAMETERS, 'cutoff': 4.0}))
        assert 'its cutoff is 5 A, and `cutoff` is 4 A: set `cutoff` to null' in str(misfit(model, other))
        other = requested_settings(orm.Dict({'trainer': 'metatrain', 'cutoff': 5.0}))
        assert "it is of the trainer 'mace', and this training is by 'metatrain'" in str(misfit(model, other))

    @pytest.mark.parametrize(
        ('parameters', 'given', 'sentence'),
        [
            ({}, ('replay',), '`replay` is given without `foundation`'),
            ({}, ('replay', 'foundation'), "`fine_tuning.method` is 'naive': set it to replay"),
            ({'fine_tuning': {'method': 'replay'}}, ('foundation',), 'give `replay`, frames that the foundation model'),
            ({'fine_tuning': {'method': 'replay'}}, (), 'but there is no `foundation`, the model to be tuned'),
            ({'cutoff': None}, (), '`cutoff` is null, and there is no model to take it from'),
            ({'cutoff': 4.0}, ('foundation',), '`foundation`: its cutoff is 5 A'),
            ({'cutoff': 4.0}, ('start',), '`start`: its cutoff is 5 A'),
            ({}, ('members',), 'goes on from member 5 of an earlier committee, but the input `start` is not given'),
            ({}, ('members', 'start'), 'goes on from member 5 of an earlier committee, but `start` has 2 members'),
        ],
    )
    def test_what_does_not_go_together(
        self,
        prepare: Callable,
        committee: CommitteeData,
        make_frame: Callable,
        parameters: dict[str, Any],
        given: tuple[str, ...],
        sentence: str,
    ) -> None:
        """Models, data and options."""
        fields: dict[str, Any] = {'trainer': 'mace', 'elements': ['C', 'Si'], 'cutoff': 5.0, 'dtype': 'float64'}
        inputs = {
            'replay': PESData(frames=[make_frame(7)]),
            'foundation': PotentialData(io.BytesIO(b'large'), 'mp.model', **fields),
            'start': committee,
            'members': orm.List([{'index': 0, 'seed': 1, 'start': 5}]),
        }
        with pytest.raises(ValueError) as error:
            prepare(parameters=orm.Dict({**PARAMETERS, **parameters}), **{name: inputs[name] for name in given})
        assert sentence in str(error.value)
