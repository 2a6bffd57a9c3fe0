"""A committee on a pool: ``python benchmarks/acquisition_cases/evaluation.py [--quick] [--dtype float32]``.

Four random MACE models (64x0e+64x1o, two layers, products of three, edges up to L = 3, 5 A) give energies, forces and
stresses of structures of 2, 6 and 54 atoms: ours in batches on one shared graph, the peer one structure after the
other through ASE calculators, which is what the closest plugin does. And the NTK and activations of one model, in the
same pass as its energies and forces, beside the pass without them and a loop that differentiates each structure by the
weights. Each measurement runs in a process of its own on one thread; models are loaded and run warm before, and memory
is what is needed beyond the loaded models. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk, molecule

ELEMENTS = {2: ['Si'], 6: ['H', 'C', 'O'], 54: ['W']}
N_MEMBERS = 4
N_STRUCTURES = 500
#: Structures with --quick, and how many are timed where all of them would take long.
QUICK = {2: 60, 6: 40, 54: 8}
N_TIMED = {2: 500, 6: 500, 54: 60}
BARS_CPU = {2: 5.4, 6: 2.9, 54: 1.13}
BARS_GPU = {2: 20.0, 6: 20.0, 54: 5.0}
BAR_FEATURES = 1.05
N_LOOP = 40
REPEATS = 9
ROUNDS = 3
N_WARM = 3
FEATURES = ('ntk', 'activations')


def structures(n_atoms: int, n: int) -> list[Atoms]:
    """Distorted silicon, methanol or tungsten."""
    rng = np.random.default_rng(n_atoms)
    perfect = {
        2: lambda: bulk('Si'),
        6: lambda: molecule('CH3OH'),
        54: lambda: bulk('W', 'bcc', 3.16, cubic=True).repeat(3),
    }[n_atoms]()
    made = []
    for _ in range(n):
        atoms = perfect.copy()
        atoms.positions += 0.05 * rng.normal(size=atoms.positions.shape)
        made.append(atoms)
    return made


def write_models(directory: Path, n_atoms: int) -> list[Path]:
    """Files of the members."""
    import mace  # noqa: F401 -- before e3nn
    import torch
    from ase.data import atomic_numbers
    from e3nn import o3
    from mace import modules
    from mace.tools.torch_tools import default_dtype

    numbers = sorted(atomic_numbers[symbol] for symbol in ELEMENTS[n_atoms])
    block = modules.interaction_classes['RealAgnosticResidualInteractionBlock']
    paths = []
    for seed in range(N_MEMBERS):
        torch.manual_seed(seed)
        with default_dtype('float64'):
            model = modules.ScaleShiftMACE(
                r_max=5.0,
                num_bessel=8,
                num_polynomial_cutoff=5,
                max_ell=3,
                interaction_cls=block,
                interaction_cls_first=block,
                num_interactions=2,
                num_elements=len(numbers),
                hidden_irreps=o3.Irreps('64x0e+64x1o'),
                MLP_irreps=o3.Irreps('16x0e'),
                atomic_energies=-3.0 * np.arange(1, len(numbers) + 1),
                avg_num_neighbors=30.0,
                atomic_numbers=numbers,
                correlation=3,
                gate=torch.nn.functional.silu,
                radial_MLP=[64, 64, 64],
                atomic_inter_scale=0.8,
                atomic_inter_shift=0.1,
            )
        paths.append(directory / f'{n_atoms}_atoms_{seed}.model')
        torch.save(model, paths[-1])
    return paths


class Clock:
    """Seconds of a block: of the CPU, or those that pass where a GPU works."""

    def __init__(self, device: str) -> None:
        self._device = device

    def __enter__(self) -> Clock:
        self._start = self._now()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = self._now() - self._start

    def _now(self) -> float:
        if self._device == 'cpu':
            return time.process_time()
        import torch

        torch.cuda.synchronize()
        return time.perf_counter()


def megabytes(name: str) -> float:
    """Memory of this process: ``VmRSS`` now or ``VmHWM`` at most."""
    found = re.search(rf'^{name}:\s+(\d+) kB', Path('/proc/self/status').read_text(), re.MULTILINE)
    return int(found[1]) / 1e3 if found else float('nan')


def forget_peak() -> float:
    """Memory now, MB; the peak starts from here where the kernel allows it."""
    try:
        Path('/proc/self/clear_refs').write_text('5')
    except OSError:
        warnings.warn('the peak of the memory includes that of the imports', stacklevel=2)
    return megabytes('VmRSS')


def measure_ours(paths: list[Path], n_atoms: int, n: int, dtype: str, device: str) -> dict[str, Any]:
    """All members on all structures."""
    from aiida_alpot.worker.frames.frame import Frame
    from aiida_alpot.worker.potentials import load_committee
    from aiida_alpot.worker.potentials.memory import keep_freed_memory

    keep_freed_memory()
    frames = [Frame.from_atoms(atoms) for atoms in structures(n_atoms, n)]
    committee = load_committee(paths, dtype=dtype, device=device)
    before = forget_peak()
    for _ in range(N_WARM):
        committee.evaluate(frames[: max(4, 200 // n_atoms)])
    with Clock(device) as clock:
        predictions = committee.evaluate(frames)
    return {'seconds': clock.seconds, 'mb': megabytes('VmHWM') - before, 'sum': float(predictions.energy.sum())}


def measure_peer(paths: list[Path], n_atoms: int, n: int, dtype: str, device: str) -> dict[str, Any]:
    """One calculator after the other, one structure after the other."""
    from mace.calculators import MACECalculator

    pool = structures(n_atoms, n)
    calculators = [MACECalculator(model_paths=str(path), device=device, default_dtype=dtype) for path in paths]

    def evaluate(atoms: Atoms) -> float:
        total = 0.0
        for calculator in calculators:
            atoms.calc = calculator
            total += atoms.get_potential_energy()
            atoms.get_forces()
            if atoms.pbc.any():
                atoms.get_stress()
        return total

    before = forget_peak()
    for atoms in structures(n_atoms, N_WARM):
        evaluate(atoms)
    with Clock(device) as clock:
        total = sum(evaluate(atoms) for atoms in pool)
    return {'seconds': clock.seconds, 'mb': megabytes('VmHWM') - before, 'sum': total}


def measure_features(paths: list[Path], n_atoms: int, n: int, dtype: str, device: str) -> dict[str, Any]:
    """One model with and without features, in turn; the loop that differentiates by the weights; the largest error."""
    import torch

    from aiida_alpot.worker.frames.frame import Frame
    from aiida_alpot.worker.potentials.mace import MACECommittee
    from aiida_alpot.worker.potentials.memory import keep_freed_memory

    keep_freed_memory()
    frames = [Frame.from_atoms(atoms) for atoms in structures(n_atoms, n)]
    committee = MACECommittee.from_files(paths[:1], dtype=dtype, device=device)
    model = torch.load(paths[0], weights_only=False, map_location=device).to(getattr(torch, dtype))
    for features in ((), FEATURES) * N_WARM:
        committee.evaluate(frames, features=features)
    seconds: dict[tuple[str, ...], list[float]] = {(): [], FEATURES: []}
    for _ in range(REPEATS):
        for features, taken in seconds.items():
            with Clock(device) as clock:
                predictions = committee.evaluate(frames, features=features)
            taken.append(clock.seconds)
    loop = frames[: min(n, N_LOOP)]
    gradient_loop(committee, model, loop[:N_WARM])
    with Clock(device) as clock:
        rows = gradient_loop(committee, model, loop)
    error = np.abs(rows - predictions.features['ntk'][: len(loop)]).max() / np.abs(rows).max()
    ratios = [b / a for a, b in zip(seconds[()], seconds[FEATURES], strict=True)]
    return {
        'without': median(seconds[()]),
        'with': median(seconds[FEATURES]),
        'ratio': median(ratios),
        'loop': clock.seconds * n / len(loop),
        'error': float(error),
    }


def gradient_loop(committee: Any, model: Any, frames: list[Any]) -> np.ndarray:
    """Energy, forces, derivative by the embedding and activations of one structure after the other."""
    import torch

    weight = model.node_embedding.linear.weight
    rows = []
    for frame in frames:
        graph, _ = committee._graph([committee._neighbourhood(frame)])
        head = torch.zeros(1, dtype=torch.int64, device=weight.device)
        out = model({**graph, 'head': head}, compute_force=False)
        _, gradient = torch.autograd.grad(out['energy'].sum(), [graph['positions'], weight])
        rows.append(gradient.detach().cpu().numpy())
    return np.array(rows)


def measure_bound(paths: list[Path], n_atoms: int, n: int, dtype: str, device: str) -> dict[str, Any]:
    """Multiplications of matrices in a pass, and how many of them this machine does in a second."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from aiida_alpot.worker.frames.frame import Frame
    from aiida_alpot.worker.potentials import load_committee

    committee = load_committee(paths[:1], dtype=dtype, device=device)
    frames = [Frame.from_atoms(atoms) for atoms in structures(n_atoms, max(1, 36 // n_atoms))]
    committee.evaluate(frames)
    with FlopCounterMode(display=False) as counter:
        committee.evaluate(frames)
    matrix = torch.rand(1024, 1024, dtype=getattr(torch, dtype), device=device)
    for _ in range(3):
        matrix @ matrix
    with Clock(device) as clock:
        for _ in range(10):
            matrix @ matrix
    rate = 10 * 2 * 1024**3 / clock.seconds
    return {'flops': counter.get_total_flops() / len(frames), 'rate': rate}


MEASUREMENTS = {
    'ours': measure_ours,
    'peer': measure_peer,
    'features': measure_features,
    'bound': measure_bound,
}


def measure(what: str, n_atoms: int, n: int, dtype: str, device: str, scratch: Path) -> dict[str, Any]:
    """One measurement in a process of its own."""
    arguments = [what, str(n_atoms), str(n), dtype, device, str(scratch)]
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'MKL_NUM_THREADS': '1', 'PYTHONWARNINGS': 'ignore'}
    command = [sys.executable, __file__, '--measure', *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f'{" ".join(arguments)} failed:\n{done.stderr}')
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def cases(quick: bool, scratch: Path, dtype: str = 'float32') -> list[dict[str, Any]]:
    """Everything that is measured.

    :param quick: fewer structures.
    :param scratch: folder for the models.
    :return: case, ours_s, ours_mb, peer, peer_s, peer_mb, ratio, bar, bound and note of each.
    """
    import torch

    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    found = []
    for n_atoms in ELEMENTS:
        write_models(scratch, n_atoms)
        n = QUICK[n_atoms] if quick else N_STRUCTURES
        bound = measure('bound', n_atoms, n, dtype, device, scratch)
        found.append(committee_case(n_atoms, n, dtype, device, scratch, bound))
        found.append(features_case(n_atoms, n, dtype, device, scratch))
    return found


def committee_case(
    n_atoms: int, n: int, dtype: str, device: str, scratch: Path, bound: dict[str, float]
) -> dict[str, Any]:
    """Energies, forces and stresses by all members."""
    n_timed = min(n, N_TIMED[n_atoms])
    turns = [
        [measure(who, n_atoms, n_timed, dtype, device, scratch) for who in ('ours', 'peer')] for _ in range(ROUNDS)
    ]
    if not all(np.isclose(ours['sum'], peer['sum'], rtol=1e-5) for ours, peer in turns):
        raise RuntimeError(f'energies differ: {turns[0][0]["sum"]} and {turns[0][1]["sum"]} eV in all')
    ours_s, peer_s = (median(turn[who]['seconds'] for turn in turns) * n / n_timed for who in (0, 1))
    ratio = median(peer['seconds'] / ours['seconds'] for ours, peer in turns)
    floor = N_MEMBERS * n * bound['flops'] / bound['rate']
    bars = BARS_CPU if device == 'cpu' else BARS_GPU
    return {
        'case': f'committee of {N_MEMBERS}, E F S of {n} structures of {n_atoms} atoms, {dtype}',
        'ours_s': ours_s,
        'ours_mb': max(ours['mb'] for ours, _ in turns),
        'peer': 'ASE calculators, one structure at a time',
        'peer_s': peer_s,
        'peer_mb': max(peer['mb'] for _, peer in turns),
        'ratio': ratio,
        'bar': f'>= {bars[n_atoms]}x',
        'bar_met': ratio >= bars[n_atoms],
        'bound': f'{floor:.3g} s of matrix products at {bound["rate"] / 1e9:.0f} GF/s; ours takes '
        f'{ours_s / floor:.1f}x of it (sums and products of elements are bound by the memory)',
        'note': ('CPU seconds, no GPU is at hand' if device == 'cpu' else 'seconds on a GPU')
        + f'; medians of {ROUNDS} turns of {n_timed} structures',
    }


def features_case(n_atoms: int, n: int, dtype: str, device: str, scratch: Path) -> dict[str, Any]:
    """NTK and activations beside energies and forces."""
    n = min(n, max(N_LOOP, 2000 // n_atoms)) if device == 'cpu' else n
    found = measure('features', n_atoms, n, dtype, device, scratch)
    return {
        'case': f'NTK + activations beside E F S of {n} structures of {n_atoms} atoms, one model, {dtype}',
        'ours_s': found['with'],
        'ours_mb': None,
        'peer': 'a loop that differentiates each structure by the weights',
        'peer_s': found['loop'],
        'peer_mb': None,
        'ratio': found['loop'] / found['with'],
        'bar': f'<= {BAR_FEATURES} of E F S alone',
        'bar_met': found['ratio'] <= BAR_FEATURES,
        'bound': f'E F S alone: {found["without"]:.3g} s; with both {found["ratio"]:.3f} of it',
        'note': f'median of {REPEATS} pairs; largest relative difference from the loop {found["error"]:.1e}',
    }


def main() -> int:
    """Print the cases and one JSON line; 1 where a bar is not met."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n', 1)[0])
    parser.add_argument('--quick', action='store_true', help='fewer structures')
    parser.add_argument('--dtype', default='float32', choices=['float32', 'float64'])
    parser.add_argument('--measure', nargs=6, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    warnings.simplefilter('ignore')
    if arguments.measure:
        what, n_atoms, n, dtype, device, scratch = arguments.measure
        import torch

        torch.set_num_threads(1)
        paths = [Path(scratch) / f'{n_atoms}_atoms_{seed}.model' for seed in range(N_MEMBERS)]
        print(json.dumps(MEASUREMENTS[what](paths, int(n_atoms), int(n), dtype, device)))
        return 0
    with tempfile.TemporaryDirectory() as directory:
        found = cases(arguments.quick, Path(directory), arguments.dtype)
    for case in found:
        print(f'{case["case"]}: {case["ours_s"]:.3g} s, {case["peer"]} {case["peer_s"]:.3g} s: {case["ratio"]:.2f}x')
        print(f'    bar {case["bar"]}: {"met" if case["bar_met"] else "MISSED"}; {case["bound"]}; {case["note"]}')
    print(json.dumps(found))
    return 0 if all(case['bar_met'] for case in found) else 1


if __name__ == '__main__':
    sys.exit(main())
