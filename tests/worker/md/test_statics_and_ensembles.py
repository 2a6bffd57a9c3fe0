"""Minimisation, relaxation of the cell and NPT, against ASE's with the same potential."""

import json

import numpy as np
import pytest
from ase import units
from ase.calculators.lj import LennardJones
from ase.filters import FrechetCellFilter
from ase.md.nose_hoover_chain import IsotropicMTKNPT
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.optimize import BFGS

from aiida_alpot.worker.md.lammps_input import lammps_data
from aiida_alpot.worker.md.lammps_library import open_lammps

HEAD = """units metal
atom_style atomic
atom_modify map yes
newton on
boundary p p p
read_data data.lammps
{change}
pair_style zero 2.0 nocoeff
pair_coeff * *
fix alpot all external pf/callback 1 1
fix_modify alpot energy yes virial yes
thermo_style custom step temp pe etotal press vol f_alpot[1] f_alpot[2] f_alpot[3] f_alpot[4] f_alpot[5] f_alpot[6]
thermo_modify norm no format float %.12g
thermo 1
"""


def calculator():
    return LennardJones(epsilon=0.0104, sigma=3.4, rc=7.0, ro=5.0, smooth=True)


def write(prepare, argon, lines, change=''):
    folder = prepare(driver={'n_steps': None, 'sample_every': 5, 'committee_every': 5})
    (folder / 'data.lammps').write_text(lammps_data(argon))
    (folder / 'in.lammps').write_text(HEAD.format(change=change) + '\n'.join(lines) + '\n')
    return folder


def test_minimize(prepare, drive, argon):
    outcome = drive(write(prepare, argon, ['minimize 0 1e-6 1000 10000']))
    assert outcome.summary['completed'], outcome.stderr
    atoms = argon.to_atoms()
    atoms.calc = calculator()
    BFGS(atoms, logfile=None).run(fmax=1e-6, steps=1000)
    assert outcome.thermo[-1, 2] == pytest.approx(atoms.get_potential_energy(), abs=1e-7)


def test_looks_at_accepted_steps_of_a_minimisation(prepare, drive, argon):
    """A line search evaluates a step several times; what is noted is the one that LAMMPS went on from."""
    outcome = drive(write(prepare, argon, ['min_style cg', 'minimize 0 1e-6 1000 10000']))
    rows, watch = outcome.thermo, outcome.watch
    energies = dict(zip(rows[:, 0].astype(int).tolist(), rows[:, 2], strict=True))
    assert len(watch['step']) >= 2
    for step, energy in zip(watch['step'].tolist(), watch['potential_energy'], strict=True):
        assert energies[step] == pytest.approx(energy, abs=1e-8)
    assert [frame.metadata['step'] for frame in outcome.frames] == [step for step in watch['step'] if step > 0]


@pytest.mark.parametrize('kind', ['iso', 'tri'])
def test_box_relax(prepare, drive, argon, kind):
    lines = ['min_style cg', f'fix relax all box/relax {kind} 0.0 vmax 0.001', 'min_modify line quadratic']
    lines += ['minimize 0 1e-7 2000 20000'] * 6 + ['unfix relax', 'write_data end.data nocoeff']
    outcome = drive(write(prepare, argon, lines, change='change_box all triclinic'))
    assert outcome.returncode == 0, outcome.stderr
    atoms = argon.to_atoms()
    atoms.calc = calculator()
    BFGS(FrechetCellFilter(atoms, hydrostatic_strain=kind == 'iso'), logfile=None).run(fmax=1e-5, steps=1000)
    assert outcome.thermo[-1, 2] == pytest.approx(atoms.get_potential_energy(), abs=2e-5)
    assert outcome.thermo[-1, 5] == pytest.approx(atoms.get_volume(), rel=1e-3)


NPT = {'ensemble': 'npt', 'timestep': 4.0, 'temperature': 50.0, 'pressure': 0.02}
NPT |= {'thermostat_damping': 200.0, 'barostat_damping': 1000.0}


