"""What all kinds of committees share."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from aiida_alpot.worker.frames.frame import Frame
from aiida_alpot.worker.potentials import load_committee


def test_unknown_elements_are_named(lj_files):
    frames = [Frame.from_atoms(bulk('Ar', 'fcc', 5.3)), Frame.from_atoms(Atoms('SiAr'))]
    with pytest.raises(ValueError, match='frame 1 contains Si, but the committee was trained on Ar only'):
        load_committee(lj_files()).evaluate(frames)


def test_members_that_do_not_exist(lj_files):
    with pytest.raises(IndexError, match='members 0 to 1'):
        load_committee(lj_files(2)).evaluate([], members=[2])


def test_no_frames(lj_files):
    predictions = load_committee(lj_files(2)).evaluate([])
    assert predictions.energy.shape == (2, 0) and predictions.forces.shape == (2, 0, 3)
    assert predictions.stress.shape == (2, 0, 3, 3) and predictions.offsets.tolist() == [0]


def test_batches_are_joined_in_order(lj_files):
    paths = lj_files(2)
    frames = [Frame.from_atoms(bulk('Ar', 'fcc', a).repeat((1, 1, n))) for n, a in ((1, 5.2), (2, 5.3), (3, 5.4))]
    together, split = load_committee(paths).evaluate(frames), load_committee(paths, batch_size=2).evaluate(frames)
    assert split.offsets.tolist() == [0, 1, 3, 6] and split.atomic_energies is None
    for name in ('energy', 'forces', 'stress', 'virial'):
        np.testing.assert_array_equal(getattr(together, name), getattr(split, name))
