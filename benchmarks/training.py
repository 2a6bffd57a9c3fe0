"""Training of a committee of MACE models: ``python benchmarks/training.py [--quick] [--data FILE]``.

The same models are trained on the same frames (a) by one ``alpot-train`` job with all members side by side, and (b) by
``mace_run_train``, one run after the other, as a user would script them. What (a) takes is compared with the time of
ONE run of (b), which has the whole machine, and with all of them; the errors on the validation frames have to agree
within the spread of the members. Then a second round: half as many frames again are added, and a committee that goes on
from that of the first round is compared with one from scratch.

Frames are distorted copper with the labels of ASE's effective medium theory, or, with ``--data``, those of an extended
XYZ file (``.xz`` too) with ``REF_energy``, ``REF_forces`` and, where it has it, ``REF_stress``. The last line is one
JSON object; the exit code is 1 where a bar is missed.
"""

from __future__ import annotations

import argparse
import io
import json
import lzma
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import yaml
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io import read

from aiida_alpot.worker.frames import Frame, write_extxyz, write_shard

N_MEMBERS = 4
N_FRAMES, N_FRAMES_QUICK = 180, 40
EPOCHS, EPOCHS_QUICK = 60, 4
BATCH_SIZE, CUTOFF, LEARNING_RATE = 5, 5.0, 0.01
WEIGHTS = {'energy': 1.0, 'forces': 10.0, 'stress': 100.0}
MODEL = {'num_channels': 16, 'max_L': 0, 'correlation': 2, 'max_ell': 2, 'num_interactions': 2}
OTHERS = {'valid_batch_size': 10, 'ema': True, 'ema_decay': 0.99, 'eval_interval': 1, 'loss': 'universal'}
BAR_CPU, BAR_GPU, BAR_WARM = 2.2, 1.6, 0.25
SPREADS = 2.0
"""Medians of errors are equal where they differ by no more than so many times the spread of the members."""


def made_up(n: int) -> list[Atoms]:
    """Distorted copper of four to sixteen atoms, labelled by effective medium theory."""
    rng = np.random.default_rng(1)
    frames = []
    for index in range(n):
        atoms = bulk('Cu', cubic=True).repeat([(1, 1, 1), (2, 1, 1), (2, 2, 1)][index % 3])
        strain = 0.02 * rng.normal(size=(3, 3))
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + (strain + strain.T) / 2), scale_atoms=True)
        atoms.positions += 0.08 * rng.normal(size=atoms.positions.shape)
        atoms.calc = EMT()
        frames.append(atoms)
    return frames


def read_atoms(path: Path) -> list[Atoms]:
    """Structures of an extended XYZ file."""
    raw = path.read_bytes()
    text = (lzma.decompress(raw) if path.suffix == '.xz' else raw).decode()
    found = read(io.StringIO(text), ':', format='extxyz')
    return list(found) if isinstance(found, list) else [found]


def to_frame(atoms: Atoms, index: int) -> Frame:
    """A frame with its labels; every fifth validates."""
    if atoms.calc is not None:
        energy, forces, stress = atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress(voigt=False)
    else:
        energy, forces = float(atoms.info['REF_energy']), np.asarray(atoms.arrays['REF_forces'])
        stress = np.asarray(atoms.info['REF_stress']).reshape(3, 3) if 'REF_stress' in atoms.info else None
    bare = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    split = 'validation' if index % 5 == 4 else 'train'
    return replace(Frame.from_atoms(bare), energy=energy, forces=forces, stress=stress, split=split)


class Stopwatch:
    """Seconds that pass and those that child processes compute in a block."""

    def __enter__(self) -> Stopwatch:
        self._start, self._used = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        return self

    def __exit__(self, *_: object) -> None:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        self.wall = time.perf_counter() - self._start
        self.cpu = used.ru_utime + used.ru_stime - self._used.ru_utime - self._used.ru_stime


def run(command: list[str], folder: Path) -> Stopwatch:
    """A program with the threads that it takes by itself, and what it needs."""
    environment = {name: value for name, value in os.environ.items() if not name.endswith('_NUM_THREADS')}
    with Stopwatch() as watch, open(folder / 'output', 'w') as output:
        done = subprocess.run(command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT)
    if done.returncode != 0:
        raise RuntimeError(f'{" ".join(command)} failed in {folder}:\n{(folder / "output").read_text()[-3000:]}')
    return watch


