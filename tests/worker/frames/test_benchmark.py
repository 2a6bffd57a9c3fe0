"""The benchmark of the frame store: its containers keep what they get, and its bars are the right way round."""

import importlib
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip('lmdb')
BENCHMARKS = Path(__file__).parents[3] / 'benchmarks'
SMALL, LARGE = 1_000, 100_000


@pytest.fixture(scope='module')
def benchmark():
    """The script as a module, with those beside it."""
    before = set(sys.modules)
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield importlib.import_module('frame_store')
    finally:
        sys.path.remove(str(BENCHMARKS))
        for name in set(sys.modules) - before:
            if name.partition('.')[0] in ('frame_store', 'campaign', 'containers'):
                del sys.modules[name]


@pytest.fixture
def outcomes(benchmark):
    """Figures that reach every bar."""
    found = {}
    for size in (SMALL, LARGE):
        raw = benchmark.raw_bytes(size)
        for name in benchmark.CONTAINERS:
            slower = 1.0 if name == benchmark.OURS else 100.0
            for operation in benchmark.operations_of(name):
                n_bytes = {'write': int(1.02 * raw), 'merge': 330_000}.get(operation, 0)
                found[size, name, operation] = benchmark.Outcome(
                    cpu=1e-6 * size * slower, wall=1.0, repeats=3, peak=10**8, n_bytes=n_bytes, contents=[size, 1.0]
                )
    return found


def test_bars_hold(benchmark, outcomes):
    figures = benchmark.all_figures(outcomes, {})
    assert all(figure.holds for figure in figures)
    assert sum(bool(figure.bar) for figure in figures) == 2 * 2 + 2 + 1 + 1
    assert 'NaN' not in json.dumps([figure.value for figure in figures])


@pytest.mark.parametrize(
    ('key', 'changes'),
    [
        ((LARGE, 'aiida-alpot', 'write'), {'n_bytes': 346_000_000}),
        ((LARGE, 'ASE extxyz', 'arrays'), {'cpu': 4.9}),
        ((LARGE, 'HDF5, a group a frame', 'arrays'), {'cpu': 1.9}),
        ((LARGE, 'aiida-alpot', 'merge'), {'cpu': 0.7}),
        ((LARGE, 'aiida-alpot', 'merge'), {'n_bytes': 340_000}),
        ((SMALL, 'aiida-alpot', 'store'), {'peak': 301_000_000}),
    ],
)
def test_each_bar_can_fail(benchmark, outcomes, key, changes):
    outcomes[key] = replace(outcomes[key], **changes)
    assert sum(not figure.holds for figure in benchmark.all_figures(outcomes, {})) == 1


def test_seconds_a_gigabyte_have_no_bar_where_there_is_no_gigabyte(benchmark, outcomes):
    small = {key: replace(outcome, cpu=1e3 * outcome.cpu) for key, outcome in outcomes.items() if key[0] == SMALL}
    assert all(figure.holds for figure in benchmark.all_figures(small, {}))


def test_containers_that_give_other_numbers_are_refused(benchmark, outcomes):
    benchmark.check_contents(outcomes)
    key = (SMALL, 'LMDB + pickle', 'atoms')
    outcomes[key] = replace(outcomes[key], contents=[SMALL, 1.001])
    with pytest.raises(RuntimeError, match=r'LMDB \+ pickle, atoms of 1000'):
        benchmark.check_contents(outcomes)


def test_markdown_has_a_row_for_each_container(benchmark, outcomes):
    parts = {SMALL: {'frame_id': 50.0}, LARGE: {'frame_id': 50.0}}
    text = benchmark.as_markdown(outcomes, parts)
    for name in benchmark.CONTAINERS:
        assert text.count(f'\n| {name} |') == 4
    assert '### 100,000 × 64 atoms (329 MB of arrays)' in text


@pytest.mark.parametrize('place', range(5))
def test_containers_keep_what_they_get(benchmark, tmp_path, place):
    name = list(benchmark.CONTAINERS)[place]
    container = benchmark.CONTAINERS[name](tmp_path / 'set')
    size, clock = 30, benchmark.Clock()
    _, written = benchmark.write(container, 'write', size, 0, clock)
    assert container.n_bytes() >= benchmark.raw_bytes(size)
    for operation in ('arrays', 'atoms', 'random'):
        _, found = benchmark.read(container, operation, size, clock)
        assert found == pytest.approx(written, rel=1e-7), operation
    if name != benchmark.OURS:
        stored, added = benchmark.write(container, 'merge', size, 1, clock)
        assert stored >= benchmark.raw_bytes(benchmark.N_MERGED)
        _, found = benchmark.read(container, 'arrays', size, clock)
        # A group a frame is copied: what was stored stays as it is.
        grown = [a + b for a, b in zip(written, added, strict=True)]
        assert found == pytest.approx(written if name == benchmark.GroupPerFrame.name else grown, rel=1e-7)
    container.remove()
    assert not list(tmp_path.iterdir())


def test_the_clock_stops_while_it_is_paused(benchmark):
    clock = benchmark.Clock()

    def slow():
        for i in range(3):
            time.sleep(0.1)
            yield i

    with clock:
        assert list(clock.unpaid(slow())) == [0, 1, 2]
    assert 0 <= clock.wall < 0.15
