"""The bias: its forces and virial are the derivatives of its energy."""

from dataclasses import replace

import numpy as np
import pytest
from ase.build import bulk
from ase.units import kB

from aiida_alpot.worker.frames.frame import Frame
from aiida_alpot.worker.md.bias import Bias, BiasSettings
from aiida_alpot.worker.md.lammps_input import write_lammps_input
from aiida_alpot.worker.md.settings import MDSettings
from aiida_alpot.worker.potentials import load_committee

SETTINGS = {'temperature': 100.0, 'cap': 500.0, 'md_temperature': 300.0}


@pytest.fixture(scope='module')
def committee(mace_files):
    return load_committee(mace_files(['C', 'Si', 'Mo'], n_members=3))


@pytest.fixture(scope='module')
def frame():
    """Two elements in a skewed cell, without symmetry."""
    atoms = bulk('Si', cubic=True)
    atoms.numbers[::3] = 6
    rng = np.random.default_rng(3)
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.06 * rng.normal(size=(3, 3))), scale_atoms=True)
    atoms.positions += 0.1 * rng.normal(size=atoms.positions.shape)
    return Frame.from_atoms(atoms)


def scaled(committee, frame, factor):
    """A bias of which the frame has `factor` times the reference spread, and a cap that is felt."""
    sigma = committee.evaluate([frame]).energy[:, 0].std()
    cap = 0.5 * sigma / kB / np.sqrt(len(frame))
    return Bias({**SETTINGS, 'cap': cap, 'tau': 0.7, 'spread': sigma / factor})


def strained(frame, strain):
    deformation = np.eye(3) + strain
    return frame.replace(positions=frame.positions @ deformation, cell=frame.cell @ deformation)


@pytest.mark.parametrize('factor', [0.3, 1.0, 2.0])
def test_forces_are_the_derivative_of_the_biased_energy(committee, frame, factor):
    bias = scaled(committee, frame, factor)

    def energy(displacement):
        return bias.apply(committee.evaluate([frame.replace(positions=frame.positions + displacement)]), 1).energy

    biased = bias.apply(committee.evaluate([frame]), 1)
    step = 1e-4
    for atom, axis in ((0, 0), (3, 1), (6, 2)):
        displacement = np.zeros_like(frame.positions)
        displacement[atom, axis] = step
        expected = -(energy(displacement) - energy(-displacement)) / (2 * step)
        assert biased.forces[atom, axis] == pytest.approx(expected, rel=1e-6, abs=1e-6)
    unbiased = committee.evaluate([frame])
    assert np.abs(biased.forces - unbiased.forces[1]).max() > 1e-2  # there is a bias to check
    assert biased.energy == pytest.approx(unbiased.energy[1, 0] - biased.bias_energy)
    assert biased.atomic_energies.sum() == pytest.approx(biased.energy)
    np.testing.assert_allclose(biased.forces.sum(axis=0), 0.0, atol=1e-9)


@pytest.mark.parametrize('factor', [0.3, 2.0])
def test_virial_is_the_derivative_by_the_strain(committee, frame, factor):
    bias = scaled(committee, frame, factor)
    biased = bias.apply(committee.evaluate([frame]), 0)
    for i, j in ((0, 0), (2, 2), (0, 1), (1, 2)):
        strain = np.zeros((3, 3))
        strain[i, j] += 0.5e-4
        strain[j, i] += 0.5e-4
        energies = [bias.apply(committee.evaluate([strained(frame, sign * strain)]), 0).energy for sign in (1, -1)]
        assert biased.virial[i, j] == pytest.approx(-(energies[0] - energies[1]) / 2e-4, rel=1e-6, abs=1e-5)
    assert np.abs(biased.virial - committee.evaluate([frame]).virial[0, 0]).max() > 1e-2


def test_the_energy_of_the_bias_by_its_formula(committee, frame):
    predictions = committee.evaluate([frame])
    sigma = np.sqrt(np.mean((predictions.energy[:, 0] - predictions.energy[:, 0].mean()) ** 2))
    bias = Bias({**SETTINGS, 'tau': 0.2, 'spread': 0.5 * sigma})
    cap = np.sqrt(len(frame)) * kB * 500.0
    expected = cap * np.tanh(0.2 * sigma * (np.sqrt(1.25) - np.sqrt(0.5)) / cap)
    assert bias.apply(predictions).bias_energy == pytest.approx(expected)
    assert Bias({**SETTINGS, 'tau': 0.2, 'spread': sigma}).apply(predictions).bias_energy == pytest.approx(
        0.0, abs=1e-12
    )


