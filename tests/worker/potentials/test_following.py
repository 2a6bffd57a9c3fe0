"""A structure that moves: the same as if it were new each time."""

import json

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111

from aiida_alpot.worker.frames.frame import Frame
from aiida_alpot.worker.potentials import load_committee
from aiida_alpot.worker.potentials.following import Follower
from aiida_alpot.worker.potentials.mace_following import MACEFollower


@pytest.fixture(scope='module')
def files(mace_files):
    return mace_files(['C', 'Si', 'Mo'], n_members=3)


@pytest.fixture(scope='module')
def committee(files):
    return load_committee(files)


def structures():
    crystal = bulk('Si', cubic=True).repeat((2, 1, 1))
    crystal.numbers = [6, 42, 14, 42, 14, 14, 6, 42] * 2
    small = bulk('Si')
    slab = fcc111('Si', (2, 2, 2), a=4.6, vacuum=5.0)
    slab.pbc = (True, True, False)
    molecule = Atoms('CSiMo', [[0.0, 0.0, 0.0], [2.3, 0.2, 0.0], [0.3, 2.6, 0.4]])
    return {
        'crystal': crystal,
        'small': small,
        'slab': slab,
        'molecule': molecule,
        'far apart': Atoms('Si2', [[0, 0, 0], [9, 9, 9]]),
    }


@pytest.mark.parametrize('name', structures())
def test_as_a_frame(committee, name):
    atoms = structures()[name]
    follower, rng = committee.follow(), np.random.default_rng(1)
    positions, cell, numbers = atoms.positions, atoms.cell.array, atoms.numbers
    for step in range(6):
        members = [0, 1, 2] if step % 2 else [1]
        found = follower.evaluate(numbers, positions, cell, atoms.pbc, members, with_virial=[1])
        expected = committee.evaluate([Frame(numbers, positions, cell, atoms.pbc)], members)
        for field in ('energy', 'forces', 'virial', 'stress', 'atomic_energies'):
            np.testing.assert_allclose(getattr(found, field), getattr(expected, field), atol=1e-9, err_msg=field)
        np.testing.assert_array_equal(found.offsets, expected.offsets)
        np.testing.assert_array_equal(found.numbers, expected.numbers)
        positions = positions + 0.03 * rng.normal(size=positions.shape)
        strain = np.eye(3) + 0.002 * rng.normal(size=(3, 3))
        positions, cell = positions @ strain, cell @ strain
        positions = positions + (rng.integers(-1, 2, size=positions.shape) * atoms.pbc) @ cell
        if step == 3:
            numbers = numbers[::-1]  # species exchange places
    assert isinstance(follower, MACEFollower) and follower.n_searches <= 3


def test_single_precision(files):
    double, single = load_committee(files[:1]), load_committee(files[:1], dtype='float32')
    atoms = structures()['crystal']
    arguments = (atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, [0])
    a, b = double.follow().evaluate(*arguments), single.follow().evaluate(*arguments)
    np.testing.assert_allclose(a.energy, b.energy, rtol=1e-5)
    np.testing.assert_allclose(a.forces, b.forces, atol=1e-3 * np.abs(a.forces).max())
    assert b.forces.dtype == np.float64


def test_unknown_elements(committee):
    with pytest.raises(ValueError, match='the structure contains O'):
        committee.follow().evaluate(np.array([8, 14]), np.eye(3)[:2], np.eye(3), np.zeros(3, dtype=bool), [0])


def test_out_of_memory_is_a_sentence(committee, monkeypatch):
    follower = committee.follow()

    def fail(*_, **__):
        raise RuntimeError('CUDA out of memory. Tried to allocate 2 GiB')

    monkeypatch.setattr(MACEFollower, '_run', fail)
    with pytest.raises(MemoryError, match='a structure of 2 atoms does not fit'):
        follower.evaluate(np.array([14, 14]), np.eye(3)[:2], np.eye(3), np.zeros(3, dtype=bool), [0])


def test_other_potentials_get_a_frame_each_time(tmp_path):
    path = tmp_path / 'lj.json'
    description = {'calculator': 'ase.calculators.lj.LennardJones', 'parameters': {'rc': 5.0}, 'elements': ['Ar']}
    path.write_text(json.dumps({**description, 'cutoff': 5.0}))
    committee = load_committee([path])
    atoms = bulk('Ar', 'fcc', 5.3, cubic=True)
    atoms.rattle(0.1)
    follower = committee.follow()
    found = follower.evaluate(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, [0])
    assert type(follower) is Follower
    np.testing.assert_array_equal(found.forces, committee.evaluate([Frame.from_atoms(atoms)]).forces)