def program(name: str) -> str:
    """A program of the environment that runs this."""
    return str(Path(sys.executable).with_name(name))


def properties(frames: Sequence[Frame]) -> dict[str, float]:
    """Weights of what is labelled."""
    return {name: weight if getattr(frames[0], name) is not None else 0.0 for name, weight in WEIGHTS.items()}


def settings(frames: Sequence[Frame], epochs: int, device: str) -> dict[str, Any]:
    """What ``alpot-train`` is told, but for its files."""
    return {
        'trainer': 'mace',
        'weights': properties(frames),
        'cutoff': CUTOFF,
        'epochs': epochs,
        'batch_size': BATCH_SIZE,
        'learning_rate': LEARNING_RATE,
        'dtype': 'float64',
        'device': device,
        'parameters': {**MODEL, **OTHERS},
    }


def train_packed(
    folder: Path, frames: Sequence[Frame], given: dict[str, Any], start: Sequence[str | None] = (None,) * N_MEMBERS
) -> tuple[Stopwatch, dict[str, Any]]:
    """One job with all members; its report."""
    folder.mkdir()
    shard = write_shard(frames, folder)
    members = [{'index': i, 'seed': 10 + i, 'start': path} for i, path in enumerate(start)]
    (folder / 'train.json').write_text(json.dumps({**given, 'members': members, 'dataset': [str(shard)]}))
    watch = run([program('alpot-train'), 'train.json'], folder)
    return watch, json.loads((folder / 'training.json').read_text())


def train_one(folder: Path, given: dict[str, Any], seed: int, data: Path) -> Stopwatch:
    """One run of ``mace_run_train``, with what a user would give it."""
    folder.mkdir()
    weights = given['weights']
    arguments: dict[str, Any] = {
        **given['parameters'],
        'name': 'mace',
        'seed': seed,
        'train_file': str(data / 'train.xyz'),
        'valid_file': str(data / 'validation.xyz'),
        'energy_key': 'REF_energy',
        'forces_key': 'REF_forces',
        'stress_key': 'REF_stress',
        'E0s': 'average',
        'r_max': given['cutoff'],
        'max_num_epochs': given['epochs'],
        'batch_size': given['batch_size'],
        'lr': given['learning_rate'],
        'default_dtype': given['dtype'],
        'device': given['device'],
        'error_table': 'PerAtomRMSEstressvirials',
        'compute_stress': weights['stress'] > 0,
        **{f'{name}_weight': weight for name, weight in weights.items()},
    }
    (folder / 'config.yaml').write_text(yaml.safe_dump(arguments))
    return run([program('mace_run_train'), '--config', 'config.yaml'], folder)


def errors_of_model(folder: Path, frames: Sequence[Frame]) -> float:
    """RMSE of the forces of the validation frames, eV/A, by the model that a run has left."""
    from aiida_alpot.worker.potentials import load_committee

    held_out = [frame for frame in frames if frame.split == 'validation']
    predictions = load_committee([folder / 'mace.model']).evaluate(held_out)
    labels = np.concatenate([frame.forces for frame in held_out if frame.forces is not None])
    return float(np.sqrt(np.mean((predictions.forces[0] - labels) ** 2)))


def errors(report: dict[str, Any]) -> list[float]:
    """The same of each member of a job."""
    return [member['errors']['validation']['all']['forces']['rmse'] for member in report['members'].values()]


def epochs_to(folder: Path, target: float) -> float:
    """Epochs after which the median of the members' force errors has come down to a target; inf where it has not."""
    curves = np.load(folder / 'curves.npz')
    reached = []
    for index in range(N_MEMBERS):
        epochs, values = curves[f'{index}_epoch'], curves[f'{index}_forces']
        under = epochs[values <= target]
        reached.append(float(under.min()) if len(under) else float('inf'))
    return median(reached)


def case(name: str, value: float, bar: str, met: bool, **more: Any) -> dict[str, Any]:
    """One line of the result."""
    return {'case': name, 'value': value, 'bar': bar, 'bar_met': met, **more}


