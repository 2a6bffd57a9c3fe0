"""Bands: barriers of known cases, what is kept, ends that no band connects."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import molecule
from ase.calculators.calculator import Calculator, all_changes

from aiida_alpot.worker.explorers import make_explorer
from aiida_alpot.worker.frames.frame import Frame
from aiida_alpot.worker.potentials.ase import ASECommittee


class DoubleWell(Calculator):
    """One atom in E = h ((x / a)^2 - 1)^2 + k (y^2 + z^2) / 2: two minima at x = -a and a, a barrier of h between."""

    implemented_properties = ['energy', 'forces']
    height, half, stiffness = 0.7, 1.3, 3.0

    def calculate(self, atoms=None, properties=('energy',), system_changes=all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        x, y, z = self.atoms.positions.T
        u = (x / self.half) ** 2 - 1.0
        forces = np.stack([-4.0 * self.height * u * x / self.half**2, -self.stiffness * y, -self.stiffness * z], axis=1)
        energy = float((self.height * u**2 + 0.5 * self.stiffness * (y**2 + z**2)).sum())
        self.results = {'energy': energy, 'forces': forces}


def well(x: float, y: float = 0.0) -> Frame:
    return Frame(np.array([1]), np.array([[x, y, 0.0]]), 9.0 * np.eye(3), np.array([True, True, True]))


@pytest.fixture
def double_well(monkeypatch: pytest.MonkeyPatch) -> ASECommittee:
    committee = ASECommittee([DoubleWell(), DoubleWell()], ['H'], 3.0)
    DoubleWell.get_stress = lambda self, atoms: np.zeros(6)
    return committee


def test_adatom_on_aluminium(watch, emt, adatom) -> None:
    """Gold on Al(100) by effective medium theory: 0.374 eV in ASE's tutorial."""
    keeper = watch(emt)
    outcome = make_explorer('neb', {'n_images': 3, 'every': 5}).explore(adatom, keeper, 0)
    keeper.assess()
    assert outcome.status == 'completed'
    assert outcome.results['barrier'] == pytest.approx(0.374, abs=2e-3)
    assert outcome.results['barrier_back'] == pytest.approx(outcome.results['barrier'], abs=1e-6)
    frames = keeper.frames()
    whys = [frame.metadata['why'] for frame in frames]
    assert whys[:2] == ['end', 'end'] and whys[-3:] == ['image', 'saddle', 'image']
    assert whys[2:-3] == ['interval'] * (len(whys) - 5) and len(whys) > 8
    fixed = adatom[0].arrays['fixed']
    for frame in frames:
        assert (frame.positions[fixed] == adatom[0].positions[fixed]).all()
        assert (frame.cell == adatom[0].cell).all() and frame.lineage == 'ancestor' and frame.origin == 'test'


@pytest.mark.parametrize('optimizer', ['fire', 'bfgs'])
@pytest.mark.parametrize('n_images', [1, 4])
def test_double_well(watch, double_well, optimizer: str, n_images: int) -> None:
    """The climbing image is at the barrier of the formula, even where no image of the first band is."""
    settings = {'n_images': n_images, 'optimizer': optimizer, 'fmax': 1e-3, 'interpolation': 'linear'}
    outcome = make_explorer('neb', settings).explore([well(-1.2, 0.2), well(1.35, -0.1)], watch(double_well), 0)
    assert outcome.status == 'completed'
    assert outcome.results['barrier'] == pytest.approx(DoubleWell.height, abs=1e-5)


def test_without_climbing_the_barrier_is_that_of_an_image(watch, double_well) -> None:
    settings = {'n_images': 4, 'climb': False, 'fmax': 1e-3, 'interpolation': 'linear'}
    outcome = make_explorer('neb', settings).explore([well(-1.3), well(1.3)], watch(double_well), 0)
    assert outcome.status == 'completed' and outcome.results['barrier'] < 0.98 * DoubleWell.height


def test_images_are_evaluated_in_one_pass(watch, double_well) -> None:
    """As many structures at once as there are images; the ends once for all."""
    sizes = []
    evaluate = double_well.evaluate

    def note(frames, members=None, features=()):
        sizes.append(len(frames))
        return evaluate(frames, members, features)

    double_well.evaluate = note
    settings = {'n_images': 6, 'relax_ends': False, 'interpolation': 'linear', 'every': None}
    outcome = make_explorer('neb', settings).explore([well(-1.3), well(1.3)], watch(double_well), 0)
    assert sizes == [2, *[6] * (outcome.results['n_steps'] + 1)]


def test_molecule_in_vacuum_may_turn(watch, emt) -> None:
    """A band between two orientations of one trimer has no barrier: the rotation is taken out."""
    trimer = molecule('O3')
    trimer.numbers[:] = 29
    trimer.set_positions(trimer.positions * 1.8)
    turned = trimer.copy()
    turned.rotate(70, 'z')
    starts = [Frame.from_atoms(trimer), Frame.from_atoms(turned)]
    keeper = watch(emt)
    outcome = make_explorer('neb', {'n_images': 2, 'fmax': 0.02}).explore(starts, keeper, 0)
    assert outcome.status == 'completed' and outcome.results['barrier'] < 1e-3


def test_not_converged(watch, double_well) -> None:
    keeper = watch(double_well)
    settings = {'max_steps': 3, 'fmax': 1e-6, 'climb_below': 0.5, 'relax_ends': False, 'interpolation': 'linear'}
    outcome = make_explorer('neb', settings).explore([well(-1.3, 0.5), well(1.3, -0.5)], keeper, 0)
    assert outcome.status == 'not_converged' and 'in 3 steps' in outcome.message
    keeper.assess()
    assert len(keeper.frames()) == 5


def test_ends_that_no_band_connects(adatom) -> None:
    first, last = adatom
    explorer = make_explorer('neb', {})
    order = np.argsort(first.numbers)
    with pytest.raises(ValueError, match='same atoms in the same order'):
        explorer.check([first, Frame(last.numbers[order[::-1]], last.positions, last.cell, last.pbc)])
    with pytest.raises(ValueError, match='different cells'):
        explorer.check([first, last.replace(cell=last.cell * 1.01)])
    with pytest.raises(ValueError, match='one and the same'):
        explorer.check([first, first])
    with pytest.raises(ValueError, match='different fixed atoms'):
        explorer.check([first, last.replace(arrays={})])
    with pytest.raises(ValueError, match='climb_below'):
        make_explorer('neb', {'fmax': 0.1, 'climb_below': 0.05})
