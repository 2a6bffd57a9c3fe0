"""The card that goes with a committee; that of a real campaign is read in the test of the campaign."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
from aiida import orm
from aiida.common.links import LinkType

from aiida_alpot.calculations.functions import assemble_committee
from aiida_alpot.campaign.model_card import model_card
from aiida_alpot.data.committee import CommitteeData
from aiida_alpot.data.pes import PESData
from aiida_alpot.data.potential import PotentialData

pytestmark = pytest.mark.usefixtures('aiida_profile_clean')


def errors(rmse: float) -> dict[str, Any]:
    """Errors of one kind of frames."""
    return {name: {'rmse': rmse, 'mae': rmse / 2} for name in ('energy', 'forces')}


def job(computer: orm.Computer, process: str, **inputs: orm.Data) -> orm.CalcJobNode:
    """A job that has ended."""
    node = orm.CalcJobNode(computer=computer, process_type=f'aiida.calculations:{process}')
    for name, value in inputs.items():
        node.base.links.add_incoming(value, link_type=LinkType.INPUT_CALC, link_label=name)
    return node.store()


def made_by(node: orm.CalcJobNode, label: str, data: Any) -> Any:
    """An output of a job."""
    data.base.links.add_incoming(node, link_type=LinkType.CREATE, link_label=label)
    return data.store()


@pytest.fixture
def committee(make_frame: Callable, aiida_localhost: orm.Computer) -> CommitteeData:
    """A committee with its training and two evaluations."""
    dataset = PESData(frames=[make_frame(i, split=s) for i, s in enumerate(('train', 'validation', 'test'))]).store()
    training = job(aiida_localhost, 'alpot.train', dataset=dataset)
    said = {'train': {'all': errors(0.01), 'md': errors(0.02)}, 'validation': {'all': errors(0.03)}}
    made_by(training, 'results', orm.Dict({'committee': said}))
    fields: dict[str, Any] = {'trainer': 'mace', 'elements': dataset.elements, 'cutoff': 5.0, 'dtype': 'float64'}
    fields |= {'data_hash': dataset.content_hash, 'level_of_theory': ['pbe'], 'architecture': 'MACE'}
    fields |= {'hyper_parameters': {'num_channels': 8}, 'reference_energies': {'Si': -100.0}}
    potentials = {}
    for index in range(2):
        text = b'weights %d' % index

        potential = PotentialData(io.BytesIO(text), 'model.model', seed=index, **fields)
        potentials[f'member_{index}'] = made_by(training, f'potentials__member_{index}', potential)
    made = assemble_committee(**potentials)
    for rmse in (9.0, 0.04):
        evaluation = job(aiida_localhost, 'alpot.evaluate', committee=made)
        made_by(evaluation, 'metrics', orm.Dict({'train': errors(0.05), 'test': errors(rmse)}))
        forces = {'kind': 'linear', 'n_frames': 12, 'trustworthy': True, 'reason': '', 'rule': 'fitted', 'slope': 1.5}
        made_by(evaluation, 'calibration', orm.Dict({'forces': forces}))
    return made


def test_what_the_database_knows(committee: CommitteeData) -> None:
    """Data, errors of the last evaluation and by origin, calibration, ranges, options."""
    card = model_card(committee)
    assert card.startswith('# Model card: 2 potentials of MACE for ')
    for line in (
        '| level of theory | `pbe` |',
        '| energies of isolated atoms (eV) | Si -100.0000 |',
        '| frames by split | test 1, train 1, validation 1 |',
        '| train | all | 0.05 | 0.05 | – |',  # of the evaluation, not of the training
        '| train | md | 0.02 | 0.02 | – |',
        '| validation | all | 0.03 | 0.03 | – |',
        '| test | all | 0.04 | 0.04 | – |',
        'by `linear` on 12 held-out frames; it is trusted, and the rule is: fitted.',
        'about 1.5 times the deviation',
        '| atoms in a frame | 4 | 4 |',
        '"num_channels": 8',
    ):
        assert line in card, card
    assert all(digest in card for digest in committee.member_hashes)
    assert '9' not in card.split('## Errors')[1].split('## Calibration')[0]


def test_a_committee_that_was_brought_in(make_committee: Callable) -> None:
    """What is not known is said to be so."""
    card = model_card(make_committee(2).store())
    for text in ('| level of theory | not known |', 'not in this database', 'Not known: the committee was not'):
        assert text in card
    assert 'the disagreement of the members is no error' in card
