"""``verdi data alpot.potential`` and ``verdi data alpot.committee``."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from aiida import orm
from click.testing import CliRunner, Result

from aiida_alpot.cli import models
from aiida_alpot.cli.models import COMMITTEE_COMMANDS, POTENTIAL_COMMANDS, committee, potential
from aiida_alpot.data.pes import PESData
from aiida_alpot.data.potential import PotentialData

pytestmark = pytest.mark.usefixtures('aiida_profile_clean')

Run = Callable[..., Result]
KNOWN = ['--trainer', 'mace', '--element', 'Si', '--element', 'C', '--cutoff', '5', '--dtype', 'float32']


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command in an empty folder; without ``fails`` it must end well, with it one sentence says why not."""
    monkeypatch.chdir(tmp_path)

    def call(group: click.Group, *arguments: Any, fails: str = '') -> Result:
        result = CliRunner().invoke(group, [str(argument) for argument in arguments])
        if fails:
            assert result.exit_code and isinstance(result.exception, SystemExit), result.output
            assert fails in ' '.join(result.output.split()) and 'Traceback' not in result.output, result.output
        else:
            assert result.exit_code == 0, result.output
        return result

    return call


@pytest.mark.parametrize(
    ('group', 'name'),
    [*((potential, name) for name in POTENTIAL_COMMANDS), *((committee, name) for name in COMMITTEE_COMMANDS)],
)
def test_help_with_examples(run: Run, group: click.Group, name: str) -> None:
    """Every command explains itself."""
    assert name in run(group, '--help').output
    output = run(group, name, '--help').output
    assert 'Example' in output and f'verdi data {group.name} {name} ' in output
    assert (models.potential, models.committee) == (potential, committee)  # not modules of these names


class TestPotential:
    """Models that were trained elsewhere."""

    def test_import_and_show(self, run: Run, tmp_path: Path) -> None:
        """With what is said of it."""
        (tmp_path / 'mp.model').write_bytes(b'large')
        output = run(potential, 'import', 'mp.model', *KNOWN, '--level-of-theory', 'MPtrj PBE', '-L', 'mp').output
        node = orm.load_node(label='mp')
        assert f'Potential {node.pk} ({node.uuid}): mace, 2 elements, cutoff 5 A.' in output
        assert (node.elements, node.level_of_theory, node.seed) == (['C', 'Si'], ['MPtrj PBE'], None)
        shown = run(potential, 'show', 'mp').output
        for text in ('brought in', 'MPtrj PBE', 'float32', '5 A', node.sha256, 'a training starts from the model'):
            assert text in shown

    def test_a_file_that_is_known(self, run: Run, tmp_path: Path) -> None:
        """Is not brought in again."""
        (tmp_path / 'mp.model').write_bytes(b'large')
        run(potential, 'import', 'mp.model', *KNOWN)
        assert 'nothing new is stored' in run(potential, 'import', 'mp.model').output
        assert orm.QueryBuilder().append(PotentialData).count() == 1

    def test_refusals(self, run: Run, tmp_path: Path) -> None:
        """What is no model."""
        (tmp_path / 'mp.txt').write_bytes(b'large')
        run(potential, 'import', 'mp.txt', fails="unknown suffix of a model: '.txt'")
        run(potential, 'import', 'gone.model', fails='does not exist')
        (tmp_path / 'mp.model').write_bytes(b'large')
        run(potential, 'import', 'mp.model', *KNOWN[:2], '--element', 'Xx', *KNOWN[6:], fails='no chemical symbols')


class TestCommittee:
    """Committees of campaigns."""

    def test_show(self, run: Run, make_committee: Callable, make_frame: Callable) -> None:
        """What they were trained on, and their members."""
        dataset = PESData(frames=[make_frame(0)]).store()
        node = make_committee(2, data_hash=dataset.content_hash, level_of_theory=['pbe'], trainer_version='9.9').store()
        shown = run(committee, 'show', node.pk).output
        for text in ('mace 9.9', 'pbe', f'data set {dataset.pk}, 1 frames', '0.model', '1.model', *node.member_hashes):
            assert text in shown

    def test_export(self, run: Run, make_committee: Callable, tmp_path: Path) -> None:
        """The files of the members, or a folder that LAMMPS runs in."""
        node = make_committee(2).store()
        assert '1.model' in run(committee, 'export', node.pk, 'models').output
        written = sorted(path.name for path in (tmp_path / 'models').iterdir())
        assert written == ['0.model', '1.model', 'MODEL_CARD.md']
        assert '# ' in (tmp_path / 'models' / 'MODEL_CARD.md').read_text()
        assert 'alpot-md -in in.lammps' in run(committee, 'export', node.pk, 'ready', '--lammps').output
        assert (tmp_path / 'ready' / 'driver.json').is_file()
        run(committee, 'export', node.pk, 'models', fails='is not empty: give another name')
        run(committee, 'export', node.pk, 'x', '--lammps', '--checkpoints', fails='has no place beside --lammps')

    def test_checkpoints(self, run: Run, tmp_path: Path) -> None:
        """Where they are beside the models."""
        from aiida_alpot.data.committee import CommitteeData

        (tmp_path / 'a.ckpt').write_bytes(b'checkpoint')
        (tmp_path / 'a.pt').write_bytes(b'model')
        fields: dict[str, Any] = {'trainer': 'metatrain', 'elements': ['Si'], 'cutoff': 5.0, 'dtype': 'float64'}
        member = PotentialData(tmp_path / 'a.pt', checkpoint=tmp_path / 'a.ckpt', seed=1, **fields)
        node = CommitteeData.from_potentials([member]).store()
        run(committee, 'export', node.pk, 'checkpoints', '--checkpoints')
        assert (tmp_path / 'checkpoints' / '0.ckpt').read_bytes() == b'checkpoint'


def test_real_verdi(make_committee: Callable, aiida_profile_clean: Any, tmp_path: Path) -> None:
    """Found by `verdi` through its entry point."""
    node = make_committee(2).store()
    verdi = Path(sys.executable).with_name('verdi')
    command = [str(verdi), '-p', aiida_profile_clean.name, 'data', 'alpot.committee', 'show', str(node.pk)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0 and '1.model' in done.stdout, done.stderr