def measure(frames: list[Frame], epochs: int, device: str, scratch: Path) -> list[dict[str, Any]]:
    """All cases."""
    given = settings(frames, epochs, device)
    packed, report = train_packed(scratch / 'packed', frames, given)
    data = scratch / 'data'
    data.mkdir()
    for split in ('train', 'validation'):
        write_extxyz((frame for frame in frames if frame.split == split), data / f'{split}.xyz')
    runs = [train_one(scratch / f'run_{i}', given, 10 + i, data) for i in range(N_MEMBERS)]
    alone, in_turn = median(watch.wall for watch in runs), sum(watch.wall for watch in runs)
    ours = errors(report)
    theirs = [errors_of_model(scratch / f'run_{i}', frames) for i in range(N_MEMBERS)]
    bar = BAR_GPU if device == 'cuda' else BAR_CPU
    spread = max(float(np.std(ours)), float(np.std(theirs)), 0.02 * median(theirs))
    difference = abs(median(ours) - median(theirs)) / spread
    seconds = {
        'packed_s': packed.wall,
        'packed_cpu_s': packed.cpu,
        'alone_s': alone,
        'alone_cpu_s': median(watch.cpu for watch in runs),
        'in_turn_s': in_turn,
        'in_turn_cpu_s': sum(watch.cpu for watch in runs),
        'parallel': report['parallel'],
        'cores': len(os.sched_getaffinity(0)),
    }
    return [
        case(
            f'time of {N_MEMBERS} members side by side in units of one mace_run_train alone',
            packed.wall / alone,
            f'<= {bar}',
            packed.wall / alone <= bar,
            **seconds,
        ),
        case(
            f'time of {N_MEMBERS} runs of mace_run_train in turn in units of the members side by side',
            in_turn / packed.wall,
            '',
            True,
        ),
        case(
            'difference of the median force errors in units of the spread of the members',
            difference,
            f'<= {SPREADS}',
            difference <= SPREADS,
            ours=ours,
            theirs=theirs,
        ),
        warm_start(frames, given, report, scratch),
    ]


def warm_start(
    frames: list[Frame], given: dict[str, Any], from_scratch: dict[str, Any], scratch: Path
) -> dict[str, Any]:
    """Epochs that a second round takes from the committee of the first, in units of those from scratch.

    :param from_scratch: report of the second round's training from scratch.
    """
    _, report = train_packed(scratch / 'first', frames[: 2 * len(frames) // 3], given)
    made = [member['checkpoint'] or member['model'] for member in report['members'].values()]
    _, warm = train_packed(scratch / 'warm', frames, given, [str(scratch / 'first' / path) for path in made])
    target = median(errors(from_scratch))
    share = epochs_to(scratch / 'warm', target) / given['epochs']
    return case(
        "epochs of a warm start to the error of the second round's training from scratch, in units of its epochs",
        share,
        f'<= {BAR_WARM}',
        share <= BAR_WARM,
        from_scratch=errors(from_scratch),
        first_round=errors(report),
        warm=errors(warm),
        epochs=given['epochs'],
        warm_epochs=max(member['n_epochs'] for member in warm['members'].values()),
    )


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description='Committees side by side, and warm starts.')
    parser.add_argument('--quick', action='store_true', help='few frames and epochs: whether it runs, no more')
    parser.add_argument('--data', type=Path, help='labelled frames, extended XYZ, possibly .xz')
    parser.add_argument('--frames', type=int, help='how many frames')
    parser.add_argument('--epochs', type=int, help='how many epochs')
    arguments = parser.parse_args()
    n = arguments.frames or (N_FRAMES_QUICK if arguments.quick else N_FRAMES)
    epochs = arguments.epochs or (EPOCHS_QUICK if arguments.quick else EPOCHS)
    import torch

    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    if arguments.data is None:
        atoms = made_up(n)
    else:
        every = read_atoms(arguments.data)
        atoms = [every[i] for i in np.random.default_rng(1).permutation(len(every))[:n]]
    frames = [to_frame(structure, index) for index, structure in enumerate(atoms)]
    with tempfile.TemporaryDirectory(prefix='alpot-bench-') as directory:
        found = measure(frames, epochs, device, Path(directory))
    for entry in found:
        verdict = ('met' if entry['bar_met'] else 'MISSED') if entry['bar'] else ''
        print(f'{entry["case"]}: {entry["value"]:.3f} {entry["bar"] and "bar " + entry["bar"] + ": "}{verdict}')
    # With few epochs nothing has converged: the quick form tells whether everything runs.
    print(json.dumps({'quick': arguments.quick, 'device': device, 'n_frames': n, 'cases': found}))
    return 0 if arguments.quick or all(entry['bar_met'] for entry in found) else 1


if __name__ == '__main__':
    sys.exit(main())
