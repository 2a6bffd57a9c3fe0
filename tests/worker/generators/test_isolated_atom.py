"""Isolated atoms."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk

from aiida_alpot.worker.frames.frame import Frame
from aiida_alpot.worker.generators.isolated_atom import IsolatedAtomParameters, isolated_atom


def test_one_of_each_element() -> None:
    frames = isolated_atom(Frame.from_atoms(bulk('NaCl', 'rocksalt', a=5.6)), IsolatedAtomParameters(vacuum=15), 0)
    assert [f.numbers.tolist() for f in frames] == [[11], [17]]
    for f, lineage in zip(frames, ('isolated_atom:Na', 'isolated_atom:Cl'), strict=True):
        assert not f.pbc.any() and np.array_equal(f.cell, 15 * np.eye(3)) and np.array_equal(f.positions, [[7.5] * 3])
        assert f.lineage == lineage and f.origin == 'isolated_atom'


def test_vacuum_is_bounded() -> None:
    with pytest.raises(ValueError, match='`vacuum` is 2'):
        IsolatedAtomParameters(vacuum=2)
