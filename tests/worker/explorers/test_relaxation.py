"""Relaxations: lattice constants, pressures, slabs, what is kept, how they end."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk, fcc100
from ase.units import GPa
from scipy.optimize import minimize_scalar

from aiida_alpot.worker.explorers import Limits, make_explorer
from aiida_alpot.worker.explorers.base import EndedError
from aiida_alpot.worker.frames.frame import Frame


def lj_enthalpy(committee, a: float, pressure: float) -> float:
    """Enthalpy of an fcc atom in reduced units, eV."""
    atoms = bulk('Ar', 'fcc', a)
    return committee.evaluate([Frame.from_atoms(atoms)], [0]).energy[0, 0] + pressure * GPa * a**3 / 4


@pytest.fixture
def smooth_lj():
    from ase.calculators.lj import LennardJones

    from aiida_alpot.worker.potentials.ase import ASECommittee

    values = {'epsilon': 0.2, 'sigma': 2.5, 'rc': 4.6, 'ro': 3.8, 'smooth': True}
    return ASECommittee([LennardJones(**values), LennardJones(**{**values, 'sigma': 2.55})], ['Ar'], 4.6)


@pytest.mark.parametrize('optimizer', ['bfgs', 'lbfgs', 'fire'])
@pytest.mark.parametrize('pressure', [0.0, 5.0])
def test_lattice_constant_at_a_pressure(watch, smooth_lj, optimizer: str, pressure: float) -> None:
    """The relaxed cell is the one that minimises the enthalpy, whatever the shape of the start."""
    best = minimize_scalar(
        lambda a: lj_enthalpy(smooth_lj, a, pressure), bounds=(3.4, 4.4), method='bounded', options={'xatol': 1e-8}
    )
    start = bulk('Ar', 'fcc', 4.0, cubic=True)
    strain = np.array([[0.01, 0.02, 0], [0, -0.02, 0.01], [0, 0, 0.01]])
    start.set_cell(start.cell.array @ (np.eye(3) + strain), scale_atoms=True)
    settings = {'relax_cell': True, 'pressure': pressure, 'optimizer': optimizer, 'fmax': 1e-4, 'max_stress': 1e-3}
    keeper = watch(smooth_lj)
    outcome = make_explorer('relaxation', settings).explore([Frame.from_atoms(start)], keeper, 0)
    keeper.assess()
    final = keeper.frames()[-1]
    assert outcome.status == 'completed'
    assert final.volume ** (1 / 3) == pytest.approx(best.x, abs=2e-4)
    assert outcome.results['enthalpy'] == pytest.approx(4 * best.fun, abs=1e-5)
    stress = smooth_lj.evaluate([final], [0]).stress[0, 0] / GPa
    assert np.abs(stress + pressure * np.eye(3)).max() < 2e-3


@pytest.mark.parametrize('periodic', [(True, True, False), (False, True, True), (True, False, False)])
@pytest.mark.parametrize('rotated', [False, True])
def test_vacuum_axes_stay(watch, smooth_lj, periodic: tuple[bool, ...], rotated: bool) -> None:
    """Cells relax along periodic axes only, in any orientation, with tilted or absent vectors along the others."""
    atoms = bulk('Ar', 'fcc', 4.1, cubic=True)
    atoms.set_pbc(periodic)
    cell = atoms.cell.array.copy()
    for axis in np.flatnonzero(np.logical_not(periodic)):
        cell[axis] = [0.3, 0.2, 0.1] if axis == 1 else 0.0
        cell[axis, axis] = 17.0 if axis == 1 else 0.0
    atoms.set_cell(cell)
    atoms.rattle(0.02, seed=3)
    if rotated:
        atoms.rotate(50, (1, 2, 3), rotate_cell=True)
    start = Frame.from_atoms(atoms)
    keeper = watch(smooth_lj)
    settings = {'relax_cell': True, 'fmax': 1e-3, 'max_stress': 0.01, 'every': 3, 'max_volume_ratio': 100.0}
    outcome = make_explorer('relaxation', settings).explore([start], keeper, 0)
    keeper.assess()
    frames = keeper.frames()
    assert outcome.status == 'completed' and len(frames) > 2
    free = ~start.pbc
    for frame in frames:
        assert (frame.cell[free] == start.cell[free]).all() and (frame.pbc == start.pbc).all()
    assert np.abs(frames[-1].cell[start.pbc] - start.cell[start.pbc]).max() > 0.05
    # The driving forces along the periodic axes are gone, and the orientation is that of the start.
    in_plane = start.cell[start.pbc]
    normals = np.linalg.svd(in_plane)[2][len(in_plane) :]
    assert np.abs(frames[-1].cell[start.pbc] @ normals.T).max() < 1e-9


def test_orientation_does_not_matter(watch, smooth_lj) -> None:
    """A rotated slab relaxes to the rotated result."""
    slab = fcc100('Ar', (1, 1, 3), a=4.0, vacuum=6.0)
    slab.set_pbc((True, True, False))
    energies = []
    for angle in (0, 40):
        turned = slab.copy()
        turned.rotate(angle, (1, 1, 2), rotate_cell=True)
        settings = {'relax_cell': True, 'fmax': 1e-4, 'max_stress': 1e-3}
        outcome = make_explorer('relaxation', settings).explore([Frame.from_atoms(turned)], watch(smooth_lj), 0)
        energies.append(outcome.results['energy'])
    assert energies[0] == pytest.approx(energies[1], abs=1e-7)


def test_what_is_kept(watch, smooth_lj) -> None:
    """Each third step and the end, with what the committee says; lineage and origin are those of the run."""
    atoms = bulk('Ar', 'fcc', 4.0, cubic=True)
    atoms.rattle(0.1, seed=1)
    keeper = watch(smooth_lj)
    outcome = make_explorer('relaxation', {'every': 3, 'keep_start': True}).explore(
        [Frame.from_atoms(atoms, lineage='something', origin='rattle')], keeper, 0
    )
    keeper.assess()
    frames = keeper.frames()
    steps = [frame.metadata['step'] for frame in frames]
    assert steps == [0, *range(3, outcome.results['n_steps'], 3), outcome.results['n_steps']]
    assert [frame.metadata['why'] for frame in frames] == ['start', *['interval'] * (len(frames) - 2), 'final']
    predictions = smooth_lj.evaluate(frames)
    from aiida_alpot.worker.acquisition.signals.committee import deviations

    found = deviations(predictions)
    for i, frame in enumerate(frames):
        assert frame.origin == 'test' and frame.lineage == 'ancestor' and not frame.labels
        assert frame.metadata['potential_energy'] == pytest.approx(predictions.energy[0, i], abs=1e-12)
        assert frame.metadata['max_force_deviation'] == pytest.approx(found.max_force[i], abs=1e-12)
        assert frame.metadata['expected_force_error'] == frame.metadata['max_force_deviation']


def test_fixed_atoms_stay(watch, smooth_lj) -> None:
    atoms = bulk('Ar', 'fcc', 4.0, cubic=True)
    atoms.rattle(0.1, seed=1)
    fixed = np.array([True, False, True, False])
    keeper = watch(smooth_lj)
    make_explorer('relaxation', {}).explore([Frame.from_atoms(atoms, arrays={'fixed': fixed})], keeper, 0)
    keeper.assess()
    final = keeper.frames()[-1]
    assert (final.positions[fixed] == atoms.positions[fixed]).all() and (final.arrays['fixed'] == fixed).all()
    assert np.abs(final.positions[~fixed] - atoms.positions[~fixed]).max() > 0.01


def test_not_converged(watch, smooth_lj) -> None:
    atoms = bulk('Ar', 'fcc', 4.0, cubic=True)
    atoms.rattle(0.3, seed=1)
    keeper = watch(smooth_lj)
    outcome = make_explorer('relaxation', {'max_steps': 2, 'every': 1}).explore([Frame.from_atoms(atoms)], keeper, 0)
    keeper.assess()
    assert outcome.status == 'not_converged' and 'in 2 steps' in outcome.message
    assert [frame.metadata['why'] for frame in keeper.frames()] == ['interval', 'final']


def test_explosions(watch, smooth_lj) -> None:
    """Forces, a fall of the energy and volumes beyond their bounds end the run, each with its status."""
    atoms = bulk('Ar', 'fcc', 3.0, cubic=True)
    start = [Frame.from_atoms(atoms)]
    atoms.rattle(0.3, seed=1)
    rattled = [Frame.from_atoms(atoms)]
    with pytest.raises(EndedError, match='above `max_force`, 1 eV/A') as error:
        make_explorer('relaxation', {}).explore(rattled, watch(smooth_lj, limits=Limits(max_force=1.0)), 0)
    assert error.value.status == 'exploded'
    with pytest.raises(EndedError, match='the energy fell by') as error:
        limits = Limits(None, max_energy_drop=0.05)
        make_explorer('relaxation', {}).explore(rattled, watch(smooth_lj, limits=limits), 0)
    assert error.value.status == 'energy_drop'
    with pytest.raises(EndedError, match='the volume changed by a factor') as error:
        settings = {'relax_cell': True, 'max_volume_ratio': 1.2}
        make_explorer('relaxation', settings).explore(start, watch(smooth_lj), 0)
    assert error.value.status == 'exploded'


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'relax_cel': True}, "Did you mean 'relax_cell'"),
        ({'optimizer': 'bgfs'}, "Did you mean 'bfgs'"),
        ({'fmax': 0.0}, '`fmax` is 0.0'),
        ({'every': 0}, '`every` is 0'),
        ({'pressure': 3.0}, 'set `relax_cell`'),
    ],
)
def test_settings_that_cannot_be(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_explorer('relaxation', settings)


def test_starts_that_cannot_be() -> None:
    atoms = bulk('Ar', 'fcc', 4.0, cubic=True)
    slab, molecule, fixed = atoms.copy(), atoms.copy(), Frame.from_atoms(atoms, arrays={'fixed': np.ones(4, bool)})
    slab.set_pbc((True, True, False))
    molecule.set_pbc(False)
    with pytest.raises(ValueError, match='a pressure on vacuum means nothing'):
        make_explorer('relaxation', {'relax_cell': True, 'pressure': 1.0}).check([Frame.from_atoms(slab)])
    with pytest.raises(ValueError, match='there is no cell to relax'):
        make_explorer('relaxation', {'relax_cell': True}).check([Frame.from_atoms(molecule)])
    with pytest.raises(ValueError, match='some atoms are fixed'):
        make_explorer('relaxation', {'relax_cell': True}).check([fixed])
