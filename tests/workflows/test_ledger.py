"""A label is bought once per database: labellings by the real pw.x, of which the second runs none."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiida import orm
from aiida.engine import run_get_node
from aiida.tools.archive import create_archive, import_archive
from ase import Atoms
from ase.build import bulk

from aiida_alpot.campaign.environment import (
    DEFAULT_PSEUDO_DIRECTORY,
    Environment,
    find_pseudopotentials,
    populate_profile,
)
from aiida_alpot.data.pes import PESData
from aiida_alpot.worker.frames import Frame
from aiida_alpot.workflows.labelling import AbInitioLabellingWorkChain

pytestmark = pytest.mark.skipif(shutil.which('pw.x') is None, reason='needs Quantum ESPRESSO')

RUN: dict[str, orm.WorkChainNode] = {}


@pytest.fixture(scope='module', autouse=True)
def empty_profile(aiida_profile: Any) -> None:
    """No labels but those of this module."""
    aiida_profile.reset_storage()


def structures() -> list[Frame]:
    """A distorted crystal, an atom, and the crystal with its atoms swapped and in other cells."""
    atoms = bulk('Si', a=5.43)
    atoms.positions[0, 0] += 0.05
    crystal = Frame.from_atoms(atoms, lineage='a', origin='rattle', split='train')
    moved = atoms[::-1]
    moved.positions += np.array([[1, 0, -1], [0, 2, 0]]) @ atoms.cell.array
    atom = Atoms('Si', [[3.0, 3.0, 3.0]], cell=6.0 * np.eye(3))
    return [
        crystal,
        Frame.from_atoms(atom, lineage='atom', origin='isolated_atom', split='train'),
        Frame.from_atoms(moved, lineage='b', origin='md', split='test', metadata={'step': 7}),
    ]


def build(code: str, frames: list[Frame], **overrides: Any) -> Any:
    """Builder of the fast protocol."""
    settings = {'pseudo_family': 'Debian/PBE', 'kpoints_distance': 0.8, **overrides}
    return AbInitioLabellingWorkChain.get_builder_from_protocol(
        code, PESData(frames=frames), protocol='fast', overrides=settings
    )


def started(node: orm.WorkChainNode) -> list[str]:
    """The processes that a labelling started, beside calculation functions."""
    return [called.process_label for called in node.called if not isinstance(called, orm.CalcFunctionNode)]


@pytest.fixture
def bought(campaign_codes: dict[str, str]) -> orm.WorkChainNode:
    """The first labelling, run when a test asks for it."""
    if 'bought' not in RUN:
        RUN['bought'] = run_get_node(build(campaign_codes['pw'], structures()))[1]
    return RUN['bought']


def test_equal_frames_are_bought_once(bought: orm.WorkChainNode) -> None:
    """Two calculations for three frames; the twin has the forces of its atoms."""
    assert bought.is_finished_ok, bought.exit_message
    assert started(bought) == ['PwBaseWorkChain'] * 2
    report = bought.outputs.report.get_dict()
    counts = {key: value for key, value in report.items() if key.startswith('n_')}
    assert counts == {'n_requested': 3, 'n_labelled': 3, 'n_reused': 0, 'n_calculated': 2, 'n_failed': 0}
    crystal, atom, twin = list(bought.outputs.labelled)
    assert np.array_equal(twin.forces, crystal.forces[::-1]) and np.abs(crystal.forces).max() > 0.2
    assert np.array_equal(twin.stress, crystal.stress) and twin.energy == crystal.energy
    assert (twin.lineage, twin.origin, twin.split, twin.metadata) == ('b', 'md', 'test', {'step': 7})
    assert atom.level_of_theory == crystal.level_of_theory.replace(']', ',+isolated]')
    assert bought.outputs.labelled.levels_of_theory == {report['level_of_theory']: 3}


def test_the_second_labelling_buys_nothing(bought: orm.WorkChainNode, campaign_codes: dict[str, str]) -> None:
    """Not even a work chain of pw.x starts, which with AiiDA's caching it would; the labels are the same numbers."""
    n_calculations = orm.QueryBuilder().append(orm.CalcJobNode).count()
    node = run_get_node(build(campaign_codes['pw'], structures()[::-1]))[1]
    assert node.is_finished_ok, node.exit_message
    assert started(node) == [] and orm.QueryBuilder().append(orm.CalcJobNode).count() == n_calculations
    report = node.outputs.report.get_dict()
    assert (report['n_labelled'], report['n_reused'], report['n_calculated']) == (3, 3, 0)
    assert report['reused_from'] == {bought.outputs.labelled.uuid: 3}
    for frame, known in zip(node.outputs.labelled, reversed(list(bought.outputs.labelled)), strict=True):
        assert (frame.energy, frame.lineage, frame.split) == (known.energy, known.lineage, known.split)
        assert np.array_equal(frame.forces, known.forces)
    (reuse,) = [called for called in node.called if called.process_label == 'reuse_labels']
    assert reuse.inputs.source_0.uuid == bought.outputs.labelled.uuid
    assert node.outputs.labelled.creator.inputs.reused.creator.uuid == reuse.uuid


