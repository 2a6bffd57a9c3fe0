"""Active sets and extrapolation grades: ``python benchmarks/acquisition_cases/maxvol.py [--quick]``.

MaxVol on 10^5 and 10^6 rows of 256 and 640 features in float32, beside ``py_maxvol`` of tntorch with the same tolerance
where it is installed, here or in the environment that ``ALPOT_PEER_PYTHON`` names (on the first size: it takes minutes
on the others); and grades of 10^6 atoms beside the matrix products of this machine. The rows are correlated Gaussian
ones, of very different lengths (``spread``), as those of real environments, of which the outliers are the active rows;
and all ``alike``, for which the peer hardly has to swap any, so that they have no bar beside it. Each measurement runs
in a process of its own on one thread, the rows in memory. The last line is one JSON object.
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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

#: Where tntorch is installed: its requirements need not agree with ours.
PEER_PYTHON = os.environ.get('ALPOT_PEER_PYTHON', sys.executable)
TOLERANCE = 1.01
SIZES = ((100_000, 256), (1_000_000, 256), (1_000_000, 640))
QUICK_SIZES = ((20_000, 128), (50_000, 128), (50_000, 256))
GRADED = ((1_000_000, 256), (1_000_000, 640))
QUICK_GRADED = ((200_000, 256), (50_000, 640))
BAR_SPEED = 20.0
BAR_GEMM = 0.8
CHUNK = 10_000
REPEATS = 5


def features(n: int, d: int, kind: str) -> np.ndarray:
    """Rows of d correlated features, shape (n, d), float32.

    :param kind: ``alike``: Gaussian; ``spread``: each times a lognormal factor; ``deficient``: half of the features
        depend on the others.
    """
    rng = np.random.default_rng(0)
    rank = d // 2 if kind == 'deficient' else d
    mix = (rng.standard_normal((rank, d)) * np.logspace(0, -2, rank)[:, None]).astype(np.float32)
    out = np.empty((n, d), dtype=np.float32)
    for start in range(0, n, CHUNK):
        part = out[start : start + CHUNK]
        rows = rng.standard_normal((len(part), rank), dtype=np.float32)
        if kind == 'spread':
            rows *= np.exp(0.5 * rng.standard_normal((len(part), 1), dtype=np.float32))
        np.matmul(rows, mix, out=part)
    return out


def seconds(function: Callable[[], Any], repeats: int = 1) -> tuple[float, Any]:
    """Least CPU seconds of some calls, and what the last of them gave."""
    best, result = float('inf'), None
    for _ in range(repeats):
        start = time.process_time()
        result = function()
        best = min(best, time.process_time() - start)
    return best, result


def megabytes(name: str) -> float:
    """Memory of this process: ``VmRSS`` now or ``VmHWM`` at most."""
    found = re.search(rf'^{name}:\s+(\d+) kB', Path('/proc/self/status').read_text(), re.MULTILINE)
    return int(found[1]) / 1e3 if found else float('nan')


def forget_peak() -> float:
    """Memory now, MB; the peak starts from here where the kernel allows it."""
    try:
        Path('/proc/self/clear_refs').write_text('5')
    except OSError:
        print('the peak of the memory includes that of the preparation', file=sys.stderr)
    return megabytes('VmRSS')


def gemm_rate(dtype: type) -> float:
    """Operations a second in products of large square matrices: the peak of the core."""
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((2048, 2048)).astype(dtype)
    out = np.empty_like(matrix)
    return 2 * 2048**3 / seconds(lambda: np.matmul(matrix, matrix, out=out), REPEATS)[0]


def largest_grade(rows: np.ndarray, index: np.ndarray) -> float:
    """Of all rows, in float64, from the active rows themselves."""
    inverse = np.linalg.pinv(rows[index].astype(np.float64))
    parts = range(0, len(rows), CHUNK)
    return max(float(np.abs(rows[start : start + CHUNK].astype(np.float64) @ inverse).max()) for start in parts)


def measure_ours(n: int, d: int, kind: str) -> dict[str, Any]:
    """MaxVol."""
    from aiida_alpot.worker.acquisition.maxvol import maxvol

    maxvol(features(2000, d, kind))
    rows = features(n, d, kind)
    before = forget_peak()
    taken, found = seconds(lambda: maxvol(rows, tolerance=TOLERANCE))
    peak = megabytes('VmHWM') - before
    single, double = gemm_rate(np.float32), gemm_rate(np.float64)
    bound = n * d * d * (1 / double + 2 * 2 / single)
    return {
        'seconds': taken,
        'mb': peak,
        'grade': largest_grade(rows, found.index),
        'bound': bound,
        'rates': [single, double],
        'passes': found.n_passes,
        'swaps': found.n_swaps,
    }


def measure_peer(n: int, d: int, kind: str) -> dict[str, Any]:
    """``py_maxvol`` of tntorch."""
    from tntorch.maxvol import py_maxvol

    rows = features(n, d, kind)
    before = forget_peak()
    taken, (index, _) = seconds(lambda: py_maxvol(rows, tol=TOLERANCE, max_iters=10**6))
    return {'seconds': taken, 'mb': megabytes('VmHWM') - before, 'grade': largest_grade(rows, index)}


def measure_grades(n: int, d: int, kind: str) -> dict[str, Any]:
    """Grades of atoms of one species, and the products of matrices that they are made of."""
    from aiida_alpot.worker.acquisition.extrapolation import choose_active_sets

    rows = features(n, d, kind)
    numbers = np.full(n, 74)
    sets = choose_active_sets(rows[:20_000], numbers[:20_000])
    dtype = sets.sets[0].dtype
    before = forget_peak()
    rates, times = [], []
    for _ in range(REPEATS):  # in turn, so that both meet the same neighbours on the machine
        rates.append(gemm_rate(np.dtype(dtype).type))
        times.append(seconds(lambda: sets.grade_atoms(rows, numbers))[0])
    width = sets.sets[0].matrix.shape[1]
    return {
        'seconds': min(times),
        'mb': megabytes('VmHWM') - before,
        'rate': max(rates),
        'reached': 2 * n * d * width / min(times),
        'dtype': dtype,
        'rank': sets.sets[0].rank,
    }


MEASUREMENTS = {'ours': measure_ours, 'peer': measure_peer, 'grades': measure_grades}


def measure(what: str, n: int, d: int, kind: str) -> dict[str, Any]:
    """One measurement in a process of its own."""
    threads = dict.fromkeys(('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'MKL_NUM_THREADS'), '1')
    python = PEER_PYTHON if what == 'peer' else sys.executable
    command = [python, __file__, '--measure', what, str(n), str(d), kind]
    done = subprocess.run(command, env={**os.environ, **threads}, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f'{what} {n} {d} {kind} failed:\n{done.stderr}')
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def has_peer() -> bool:
    """Whether tntorch can be imported, asked in a process of its own."""
    return subprocess.run([PEER_PYTHON, '-c', 'import tntorch.maxvol'], capture_output=True).returncode == 0


def cases(quick: bool, scratch: Path) -> list[dict[str, Any]]:
    """Everything that is measured.

    :param quick: fewer rows.
    :param scratch: not used: rows are made where they are needed.
    :return: case, ours_s, ours_mb, peer, peer_s, peer_mb, ratio, bar, bar_met, bound and note of each.
    """
    sizes, graded = (QUICK_SIZES, QUICK_GRADED) if quick else (SIZES, GRADED)
    peer = has_peer()
    found = [maxvol_case(*sizes[0], kind, with_peer=peer) for kind in ('alike', 'spread')]
    found += [maxvol_case(*sizes[1], kind, with_peer=False) for kind in ('alike', 'spread')]
    found.append(maxvol_case(*sizes[2], 'alike', with_peer=False))
    found += [grades_case(n, d, 'alike') for n, d in graded]
    found.append(grades_case(*graded[0], 'deficient'))
    return found


def maxvol_case(n: int, d: int, kind: str, *, with_peer: bool) -> dict[str, Any]:
    """The active set of a matrix."""
    ours = measure('ours', n, d, kind)
    peer = measure('peer', n, d, kind) if with_peer else None
    ratio = peer['seconds'] / ours['seconds'] if peer else None
    fast = ratio is not None and n >= SIZES[0][0] and kind == 'spread'
    single, double = ours['rates']
    return {
        'case': f'MaxVol of {n} x {d}, float32, rows {kind}',
        'ours_s': ours['seconds'],
        'ours_mb': ours['mb'],
        'peer': 'tntorch py_maxvol',
        'peer_s': peer['seconds'] if peer else None,
        'peer_mb': peer['mb'] if peer else None,
        'ratio': ratio,
        'bar': f'gamma <= {TOLERANCE}' + (f', >= {BAR_SPEED:g}x' if fast else ''),
        'bar_met': ours['grade'] <= TOLERANCE and (not fast or ratio >= BAR_SPEED),
        'bound': f'{ours["bound"]:.3g} s of matrix products: the Gram matrix in float64 at {double / 1e9:.0f} GF/s, '
        f'leverages and one verification in float32 at {single / 1e9:.0f} GF/s; ours takes '
        f'{ours["seconds"] / ours["bound"]:.2f}x of it',
        'note': f'largest grade of all rows {ours["grade"]:.4f}'
        + (f' (peer {peer["grade"]:.4f})' if peer else '')
        + f'; {ours["swaps"]} swaps, {ours["passes"]} passes over the rows',
    }


def grades_case(n: int, d: int, kind: str) -> dict[str, Any]:
    """Grades of many atoms."""
    found = measure('grades', n, d, kind)
    share = found['reached'] / found['rate']
    return {
        'case': f'grades of {n} atoms, {d} features, rank {found["rank"]}, computed in {found["dtype"]}',
        'ours_s': found['seconds'],
        'ours_mb': found['mb'],
        'peer': None,
        'peer_s': None,
        'peer_mb': None,
        'ratio': None,
        'bar': f'>= {BAR_GEMM:.0%} of the GEMM peak',
        'bar_met': share >= BAR_GEMM,
        'bound': f'products of 2048 x 2048: {found["rate"] / 1e9:.0f} GF/s; reached: {found["reached"] / 1e9:.0f}, '
        f'{share:.0%}',
        'note': f'{n / found["seconds"]:.3g} atoms a second',
    }


def main() -> int:
    """Print the cases and one JSON line; 1 where a bar is not met."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n', 1)[0])
    parser.add_argument('--quick', action='store_true', help='fewer rows')
    parser.add_argument('--measure', nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        what, n, d, kind = arguments.measure
        print(json.dumps(MEASUREMENTS[what](int(n), int(d), kind)))
        return 0
    with tempfile.TemporaryDirectory() as directory:
        found = cases(arguments.quick, Path(directory))
    for case in found:
        beside = f', {case["peer"]} {case["peer_s"]:.3g} s: {case["ratio"]:.1f}x' if case['peer_s'] else ''
        print(f'{case["case"]}: {case["ours_s"]:.3g} s, {case["ours_mb"]:.0f} MB{beside}')
        print(f'    bar {case["bar"]}: {"met" if case["bar_met"] else "MISSED"}; {case["bound"]}; {case["note"]}')
    print(json.dumps(found))
    return 0 if all(case['bar_met'] for case in found) else 1


if __name__ == '__main__':
    sys.exit(main())
