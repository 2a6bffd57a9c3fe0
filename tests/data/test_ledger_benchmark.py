"""What the benchmark of the ledger fills its profile with."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from aiida_alpot.worker.frames import FrameStore, write_shard
from aiida_alpot.worker.frames.scan import LabelSearch

BENCHMARK = Path(__file__).parents[2] / 'benchmarks' / 'ledger.py'


@pytest.fixture(scope='module')
def benchmark() -> ModuleType:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location('alpot_benchmark_ledger', BENCHMARK)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_repeated_shards_are_shards(benchmark: ModuleType, tmp_path: Path) -> None:
    """They read as any other, repeat the frames under new identities, and are found by these."""
    frames = benchmark.template(5)
    source, target = write_shard(frames, tmp_path), tmp_path / 'repeated.h5'
    ids = benchmark.repeated(source, target, 3, benchmark.LEVELS['small'], np.random.default_rng(0))
    with FrameStore([target]) as store:
        assert len(store) == 15 and np.array_equal(store.digests(), ids)
        assert [frame.energy for frame in store] == [frame.energy for frame in frames] * 3
        assert [len(frame) for frame in store] == [len(frame) for frame in frames] * 3
        assert store.levels_of_theory() == [benchmark.LEVELS['small']]
    search = LabelSearch(ids[[7, 2]], [benchmark.LEVELS['small']] * 2, {'energy': np.ones(2, dtype=bool)})
    search.scan(target, 0)
    assert search.rows.tolist() == [7, 2]


def test_memory_is_read(benchmark: ModuleType) -> None:
    """Of this process, in bytes."""
    assert 10 * benchmark.MB < benchmark.status('VmRSS') <= benchmark.status('VmHWM')
