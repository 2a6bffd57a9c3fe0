"""``aiida-alpot launch``: bad campaigns cost one sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
import yaml
from aiida import orm
from ase import Atoms
from ase.build import bulk
from click.testing import CliRunner, Result

from aiida_alpot.cli.launch import launch


@pytest.fixture
def check(campaign_codes: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Check a campaign file with some keys changed."""
    monkeypatch.chdir(tmp_path)
    ase.io.write('si.cif', bulk('Si'))
    ase.io.write('w.cif', bulk('W'))
    ase.io.write('close.extxyz', Atoms('Si2', [[0, 0, 0], [0, 0, 0.1]], cell=5 * np.eye(3), pbc=True))

    def run(**changes: Any) -> Result:
        content = {
            'structures': ['si.cif'],
            'protocol': 'fast',
            'codes': campaign_codes,
            'labelling': {'pseudo_family': 'Debian/PBE'},
            **changes,
        }
        Path('campaign.yaml').write_text(yaml.safe_dump(content))
        return CliRunner().invoke(launch, ['campaign.yaml', '--check'])

    return run


def test_good_campaign(check: Callable[..., Result], tmp_path: Path) -> None:
    """Said in a line; nothing is run, and nothing is stored or written."""
    processes = orm.QueryBuilder().append(orm.ProcessNode).count()
    files = set(tmp_path.iterdir())
    result = check()
    assert result.exit_code == 0, result.output
    assert result.output == 'campaign.yaml: nothing wrong.\n'
    assert orm.QueryBuilder().append(orm.ProcessNode).count() == processes
    assert set(tmp_path.iterdir()) - files == {tmp_path / 'campaign.yaml'}


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        ({'codes': {'pw': 'pw@localhost'}}, ('`codes.train`', 'verdi code create')),
        ({'codes': {'pw': 'gone@nowhere'}}, ('`codes.pw`', "'gone@nowhere'", 'aiida-alpot setup')),
        ({'structures': ['w.cif']}, ('`labelling.pseudo_family`', 'no pseudopotential for W', 'choose a family')),
        ({'structures': []}, ('`structures`', 'empty', 'name at least one')),
        ({'structures': ['gone.cif']}, ('`structures`', 'there is no file gone.cif')),
        ({'structures': ['close.extxyz']}, ('`structures.close`', '0.100 A apart', 'remove one')),
        ({'evaluation': {'tolerance': {'forces': -0.1}}}, ('tolerance.forces', '-0.1', 'expected')),
        ({'max_round': 3}, ("'max_round'", "Did you mean 'max_rounds'?")),
        ({'training': {'n_memebers': 3}}, ('`training.n_memebers`', 'did you mean `n_members`?')),
        ({'options': {'training': {'max_walltime_seconds': 1}}}, ('max_walltime_seconds',)),
    ],
)
def test_bad_campaigns(check: Callable[..., Result], changes: dict[str, Any], words: tuple[str, ...]) -> None:
    """Exit code 1 and one sentence that names the field and the remedy, without a traceback."""
    result = check(**changes)
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit)
    assert result.output.startswith('Error: campaign.yaml: ') and result.output.count('\n') == 1
    for word in words:
        assert word in result.output


@pytest.mark.usefixtures('aiida_profile')
def test_missing_campaign(tmp_path: Path) -> None:
    """The file is named."""
    result = CliRunner().invoke(launch, [str(tmp_path / 'gone.yaml'), '--check'])
    assert result.exit_code == 1 and f'there is no campaign file {tmp_path / "gone.yaml"}' in result.output


@pytest.mark.usefixtures('aiida_profile')
def test_unknown_profile(tmp_path: Path) -> None:
    """With the command that makes one."""
    result = CliRunner().invoke(launch, [str(tmp_path), '--check', '--profile', 'nobody'])
    assert result.exit_code == 1 and 'nobody' in result.output and 'aiida-alpot setup' in result.output
