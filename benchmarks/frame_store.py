"""Containers of labelled structures side by side: ``python benchmarks/frame_store.py [--quick]``.

Writes 1,000 and 100,000 structures of 64 atoms with energy, forces and stress into each container, reads them back in
every way, and adds 100; ``--quick`` takes 1,000 and 5,000. Each operation runs in a process of its own, until ten
CPU seconds (with ``--quick`` one) are spent or five times: the medians are kept. All is written into a folder that
is removed afterwards. The last line is one JSON object: every figure, its bar, and whether it holds. Exit code 1 where
one does not.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from campaign import Figure, as_table
from containers import CONTAINERS, STORE_OPERATIONS, Container, Contents, FrameShards, structures
from containers.contents import raw_bytes
from containers.measuring import Clock, peak, reset_peak
from containers.ours import close_profile, open_profile, write_parts
from containers.peers import Extxyz, GroupPerFrame

SIZES = (1_000, 100_000)
QUICK_SIZES = (1_000, 5_000)
OURS = FrameShards.name

#: What is done with each container, in this order, and what the table calls it.
OPERATIONS = {
    'write': 'write',
    'arrays': 'all, as arrays',
    'atoms': 'all, as Atoms',
    'random': '1,000 at random',
    'merge': 'merge of 100',
}
N_RANDOM = 1_000
N_MERGED = 100
MAX_REPEATS = 5
MAX_SECONDS = 10.0
QUICK_SECONDS = 1.0

MB = 10**6
GB = 10**9
MAX_SIZE = 1.05
MIN_SPEED = {GroupPerFrame.name: 20.0, Extxyz.name: 50.0}
MAX_PEAK = 300 * MB
MAX_CPU_PER_GB = 2.0
MAX_BYTES_APART = 4096
#: Seconds a GB mean something from this size on; below, they are those of any node.
MIN_LARGE = 0.1 * GB
#: Most that lies on the disk at one time, in units of the arrays: one container of a peer and what it is merged into.
SCRATCH = 12


@dataclass(frozen=True)
class Outcome:
    """One operation on one container.

    :param cpu: CPU seconds, median; likewise
    :param wall: seconds that passed.
    :param repeats: how often it was run.
    :param peak: bytes in memory at most, above those before the operation.
    :param n_bytes: size of the container after a write, bytes that were stored for a merge, else 0.
    :param contents: number of structures and sum of each array, of what was written or read.
    """

    cpu: float
    wall: float
    repeats: int
    peak: int
    n_bytes: int
    contents: list[float]


#: By size, container and operation.
Outcomes = dict[tuple[int, str, str], Outcome]


def read(container: Container, operation: str, size: int, clock: Clock) -> tuple[int, list[float]]:
    """Read everything or some of it once; nothing is stored, and what was read."""
    contents = Contents()
    chosen = np.random.default_rng(0).permutation(size)[:N_RANDOM].tolist()
    with clock:
        items: Iterable[Any] = {
            'arrays': container.arrays,
            'atoms': container.atoms,
            'random': lambda: container.pick(chosen),
            'arrays, packed': lambda: container.arrays_of_node(),  # type: ignore[attr-defined]
        }[operation]()
        for item in items:
            with clock.paused():
                contents.add(item)
    return 0, contents.as_list()


def write(container: Container, operation: str, size: int, seed: int, clock: Clock) -> tuple[int, list[float]]:
    """Write everything or add some once; the bytes of an :class:`Outcome`, and what was written."""
    contents = Contents()
    source = clock.unpaid(contents.noted(structures(N_MERGED if operation == 'merge' else size, seed)))
    if operation == 'write':
        container.remove()
    with clock:
        stored = getattr(container, operation)(source)
    return container.n_bytes() if operation == 'write' else stored or 0, contents.as_list()


def is_worth_repeating(times: Sequence[float], seconds: float) -> bool:
    """Whether an operation that took so long each time is run once more; three times at least where it is short."""
    return len(times) < MAX_REPEATS and sum(times) < (seconds if len(times) > 2 else 3 * seconds)


def operations_of(name: str) -> list[str]:
    """What is done with a container, in order; we merge in the database."""
    return [*OPERATIONS] if name != OURS else [*(o for o in OPERATIONS if o != 'merge'), *STORE_OPERATIONS]


def operate(name: str, operation: str, size: int, seconds: float, scratch: Path) -> Outcome:
    """Do it in this process until so many CPU seconds are spent, or :data:`MAX_REPEATS` times."""
    container = CONTAINERS[name](scratch / f'{list(CONTAINERS).index(name)}-{size}')
    runs: list[tuple[Clock, int, list[float]]] = []
    with ExitStack() as stack:
        if isinstance(container, FrameShards) and operation in STORE_OPERATIONS:
            open_profile()
            stack.callback(close_profile)
            if operation == 'arrays, packed':
                container.pack()
        before = reset_peak()
        while is_worth_repeating([clock.cpu for clock, *_ in runs], seconds):
            clock = Clock()
            if operation in ('write', 'store', 'merge'):
                # What is stored already would not be stored again; and what is added is not what was there before.
                seed = {'write': 0, 'store': len(runs), 'merge': 1000 + len(runs)}[operation]
                runs.append((clock, *write(container, operation, size, seed, clock)))
            else:
                runs.append((clock, *read(container, operation, size, clock)))
        highest = peak()
    return Outcome(
        cpu=median(clock.cpu for clock, *_ in runs),
        wall=median(clock.wall for clock, *_ in runs),
        repeats=len(runs),
        peak=max(0, highest - before),
        n_bytes=int(median(n_bytes for _, n_bytes, _ in runs)),
        contents=runs[0][2],
    )


def in_process(scratch: Path, *arguments: str) -> Any:
    """What this script answers in a process of its own, with its own AiiDA folder and one thread."""
    environment = {**os.environ, 'AIIDA_PATH': str(scratch), 'OMP_NUM_THREADS': '1', 'OPENBLAS_NUM_THREADS': '1'}
    command = [sys.executable, __file__, '--scratch', str(scratch), '--do', *arguments]
    run = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if run.returncode:
        raise RuntimeError(f'{" ".join(arguments)} ended with exit code {run.returncode}: see its message above')
    return json.loads(run.stdout.splitlines()[-1])


def measure(
    sizes: Sequence[int], names: Sequence[str], seconds: float, scratch: Path
) -> tuple[Outcomes, dict[int, dict[str, float]]]:
    """Every operation on every container, and the parts of our write in microseconds a frame.

    :raises RuntimeError: where an operation failed, or what was read is not what was written.
    """
    outcomes: Outcomes = {}
    parts: dict[int, dict[str, float]] = {}
    for size in sizes:
        for name in names:
            operations = operations_of(name)
            folder = Path(tempfile.mkdtemp(dir=scratch))
            for operation in operations:
                print(f'{size} {name}: {operation}', file=sys.stderr, flush=True)
                outcomes[size, name, operation] = Outcome(
                    **in_process(folder, name, operation, str(size), str(seconds))
                )
            if name == OURS:
                parts[size] = in_process(folder, name, 'parts', str(size), str(seconds))
            shutil.rmtree(folder)
    check_contents(outcomes)
    return outcomes, parts


def check_contents(outcomes: Outcomes) -> None:
    """Refuse figures of containers that gave other numbers than they got.

    :raises RuntimeError: for the first such operation. Texts keep eight decimals, hence the tolerance.
    """
    groups: dict[tuple[int, str], list[float]] = {}
    for (size, name, operation), outcome in outcomes.items():
        kind = operation if operation in ('random', 'merge') else 'all'
        expected = groups.setdefault((size, kind), outcome.contents)
        if not np.allclose(outcome.contents, expected, rtol=1e-6):
            raise RuntimeError(f'{name}, {operation} of {size}: found {outcome.contents}, expected {expected}')


def figures_of_size(size: int, outcomes: Outcomes) -> list[Figure]:
    """Figures of one size that have bars, as far as their containers were measured.

    In a small set opening the file is most of a read, so the bars on speed are for the largest set only.
    """
    raw, largest = raw_bytes(size), size == max(n for n, *_ in outcomes)
    mine = {operation: outcome for (n, name, operation), outcome in outcomes.items() if (n, name) == (size, OURS)}
    if not mine:
        return []
    ratio = mine['write'].n_bytes / raw
    figures = [Figure(f'{size} file', round(ratio, 4), 'x raw', f'<= {MAX_SIZE:g}', ratio <= MAX_SIZE)]
    for name, bar in MIN_SPEED.items():
        if (size, name, 'arrays') in outcomes:
            speed = outcomes[size, name, 'arrays'].cpu / mine['arrays'].cpu
            text = f'>= {bar:g}' if largest else ''
            holds = speed >= bar or not largest
            figures.append(Figure(f'{size} read as arrays', round(speed, 1), f'x {name}', text, holds))
    highest = max(mine, key=lambda operation: mine[operation].peak)
    memory, limit = mine[highest].peak / MB, MAX_PEAK / MB
    figures.append(Figure(f'{size} peak memory ({highest})', round(memory, 1), 'MB', f'<= {limit:g}', memory <= limit))
    seconds = mine['merge'].cpu / (raw / GB)
    text = f'< {MAX_CPU_PER_GB:g}' if raw >= MIN_LARGE else ''
    figures.append(Figure(f'{size} merge', round(seconds, 2), 'CPU s/GB', text, not text or seconds < MAX_CPU_PER_GB))
    return figures


def figures_of_merge(outcomes: Outcomes) -> list[Figure]:
    """How much more is stored for a merge into the largest set than for one into the smallest."""
    stored = {
        size: o.n_bytes for (size, name, operation), o in outcomes.items() if (name, operation) == (OURS, 'merge')
    }
    figures = [Figure(f'{size} merge, stored', n_bytes, 'B') for size, n_bytes in stored.items()]
    if len(stored) > 1:
        apart = abs(stored[max(stored)] - stored[min(stored)])
        bar = f'<= {MAX_BYTES_APART}'
        figures.append(Figure('merge, stored, largest - smallest', apart, 'B', bar, apart <= MAX_BYTES_APART))
    return figures


def all_figures(outcomes: Outcomes, parts: dict[int, dict[str, float]]) -> list[Figure]:
    """Those with bars first, then every time."""
    figures = [figure for size in sorted({size for size, *_ in outcomes}) for figure in figures_of_size(size, outcomes)]
    figures += figures_of_merge(outcomes)
    for (size, name, operation), outcome in outcomes.items():
        label = f'{size} {name}: {operation}'
        figures.append(Figure(label, float(f'{outcome.cpu:.4g}'), 'CPU s'))
        figures.append(Figure(f'{label}, wall', float(f'{outcome.wall:.4g}'), 's'))
        figures.append(Figure(f'{label}, memory', round(outcome.peak / MB, 1), 'MB'))
        if outcome.n_bytes:
            figures.append(Figure(f'{label}, size', outcome.n_bytes, 'B'))
    for size, times in parts.items():
        figures += [Figure(f'{size} {OURS}: write, {part}', round(t, 1), 'CPU us/frame') for part, t in times.items()]
    return figures


def as_markdown(outcomes: Outcomes, parts: dict[int, dict[str, float]]) -> str:
    """The tables of the documentation."""
    return '\n\n'.join(
        text for size in sorted({size for size, *_ in outcomes}) for text in tables(size, outcomes, parts)
    )


def tables(size: int, outcomes: Outcomes, parts: dict[int, dict[str, float]]) -> list[str]:
    """Times and memory of one size, in Markdown."""
    names = list(dict.fromkeys(name for n, name, _ in outcomes if n == size))
    times, memory = [], []
    for name in names:
        row = [outcomes[size, name, operation] for operation in OPERATIONS]
        n_bytes = row[0].n_bytes
        times.append(
            [
                name,
                f'{n_bytes / MB:.3g} ({n_bytes / raw_bytes(size):.2f})',
                *(f'{outcome.cpu:.3g} ({outcome.wall:.3g})' for outcome in row),
                f'{row[-1].n_bytes / MB:.3g}',
            ]
        )
        memory.append([name, *(f'{outcome.peak / MB:.0f}' for outcome in row)])
    titles = list(OPERATIONS.values())
    texts = [
        f'### {size:,} × 64 atoms ({raw_bytes(size) / MB:.3g} MB of arrays)',
        'CPU seconds, wall seconds in brackets:',
        markdown_table(['', 'MB (× arrays)', *titles, 'stored for it, MB'], times),
        'Peak memory above that before the operation, MB:',
        markdown_table(['', *titles], memory),
    ]
    return [*texts, *notes(size, outcomes, parts)]


def notes(size: int, outcomes: Outcomes, parts: dict[int, dict[str, float]]) -> list[str]:
    """What was measured of ours only."""
    if size not in parts:
        return []
    store, packed = (outcomes[size, OURS, operation] for operation in ('store', 'arrays, packed'))
    shares = ', '.join(f'`{part}` {time:.0f}' for part, time in parts[size].items())
    return [
        f'{OURS}, in the database: storing a new node {store.cpu:.3g} CPU s and {store.peak / MB:.0f} MB of memory; '
        f'all as arrays from a packed repository {packed.cpu:.3g} CPU s and {packed.peak / MB:.0f} MB. A write, in CPU '
        f'microseconds a frame: {shares}.'
    ]


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table with the first column to the left and the others to the right."""
    lines = [head, ['---', *['---:'] * (len(head) - 1)], *rows]
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def check_space(folder: Path, size: int) -> None:
    """Refuse to fill a disk.

    :raises SystemExit: where too little is free.
    """
    needed, free = SCRATCH * raw_bytes(size), shutil.disk_usage(folder).free
    if free < needed:
        sys.exit(
            f'{folder} has {free / GB:.1f} GB free, {needed / GB:.1f} GB are needed: name another folder with '
            '--scratch, or fewer structures with --size.'
        )


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description='Containers of labelled structures side by side.')
    parser.add_argument('--quick', action='store_true', help=f'{QUICK_SIZES} structures in place of {SIZES}')
    parser.add_argument('--size', type=int, action='append', metavar='N', help='N structures; may be repeated')
    parser.add_argument('--container', action='append', choices=list(CONTAINERS), help='only this; may be repeated')
    parser.add_argument('--scratch', type=Path, metavar='DIR', help='where to write (the folder for temporary files)')
    parser.add_argument(
        '--markdown', type=Path, metavar='FILE', help='also write the tables of the documentation there'
    )
    parser.add_argument('--do', nargs=4, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def do(name: str, operation: str, size: int, seconds: float, scratch: Path) -> None:
    """Answer :func:`in_process`."""
    if operation == 'parts':
        answer = write_parts(structures(min(size, 2000), seed=0), scratch / 'parts')
    else:
        answer = asdict(operate(name, operation, size, seconds, scratch))
    print(json.dumps(answer))


def main(argv: list[str] | None = None) -> int:
    """Run, print, and say whether the bars hold."""
    arguments = parse(argv)
    if arguments.do:
        name, operation, size, seconds = arguments.do
        do(name, operation, int(size), float(seconds), arguments.scratch)
        return 0
    sizes = sorted(set(arguments.size or (QUICK_SIZES if arguments.quick else SIZES)))
    with tempfile.TemporaryDirectory(prefix='alpot-bench-', dir=arguments.scratch) as folder:
        check_space(Path(folder), max(sizes))
        seconds = QUICK_SECONDS if arguments.quick else MAX_SECONDS
        outcomes, parts = measure(sizes, arguments.container or list(CONTAINERS), seconds, Path(folder))
    figures = all_figures(outcomes, parts)
    print(as_table(figures))
    if arguments.markdown:
        arguments.markdown.write_text(as_markdown(outcomes, parts) + '\n')
    holds = all(figure.holds for figure in figures)
    answer = {'benchmark': 'frame_store', 'quick': arguments.quick, 'sizes': sizes, 'holds': holds}
    print(json.dumps({**answer, 'figures': [asdict(figure) for figure in figures]}))
    return 0 if holds else 1


if __name__ == '__main__':
    sys.exit(main())
