"""Selection of batches: ``python benchmarks/acquisition_cases/selection.py [--quick] [--check]``.

Posterior variance, LCMD and k-center: 1,000 picks given 1,000 training rows, from 10^6 rows of 256 features in memory,
and of 1,920 features in a contiguous data set of HDF5 (7.7 GB; ``--quick``: 10^5 rows, 0.8 GB). The peer is bmdal_reg
3.0.2, where it is installed (in an environment of its own, named by ``ALPOT_PEER_PYTHON``): the same picks from 10^4
rows, against its float64, and its time for 256 features. Every measurement runs in a process of its own on one thread:
CPU seconds, and the peak of the memory above what the process had with the pool loaded. ``--check`` holds all picks
against the definitions in float64 (minutes). The last line is one JSON object.

Features: 200 clusters of unequal size in 256 latent directions, whose amplitudes fall as 1/j, with a common offset and
white noise of 10^-3, normalised to length 1. Those of MACE fall much faster. ``--isotropic`` takes normal numbers in
place of them, in which there is nothing to save.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

RULES = ('posterior_variance', 'lcmd', 'k_center')
PICKS = 1_000
TRAIN = 1_000
REGULARISATION = 1e-3
SIZES = {False: 1_000_000, True: 100_000}
DIMENSIONS = (256, 1920)
SMALL = 10_000
BLOCK = 10_000
MB, GB = 10**6, 10**9
#: Least ratio to the peer and most memory in MB, for 256 features in memory.
BARS = {'posterior_variance': (30.0, 200.0), 'lcmd': (10.0, 400.0), 'k_center': (30.0, 200.0)}
#: Most CPU seconds and memory in MB from the file, for 10^6 rows.
FILE_BARS = (60.0, 500.0)


def features(n: int, d: int, first: int = 0, isotropic: bool = False) -> Iterator[np.ndarray]:
    """Rows ``first`` to ``first + n`` in blocks of :data:`BLOCK`; the same whatever is asked for beside them."""
    rng = np.random.default_rng(0)
    rank = min(d, 256)
    axes = np.linalg.qr(rng.standard_normal((d, rank)))[0].T / np.arange(1, rank + 1)[:, None]
    offset = (0.5 / np.sqrt(d) * rng.standard_normal(d)).astype(np.float32)
    centres = rng.standard_normal((200, rank)).astype(np.float32)
    share = rng.dirichlet(np.full(200, 0.5))
    axes = axes.astype(np.float32)
    for start in range(first, first + n, BLOCK):
        rng = np.random.default_rng([0, start])
        if isotropic:
            x = rng.standard_normal((BLOCK, d), dtype=np.float32)
        else:
            latent = rng.standard_normal((BLOCK, rank), dtype=np.float32)
            latent *= 0.5
            latent += centres[rng.choice(200, BLOCK, p=share)]
            x = latent @ axes + offset
            x += np.float32(1e-3 / np.sqrt(d)) * rng.standard_normal((BLOCK, d), dtype=np.float32)
            x /= np.linalg.norm(x, axis=1)[:, None]
        yield x[: first + n - start]


def train_rows(d: int, isotropic: bool) -> np.ndarray:
    """The training rows: others of the same kind."""
    return np.concatenate(list(features(TRAIN, d, first=10**9, isotropic=isotropic)))


def write_pool(path: Path, n: int, d: int, isotropic: bool) -> None:
    """A pool as a contiguous data set, a block at a time, where there is none yet.

    :raises SystemExit: where the disk has too little space.
    """
    import h5py

    if path.exists():
        return
    needed, free = 4 * n * d, shutil.disk_usage(path.parent).free
    if free < 1.1 * needed:
        sys.exit(
            f'{path.parent} has {free / GB:.1f} GB free, {1.1 * needed / GB:.1f} GB are needed: name another folder '
            'with --scratch, or use --quick'
        )
    with h5py.File(path.with_suffix('.part'), 'w') as file:
        data = file.create_dataset('features', shape=(n, d), dtype=np.float32)
        start = 0
        for block in features(n, d, isotropic=isotropic):
            data[start : start + len(block)] = block
            start += len(block)
    path.with_suffix('.part').rename(path)


def status(name: str) -> float:
    """MB of this process: ``VmRSS`` or ``VmHWM``."""
    found = re.search(rf'^{name}:\s+(\d+) kB', Path('/proc/self/status').read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024 / MB


def ours(rule: str, pool: Any, train: np.ndarray) -> np.ndarray:
    """Our picks."""
    from aiida_alpot.worker.acquisition import batch_selection

    return getattr(batch_selection, rule)(pool, PICKS, train=train).index


def theirs(rule: str, pool: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Those of bmdal_reg, in the precision of the pool, used as its users would: training rows are centres, or the
    posterior given them is what the largest determinant is sought in."""
    vars(np)['Inf'] = np.inf  # it was written for numpy 1
    import torch
    from bmdal_reg.bmdal import selection
    from bmdal_reg.bmdal.feature_data import TensorFeatureData
    from bmdal_reg.bmdal.feature_maps import IdentityFeatureMap
    from bmdal_reg.bmdal.features import Features

    torch.set_num_threads(1)
    identity = IdentityFeatureMap(pool.shape[1])
    rows, known = (Features(identity, TensorFeatureData(torch.from_numpy(x))) for x in (pool, train))
    if rule == 'posterior_variance':
        sigma = REGULARISATION**0.5
        posterior = known.posterior_tfm(sigma, allow_kernel_space_posterior=False)
        rows, known = posterior(rows).precompute(), posterior(known).precompute()
        method = selection.MaxDetSelectionMethod(rows, known, sel_with_train=False, noise_sigma=sigma, verbosity=0)
    else:
        name = {'lcmd': 'LargestClusterMaxDistSelectionMethod', 'k_center': 'MaxDistSelectionMethod'}[rule]
        method = getattr(selection, name)(rows.precompute(), known.precompute(), sel_with_train=True, verbosity=0)
    return method.select(PICKS).numpy()


