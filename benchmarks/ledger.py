"""How long the label ledger takes: ``python benchmarks/ledger.py [--quick]``.

Fills an AiiDA folder of its own, which is removed afterwards, with 10^6 labels of structures of 2 to 8 atoms, nine
tenths in 4 large shards and the rest in 1,000 small ones (``--quick``: 5 x 10^4, 100 small ones), and asks for 10^4, of
which half are known. Each set of questions is asked in three processes of their own; medians are kept. What one would
do otherwise is measured on a smaller scale, and extrapolated. Times are CPU seconds, unless they are called elapsed.
The last line is one JSON object: every figure, its bar, and whether it holds. Exit code 1 where one does not.

The structures repeat, and their identities are random numbers: searching reads nothing else of them, and a million
frames are written in seconds that way.
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
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from aiida_alpot.data.pes import PESData
    from aiida_alpot.worker.frames import Frame

PROFILE = 'bench'
QUESTIONS = 'questions.npz'
N_QUESTIONS = 10_000
N_LARGE = 4
N_SMALL, N_SMALL_QUICK = 1_000, 100
SHARDS_A_NODE = 10
#: Level of theory of the labels in shards of each size; they have different bases, so that they can be asked for alone.
LEVELS = {'large': 'pw-0000000000000001[Si:d7f89eb60b7b]', 'small': 'pw-0000000000000002[Si:d7f89eb60b7b]'}
REPEATS = 3
MAX_SECONDS = 5.0
MAX_BYTES = 500e6
MB = 10**6

#: Scale of what is compared with: nodes, each of one label; and frames in a loop.
N_LABEL_NODES = 500
N_LOOP = 5_000
IDS_A_QUERY = 500


def template(n: int) -> list[Frame]:
    """Frames of 2 to 8 atoms with energy, forces and stress."""
    import numpy as np

    from aiida_alpot.worker.frames import Frame

    rng = np.random.default_rng(0)
    frames = []
    for index in range(n):
        size = int(rng.integers(2, 9))
        frames.append(
            Frame(
                np.full(size, 14),
                rng.uniform(0, 6, size=(size, 3)),
                6 * np.eye(3),
                [True] * 3,
                energy=rng.normal(),
                forces=rng.normal(size=(size, 3)),
                stress=np.diag(rng.normal(size=3)),
                lineage=f'lineage-{index}',
                origin='md',
                level_of_theory=LEVELS['large'],
            )
        )
    return frames


def repeated(source: Path, target: Path, times: int, level: str, rng: np.random.Generator) -> np.ndarray:
    """Write a shard that repeats another one, with new identities and another level; the identities, shape (n, 32)."""
    import h5py
    import numpy as np

    with h5py.File(source, 'r') as old, h5py.File(target, 'w', libver=('earliest', 'v108')) as new:
        new.attrs.update(old.attrs)
        ids = rng.integers(0, 256, size=(times * len(old['frame_id']), 32), dtype=np.uint8)
        for name, array in old.items():
            values = array[...]
            if name == 'frame_id':
                values = ids
            elif name == 'offsets':
                sizes = np.tile(np.diff(values), times)
                values = np.concatenate([[0], np.cumsum(sizes)])
            elif name == 'level_of_theory_utf8':
                values = np.frombuffer(level.encode(), dtype=np.uint8)
            elif not name.endswith(('_offsets', '_utf8')):
                values = np.concatenate([values] * times)
            new.create_dataset(name, data=values, dtype=array.dtype, track_times=False)
    return ids


def fill(folder: Path, n_labels: int, n_shards: int) -> int:
    """Store the data sets and the questions; the number of labels.

    :param n_shards: number of small shards.
    """
    import numpy as np

    from aiida_alpot.data.pes import PESData
    from aiida_alpot.worker.frames import write_shard

    rng = np.random.default_rng(1)
    ids: dict[str, list[np.ndarray]] = {'large': [], 'small': []}
    n_small = n_labels // 10 // n_shards
    n_large = n_labels * 9 // 10 // N_LARGE
    small = write_shard(template(n_small), folder / 'small')
    large = write_shard(template(min(1_000, n_large)), folder / 'large')
    for _ in range(N_LARGE):
        path = folder / 'shard.h5'
        ids['large'].append(repeated(large, path, n_large // min(1_000, n_large), LEVELS['large'], rng))
        PESData.from_shards([path]).store()
    nodes = []
    for _ in range(n_shards // SHARDS_A_NODE):
        paths = [folder / f'shard-{index}.h5' for index in range(SHARDS_A_NODE)]
        ids['small'] += [repeated(small, path, 1, LEVELS['small'], rng) for path in paths]
        nodes.append(PESData.from_shards(paths).store())
    # As a campaign does: data sets that list the shards of others.
    for start in range(0, min(len(nodes), 50), 10):
        PESData.merge(nodes[start : start + 10]).store()
    np.savez(folder / QUESTIONS, **{name: _questions(np.concatenate(known), rng) for name, known in ids.items()})
    return sum(len(part) for parts in ids.values() for part in parts)


def _questions(known: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Identities of which the first half is known, shape (2 k, 32)."""
    import numpy as np

    half = min(N_QUESTIONS // 2, len(known))
    chosen = known[rng.permutation(len(known))[:half]]
    return np.concatenate([chosen, rng.integers(0, 256, size=(half, 32), dtype=np.uint8)])


def status(name: str) -> int:
    """An entry of the process' memory, such as its peak ``VmHWM``, in bytes.

    ``ru_maxrss`` would be that of the process that started this one, where that was larger.
    """
    found = re.search(rf'^{name}:\s+(\d+) kB', Path('/proc/self/status').read_text(), re.MULTILINE)
    if found is None:
        raise RuntimeError(f'/proc/self/status has no {name}: memory is measured on Linux only')
    return int(found[1]) * 1024


def ask(folder: Path, kind: str) -> dict[str, float]:
    """Ask once, in this process: seconds, bytes at most, and how many were found.

    :param kind: ``large`` or ``small`` for labels in shards of that size, ``all`` for half of the questions to each.
    """
    interpreter = status('VmRSS')
    import numpy as np
    from aiida import load_profile

    from aiida_alpot.data.ledger import find_labels

    load_profile(PROFILE)
    with np.load(folder / QUESTIONS) as saved:
        names = list(LEVELS) if kind == 'all' else [kind]
        parts = [saved[name][:: len(names)] for name in names]
    digests = np.concatenate(parts)
    levels = [LEVELS[name] for name, part in zip(names, parts, strict=True) for _ in part]
    needed = dict.fromkeys(('energy', 'forces', 'stress'), np.ones(len(levels), dtype=bool))
    imported, start, cpu = status('VmHWM'), time.perf_counter(), time.process_time()
    known = find_labels(digests, levels, needed)
    seconds, elapsed = time.process_time() - cpu, time.perf_counter() - start
    top = status('VmHWM')
    check(known, digests)
    return {
        'seconds': seconds,
        'elapsed': elapsed,
        'peak': top - interpreter,
        'own': top - imported,
        'asked': len(levels),
        'found': len(known),
    }


def check(known: Any, digests: np.ndarray) -> None:
    """Every answer must be the frame that was asked for."""
    import numpy as np
    from aiida import orm

    for number, uuid in enumerate(known.sources):
        mine = known.source == number
        node: PESData = orm.load_node(uuid)
        with node.open_store() as store:
            assert np.array_equal(store.digests()[known.index[mine]], digests[known.questions[mine]])


def asked_in_processes(folder: Path, kind: str) -> dict[str, float]:
    """Medians over processes of their own."""
    command = [sys.executable, '-W', 'ignore', __file__, '--ask', kind, '--folder', str(folder)]
    answers = []
    for _ in range(REPEATS):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f'asking for `{kind}` failed:\n{done.stderr}')
        answers.append(json.loads(done.stdout.splitlines()[-1]))
    return {name: median(answer[name] for answer in answers) for name in answers[0]}


