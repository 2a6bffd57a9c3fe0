"""Training of a committee: what is refused, and what the members differ in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from aiida_alpot.calculations.mace_train import MaceTrainCalculation
from aiida_alpot.data.pes import PESData
from aiida_alpot.workflows.training import TrainingWorkChain


def build(codes: dict[str, str], dataset: PESData | None = None, **overrides: Any) -> Any:
    """Builder of the fast protocol."""
    return TrainingWorkChain.get_builder_from_protocol(
        codes['mace_train'], dataset, seed=3, protocol='fast', overrides=overrides
    )


def test_builder(campaign_codes: dict[str, str], make_frame: Callable) -> None:
    """Options of mace_run_train are taken over, also those that the protocol does not have."""
    dataset = PESData(frames=[make_frame(0, split='train')])
    builder = build(campaign_codes, dataset, n_members=4, parameters={'hidden_irreps': '8x0e'})
    assert builder.dataset is dataset and builder.n_members.value == 4
    parameters = builder.mace.parameters.get_dict()
    assert parameters['hidden_irreps'] == '8x0e' and parameters['device'] == 'cpu'
    assert builder.mace.metadata.options['max_wallclock_seconds'] == 3600


@pytest.mark.parametrize(
    ('overrides', 'sentence'),
    [
        ({'n_members': 1}, '`training.n_members`: a committee needs at least 2, found 1'),
        ({'n_members': 'three'}, "`training.n_members`: a committee needs at least 2, found 'three'"),
        ({'members': 3}, 'unknown option `training.members`: did you mean `n_members`?'),
        ({'parameters': {'seed': 1}}, '`training.parameters`: option `seed` of mace_run_train cannot be given'),
        ({'parameters': {'E0s': 'average'}}, 'option `E0s` of mace_run_train cannot be given: it is made from the'),
        ({'max_concurrent': 4096}, '`training.max_concurrent`: 4096 jobs at a time'),
    ],
)
def test_refusals(campaign_codes: dict[str, str], overrides: dict[str, Any], sentence: str) -> None:
    """Before anything runs."""
    with pytest.raises(ValueError) as error:
        build(campaign_codes, **overrides)
    assert sentence in str(error.value)


def test_members_differ_in_their_seed_only(
    campaign_codes: dict[str, str], make_frame: Callable, instantiate: Callable
) -> None:
    """The same data set and options for all."""
    dataset = PESData(frames=[make_frame(0, split='train'), make_frame(1, split='validation')])
    chain = instantiate(build(campaign_codes, dataset, n_members=3))
    assert chain.count_members() is None and chain.ctx.n_tasks == 3
    tasks = [chain.build_task(index) for index in range(3)]
    assert all(process is MaceTrainCalculation for process, _ in tasks)
    assert len({inputs['seed'].value for _, inputs in tasks}) == 3
    assert {inputs['dataset'].uuid for _, inputs in tasks} == {chain.inputs.dataset.uuid}
    assert [chain.build_task(index)[1]['seed'].value for index in range(3)] == [t['seed'].value for _, t in tasks]


@pytest.mark.parametrize('split', ['train', 'validation'])
def test_data_set_without_a_split(
    campaign_codes: dict[str, str], make_frame: Callable, instantiate: Callable, split: str
) -> None:
    """An exit code with the remedy, not an exception in the first child."""
    dataset = PESData(frames=[make_frame(0, split=split), make_frame(1, split='test')])
    exit_code = instantiate(build(campaign_codes, dataset)).count_members()
    other = {'train': 'validation', 'validation': 'train'}[split]
    assert exit_code.status == 311
    assert f'no labelled frame in split `{other}`; label more frames or change the fractions' in exit_code.message
