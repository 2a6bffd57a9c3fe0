"""Where something is kept."""

from __future__ import annotations

import numpy as np

from aiida_alpot.worker.acquisition.kept.index import Index


def keys_of(numbers: np.ndarray) -> np.ndarray:
    """Keys that end in zero bytes, too, which NumPy does not show."""
    return np.frombuffer(b''.join(int(number).to_bytes(16, 'little') for number in numbers), dtype='S16')


def test_as_a_dictionary() -> None:
    rng = np.random.default_rng(0)
    index, known = Index(), {}
    for start in range(0, 6000, 100):
        numbers = rng.integers(0, 3000, size=int(rng.integers(1, 200)))
        places = start * 1000 + np.arange(len(numbers))
        index.add(keys_of(numbers), places)
        known.update(zip(numbers.tolist(), places.tolist(), strict=True))
        asked = rng.integers(0, 4000, size=50)
        assert index.find(keys_of(asked)).tolist() == [known.get(number, -1) for number in asked.tolist()]
    assert len(index._runs) < 12


def test_nothing() -> None:
    index = Index()
    assert index.find(keys_of(np.arange(3))).tolist() == [-1] * 3 and len(index) == 0
    index.add(keys_of(np.arange(0)), np.arange(0))
    assert index.find(keys_of(np.arange(0))).tolist() == [] and len(index) == 0


def test_entries_take_24_bytes() -> None:
    index = Index()
    for start in range(0, 5000, 500):
        index.add(keys_of(np.arange(start, start + 500)), np.arange(start, start + 500))
    assert len(index) == 5000 and sum(k.nbytes + p.nbytes for k, p in index._runs) == 24 * 5000