def label_nodes(n: int) -> float:
    """CPU seconds for each of n nodes and each query, where a label is a node and queries ask for many identities."""
    from aiida import orm

    ids = [f'{index:064x}' for index in range(n)]
    for frame_id in ids:
        orm.Dict({'frame_id': frame_id, 'level_of_theory': LEVELS['large'], 'energy': -1.0}).store()
    start = time.process_time()
    filters = {
        'attributes.frame_id': {'in': ids[:IDS_A_QUERY]},
        'attributes.level_of_theory': LEVELS['large'],
    }
    found = orm.QueryBuilder().append(orm.Dict, filters=filters, project=['uuid', 'attributes.frame_id']).all()
    assert len(found) == min(n, IDS_A_QUERY)
    return (time.process_time() - start) / n


def loop(n: int) -> float:
    """CPU seconds for each of n frames of a data set, where a loop compares their identities."""
    from aiida_alpot.data.pes import PESData

    node = PESData(frames=template(n)).store()
    wanted = {'0' * 64}
    start = time.process_time()
    assert not [frame for frame in node if frame.frame_id in wanted and frame.is_labelled]
    return (time.process_time() - start) / n


def measure(folder: Path, n_labels: int, n_shards: int) -> list[Any]:
    """All figures for about so many labels, of which a tenth is in so many small shards."""
    from aiida.manage import get_manager
    from campaign import Figure

    from aiida_alpot.campaign.environment import prepare_profile

    prepare_profile(PROFILE, broker=False)
    start = time.process_time()
    n_labels = fill(folder, n_labels, n_shards)
    figures = [Figure('labels', n_labels, ''), Figure('filling the profile', time.process_time() - start, 's')]
    cases = {
        'all': 'all shards',
        'large': f'{N_LARGE} large shards',
        'small': f'{n_shards} small shards',
        'packed': 'all shards, packed',
    }
    for kind, where in cases.items():
        if kind == 'packed':
            get_manager().get_profile_storage().maintain()
        answer = asked_in_processes(folder, 'all' if kind == 'packed' else kind)
        asked, seconds, peak = int(answer['asked']), answer['seconds'], answer['peak']
        right = answer['found'] == asked / 2
        figures += [
            Figure(f'{where}: {asked} questions', seconds, 's', f'< {MAX_SECONDS:g}', seconds < MAX_SECONDS),
            Figure(f'{where}: elapsed', answer['elapsed'], 's'),
            Figure(f'{where}: found', int(answer['found']), '', f'{asked // 2}', right),
            Figure(f'{where}: peak above the interpreter', peak / MB, 'MB', f'< {MAX_BYTES / MB:g}', peak < MAX_BYTES),
            Figure(f'{where}: of that by the search', answer['own'] / MB, 'MB'),
        ]
    queries = N_QUESTIONS / IDS_A_QUERY
    a_node, a_frame = label_nodes(N_LABEL_NODES), loop(N_LOOP)
    return [
        *figures,
        Figure(f'a node a label, extrapolated from {N_LABEL_NODES}', a_node * queries * n_labels, 's'),
        Figure(f'a loop over frames, extrapolated from {N_LOOP}', a_frame * n_labels, 's'),
    ]


