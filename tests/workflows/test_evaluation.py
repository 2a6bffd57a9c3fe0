"""Evaluation: what is refused before the job, and what the job is given."""

from __future__ import annotations

from typing import Any

import pytest

from aiida_alpot.workflows.evaluation import EvaluationWorkChain


def build(codes: dict[str, str], options: dict[str, Any] | None = None, **overrides: Any) -> Any:
    """Builder of the fast protocol."""
    return EvaluationWorkChain.get_builder_from_protocol(
        codes['evaluate'], protocol='fast', overrides=overrides, options=options
    )


def test_builder(campaign_codes: dict[str, str]) -> None:
    """The settings of the job, and apart from them its options."""
    builder = build(campaign_codes, {'account': 'mine'}, tolerance={'forces': 0.2, 'energy': 0.01}, max_select=3)
    parameters = builder.parameters.get_dict()
    assert parameters['tolerance'] == {'forces': 0.2, 'energy': 0.01} and parameters['max_select'] == 3
    assert 'options' not in parameters
    options = {'withmpi': False, 'max_wallclock_seconds': 3600, 'account': 'mine', 'resources': {'num_machines': 1}}
    assert dict(builder.options) == options


@pytest.mark.parametrize('protocol', ['fast', 'balanced', 'stringent'])
def test_protocols_are_valid_settings(campaign_codes: dict[str, str], protocol: str) -> None:
    """What the job would refuse is no protocol."""
    EvaluationWorkChain.get_builder_from_protocol(campaign_codes['evaluate'], protocol=protocol)


@pytest.mark.parametrize(
    ('overrides', 'sentence'),
    [
        ({'tolerance': {'forces': -0.1}}, '`tolerance.forces` is -0.1, expected a number in (0.0, inf)'),
        ({'tolerance': {'forces': 0}}, '`tolerance.forces` is 0'),
        ({'tolerance': {'energy': -1}}, '`tolerance.energy` is -1'),
        ({'tolerance': {'forces': 'small'}}, "`tolerance.forces` is 'small'"),
        ({'tolerance': {'forces': None}}, '`evaluation.tolerance.forces`: give the force error that you accept'),
        ({'tolerance': {'force': 0.1}}, 'unknown option `evaluation.tolerance.force`: did you mean `forces`?'),
        ({'tolerance': 0.1}, 'option `evaluation.tolerance` must be a mapping'),
        ({'max_selected': 5}, 'unknown option `evaluation.max_selected`: did you mean `max_select`?'),
        ({'max_select': 0}, '`max_select` is 0, expected a whole number at least 1'),
        ({'selector': 'topk'}, "'topk'. Did you mean 'top_k'?"),
        ({'signal': 'comittee'}, "Did you mean 'committee'?"),
        ({'calibration': 'none'}, 'Known: '),
        ({'gate': {'min_distance': -1.0}}, '`min_distance` is -1.0'),
        ({'gate': {'max_forces': 1.0}}, 'unknown option `evaluation.gate.max_forces`: did you mean `max_force`?'),
        ({'dtype': 'float16'}, 'float16'),
    ],
)
def test_refusals(campaign_codes: dict[str, str], overrides: dict[str, Any], sentence: str) -> None:
    """Before anything runs: after a day of labels it would be late."""
    with pytest.raises(ValueError) as error:
        build(campaign_codes, **overrides)
    assert sentence in str(error.value) and 'evaluation' in str(error.value)
