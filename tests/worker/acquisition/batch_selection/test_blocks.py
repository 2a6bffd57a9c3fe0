"""Rows from wherever they lie."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from aiida_alpot.worker.acquisition.batch_selection import blocks
from aiida_alpot.worker.acquisition.batch_selection.blocks import Rows


@pytest.fixture
def pool() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(257, 33)).astype(np.float32)


def check(rows: Rows, pool: np.ndarray) -> None:
    assert (len(rows), rows.d, rows.dtype) == (*pool.shape, pool.dtype)
    index = np.array([250, 3, 3, 0, 256])
    for _ in range(2):
        np.testing.assert_array_equal(np.concatenate([block for _, _, block in rows.blocks(50)]), pool)
        np.testing.assert_array_equal(rows.take(index), pool[index])
    assert rows.take(index).flags.writeable and rows.take(index[:0]).shape == (0, pool.shape[1])
    np.testing.assert_array_equal(rows.block(7, 9), pool[7:9])


def test_array(pool: np.ndarray) -> None:
    check(Rows(pool), pool)
    check(Rows(pool[:, ::-1]), pool[:, ::-1])


def test_memory_maps(pool: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, 'MAPPED_BYTES', 1000)
    path = tmp_path / 'pool.npy'
    whole = np.concatenate([np.full((1100, 33), 7, dtype=np.float32), pool])
    np.save(path, whole)
    mapped = np.load(path, mmap_mode='r')
    for source, expected in ((mapped, whole), (mapped[1100:], pool), (mapped[1100:][10:-5], pool[10:-5])):
        rows = Rows(source)
        assert rows._file is not None
        np.testing.assert_array_equal(np.concatenate([block for _, _, block in rows.blocks(50)]), expected)
        np.testing.assert_array_equal(rows.take(np.array([5, 1])), expected[[5, 1]])
    check(Rows(mapped[1100:]), pool)
    # What may be written to, or is not one run of rows, is sliced.
    for source in (np.load(path, mmap_mode='c')[1100:], mapped[1100:][:, :]):
        check(Rows(source), pool)
    assert Rows(mapped[::2])._file is None and Rows(mapped[:, 1:])._file is None


def test_changes_of_a_private_map_are_seen(pool: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / 'pool.npy', pool)
    changed = np.load(tmp_path / 'pool.npy', mmap_mode='c')
    changed[3] = 5.0
    assert (Rows(changed).take(np.array([3])) == 5.0).all()


@pytest.mark.parametrize('userblock', [0, 1024])
def test_hdf5(pool: np.ndarray, tmp_path: Path, userblock: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, 'MAPPED_BYTES', 1000)
    with h5py.File(tmp_path / 'pool.h5', 'w', userblock_size=userblock) as file:
        file['before'] = np.arange(5, dtype=np.int8)
        file['contiguous'] = pool
        file['swapped'] = pool.astype('>f4')
        file.create_dataset('chunked', data=pool, chunks=(40, 33))
        # Not closed yet: what was written is flushed before it is mapped.
        check(Rows(file['contiguous']), pool)
    with h5py.File(tmp_path / 'pool.h5') as file:
        assert Rows(file['contiguous'])._file is not None
        check(Rows(file['contiguous']), pool)
        for name in ('chunked', 'swapped'):
            assert Rows(file[name])._file is None
            check(Rows(file[name]), pool)


def test_hdf5_in_memory(pool: np.ndarray) -> None:
    with h5py.File('none.h5', 'w', driver='core', backing_store=False) as file:
        file['pool'] = pool
        check(Rows(file['pool']), pool)


def test_other_numbers_are_float64(pool: np.ndarray) -> None:
    for dtype in (np.float16, np.int32, np.uint8):
        rows = Rows(np.abs(pool).astype(dtype))
        assert rows.dtype == np.float64 and rows.block(0, 3).dtype == np.float64
    assert Rows([[1, 2], [3, 4]]).take(np.array([1])).tolist() == [[3.0, 4.0]]


def test_file_cut_short(pool: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / 'pool.npy'
    np.save(path, pool)
    rows = Rows(np.load(path, mmap_mode='r'))
    with open(path, 'r+b') as file:
        file.truncate(1000)
    with pytest.raises(OSError, match=r'row 256 of .* could not be read whole: the file was cut short'):
        rows.take(np.array([256]))
