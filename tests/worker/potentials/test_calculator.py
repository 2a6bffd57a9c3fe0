"""The committee as an ASE calculator."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import PropertyNotImplementedError
from ase.optimize import BFGS

from aiida_alpot.worker.acquisition.signals.committee import deviations
from aiida_alpot.worker.frames.frame import Frame
from aiida_alpot.worker.potentials import load_committee
from aiida_alpot.worker.potentials.calculator import CommitteeCalculator


@pytest.fixture
def carbide() -> Atoms:
    atoms = bulk('SiC', 'zincblende', 4.4, cubic=True)
    atoms.rattle(0.05, seed=1)
    return atoms


@pytest.mark.parametrize('driving_member', [0, 1])
def test_one_member_drives(mace_files: Callable[..., list[Path]], carbide: Atoms, driving_member: int) -> None:
    """Energy, forces and stress are its own, whether the others are asked or not; and agree with finite differences."""
    committee = load_committee(mace_files(['C', 'Si']))
    expected = committee.evaluate([Frame.from_atoms(carbide)])
    said = deviations(expected)
    for with_deviations in (False, True):
        carbide.calc = CommitteeCalculator(committee, driving_member, deviations=with_deviations)
        assert carbide.get_potential_energy() == pytest.approx(expected.energy[driving_member, 0], abs=1e-9)
        assert carbide.get_forces() == pytest.approx(expected.forces[driving_member], abs=1e-9)
        assert carbide.get_stress(voigt=False) == pytest.approx(expected.stress[driving_member, 0], abs=1e-9)
        results = carbide.calc.results
        assert ('max_force_deviation' in results) is with_deviations
    assert results['max_force_deviation'] == pytest.approx(said.max_force[0], abs=1e-9)
    assert results['mean_force_deviation'] == pytest.approx(said.mean_force[0], abs=1e-9)
    assert results['energy_deviation'] == pytest.approx(said.energy[0], abs=1e-9)
    assert results['force_deviation'] == pytest.approx(said.force, abs=1e-9)
    step, energies = 1e-4, []
    for sign in (1, -1):
        moved = carbide.copy()
        moved.positions[2, 1] += sign * step
        moved.calc = carbide.calc
        energies.append(moved.get_potential_energy())
    assert carbide.get_forces()[2, 1] == pytest.approx(-(energies[0] - energies[1]) / (2 * step), rel=1e-4, abs=1e-5)


def test_only_one_member_is_asked(lj_files: Callable[..., list[Path]]) -> None:
    committee = load_committee(lj_files(3))
    asked = []
    evaluate = committee.evaluate

    def note(frames, members=None, features=()):
        asked.append(members)
        return evaluate(frames, members, features)

    committee.evaluate = note  # type: ignore[method-assign]
    atoms = bulk('Ar', 'fcc', 5.3, cubic=True)
    atoms.rattle(0.1, seed=2)
    atoms.calc = CommitteeCalculator(committee, 2)
    BFGS(atoms, logfile=None).run(fmax=0.001, steps=30)
    assert asked and all(members == [2] for members in asked)
    assert np.abs(atoms.get_forces()).max() < 0.001


def test_what_it_refuses(lj_files: Callable[..., list[Path]]) -> None:
    with pytest.raises(IndexError, match='members 0 to 1'):
        CommitteeCalculator(load_committee(lj_files()), 2)
    with pytest.raises(ValueError, match='cannot disagree'):
        CommitteeCalculator(load_committee(lj_files(1)), deviations=True)
    atoms = Atoms('Ar2', [[0, 0, 0], [0, 0, 3.8]])
    atoms.calc = CommitteeCalculator(load_committee(lj_files()))
    assert np.isfinite(atoms.get_potential_energy())
    with pytest.raises(PropertyNotImplementedError, match='no periodic axis'):
        atoms.get_stress()
    atoms = Atoms('Kr2', [[0, 0, 0], [0, 0, 3.8]], calculator=atoms.calc)
    with pytest.raises(ValueError, match='Kr'):
        atoms.get_forces()