def do(who: str, rule: str, path: Path, in_memory: bool, double: bool, isotropic: bool) -> dict[str, Any]:
    """One measurement, in this process."""
    import h5py

    with h5py.File(path, 'r') as file:
        pool = file['features'][...] if in_memory else file['features']
        train = train_rows(pool.shape[1], isotropic)
        if double:
            pool, train = pool.astype(np.float64), train.astype(np.float64)
        select = ours if who == 'ours' else theirs
        select(rule, np.concatenate([train, train[::-1] / 2]), train[:10])  # imports, and what is prepared once
        gc.collect()
        Path('/proc/self/clear_refs').write_text('5')
        before, cpu, wall = status('VmRSS'), time.process_time(), time.perf_counter()
        index = select(rule, pool, train)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        return {'cpu': cpu, 'wall': wall, 'mb': status('VmHWM') - before, 'index': index.tolist()}


def run_check(rule: str, path: Path, index: list[int], isotropic: bool) -> dict[str, Any]:
    """Picks against the definition in float64."""
    import h5py
    from selection_check import check

    with h5py.File(path, 'r') as file:
        pool = file['features']
        return check(rule, pool, train_rows(pool.shape[1], isotropic), np.array(index), REGULARISATION)


def machine() -> dict[str, float]:
    """GFlop/s of a product of matrices in float32, and GB/s that a sum of squares reads."""
    rng = np.random.default_rng(0)
    left, right = rng.random((4096, 256), dtype=np.float32), rng.random((256, 1024), dtype=np.float32)
    large = rng.random(50_000_000, dtype=np.float32)
    product = least_cpu(lambda: left @ right)
    read = least_cpu(lambda: np.einsum('i,i->', large, large))
    return {'gemm': 2.0 * 4096 * 256 * 1024 / product / GB, 'bandwidth': large.nbytes / read / GB}


def least_cpu(work: Any) -> float:
    """CPU seconds of the fastest of five."""
    times = []
    for _ in range(5):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def in_process(python: str, *arguments: str) -> Any:
    """What this script answers in a process of its own on one thread; ``None`` where a module is missing."""
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'OPENBLAS_NUM_THREADS': '1', 'MKL_NUM_THREADS': '1'}
    command = [python, __file__, '--do', *arguments]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if 'ModuleNotFoundError' in run.stderr:
        return None
    if run.returncode:
        raise RuntimeError(f'{" ".join(arguments)} ended with exit code {run.returncode}: {run.stderr[-2000:]}')
    return json.loads(run.stdout.splitlines()[-1])


def cases(quick: bool, scratch: Path, check: bool = False, isotropic: bool = False) -> list[dict[str, Any]]:
    """All cases: who took how long and how much memory, what must hold, and what the machine allows."""
    n, speed, rows = SIZES[quick], in_process(sys.executable, 'machine'), []
    kind = 'isotropic' if isotropic else 'features'
    peer_python = os.environ.get('ALPOT_PEER_PYTHON', sys.executable)
    small = scratch / f'{kind}_{SMALL}_{DIMENSIONS[0]}.h5'
    write_pool(small, SMALL, DIMENSIONS[0], isotropic)
    for d in DIMENSIONS:
        path = scratch / f'{kind}_{n}_{d}.h5'
        write_pool(path, n, d, isotropic)
        for rule in RULES:
            in_memory = d == DIMENSIONS[0]
            print(f'{rule}, {n} x {d}', file=sys.stderr, flush=True)
            options = ('memory' if in_memory else 'file', 'float32', kind)
            mine = in_process(sys.executable, 'ours', rule, str(path), *options)
            peer = in_process(peer_python, 'theirs', rule, str(path), *options) if in_memory else None
            row = as_row(rule, n, d, in_memory, mine, peer, speed)
            if peer is not None:
                row['note'] = compare(rule, small, kind, mine, peer, peer_python)
            if check:
                row['check'] = in_process(sys.executable, 'check', rule, str(path), json.dumps(mine['index']), kind)
                row['bar_met'] = row['bar_met'] and row['check']['holds']
                same = 'the same picks' if row['check']['holds'] else 'OTHER PICKS'
                row['note'] = '; '.join(filter(None, (row['note'], f'by the definition in float64: {same}')))
            rows.append(row)
    return rows


