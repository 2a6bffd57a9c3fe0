"""Generators in provenance."""

from __future__ import annotations

from typing import Any

import pytest
from aiida import orm
from ase.build import bulk

from aiida_alpot.calculations.augment import augment, check_plan, plan
from aiida_alpot.calculations.functions import structures_to_frames
from aiida_alpot.data.pes import PESData
from aiida_alpot.workflows.augmentation import DatasetAugmentationWorkChain

GENERATORS = {
    'supercell': {'repeats': [[1, 1, 1], [2, 1, 1]]},
    'rattle': {'n': 2, 'amplitudes': [0.05]},
    'isolated_atom': {'vacuum': 10.0},
}


def run(seed: int = 1, **changes: Any) -> dict[str, orm.Data]:
    """Augmentation of silicon."""
    start = structures_to_frames(silicon=orm.StructureData(ase=bulk('Si')))
    parameters = {'generators': GENERATORS, 'max_atoms': 32, 'min_distance': 0.6, **changes}
    return augment(start, orm.Dict(parameters), orm.Int(seed))


@pytest.mark.usefixtures('aiida_profile')
class TestAugment:
    """What comes out, and where it comes from."""

    def test_frames(self) -> None:
        """By origin as reported; a creator; isolated atoms are trained on, nothing else has a split."""
        outputs = run()
        frames, report = outputs['frames'], outputs['report'].get_dict()
        assert isinstance(frames, PESData)
        assert frames.origins == report['origins'] == {'supercell': 2, 'rattle': 4, 'isolated_atom': 1}
        assert report['n_frames'] == 7 and report['rejected'] == []
        assert frames.creator.process_label == 'augment'
        assert {(frame.origin, frame.split) for frame in frames} == {
            ('supercell', ''),
            ('rattle', ''),
            ('isolated_atom', 'train'),
        }
        assert frames.n_labelled == 0

    def test_the_seed_decides(self) -> None:
        """Equal inputs, equal bytes."""
        assert run()['frames'].content_hash == run()['frames'].content_hash != run(seed=2)['frames'].content_hash

    def test_rejections_have_reasons(self) -> None:
        """Too many atoms, also for what would be made of them."""
        outputs = run(max_atoms=3)
        rejected = outputs['report']['rejected']
        assert [(entry['step'], entry['formula']) for entry in rejected] == [('supercell', 'Si4')]
        assert '4' in rejected[0]['reason'] and '3' in rejected[0]['reason']
        assert outputs['frames'].origins['rattle'] == 2

    def test_no_frames(self) -> None:
        """The report is there, frames are not, and the work chain says so."""
        outputs = run(max_atoms=1, generators={'supercell': {'repeats': [[1, 1, 1]]}})
        assert set(outputs) == {'report'}

    def test_work_chain(self) -> None:
        """The exit code for nothing, the outputs for something."""
        from aiida.engine import run_get_node

        overrides: dict[str, Any] = {'generators': {'vacancy': None, 'strain': None, 'rattled_strain': None}}
        structure = {'silicon': bulk('Si')}
        builder = DatasetAugmentationWorkChain.get_builder_from_protocol(
            structure, protocol='fast', overrides=overrides
        )
        node = run_get_node(builder)[1]
        assert node.is_finished_ok and set(node.outputs.frames.origins) == {'supercell', 'rattle', 'isolated_atom'}
        builder.parameters = orm.Dict({**builder.parameters.get_dict(), 'max_atoms': 1, 'generators': {'rattle': {}}})
        node = run_get_node(builder)[1]
        assert node.exit_status == 310 and 'report' in node.outputs and 'frames' not in node.outputs


def test_steps_set_to_null_are_left_out() -> None:
    """How overrides switch a step of the protocol off."""
    assert plan({'generators': {'rattle': {'n': 1}, 'vacancy': None}}) == {'rattle': {'n': 1}}


@pytest.mark.parametrize(
    ('changes', 'sentence'),
    [
        ({'generators': {'ratle': {}}}, "unknown generator 'ratle'. Did you mean 'rattle'?"),
        ({'generators': {'rattle': {'amplitude': 0.1}}}, "Did you mean 'amplitudes'?"),
        ({'generators': {'rattle': {'n': -1}}}, '`n`'),
        ({'generators': {}}, 'the plan is empty'),
        ({'generators': {'rattle': None}}, 'the plan is empty'),
        ({'max_atom': 3}, 'expected the options generators, max_atoms, min_distance'),
    ],
)
def test_check_plan(changes: dict[str, Any], sentence: str) -> None:
    """What is wrong, before anything runs."""
    parameters = {'generators': GENERATORS, 'max_atoms': 32, 'min_distance': 0.6}
    assert check_plan(parameters) is None
    assert sentence in str(check_plan({**parameters, **changes}))
