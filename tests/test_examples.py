"""Every example is valid: campaign files build, launch scripts build the same kind of campaign."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import aiida.engine
import pytest

from aiida_alpot.campaign.file import load_campaign
from aiida_alpot.workflows.active_learning import ActiveLearningWorkChain

EXAMPLES = Path(__file__).parents[1] / 'examples'


@pytest.mark.parametrize('path', sorted(EXAMPLES.glob('*/campaign.yaml')), ids=lambda path: path.parent.name)
def test_campaign_file_is_valid_and_short(path: Path, environment: Any, instantiate: Any) -> None:
    assert len(path.read_text().splitlines()) <= 25
    process = instantiate(load_campaign(path))
    assert isinstance(process, ActiveLearningWorkChain)


@pytest.mark.parametrize('path', sorted(EXAMPLES.glob('*/launch.py')), ids=lambda path: path.parent.name)
def test_launch_script_is_valid_and_short(
    path: Path, environment: Any, instantiate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The script is executed up to the point where it would run the campaign, whose inputs are then validated."""
    assert len(path.read_text().splitlines()) <= 30
    built = []

    class ReachedError(Exception):
        """The script wants to run a campaign."""

    def instead(builder: Any) -> None:
        built.append(instantiate(builder))
        raise ReachedError

    monkeypatch.setattr(aiida.engine, 'run_get_node', instead)
    with pytest.raises(ReachedError):
        runpy.run_path(str(path))
    assert isinstance(built[0], ActiveLearningWorkChain)


def test_there_are_examples() -> None:
    assert (EXAMPLES / 'silicon' / 'campaign.yaml').is_file() and (EXAMPLES / 'silicon' / 'launch.py').is_file()
