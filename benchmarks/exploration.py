"""Molecular dynamics on one core: ``python benchmarks/exploration.py [--quick] [--atoms N ...]``.

A random MACE model (64x0e+64x1o, two layers, products of three, edges up to L = 3, 5 A, float64) moves tungsten at
300 K: (a) our driver in LAMMPS with one member, (b) with a committee of four every ten steps, (c) ASE's VelocityVerlet
with MACE's own calculator, and (e) the bare evaluation of the model on a graph that is there already, as mace-torch
does it and, which is the limit, with our contraction. They take turns in one process, step by step, and every ten steps
ASE and the bare models come to where the driver is, as the number of neighbours changes on the way; what counts are the
medians of the ratios of ten steps. Times are CPU seconds on one thread, or seconds that pass where a GPU works. The
memory is that of ``alpot-md`` with a committee of four and frames every ten steps. The last line is one JSON object;
the exit code is 1 where a bar is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from acquisition_cases.evaluation import Clock, megabytes, write_models
from ase import Atoms, units
from ase.build import bulk

TUNGSTEN = 54
"""By this number of atoms `write_models` knows tungsten."""
REPEATS = {64: (4, 4, 2), 256: (8, 4, 4), 1024: (8, 8, 8), 10_000: (20, 25, 10), 100_000: (50, 50, 20)}
CPU, GPU, QUICK = (64, 256, 1024), (64, 256, 1024, 10_000, 100_000), (64,)
ROUNDS = {64: 10, 256: 5, 1024: 3, 10_000: 5, 100_000: 3}
TIMESTEP = 1.0
TEMPERATURE = 300.0
COMMITTEE_EVERY = 10
FOLLOWING = ('limit', 'bare', 'ase')
"""What does not move by itself in the same way as the driver."""
BAR_LIMIT, BAR_ASE, BAR_COMMITTEE, BAR_MEMORY = 0.95, 1.0, 1.35, 10.0
N_MEMORY, N_MEMORY_QUICK = 10_000, 1000


def structure(n_atoms: int) -> Atoms:
    """Distorted tungsten."""
    atoms = bulk('W', 'bcc', 3.16, cubic=True).repeat(REPEATS.get(n_atoms, (2, 2, 1)))
    atoms.rattle(0.05, seed=1)
    return atoms


class Driver:
    """LAMMPS with members of the committee inside, step by step.

    :param folder: in which it runs.
    """

    def __init__(self, folder: Path, atoms: Atoms, paths: Sequence[Path], device: str) -> None:
        from aiida_alpot.worker.frames.frame import Frame
        from aiida_alpot.worker.md import MDSettings, write_lammps_input
        from aiida_alpot.worker.md.configuration import DriverConfiguration
        from aiida_alpot.worker.md.forces import CommitteeForces
        from aiida_alpot.worker.md.lammps_library import open_lammps
        from aiida_alpot.worker.md.script import external_fix, script_commands
        from aiida_alpot.worker.md.trajectory import Trajectory
        from aiida_alpot.worker.potentials import load_committee

        settings = MDSettings(
            ensemble='nve', temperature=TEMPERATURE, timestep=TIMESTEP, committee_every=COMMITTEE_EVERY
        )
        written = write_lammps_input(
            Frame.from_atoms(atoms), settings, committee=[str(path) for path in paths], device=device
        )
        script = written.write(folder)
        committee = load_committee(paths, device=device)
        self.lammps = open_lammps(['-log', 'none', '-screen', 'none'])
        for command in script_commands(script.read_text()):
            if command.startswith('run'):
                break
            self.lammps.command(command.replace('data.lammps', str(folder / 'data.lammps')))
            fix_id = external_fix(command)
            if fix_id:
                self.forces = CommitteeForces(
                    self.lammps,
                    fix_id,
                    committee,
                    DriverConfiguration(**written.driver),
                    Trajectory(folder / 'frames', folder / 'watch.h5'),
                )
                self.forces.attach()
        self.lammps.command('run 0 post no')

    def atoms(self, start: Atoms) -> Atoms:
        """Positions and velocities of now."""
        atoms = start.copy()
        atoms.positions = np.array(self.lammps.gather_atoms('x', 1, 3)).reshape(-1, 3)
        velocities = np.array(self.lammps.gather_atoms('v', 1, 3)).reshape(-1, 3)
        atoms.set_velocities(velocities * 1e-3 / units.fs)  # A/ps
        return atoms

    def steps(self, n: int) -> None:
        """Go on by n steps."""
        self.lammps.command(f'run {n} pre no post no')
        if self.forces.failure is not None:
            raise self.forces.failure


class ASEDynamics:
    """ASE's molecular dynamics with MACE's calculator."""

    def __init__(self, atoms: Atoms, path: Path, device: str) -> None:
        from ase.md.verlet import VelocityVerlet
        from mace.calculators import MACECalculator

        self.atoms = atoms.copy()
        self.atoms.calc = MACECalculator(model_paths=str(path), device=device, default_dtype='float64')
        self._dynamics = VelocityVerlet(self.atoms, TIMESTEP * units.fs)

    def go_to(self, atoms: Atoms) -> None:
        """Take positions and velocities."""
        self.atoms.positions = atoms.positions
        self.atoms.set_velocities(atoms.get_velocities())
        self.atoms.get_forces()  # the first step needs them, and the step before has paid for them

    def steps(self, n: int) -> None:
        """Go on by n steps."""
        self._dynamics.run(n)


class BareModel:
    """The model by itself: energy and forces on one graph again and again.

    :param faster: with our contraction.
    """

    def __init__(self, path: Path, device: str, *, faster: bool) -> None:
        import torch
        from mace.tools import AtomicNumberTable

        from aiida_alpot.worker.potentials.mace_contraction import speed_up

        self._device = device
        self._model = torch.load(path, weights_only=False, map_location=device).double().eval().requires_grad_(False)
        if faster and not speed_up(self._model):
            raise RuntimeError('our contraction does not fit this model')
        self._table = AtomicNumberTable([int(number) for number in self._model.atomic_numbers])

    def go_to(self, atoms: Atoms) -> None:
        """Make the graph of a structure, by MACE's own means."""
        import torch
        from mace.data import AtomicData, config_from_atoms
        from mace.tools.torch_geometric.dataloader import Collater

        config = config_from_atoms(atoms)
        data = AtomicData.from_config(config, z_table=self._table, cutoff=float(self._model.r_max), heads=['Default'])
        batch = Collater([], [None])([data]).to(self._device).to_dict()
        self._graph = {
            key: value.double() if torch.is_floating_point(value) else value
            for key, value in batch.items()
            if torch.is_tensor(value)
        }

    def steps(self, n: int) -> None:
        """Evaluate n times."""
        for _ in range(n):
            out = self._model(dict(self._graph), compute_force=True, compute_stress=False)
            out['forces'].cpu(), out['energy'].cpu()