def test_the_cap_holds(committee, frame):
    predictions = committee.evaluate([frame])
    far = replace(predictions, energy=predictions.energy * np.array([[1.0], [50.0], [-50.0]]))
    biased = Bias({**SETTINGS, 'tau': 1.0, 'spread': 1e-3}).apply(far)
    assert biased.bias_energy == pytest.approx(np.sqrt(8) * kB * 500.0)
    np.testing.assert_allclose(biased.forces, far.forces[0], atol=1e-12)


def test_the_scale_follows_from_the_burn_in(committee, frame):
    """Naive means over the frames of the burn-in; no bias before it is over, and the same function afterwards."""
    rng = np.random.default_rng(1)
    frames = [frame.replace(positions=frame.positions + 0.05 * rng.normal(size=(8, 3))) for _ in range(4)]
    bias = Bias({**SETTINGS, 'burn_in': 4})
    sigmas, forces, gradients = [], [], []
    for some in frames:
        assert not bias.is_ready and bias.state() == {'tau': None, 'spread': None}
        predictions = committee.evaluate([some])
        biased = bias.apply(predictions)
        assert biased.bias_energy == 0.0 and np.array_equal(biased.forces, predictions.forces[0])
        distances = predictions.energy[:, 0] - predictions.energy[:, 0].mean()
        sigmas.append(np.sqrt(np.mean(distances**2)))
        gradient = -np.einsum('m,mia->ia', distances, predictions.forces) / 3 / sigmas[-1]
        forces.append(np.linalg.norm(predictions.forces[0], axis=1).mean())
        gradients.append(np.linalg.norm(gradient, axis=1).mean())
    state = bias.state()
    assert state['spread'] == pytest.approx(np.sqrt(np.mean(np.square(sigmas))))
    assert state['tau'] == pytest.approx(np.mean(forces) / np.mean(gradients) / 3.0)
    again = Bias({**SETTINGS, **state})
    predictions = committee.evaluate([frame])
    assert again.apply(predictions).energy == bias.apply(predictions).energy


def test_the_bias_is_off_where_the_bound_is_reached(committee, frame):
    bias = Bias({**SETTINGS, 'tau': 1.0, 'spread': 0.1, 'off_above': 0.3})
    predictions = committee.evaluate([frame])
    assert bias.apply(predictions, uncertainty=0.29).bias_energy != 0.0
    off = bias.apply(predictions, uncertainty=0.31)
    assert off.bias_energy == 0.0 and off.energy == predictions.energy[0, 0]
    np.testing.assert_array_equal(off.virial, predictions.virial[0, 0])


def test_the_push_on_an_atom_does_not_depend_on_the_size_of_the_cell():
    """Errors that are independent from atom to atom: the mean size of the bias force of 16 and of 4096 atoms.

    Harmonic atoms whose force constants the members know differently, each with an error of its own.
    """
    sizes = []
    for n_atoms in (16, 4096):
        rng = np.random.default_rng(2)
        constants = 1.0 + 0.2 * rng.normal(size=(4, n_atoms, 1))
        bias, shares = Bias({**SETTINGS, 'burn_in': 50}), []
        for _ in range(100):
            positions = 0.1 * rng.normal(size=(n_atoms, 3))
            predictions = harmonic(constants, positions)
            biased = bias.apply(predictions)
            if bias.is_ready and biased.bias_energy != 0.0:
                push = np.linalg.norm(biased.forces - predictions.forces[0], axis=1).mean()
                shares.append(push / np.linalg.norm(predictions.forces[0], axis=1).mean())
        sizes.append(np.mean(shares))
    assert sizes[0] == pytest.approx(sizes[1], rel=0.15)
    assert 0.15 < sizes[1] < 0.33  # T_bias / T = 1/3, times 0.7 at the spread of the burn-in


def harmonic(constants, positions):
    from aiida_alpot.worker.potentials import Predictions

    energy = 0.5 * (constants * positions**2).sum(axis=(1, 2))[:, None]
    empty = np.zeros((len(energy), 1, 3, 3))
    return Predictions(energy, -constants * positions, empty, np.array([0, len(positions)]), virial=empty)


