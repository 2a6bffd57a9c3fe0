"""Which minima are the same."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk, make_supercell
from ase.neighborlist import neighbor_list

from aiida_alpot.worker.explorers import minima
from aiida_alpot.worker.explorers.minima import CUTOFF, SPACING, WIDTH, Minima, dissimilarity, fingerprint


def naive_fingerprint(atoms) -> np.ndarray:
    """The formula, pair by pair."""
    grid = np.arange(0.5, CUTOFF, SPACING)
    i, j, d = neighbor_list('ijd', atoms, CUTOFF)
    species = sorted(set(atoms.numbers))
    parts = {(a, b): np.zeros(len(grid)) for n, a in enumerate(species) for b in species[n:]}
    for first, second, distance in zip(i, j, d, strict=True):
        pair = (atoms.numbers[first], atoms.numbers[second])
        if pair in parts:
            weight = 0.5 * (1 + np.cos(np.pi * distance / CUTOFF)) / distance
            parts[pair] += weight * np.exp(-((grid - distance) ** 2) / (2 * WIDTH**2)) / len(atoms)
    return np.concatenate(list(parts.values()))


@pytest.fixture
def salt():
    atoms = bulk('NaCl', 'rocksalt', 5.6, cubic=True)
    atoms.rattle(0.1, seed=1)
    return atoms


def test_formula(salt, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fingerprint(salt) == pytest.approx(naive_fingerprint(salt), abs=1e-12)


def test_invariances(salt) -> None:
    """Rotated, permuted, shifted, mirrored, or in another cell of the same crystal: the same."""
    mark = fingerprint(salt)
    rotated = salt.copy()
    rotated.rotate(33, (1, 2, 3), rotate_cell=True)
    mirrored = salt.copy()
    mirrored.set_cell(salt.cell.array * [1, 1, -1], scale_atoms=False)
    mirrored.positions *= [1, 1, -1]
    shifted = salt[np.random.default_rng(0).permutation(len(salt))]
    shifted.positions += [0.3, 0.4, 0.5]
    for other in (
        rotated,
        mirrored,
        shifted,
        make_supercell(salt, [[1, 1, 0], [0, 1, 0], [0, 0, 1]]),
        salt * (2, 1, 1),
    ):
        assert dissimilarity(mark, fingerprint(other)) < 1e-10
    displaced = salt.copy()
    displaced.positions[0] += 0.5
    assert dissimilarity(mark, fingerprint(displaced)) > 0.02
    assert dissimilarity(np.zeros(3), np.zeros(3)) == 0.0


def test_fcc_and_hcp_differ() -> None:
    """Two minima may have almost the same energy."""
    fcc, hcp = bulk('Cu', 'fcc', 3.6), bulk('Cu', 'hcp', 3.6 / np.sqrt(2), np.sqrt(8 / 3))
    found = Minima(energy_tolerance=0.01, tolerance=0.05)
    assert found.add(fcc, 0.0) == (0, True)
    assert found.add(hcp, 0.0) == (1, True)
    assert found.add(fcc.copy(), 0.005) == (0, False)
    assert found.add(fcc.copy(), 0.5) == (2, True)
    assert found.summary() == {'minima': [0.0, 0.0, 0.5], 'visits': [2, 1, 1], 'lowest': 0}
    assert minima.Minima(0.1, 0.1).summary()['lowest'] is None
