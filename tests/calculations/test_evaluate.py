"""What alpot-evaluate is given."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from aiida import orm
from aiida.common.folders import SandboxFolder

from aiida_alpot.calculations.evaluate import EvaluateCalculation
from aiida_alpot.data.pes import PESData
from aiida_alpot.worker.acquisition.config import parse_config
from aiida_alpot.workflows.evaluation import EvaluationWorkChain


@pytest.mark.parametrize('with_pool', [True, False])
def test_job(
    campaign_codes: dict[str, str],
    instantiate: Callable,
    make_committee: Callable,
    make_frame: Callable,
    with_pool: bool,
) -> None:
    """Settings that the program accepts, and every file that they name is copied to its place."""
    dataset = PESData(frames=[make_frame(0)]).extended([make_frame(1)]).store()
    pool = PESData(frames=[make_frame(2, labelled=False)]).store()
    builder = EvaluationWorkChain.get_builder_from_protocol(campaign_codes['evaluate'], protocol='fast')
    inputs: dict[str, Any] = {'pool': pool} if with_pool else {}
    committee = make_committee(3).store()
    process = instantiate(
        EvaluateCalculation,
        code=builder.code,
        committee=committee,
        dataset=dataset,
        parameters=builder.parameters,
        seed=orm.Int(9),
        **inputs,
    )
    with SandboxFolder() as folder:
        info = process.prepare_for_submission(folder)
        assert folder.get_content_list() == ['evaluate.json']
        with folder.open('evaluate.json') as stream:
            config = parse_config(json.load(stream))
    assert (config.seed, config.max_select, config.device) == (9, 10, 'cpu')
    assert config.committee == ('committee/0.model', 'committee/1.model', 'committee/2.model')
    assert config.dataset == tuple(f'dataset/{digest}.h5' for digest in dataset.shards) and len(config.dataset) == 2
    assert config.pool == ((f'pool/{pool.shards[0]}.h5',) if with_pool else ())
    targets = [target for _, _, target in info.local_copy_list]
    assert targets == [*config.committee, *config.dataset, *config.pool]
    assert info.codes_info[0].cmdline_params == ['evaluate.json']
    assert {'evaluation.json', 'progress.json'} <= set(info.retrieve_list)
    assert config.keep_predictions and config.max_seconds is None and not config.earlier
    assert not info.remote_symlink_list and not info.remote_copy_list
    # Nothing that was sent comes back (peer defect 18): results only, and those outside the repository.
    assert info.retrieve_temporary_list == ['scores.npz', 'predictions.npz', ('selected/*.h5', '.', 2)]


@pytest.fixture
def prepare(
    campaign_codes: dict[str, str], instantiate: Callable, make_committee: Callable, make_frame: Callable
) -> Callable[..., tuple[Any, Any]]:
    """Settings and instructions of a job with some parameters, options and inputs."""

    def run(parameters: dict[str, Any], options: dict[str, Any], **inputs: Any) -> tuple[Any, Any]:
        builder = EvaluationWorkChain.get_builder_from_protocol(campaign_codes['evaluate'], protocol='fast')
        process = instantiate(
            EvaluateCalculation,
            code=builder.code,
            committee=make_committee(2).store(),
            dataset=PESData(frames=[make_frame(0)]).store(),
            parameters=orm.Dict({**builder.parameters.get_dict(), **parameters}),
            seed=orm.Int(9),
            metadata={'options': options},
            **inputs,
        )
        with SandboxFolder() as folder:
            info = process.prepare_for_submission(folder)
            with folder.open('evaluate.json') as stream:
                return parse_config(json.load(stream)), info

    return run


def test_it_stops_ahead_of_the_walltime(prepare: Callable) -> None:
    """The job is given a part of its walltime; where nothing is kept it need not stop, and a user's limit holds."""
    options = {'max_wallclock_seconds': 1000}
    assert prepare({}, options)[0].max_seconds == 950
    assert prepare({'keep_predictions': False}, options)[0].max_seconds is None
    assert prepare({'max_seconds': 10}, options)[0].max_seconds == 10


def test_parent_folder(prepare: Callable, campaign_codes: dict[str, str]) -> None:
    """The folder of an earlier job is within reach of the new one, which does not change it."""
    computer = orm.load_code(campaign_codes['evaluate']).computer
    parent = orm.RemoteData(remote_path='/scratch/one', computer=computer).store()
    config, info = prepare({}, {'max_wallclock_seconds': 100}, parent_folder=parent)
    assert config.earlier == ('earlier',) and config.max_seconds == 95
    assert info.remote_symlink_list == [(computer.uuid, '/scratch/one', 'earlier')]
    config, _ = prepare({'keep_predictions': False}, {}, parent_folder=parent)
    assert config.earlier == ()


def test_parent_folder_that_is_gone(prepare: Callable, campaign_codes: dict[str, str]) -> None:
    """Before the job is submitted, in a sentence."""
    computer = orm.load_code(campaign_codes['evaluate']).computer
    parent = orm.RemoteData(remote_path='/scratch/one', computer=computer).store()
    parent.base.extras.set(orm.RemoteData.KEY_EXTRA_CLEANED, True)
    with pytest.raises(ValueError, match='was cleaned, so nothing is kept there: leave `parent_folder` out'):
        prepare({}, {}, parent_folder=parent)


def test_parent_folder_elsewhere(prepare: Callable) -> None:
    """A link from one machine to another leads nowhere."""
    other = orm.Computer('elsewhere', 'elsewhere.org', transport_type='core.ssh', scheduler_type='core.slurm').store()
    parent = orm.RemoteData(remote_path='/scratch/one', computer=other).store()
    with pytest.raises(ValueError, match='`parent_folder` is on the computer `elsewhere`, but the job runs on'):
        prepare({}, {}, parent_folder=parent)