@pytest.mark.parametrize(
    ('change', 'said'),
    [
        ({'temperature': 0.0}, '`bias.temperature` is 0.0'),
        ({'cap': float('nan')}, '`bias.cap`'),
        ({'burn_in': 0}, '`bias.burn_in`'),
        ({'off_above': -1.0}, '`bias.off_above`'),
        ({'tau': 1.0}, 'belong together'),
        ({'colour': 1}, "unknown option of `bias` 'colour'"),
    ],
)
def test_settings_out_of_range_are_refused(change, said):
    with pytest.raises(ValueError, match=said):
        Bias({**SETTINGS, **change})
    assert Bias(BiasSettings(**SETTINGS)).settings.burn_in == 100


def test_what_has_no_spread_is_refused(committee, frame):
    with pytest.raises(ValueError, match='at least two members'):
        Bias(SETTINGS).apply(committee.evaluate([frame], [0]))
    with pytest.raises(ValueError, match='one frame at a time'):
        Bias(SETTINGS).apply(committee.evaluate([frame, frame]))
    with pytest.raises(ValueError, match='never disagreed'):
        Bias({**SETTINGS, 'burn_in': 1}).apply(committee.evaluate([frame], [0, 0]))


def test_biased_dynamics_conserve_the_biased_energy(argon, lj_files, drive, tmp_path):
    """In LAMMPS: without a bias during the burn-in, and with the same function of the positions from then on."""
    settings = MDSettings(
        ensemble='nve', temperature=40.0, timestep=1.0, n_steps=240, sample_every=20, committee_every=20,
        bias={'temperature': 20.0, 'cap': 60.0, 'burn_in': 40},
    )  # fmt: skip
    members = [str(path) for path in lj_files(n_members=3)]
    write_lammps_input(argon, settings, committee=members).write(tmp_path)
    outcome = drive(tmp_path)
    assert outcome.returncode == 0, outcome.stderr
    watch, thermo = outcome.watch, outcome.thermo
    biased = watch['step'] >= 40
    assert (watch['bias_energy'][~biased] == 0.0).all() and np.abs(watch['bias_energy'][biased]).max() > 0.01
    np.testing.assert_allclose(watch['potential_energy'] - watch['bias_energy'], thermo[:, 2], rtol=1e-7)
    np.testing.assert_allclose(watch['bias_energy'], thermo[:, 11], atol=1e-7)
    late = thermo[thermo[:, 0] >= 60]
    assert np.ptp(late[:, 3]) / len(argon) < 1e-6  # eV/atom
    assert np.ptp(thermo[:, 3]) / len(argon) > 2e-5  # switching it on is a jump
    state = outcome.summary['bias']
    assert state['tau'] > 0.0 and state['spread'] > 0.0
    # The next part of the same run has the same bias from its first step on.
    again = MDSettings(**{**vars(settings), 'bias': {**settings.bias, **state}, 'n_steps': 260})
    folder = tmp_path / 'next'
    write_lammps_input(argon, again, committee=members, restart_file='../final.restart').write(folder)
    following = drive(folder)
    assert following.returncode == 0, following.stderr
    np.testing.assert_allclose(following.thermo[0, 1:4], thermo[-1, 1:4], rtol=1e-7)


def test_a_bias_raises_the_spread():
    """Langevin dynamics of harmonic atoms at 300 K, by overdamped steps, without a bias and with one."""
    means = []
    for strength in (1e-6, 150.0):
        rng = np.random.default_rng(0)
        constants = 1.0 + 0.3 * rng.normal(size=(4, 8, 1))
        bias = Bias({**SETTINGS, 'temperature': strength, 'cap': 2000.0, 'burn_in': 500})
        positions, step, spreads = np.zeros((8, 3)), 0.05, []
        for _ in range(6000):
            predictions = harmonic(constants, positions)
            spreads.append(predictions.energy[:, 0].std())
            noise = np.sqrt(2 * kB * 300.0 * step) * rng.normal(size=positions.shape)
            positions = positions + step * bias.apply(predictions).forces + noise
        means.append(np.mean(spreads[500:]))
    assert means[1] > 1.2 * means[0]
