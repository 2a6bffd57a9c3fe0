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
    assert 'evaluation.json' in info.retrieve_list
    # Nothing that was sent comes back (peer defect 18): results only, and those outside the repository.
    assert info.retrieve_temporary_list == ['scores.npz', 'predictions.npz', ('selected/*.h5', '.', 2)]
