"""SOAP, where DScribe is installed."""

import sys

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from aiida_alpot.worker.acquisition.representations.soap import soap
from aiida_alpot.worker.frames.frame import Frame

REASON = 'DScribe is not installed: pip install dscribe'
SMALL = {'r_cut': 4.0, 'n_max': 2, 'l_max': 2}


def test_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, 'dscribe.descriptors', None)
    with pytest.raises(ImportError, match=r'the representation `soap` needs the package dscribe.*pip install dscribe'):
        soap([Frame.from_atoms(bulk('Si'))], ['Si'])


def test_foreign_elements_are_named():
    with pytest.raises(ValueError, match='frame 0 contains C, but SOAP is to know H, O only'):
        soap([Frame.from_atoms(molecule('CH4'))], ['C', 'H', 'O'], elements=['O', 'H'])


def test_invariant_and_different():
    pytest.importorskip('dscribe', reason=REASON)
    crystal, water = bulk('Si', cubic=True), molecule('H2O')
    turned = water.copy()
    turned.rotate(40, (1, 2, 3))
    larger = crystal.repeat((2, 1, 1))
    frames = [Frame.from_atoms(atoms) for atoms in (crystal, larger, water, turned)]
    rows = soap(frames, ['H', 'O', 'Si'], **SMALL)
    np.testing.assert_allclose(rows[0], rows[1], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(rows[2], rows[3], rtol=1e-6, atol=1e-9)
    assert not np.allclose(rows[0], rows[2])


def test_periodic_along_some_axes_only():
    pytest.importorskip('dscribe', reason=REASON)
    slab = Atoms('H', [[0, 0, 5]], cell=[1.5, 1.5, 10], pbc=(True, True, False))
    thin = Atoms('H', [[0, 0, 5]], cell=[1.5, 1.5, 2], pbc=(True, True, False))
    rows = soap([Frame.from_atoms(slab), Frame.from_atoms(thin)], ['H'], **SMALL)
    np.testing.assert_allclose(rows[0], rows[1], rtol=1e-9)


def test_no_frames():
    pytest.importorskip('dscribe', reason=REASON)
    assert soap([], ['Si'], **SMALL).shape[0] == 0
