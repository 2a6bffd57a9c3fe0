"""The gate."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.data import covalent_radii

from aiida_alpot.worker.acquisition import gate as module
from aiida_alpot.worker.acquisition.gate import Gate, GateSettings, too_close
from aiida_alpot.worker.frames.frame import Frame


def dimer(distance: float, symbols: str = 'SiO', **cell: object) -> Frame:
    return Frame.from_atoms(Atoms(symbols, [[0, 0, 0], [0, 0, distance]], **cell))


def test_minimum_distance_is_a_fraction_of_the_covalent_radii() -> None:
    bond = covalent_radii[14] + covalent_radii[8]
    assert not too_close(dimer(0.601 * bond), 0.6)
    reason = too_close(dimer(0.5 * bond), 0.6)
    assert (
        reason
        == f'Si-O distance of {0.5 * bond:.3f} A is 0.50 of the sum of the covalent radii, below the bound of 0.6'
    )
    assert not too_close(dimer(0.0), 0.0)


def test_worst_pair_and_images_are_seen() -> None:
    across = Frame.from_atoms(Atoms('Si2', [[0, 0, 0.1], [0, 0, 9.9]], cell=[10, 10, 10], pbc=True))
    assert 'Si-Si distance of 0.200 A' in too_close(across, 0.6)
    own_image = Frame.from_atoms(Atoms('Si', cell=[1.0, 10, 10], pbc=True))
    assert 'distance of 1.000 A' in too_close(own_image, 0.6)
    assert not too_close(Frame.from_atoms(Atoms('Si', cell=[1.0, 10, 10], pbc=[False, True, True])), 0.6)
    assert not too_close(Frame.from_atoms(Atoms('Si')), 0.6)


def test_all_distances_against_a_list_of_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small and skewed cells, any periodicity: the nearest image alone is not enough."""
    rng = np.random.default_rng(0)
    n_close = 0
    for _ in range(150):
        n, pbc = int(rng.integers(1, 9)), rng.random(3) < 0.6
        cell = np.diag(rng.uniform(2.0, 6.0, size=3)) + rng.normal(scale=0.6, size=(3, 3))
        frame = Frame(rng.choice([1, 14, 55], size=n), rng.uniform(-4, 9, size=(n, 3)), cell, pbc)
        bound = float(rng.choice([0.3, 0.6, 1.5]))
        with monkeypatch.context() as patch:
            patch.setattr(module, 'MOST_DISTANCES', 10**9)
            found = too_close(frame, bound)
            patch.setattr(module, 'MOST_DISTANCES', 0)
            expected = too_close(frame, bound)
        n_close += bool(expected)
        # Which of two equal pairs comes first, and so the order of its elements, does not matter.
        assert found.partition(' ')[2] == expected.partition(' ')[2]
        assert sorted(found.partition(' ')[0].split('-')) == sorted(expected.partition(' ')[0].split('-'))
    assert 30 < n_close < 140


def test_two_atoms_on_one_spot() -> None:
    assert 'distance of 0.000 A' in too_close(dimer(0.0), 0.6)


def test_duplicates_known_foreign_large() -> None:
    silicon, germanium = Frame.from_atoms(bulk('Si')), Frame.from_atoms(bulk('Ge'))
    big = Frame.from_atoms(bulk('Si') * (2, 1, 1))
    gate = Gate(GateSettings(max_atoms=3), known=['labelled'], elements=('Si',))
    assert gate.geometry(silicon, 'a', 0) == ''
    assert gate.geometry(silicon, 'labelled', 1) == 'already labelled: in the data set'
    assert gate.geometry(germanium, 'b', 2) == 'the committee does not know Ge'
    assert gate.geometry(big, 'c', 3) == '4 atoms, above the bound of 3'
    assert gate.geometry(silicon, 'a', 4) == 'duplicate of frame 0 of the pool'
    assert gate.geometry(germanium, 'b', 5) == 'duplicate of frame 2 of the pool'


def test_predictions() -> None:
    gate = Gate(GateSettings(max_force=5.0, max_expected_force_error=2.0))
    assert gate.prediction(np.array([[3.0, 4.0, 0.0]]), True) == ''
    assert gate.prediction(np.array([[3.0, 4.1, 0.0]]), True).endswith('above the bound of 5 eV/A')
    assert 'not finite' in gate.prediction(np.array([[0.0, 0.0, 0.0]]), False)
    assert gate.expectation(2.0) == '' and 'above the bound of 2 eV/A' in gate.expectation(2.1)
    assert Gate(GateSettings()).expectation(1e9) == ''


@pytest.mark.parametrize(
    'bad', [{'min_distance': -0.1}, {'max_force': 0}, {'max_expected_force_error': 0.0}, {'max_atoms': 0}]
)
def test_bad_settings(bad: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        GateSettings(**bad)