def compare(rule: str, small: Path, kind: str, mine: Any, peer: Any, peer_python: str) -> str:
    """How the picks agree, as a sentence."""
    few = [
        in_process(python, who, rule, str(small), 'memory', precision, kind)['index']
        for python, who, precision in ((sys.executable, 'ours', 'float32'), (peer_python, 'theirs', 'float64'))
    ]
    same = sum(a == b for a, b in zip(*few, strict=True))
    common = len(set(mine['index']) & set(peer['index']))
    order = 'in the same order' if mine['index'] == peer['index'] else 'in another order'
    return (
        f'{same} of {PICKS} picks from {SMALL} rows as by the peer in float64, in order; {common} of {PICKS} here as '
        f'by the peer in float32, {order}'
    )


def as_row(rule: str, n: int, d: int, in_memory: bool, mine: Any, peer: Any, speed: dict[str, float]) -> dict[str, Any]:
    """One line of the table."""
    products = 2.0 * n * d * (TRAIN + PICKS) / speed['gemm'] / GB
    read = 4.0 * n * d / speed['bandwidth'] / GB
    ratio = peer['cpu'] / mine['cpu'] if peer else None
    least_ratio, most_mb = BARS[rule]
    if in_memory:
        fast = n >= SIZES[False] and ratio is not None  # at small sizes most of the time is not in the rows
        bar = (f'>= {least_ratio:g} x the peer, ' if fast else '') + f'<= {most_mb:g} MB'
        holds = (not fast or ratio >= least_ratio) and mine['mb'] <= most_mb
    else:
        bar = f'<= {FILE_BARS[0]:g} s at 10^6 rows, <= {FILE_BARS[1]:g} MB'
        holds = mine['cpu'] <= FILE_BARS[0] and mine['mb'] <= FILE_BARS[1]
    return {
        'case': f'{rule}, {n} x {d}, {"in memory" if in_memory else "from HDF5"}',
        'ours_s': round(mine['cpu'], 2),
        'ours_wall_s': round(mine['wall'], 2),
        'ours_mb': round(mine['mb'], 1),
        'peer': 'bmdal_reg' if peer else None,
        'peer_s': round(peer['cpu'], 1) if peer else None,
        'peer_mb': round(peer['mb'], 1) if peer else None,
        'ratio': round(ratio, 1) if ratio else None,
        'bar': bar,
        'bar_met': bool(holds),
        'bound': f'one read of the pool {read:.2f} s at {speed["bandwidth"]:.0f} GB/s; all rows against all known rows '
        f'once {products:.1f} s at {speed["gemm"]:.0f} GFlop/s',
        'distance': f'{mine["cpu"] / read:.1f} x the read, {mine["cpu"] / products:.2f} x the products',
        'note': '',
    }


def answer(arguments: list[str]) -> Any:
    """Answer :func:`in_process`."""
    if arguments[0] == 'machine':
        return machine()
    who, rule, path = arguments[0], arguments[1], Path(arguments[2])
    if who == 'check':
        return run_check(rule, path, json.loads(arguments[3]), arguments[4] == 'isotropic')
    where, precision, kind = arguments[3:]
    return do(who, rule, path, where == 'memory', precision == 'float64', kind == 'isotropic')


def main(argv: list[str] | None = None) -> int:
    """Run and print; exit code 1 where something does not hold."""
    parser = argparse.ArgumentParser(description='Selection of batches beside bmdal_reg.')
    parser.add_argument('--quick', action='store_true', help=f'{SIZES[True]} rows in place of {SIZES[False]}')
    parser.add_argument('--check', action='store_true', help='hold all picks against the definitions in float64')
    parser.add_argument('--isotropic', action='store_true', help='normal numbers as features')
    parser.add_argument('--scratch', type=Path, metavar='DIR', help='where pools are written, and found again')
    parser.add_argument('--do', nargs='+', help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.do:
        print(json.dumps(answer(options.do)))
        return 0
    with tempfile.TemporaryDirectory(prefix='alpot-bench-') as folder:
        rows = cases(options.quick, options.scratch or Path(folder), options.check, options.isotropic)
    for row in rows:
        print(', '.join(f'{name}: {value}' for name, value in row.items() if value not in (None, '')))
    holds = all(row['bar_met'] for row in rows)
    print(json.dumps({'benchmark': 'selection', 'quick': options.quick, 'holds': holds, 'cases': rows}))
    return 0 if holds else 1


if __name__ == '__main__':
    sys.exit(main())