def main(argv: list[str] | None = None) -> int:
    """Fill, ask, print, and say whether the bars hold."""
    parser = argparse.ArgumentParser(description='Time and memory of the label ledger.')
    parser.add_argument('--quick', action='store_true', help='a twentieth of the labels')
    parser.add_argument('--ask', choices=['all', *LEVELS], help=argparse.SUPPRESS)
    parser.add_argument('--folder', type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.ask:
        print(json.dumps(ask(arguments.folder, arguments.ask)))
        return 0
    with tempfile.TemporaryDirectory(prefix='alpot-bench-') as folder:
        # AiiDA reads the variable when it is first imported, which is after this.
        os.environ['AIIDA_PATH'] = folder
        (Path(folder) / '.aiida').mkdir(mode=0o700)
        size = (50_000, N_SMALL_QUICK) if arguments.quick else (1_000_000, N_SMALL)
        figures = measure(Path(folder), *size)
        from aiida.manage import get_manager
        from campaign import as_table

        get_manager().reset_profile()
    print(as_table(figures))
    holds = all(figure.holds for figure in figures)
    answer = {'benchmark': 'ledger', 'quick': arguments.quick, 'holds': holds}
    print(json.dumps({**answer, 'figures': [asdict(figure) for figure in figures]}))
    return 0 if holds else 1


if __name__ == '__main__':
    sys.exit(main())