def measure_speed(paths: list[Path], n_atoms: int, rounds: int, device: str, scratch: Path) -> dict[str, Any]:
    """Seconds a step of each, taking turns."""
    from aiida_alpot.worker.potentials.memory import keep_freed_memory

    keep_freed_memory()
    atoms = structure(n_atoms)
    driver, committee = (Driver(scratch / f'{len(some)}', atoms, some, device) for some in (paths[:1], paths))
    runs: dict[str, Any] = {
        'limit': BareModel(paths[0], device, faster=True),
        'bare': BareModel(paths[0], device, faster=False),
        'driver': driver,
        'committee': committee,
        'ase': ASEDynamics(atoms, paths[0], device),
    }
    for name in FOLLOWING:
        runs[name].go_to(driver.atoms(atoms))
    for run in runs.values():
        run.steps(1)  # warms up
    return take_turns(runs, rounds, atoms, device)


def take_turns(runs: dict[str, Any], rounds: int, atoms: Atoms, device: str) -> dict[str, list[float]]:
    """Seconds a step in each round of ten steps, of which all make one after the other."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    names = list(runs)
    for _ in range(rounds):
        for name in FOLLOWING:
            runs[name].go_to(runs['driver'].atoms(atoms))
        spent = dict.fromkeys(names, 0.0)
        for turn in range(COMMITTEE_EVERY):
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                with Clock(device) as clock:
                    runs[name].steps(1)
                spent[name] += clock.seconds
        for name in names:
            seconds[name].append(spent[name] / COMMITTEE_EVERY)
    return seconds


def measure_memory(paths: list[Path], n_steps: int, device: str, scratch: Path) -> dict[str, Any]:
    """Memory of the program while it runs, MB."""
    from aiida_alpot.worker.frames.frame import Frame
    from aiida_alpot.worker.md import MDSettings, write_lammps_input
    from aiida_alpot.worker.md.driver import main
    from aiida_alpot.worker.md.forces import CommitteeForces

    settings = MDSettings(
        temperature=TEMPERATURE, n_steps=n_steps, sample_every=COMMITTEE_EVERY, committee_every=COMMITTEE_EVERY
    )
    frame = Frame.from_atoms(structure(8))
    write_lammps_input(frame, settings, committee=[str(path) for path in paths], device=device).write(scratch)
    os.chdir(scratch)
    steps: list[int] = []
    memory: list[float] = []
    attach = CommitteeForces.attach

    def watched(self: CommitteeForces) -> None:
        attach(self)

        def note() -> None:
            while True:
                steps.append(self.last_step)
                memory.append(megabytes('VmRSS'))
                time.sleep(0.5)

        threading.Thread(target=note, daemon=True).start()

    CommitteeForces.attach = watched  # type: ignore[method-assign]
    code = main(['-in', 'in.lammps', '-screen', 'none'])
    early = [mb for step, mb in zip(steps, memory, strict=False) if 0.1 * n_steps <= step <= 0.3 * n_steps]
    late = [mb for step, mb in zip(steps, memory, strict=False) if step >= 0.8 * n_steps]
    return {'code': code, 'early': median(early), 'late': median(late), 'highest': max(memory)}


def measure(what: str, n: int, rounds: int, device: str, models: Path, scratch: Path) -> dict[str, Any]:
    """One measurement in a process of its own."""
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'MKL_NUM_THREADS': '1', 'PYTHONWARNINGS': 'ignore'}
    command = [sys.executable, __file__, '--measure', what, str(n), str(rounds), device, str(models), str(scratch)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f'{" ".join(command)} failed:\n{done.stdout}{done.stderr}')
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def speed_cases(n_atoms: int, rounds: int, device: str, models: Path, scratch: Path) -> list[dict[str, Any]]:
    """The driver beside the limit, ASE and itself with a committee."""
    seconds = measure('speed', n_atoms, rounds, device, models, scratch)
    a, b, c, d, e = (np.array(seconds[name]) for name in ('driver', 'committee', 'ase', 'bare', 'limit'))
    per_step = {name: median(values) for name, values in seconds.items()}
    speeds = {name: TIMESTEP * 1e-6 * 86400.0 / value for name, value in per_step.items()}
    common = {'n_atoms': n_atoms, 'device': device, 'rounds': rounds, 's_per_step': per_step, 'ns_per_day': speeds}

    def case(name: str, ratio: float, bar: str, met: bool) -> dict[str, Any]:
        return {'case': f'{name}, {n_atoms} atoms', 'ratio': ratio, 'bar': bar, 'bar_met': met, **common}

    limit, bare, ase, committee = (float(np.median(values)) for values in (e / a, d / a, c / a, b / a))
    return [
        case('speed of the driver in units of the limit', limit, f'>= {BAR_LIMIT}', limit >= BAR_LIMIT),
        case("speed of the driver in units of mace-torch's bare model", bare, f'>= {BAR_LIMIT}', bare >= BAR_LIMIT),
        case('speed of the driver in units of ASE', ase, f'>= {BAR_ASE}', ase >= BAR_ASE),
        case(
            f'time with a committee of four every {COMMITTEE_EVERY} steps in units of one member',
            committee,
            f'<= {BAR_COMMITTEE}',
            committee <= BAR_COMMITTEE,
        ),
    ]


def memory_case(n_steps: int, device: str, models: Path, scratch: Path) -> dict[str, Any]:
    """Growth of the memory after the first tenth."""
    found = measure('memory', n_steps, 1, device, models, scratch)
    growth = found['late'] - found['early']
    return {
        'case': f'growth of the memory over {n_steps} steps, MB',
        'ratio': growth,
        'bar': f'<= {BAR_MEMORY} MB',
        'bar_met': found['code'] == 0 and growth <= BAR_MEMORY,
        **found,
    }


def line(case: dict[str, Any]) -> str:
    """One case as text."""
    met = 'met' if case['bar_met'] else 'MISSED'
    text = f'{case["case"]}: {case["ratio"]:.3f}, bar {case["bar"]}: {met}'
    if 's_per_step' in case:
        each = ', '.join(f'{name} {value:.4g}' for name, value in case['s_per_step'].items())
        speeds = ', '.join(f'{name} {value:.3g}' for name, value in case['ns_per_day'].items())
        text += f'\n    s a step: {each}; ns/day at {TIMESTEP:g} fs: {speeds}'
    return text


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description='Molecular dynamics beside the bare model and ASE.')
    parser.add_argument('--quick', action='store_true', help='64 atoms, and 1000 steps for the memory')
    parser.add_argument('--atoms', type=int, action='append', choices=list(REPEATS), help='only these sizes')
    parser.add_argument('--rounds', type=int, help='by default fewer for larger sizes')
    parser.add_argument('--no-memory', action='store_true', help='leave the memory out')
    parser.add_argument('--measure', nargs=6, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    warnings.simplefilter('ignore')
    import torch

    if arguments.measure:
        what, n, rounds, device, models, scratch = arguments.measure
        torch.set_num_threads(1)
        paths = sorted(Path(models).glob('*.model'))
        if what == 'speed':
            found = measure_speed(paths, int(n), int(rounds), device, Path(scratch))
        else:
            found = measure_memory(paths, int(n), device, Path(scratch))
        print(json.dumps(found), flush=True)
        os._exit(0)  # LAMMPS is still open
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    sizes = arguments.atoms or (QUICK if arguments.quick else GPU if device == 'cuda' else CPU)
    found_all: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix='alpot-bench-') as directory:
        models = Path(directory) / 'models'
        models.mkdir()
        write_models(models, TUNGSTEN)
        for n_atoms in sizes:
            scratch = Path(directory) / f'{n_atoms}'
            scratch.mkdir()
            cases = speed_cases(n_atoms, arguments.rounds or ROUNDS[n_atoms], device, models, scratch)
            found_all += cases
            print('\n'.join(map(line, cases)), flush=True)
        if not arguments.no_memory:
            scratch = Path(directory) / 'memory'
            scratch.mkdir()
            n_steps = N_MEMORY_QUICK if arguments.quick else N_MEMORY
            found_all.append(memory_case(n_steps, device, models, scratch))
            print(line(found_all[-1]), flush=True)
    print(json.dumps({'quick': arguments.quick, 'device': device, 'cases': found_all}))
    return 0 if all(case['bar_met'] for case in found_all) else 1


if __name__ == '__main__':
    sys.exit(main())
