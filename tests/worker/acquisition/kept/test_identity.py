"""Which frame, and which committee."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from aiida_alpot.worker.acquisition.kept.identity import committee_digest, dataset_digest, frame_keys, text_digest
from aiida_alpot.worker.frames.frame import Frame


def test_a_key_is_the_bits_of_the_structure(make_argon: Callable) -> None:
    frame = make_argon(1, 0)[0]
    order = [1, 0, 2, 3]
    moved = frame.positions.copy()
    moved[0, 0] = np.nextafter(moved[0, 0], 10)
    others = [
        frame.replace(positions=frame.positions[order]),
        frame.replace(positions=moved),
        frame.replace(pbc=(True, True, False)),
        frame.replace(cell=frame.cell * (1 + 1e-15)),
        frame.replace(numbers=[18, 18, 18, 10]),
    ]
    assert others[0].frame_id == others[1].frame_id == frame.frame_id
    keys = frame_keys([frame, *others])
    assert keys.dtype.itemsize == 16 and len(np.unique(keys)) == 6
    same = frame.replace(energy=1.0, origin='other', split='train', metadata={'a': 1})
    assert frame_keys([same]) == keys[:1]
    assert len(frame_keys([])) == 0


def test_a_committee_is_its_files_in_order_and_the_precision(tmp_path: Path) -> None:
    for name, content in (('a.model', b'1'), ('b.model', b'2'), ('c.model', b'1')):
        (tmp_path / name).write_bytes(content)
    a, b, c = (tmp_path / f'{name}.model' for name in 'abc')
    found = committee_digest([a, b], 'float64')
    assert found == committee_digest([c, str(b)], 'float64') and len(found) == 32
    different = [([b, a], 'float64'), ([a], 'float64'), ([a, c], 'float64'), ([a, b], 'float32')]
    assert len({found, *(committee_digest(*given) for given in different)}) == 5


def test_the_version_of_the_library_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / 'a.model').write_bytes(b'1')
    before = committee_digest([tmp_path / 'a.model'], 'float64')
    monkeypatch.setattr('importlib.metadata.version', lambda name: '99' if name == 'mace-torch' else '1')
    other = committee_digest([tmp_path / 'a.model'], 'float64')
    monkeypatch.setattr('importlib.metadata.version', lambda name: '98' if name == 'mace-torch' else '1')
    assert len({before, other, committee_digest([tmp_path / 'a.model'], 'float64')}) == 3


def test_what_a_calculator_is_made_of_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A description names a class and perhaps files: neither is in it."""
    monkeypatch.syspath_prepend(str(tmp_path))
    module, table = tmp_path / 'calculator_of_mine.py', tmp_path / 'table.dat'
    module.write_text('class Mine: pass')
    table.write_text('1 2 3')
    path = tmp_path / 'member.json'
    parameters = {'files': [{'table': str(table)}], 'cutoff': 3.0}
    path.write_text(json.dumps({'calculator': 'calculator_of_mine.Mine', 'parameters': parameters}))
    found = [committee_digest([path], 'float64')]
    table.write_text('1 2 4')
    found.append(committee_digest([path], 'float64'))
    module.write_text('class Mine: changed = True')
    found.append(committee_digest([path], 'float64'))
    assert len(set(found)) == 3 and found[2] == committee_digest([path], 'float64')


def test_what_a_signal_is_fitted_to(dataset: list[Frame]) -> None:
    found = dataset_digest(dataset)
    changes = [{'split': 'test'}, {'origin': 'other'}, {'energy': 0.5}, {'forces': None}, {'pbc': (True, True, False)}]
    others = {dataset_digest([dataset[0].replace(**change), *dataset[1:]]) for change in changes}
    assert len(others) == 5 and found not in others and dataset_digest(iter(dataset)) == found


def test_options_in_any_order() -> None:
    assert text_digest('a', {'b': 1, 'c': [2]}) == text_digest('a', {'c': [2], 'b': 1}) != text_digest('a', {'b': 1})
