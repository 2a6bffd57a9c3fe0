"""A folder with what was said about frames."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from aiida_alpot.worker.acquisition.kept import store as module
from aiida_alpot.worker.acquisition.kept.store import Store
from aiida_alpot.worker.acquisition.kept.table import Table


def keys_of(*numbers: int) -> np.ndarray:
    return np.frombuffer(b''.join(number.to_bytes(16, 'little') for number in numbers), dtype='S16')


def table_of(*numbers: int) -> Table:
    """Frame i has i + 1 atoms, the energy i, and i on each of its atoms."""
    lengths = np.array(numbers, dtype=np.int64) + 1
    return Table(
        lengths,
        {'energy': np.array(numbers, dtype=float)},
        {'force': np.repeat(np.array(numbers, dtype=np.int64), lengths)},
    )


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def make_store(tmp_path: Path, said: list[str]) -> Callable[..., Store]:
    return lambda name='kept': Store(tmp_path / name, said.append)


def assert_known(store: Store, part: str, asked: list[int], known: list[int]) -> None:
    mask, table = store.get(part, keys_of(*asked))
    expected = [number for number in asked if number in known]
    assert mask.tolist() == [number in known for number in asked]
    if not expected:
        assert table is None
        return
    assert table.frames['energy'].tolist() == expected
    assert table.atoms['force'].tolist() == [number for number in expected for _ in range(number + 1)]


def test_what_was_added_is_found_in_any_order(make_store: Callable) -> None:
    store = make_store()
    store.add(keys_of(3, 1, 2), {'a': table_of(3, 1, 2), 'b': table_of(3, 1, 2)})
    store.add(keys_of(5, 4), {'a': table_of(5, 4)})
    for current in (store, make_store()):  # in memory, and read anew
        assert_known(current, 'a', [4, 9, 1, 3, 5, 1], [1, 2, 3, 4, 5])
        assert_known(current, 'b', [4, 2], [1, 2, 3])
        assert_known(current, 'c', [1], [])
        assert current.count('a') == 5 and current.count('b') == 3 and current.count('c') == 0


def test_what_is_added_again_replaces(make_store: Callable) -> None:
    store = make_store()
    store.add(keys_of(1, 2), {'a': table_of(1, 2)})
    changed = Table(np.array([2, 3]), {'energy': np.array([10.0, 20.0])}, {'force': np.zeros(5)})
    store.add(keys_of(2), {'a': changed.take(np.array([1]))})
    assert store.get('a', keys_of(1, 2))[1].frames['energy'].tolist() == [1.0, 20.0]


def test_same_frames_same_file(make_store: Callable, tmp_path: Path) -> None:
    for name in ('one', 'other'):
        make_store(name).add(keys_of(1, 2), {'a': table_of(1, 2)})
    (one,), (other,) = (tmp_path / 'one').iterdir(), (tmp_path / 'other').iterdir()
    assert one.name == other.name and one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize('left', [0, 10, 300, -1])
def test_a_truncated_file_is_said_and_unknown(make_store: Callable, said: list[str], left: int) -> None:
    store = make_store()
    store.add(keys_of(1, 2), {'a': table_of(1, 2)})
    store.add(keys_of(3), {'a': table_of(3)})
    path = store._files[0]
    path.write_bytes(path.read_bytes()[:left])
    for current in (make_store(), store):  # found when the folder is opened, and when it was open
        assert_known(current, 'a', [1, 3, 2], [3])
        (sentence,) = said
        assert sentence.startswith(f'{path} holds no predictions that can be read') and 'evaluated again' in sentence
        said.clear()
    store.add(keys_of(1, 2), {'a': table_of(1, 2)})  # evaluated again: the file is whole again
    assert_known(store, 'a', [1, 3, 2], [1, 2, 3])
    assert_known(make_store(), 'a', [1, 3, 2], [1, 2, 3])
    assert not said


def test_a_flipped_bit_is_found(make_store: Callable, said: list[str]) -> None:
    store = make_store()
    store.add(keys_of(*range(50)), {'a': table_of(*range(50))})
    content = bytearray(store._files[0].read_bytes())
    position = bytes(content).index(np.arange(50, dtype=float).tobytes()) + 100
    content[position] ^= 1
    store._files[0].write_bytes(bytes(content))
    assert_known(make_store(), 'a', [1, 2], [])
    assert len(said) == 1 and 'CRC' in said[0]


def test_foreign_files(make_store: Callable, tmp_path: Path, said: list[str]) -> None:
    make_store().add(keys_of(1), {'a': table_of(1)})
    np.savez(tmp_path / 'kept' / 'foreign.npz', keys=np.arange(3))
    np.savez(tmp_path / 'kept' / 'other.npz', x=np.arange(3))
    np.save(tmp_path / 'kept' / 'array.npy', np.arange(3))
    os.rename(tmp_path / 'kept' / 'array.npy', tmp_path / 'kept' / 'array.npz')
    (tmp_path / 'kept' / '.half.npz.partial').write_bytes(b'PK')
    (tmp_path / 'kept' / 'notes.txt').write_text('mine')
    store = make_store()
    assert_known(store, 'a', [1, 2], [1])
    assert len(said) == 3 and all('can be deleted' in sentence for sentence in said)
    assert (tmp_path / 'kept' / 'notes.txt').exists()


def test_arrays_that_do_not_belong_together(make_store: Callable, said: list[str]) -> None:
    store = make_store()
    store.add(keys_of(1, 2), {'a': table_of(1, 2)})
    with np.load(store._files[0]) as arrays:
        content = dict(arrays)
    content['a/0/atoms/force'] = content['a/0/atoms/force'][:-1]
    np.savez(store._files[0], **content)
    assert_known(make_store(), 'a', [1], [])
    assert '`force` has shape (4,), expected 5 along axis 0' in said[0]


def test_a_full_disk_is_no_reason_to_stop(
    make_store: Callable, said: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store = make_store()

    def full(_: int) -> None:
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(module.os, 'fsync', full)
    store.add(keys_of(1), {'a': table_of(1)})
    store.add(keys_of(2), {'a': table_of(2)})
    assert len(said) == 1 and 'No space left on device' in said[0] and 'not kept any more' in said[0]
    assert list((tmp_path / 'kept').iterdir()) == []
    assert_known(store, 'a', [1, 2], [])


def test_an_interruption_while_writing_leaves_nothing(
    make_store: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module.os, 'fsync', interrupt)
    with pytest.raises(KeyboardInterrupt):
        make_store().add(keys_of(1), {'a': table_of(1)})
    assert list((tmp_path / 'kept').iterdir()) == []


@pytest.mark.parametrize('links', [True, False])
def test_files_are_taken_over_and_outlive_the_others(
    make_store: Callable, tmp_path: Path, links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make_store('first')
    first.add(keys_of(1, 2), {'a': table_of(1, 2)})
    if not links:

        def refuse(*_: object) -> None:
            raise OSError(18, 'Invalid cross-device link')

        monkeypatch.setattr(module.os, 'link', refuse)
    second = make_store('second')
    second.add(keys_of(3), {'a': table_of(3)})
    second.adopt(tmp_path / 'first')
    second.adopt(tmp_path / 'nowhere')
    (name,) = [path.name for path in (tmp_path / 'first').iterdir()]
    assert (tmp_path / 'second' / name).samefile(tmp_path / 'first' / name) is links
    (tmp_path / 'first' / name).unlink()
    assert_known(second, 'a', [3, 2, 1], [1, 2, 3])
    assert_known(make_store('second'), 'a', [3, 2, 1], [1, 2, 3])
    assert_known(make_store('first'), 'a', [3, 2, 1], [])


def test_nothing_to_add(make_store: Callable, tmp_path: Path) -> None:
    store = make_store()
    store.add(keys_of(), {'a': table_of()})
    store.add(keys_of(1), {})
    assert list((tmp_path / 'kept').iterdir()) == []
