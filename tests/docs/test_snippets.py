"""The snippets of the documentation that are marked as runnable, and the parts of it that the package generates.

A fenced block after ``<!-- runnable -->`` runs as it stands, in order, the Python ones of a page in one namespace and
all in one empty folder. After ``<!-- runnable: profile -->`` it also needs an AiiDA profile.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from aiida_alpot.worker.frames import Frame, write_extxyz

DOCS = Path(__file__).parents[2] / 'docs'


def blocks(page: str, marker: str) -> list[tuple[str, str]]:
    """Language and content of the marked blocks of a page."""
    text = (DOCS / page).read_text(encoding='utf-8')
    return re.findall(rf'<!-- {marker} -->\n```(\w+)\n(.*?)```', text, flags=re.DOTALL)


def run(block: tuple[str, str], namespace: dict[str, Any]) -> None:
    """Run one block in the working directory."""
    language, content = block
    if language == 'python':
        exec(compile(content, '<snippet>', 'exec'), namespace)
        return
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ['PATH']])
    subprocess.run(['bash', '-euc', content], check=True, env={**os.environ, 'PATH': path, 'OMP_NUM_THREADS': '1'})


def test_everything_without_aiida(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {}
    found = blocks('howto/without_aiida.md', 'runnable')
    assert [language for language, _ in found].count('bash') == 2
    for block in found:
        run(block, namespace)
    assert len(namespace['frames']) == 31
    assert namespace['evaluation']['calibration']['forces']['trustworthy']
    assert namespace['evaluation']['counts']['pool'] == 5


@pytest.fixture
def profile(aiida_profile_clean: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test profile, which snippets that load one get too, and an empty working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr('aiida.load_profile', lambda *_: aiida_profile_clean)


@pytest.mark.usefixtures('profile')
def test_reading_data(make_frame: Any) -> None:
    from aiida_alpot.data.pes import PESData

    dataset = PESData(frames=[make_frame(seed, split=split) for seed, split in enumerate(('train', 'test'))]).store()
    namespace: dict[str, Any] = {}
    for block in blocks('howto/read_data.md', 'runnable: profile'):
        run(block, namespace)
    assert namespace['dataset'].pk == dataset.pk
    assert namespace['per_atom'].shape == (2,) and namespace['batch'].positions.shape == (8, 3)
    assert Path('dataset.xyz').is_file() and Path('train.xyz').is_file()


@pytest.mark.usefixtures('profile')
def test_queries(make_frame: Any) -> None:
    from aiida_alpot.data.pes import PESData

    level, pw = 'VASP PBE 520 eV', 'pw-0123456789abcdef'
    sets = {
        'alloy': [make_frame(k, numbers=[14, 32] * 2, level_of_theory=level, split='test') for k in range(60)],
        'silicon': [make_frame(100, numbers=[14] * 4, level_of_theory=f'{pw}[Si:0]', origin='md', split='test')],
        'nothing': [make_frame(200, labelled=False, numbers=[6] * 4)],
    }
    nodes = {name: PESData(frames=frames).store() for name, frames in sets.items()}
    namespace: dict[str, Any] = {}
    for block in blocks('howto/query.md', 'runnable: profile'):
        run(block, namespace)
    wanted = {
        'with_silicon': ['silicon', 'alloy'],
        'with_both': ['alloy'],
        'only_silicon': ['silicon'],
        'alloy': ['alloy'],
        'mine': ['alloy'],
        'computed_here': ['silicon'],
        'large': [],
        'with_stress': ['silicon', 'alloy'],
        'testable': ['alloy'],
        'from_dynamics': ['silicon'],
        'unlabelled': ['nothing'],
        'equal': ['silicon'],
        'made_by_campaigns': [],
    }
    for name, found in wanted.items():
        assert [node.uuid for node in namespace[name]] == [nodes[key].uuid for key in found], name
    assert len(namespace['nodes']) == 1 and namespace['small'].n_frames == 1


@pytest.mark.slow
@pytest.mark.usefixtures('profile')
def test_command_line(make_frame: Any) -> None:
    from aiida import orm

    from aiida_alpot.data.pes import PESData

    dataset = PESData(
        frames=[make_frame(k, numbers=[14] * 4, split=split) for k, split in enumerate(('train', 'test'))]
    )
    dataset.label = 'silicon'
    namespace: dict[str, Any] = {'dataset': dataset.store()}
    for block in blocks('howto/import_export.md', 'runnable: profile'):
        run(block, namespace)
    assert Path('train.xyz').is_file() and Path('sets.aiida').is_file()
    labels = orm.QueryBuilder().append(PESData, project='label').all(flat=True)
    assert {'silicon', 'training set', 'both'} <= set(labels)
    assert namespace['steps'].n_frames == namespace['unlabelled'].n_frames == 2


@pytest.mark.usefixtures('profile')
def test_starting_from_labels(make_frame: Any) -> None:
    frames: list[Frame] = [make_frame(seed, lineage='') for seed in range(20)]
    write_extxyz(frames, Path('labels.xyz'))
    first, *_ = blocks('howto/start_from_labels.md', 'runnable: profile')
    namespace: dict[str, Any] = {'level': 'pbe'}
    run(first, namespace)
    assert namespace['dataset'].splits == {'train': 16, 'validation': 2, 'test': 2}
    assert namespace['dataset'].creator is not None


@pytest.mark.usefixtures('profile')
def test_leaving_a_data_set_out(make_frame: Any) -> None:
    from aiida_alpot.data.ledger import find_labels
    from aiida_alpot.data.pes import PESData

    dataset = PESData(frames=[make_frame(0)]).store()
    with dataset.open_store() as store:
        question = store.digests(), ['pbe'], {}
    assert len(find_labels(*question)) == 1
    for block in blocks('topics/ledger.md', 'runnable: profile'):
        run(block, {})
    assert len(find_labels(*question)) == 0


@pytest.fixture(scope='module')
def generate() -> ModuleType:
    """The module that writes the generated parts."""
    spec = importlib.util.spec_from_file_location('docs_generate', DOCS / 'generate.py')
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_parts(generate: ModuleType, tmp_path: Path) -> None:
    generate.write_all(tmp_path)  # refuses an exit code without a remedy, and a remedy without an exit code
    made = {path.name: path.read_text(encoding='utf-8') for path in tmp_path.iterdir()}
    assert 'ERROR_NO_START' in made['exit_codes.inc']
    assert '`alpot.active_learning`' in made['entry_points.inc']
    assert '`vacuum`' in made['generators.inc'] and '`min_atoms`' in made['generators.inc']
    included = {
        name
        for page in DOCS.rglob('*.md')
        for name in re.findall(r'generated/(\w+\.inc)', page.read_text(encoding='utf-8'))
    }
    assert included == {name for name in made if name.endswith('.inc')}
