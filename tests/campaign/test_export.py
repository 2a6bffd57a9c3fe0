"""What a campaign leaves outside the database, on a campaign made by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiida import orm
from aiida.common.links import LinkType
from aiida.engine import ProcessState

from aiida_alpot.campaign.export import export_campaign, export_potential, largest_frame, latest
from aiida_alpot.data.pes import PESData
from aiida_alpot.worker.frames import read_extxyz


@pytest.fixture
def make_campaign(make_committee: Callable, make_frame: Callable) -> Callable[..., orm.WorkChainNode]:
    """Factory of campaigns that have finished some rounds; round n has n + 1 frames and n + 1 members."""

    def make(*rounds: int) -> orm.WorkChainNode:
        node = orm.WorkChainNode()
        node.set_process_state(ProcessState.FINISHED)
        node.set_exit_status(403)
        node.set_process_label('ActiveLearningWorkChain')
        node.store()
        maker = orm.CalcFunctionNode().store()
        for number in rounds:
            frames = [make_frame(i, n_atoms=2 + i % 3, numbers=[14] * (2 + i % 3)) for i in range(number + 1)]
            for name, made in (('dataset', PESData(frames=frames)), ('committee', make_committee(number + 1))):
                label = f'rounds__round_{number}__{name}'
                made.base.links.add_incoming(maker, link_type=LinkType.CREATE, link_label=label)
                made.store().base.links.add_incoming(node, link_type=LinkType.RETURN, link_label=label)
        return node

    return make


def test_latest_of_a_broken_campaign(make_campaign: Callable[..., orm.WorkChainNode], make_committee: Any) -> None:
    """By the number of the round, not by its name; a final output comes before all rounds."""
    node = make_campaign(9, 10, 2)
    assert latest(node, 'committee').n_members == 11
    assert latest(node, 'metrics') is None
    final = make_committee(3)
    maker = orm.CalcFunctionNode().store()
    final.base.links.add_incoming(maker, link_type=LinkType.CREATE, link_label='committee')
    final.store().base.links.add_incoming(node, link_type=LinkType.RETURN, link_label='committee')
    assert latest(node, 'committee').uuid == final.uuid
    assert latest(make_campaign(), 'dataset') is None


def test_export_twice(make_campaign: Callable[..., orm.WorkChainNode], tmp_path: Path) -> None:
    """Report, data set, potential; a second export takes the place of the first."""
    folder = tmp_path / 'deep' / 'out'
    for number in (3, 2):
        text = export_campaign(make_campaign(number), folder)
        frames = list(read_extxyz(folder / 'dataset.xyz'))
        assert len(frames) == number + 1 and all(frame.is_labelled for frame in frames)
        assert (folder / 'report.html').stat().st_size > 1000
        members = json.loads((folder / 'potential' / 'driver.json').read_text())['committee']
        assert len(members) == number + 1
        assert sorted(path.name for path in (folder / 'potential' / 'committee').iterdir()) == sorted(
            Path(member).name for member in members
        )
        for path in ('report.html', 'dataset.xyz', 'potential'):
            assert str(folder / path) in text
        assert f'{number + 1} members' in text and f'{number + 1} labelled frames' in text


def test_nothing_made_yet(make_campaign: Callable[..., orm.WorkChainNode], tmp_path: Path) -> None:
    """A campaign that failed before its first committee has a report all the same."""
    text = export_campaign(make_campaign(), tmp_path)
    assert 'report' in text and 'potential' not in [path.name for path in tmp_path.iterdir()]


@pytest.mark.usefixtures('aiida_profile')
class TestPotential:
    """The folder that alpot-md runs."""

    def test_largest_frame(self, make_frame: Callable) -> None:
        """The first of the largest."""
        dataset = PESData(frames=[make_frame(i, n_atoms=n) for i, n in enumerate([2, 5, 1, 5])])
        assert largest_frame(dataset).lineage == 'lineage-1'

    def test_foreign_folder_is_left_alone(self, make_committee: Callable, tmp_path: Path) -> None:
        """Only our own export is replaced."""
        (tmp_path / 'thesis.tex').write_text('x')
        with pytest.raises(FileExistsError, match='is not empty: name a new folder'):
            export_potential(make_committee(), tmp_path)
        assert (tmp_path / 'thesis.tex').read_text() == 'x'