@pytest.mark.parametrize('barostat', ['iso', 'aniso', 'tri'])
def test_npt_as_with_a_pair_style_of_lammps(prepare, drive, argon, tmp_path, barostat):
    """Step by step what LAMMPS does with its own Lennard-Jones, whose virial nobody had to hand over."""
    plain = {'epsilon': 0.0104, 'sigma': 3.4, 'rc': 7.0}
    description = {
        'calculator': 'ase.calculators.lj.LennardJones',
        'parameters': plain,
        'elements': ['Ar'],
        'cutoff': 7.0,
    }
    (tmp_path / 'plain.json').write_text(json.dumps(description))
    settings = {**NPT, 'barostat': barostat, 'n_steps': 200, 'sample_every': 20, 'committee_every': 200}
    folder = prepare(**settings, committee=[tmp_path / 'plain.json'])
    outcome = drive(folder)
    script = [line for line in (folder / 'in.lammps').read_text().splitlines() if 'fix alpot' not in line]
    own = [
        line for line in script if not line.startswith(('fix_modify alpot', 'pair_', 'thermo_style', 'write_restart'))
    ]
    style = ['pair_style lj/cut 7.0', 'pair_coeff * * 0.0104 3.4', 'thermo_style custom step temp pe etotal press vol']
    place = next(i for i, line in enumerate(own) if line.startswith('read_data')) + 1
    log = tmp_path / 'log.native'
    lammps = open_lammps(['-log', str(log), '-screen', 'none'])
    lammps.command(f'shell cd {folder}')
    for command in [*own[:place], *style, 'thermo_modify norm no', *own[place:]]:
        lammps.command(command)
    lammps.close()
    rows = [line.split() for line in log.read_text().splitlines()]
    theirs = np.array([[float(word) for word in row] for row in rows if len(row) == 6 and row[0].isdigit()])
    ours = outcome.thermo
    np.testing.assert_allclose(ours[:, [1, 4, 5]], theirs[:, [1, 4, 5]], rtol=1e-6, atol=1e-3)
    assert np.ptp(ours[:, 5]) / ours[0, 5] > 0.005


@pytest.mark.slow
def test_npt_has_the_averages_of_another_program(prepare, drive, argon, lj_files):
    """Mean volume and energy beside ASE's barostat, within three standard errors."""
    settings = {**NPT, 'barostat': 'iso', 'n_steps': 3000, 'sample_every': 10, 'committee_every': 3000}
    rows = drive(prepare(**settings, committee=lj_files(1))).thermo
    atoms = argon.to_atoms()
    atoms.calc = calculator()
    MaxwellBoltzmannDistribution(atoms, temperature_K=50.0, rng=np.random.default_rng(4))
    barostat = {'tdamp': 200.0 * units.fs, 'pdamp': 1000.0 * units.fs}
    dynamics = IsotropicMTKNPT(atoms, 4.0 * units.fs, temperature_K=50.0, pressure_au=0.02 * units.GPa, **barostat)
    theirs = []
    dynamics.attach(lambda: theirs.append((atoms.get_potential_energy(), atoms.get_volume())), interval=10)
    dynamics.run(3000)
    ours = rows[len(rows) // 4 :, [2, 5]]
    for a, b in zip(ours.T, np.array(theirs)[len(theirs) // 4 :].T, strict=True):
        assert abs(a.mean() - b.mean()) < 3.0 * np.hypot(error_of_mean(a), error_of_mean(b))


def error_of_mean(values, n_blocks=8):
    blocks = values[: len(values) // n_blocks * n_blocks].reshape(n_blocks, -1).mean(axis=1)
    return blocks.std(ddof=1) / np.sqrt(n_blocks)


def test_monte_carlo_moves_are_not_looked_at_before_they_are_accepted(prepare, drive, argon, mace_files):
    """Swaps of species are tried within a step: the row and the frame are those of the accepted state."""
    from aiida_alpot.worker.potentials import load_committee

    files = mace_files(['C', 'Si', 'Mo'], n_members=2)
    frame = argon.replace(numbers=[14, 42] * 16, positions=0.8 * argon.positions, cell=0.8 * argon.cell)
    folder = prepare(frame=frame, committee=files, temperature=300.0, timestep=0.5, n_steps=12, sample_every=4)
    script = (folder / 'in.lammps').read_text()
    swap = 'fix mc all atom/swap 4 3 7 3000000 ke yes types 1 2\nrun '
    (folder / 'in.lammps').write_text(script.replace('\nrun ', f'\n{swap}', 1))
    outcome = drive(folder)
    assert outcome.returncode == 0, outcome.stderr
    frames = outcome.frames
    assert [frame.metadata['step'] for frame in frames] == [4, 8, 12]
    predictions = load_committee(files).evaluate(frames)
    thermo = {int(row[0]): row for row in outcome.thermo}
    for i, kept in enumerate(frames):
        assert thermo[kept.metadata['step']][2] == pytest.approx(predictions.energy[0, i], abs=1e-5)
    assert any((kept.numbers != frame.numbers).any() for kept in frames)