def test_only_the_unknown_is_bought(bought: orm.WorkChainNode, campaign_codes: dict[str, str]) -> None:
    """Known and new frames come out in the order in which they were asked for."""
    crystal, atom, _ = structures()
    strained = Frame.from_atoms(bulk('Si', a=5.3), lineage='c')
    node = run_get_node(build(campaign_codes['pw'], [strained, crystal, atom]))[1]
    assert started(node) == ['PwBaseWorkChain']
    assert [frame.frame_id for frame in node.outputs.labelled] == [f.frame_id for f in (strained, crystal, atom)]
    report = node.outputs.report.get_dict()
    assert (report['n_reused'], report['n_calculated']) == (2, 1)
    assert any('2 of 3 frames have their label in the database' in log.message for log in messages(node))


def messages(node: orm.WorkChainNode) -> list[orm.Log]:
    """What a work chain has reported."""
    return orm.Log.collection.get_logs_for(node)


@pytest.mark.usefixtures('bought')
@pytest.mark.parametrize(
    ('overrides', 'n_tasks'),
    [
        ({}, 0),
        ({'use_ledger': False}, 2),
        ({'kpoints_distance': 0.9}, 2),
        ({'parameters': {'SYSTEM': {'degauss': 0.02}}}, 2),
    ],
)
def test_what_makes_it_buy_again(
    campaign_codes: dict[str, str],
    instantiate: Callable[..., Any],
    overrides: dict[str, Any],
    n_tasks: int,
) -> None:
    """Another level of theory, or being told so."""
    chain = instantiate(build(campaign_codes['pw'], structures(), **overrides))
    chain.take_known()
    chain.order_tasks()
    assert chain.ctx.n_tasks == n_tasks


@pytest.mark.usefixtures('bought')
def test_an_isolated_atom_is_no_crystal(campaign_codes: dict[str, str], instantiate: Callable[..., Any]) -> None:
    """The same structure without spin is another label."""
    chain = instantiate(build(campaign_codes['pw'], [structures()[1].replace(origin='input')]))
    chain.take_known()
    assert chain.ctx.reused == []


def test_a_data_set_can_be_left_out(
    bought: orm.WorkChainNode, campaign_codes: dict[str, str], instantiate: Callable[..., Any]
) -> None:
    """With an extra; the copies that later labellings made of its labels are left out with it."""
    bought.outputs.labelled.base.extras.set('alpot_ledger', False)
    chain = instantiate(build(campaign_codes['pw'], structures()))
    chain.take_known()
    chain.order_tasks()
    bought.outputs.labelled.base.extras.delete('alpot_ledger')
    assert chain.ctx.reused == [] and chain.ctx.n_tasks == 2


def test_wrong_value_is_refused(campaign_codes: dict[str, str]) -> None:
    """True or false."""
    with pytest.raises(ValueError, match=r"`labelling.use_ledger` is 'no', expected true or false"):
        build(campaign_codes['pw'], structures(), use_ledger='no')


def test_an_imported_archive_is_as_good(bought: orm.WorkChainNode, aiida_profile: Any, tmp_path: Path) -> None:
    """What another profile bought; this one has never run pw.x. The last test, as it empties the profile."""
    labelled = bought.outputs.labelled
    uuid, energies = labelled.uuid, labelled.column('energy').tolist()
    create_archive([labelled], filename=tmp_path / 'labels.aiida')
    aiida_profile.reset_storage()
    RUN.clear()
    environment = Environment(profile=aiida_profile.name, config_directory=tmp_path)
    found = find_pseudopotentials(DEFAULT_PSEUDO_DIRECTORY)
    populate_profile(environment, {'pw': Path(shutil.which('pw.x') or '')}, {s: found[s] for s in ('Si', 'H')})
    import_archive(tmp_path / 'labels.aiida')
    n_calculations = orm.QueryBuilder().append(orm.CalcJobNode).count()
    node = run_get_node(build('pw@localhost', structures()))[1]
    assert node.is_finished_ok, node.exit_message
    assert started(node) == [] and orm.QueryBuilder().append(orm.CalcJobNode).count() == n_calculations
    assert node.outputs.report['reused_from'] == {uuid: 3}
    assert node.outputs.labelled.column('energy').tolist() == energies
