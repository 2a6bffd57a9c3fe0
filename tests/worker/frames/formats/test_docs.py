"""The page about import and export: its snippets run, its tables are complete."""

import dataclasses
import re
from pathlib import Path

import pytest

from aiida_alpot.worker.frames import LabelDeclaration
from aiida_alpot.worker.frames.formats import FORMATS, STYLES
from aiida_alpot.worker.frames.formats.declaration import (
    DIPOLE_UNITS,
    ENERGIES,
    ENERGY_UNITS,
    LENGTH_UNITS,
    MISSING,
    STRESS_SIGNS,
    STRESS_UNITS,
    VOIGT_ORDERS,
)
from aiida_alpot.worker.frames.formats.files import COMPRESSIONS

PAGE = Path(__file__).parents[4] / 'docs' / 'howto' / 'import_export.md'


@pytest.fixture(scope='module')
def text():
    return PAGE.read_text(encoding='utf-8')


def test_snippets_run(text, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    namespace = {}
    blocks = re.findall(r'<!-- runnable -->\n```python\n(.*?)```', text, flags=re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        exec(compile(block, '<snippet>', 'exec'), namespace)
    assert namespace['frame'].energy == pytest.approx(namespace['frames'][-1].energy, rel=1e-12)
    assert 'State: level_of_theory' in capsys.readouterr().out


def test_everything_is_named(text):
    names = (
        {field.name for field in dataclasses.fields(LabelDeclaration)}
        | set(FORMATS)
        | set(STYLES)
        | {f'.xyz{suffix}' for suffix in COMPRESSIONS}
    )
    for known in (
        DIPOLE_UNITS,
        ENERGIES,
        ENERGY_UNITS,
        LENGTH_UNITS,
        MISSING,
        STRESS_SIGNS,
        STRESS_UNITS,
        VOIGT_ORDERS,
    ):
        names |= set(known)
    for style in STYLES.values():
        names |= {key for name, keys in style.keys.items() for key in keys[:1] if name != 'virials'}
    for format in FORMATS.values():
        names |= set(format.suffixes)
    missing = {name for name in names if not re.search(rf"[`.',{{ (]{re.escape(name)}[`.'=:, )]", text)}
    assert not missing
