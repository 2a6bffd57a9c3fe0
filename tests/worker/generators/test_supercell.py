"""Supercells."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk, fcc111

from aiida_alpot.worker.frames.frame import Frame
from aiida_alpot.worker.generators.supercell import SupercellParameters, supercell


def test_counts_cell_and_record() -> None:
    frame = Frame.from_atoms(bulk('Si'), energy=-1.0, forces=np.zeros((2, 3)), split='train', lineage='x')
    cells = supercell(frame, SupercellParameters(((1, 1, 1), (2, 1, 3))), 0)
    assert [len(cell) for cell in cells] == [2, 12]
    assert np.allclose(cells[1].cell, frame.cell * [[2], [1], [3]], atol=1e-12)
    assert cells[1].metadata['generated'] == [{'generator': 'supercell', 'repeat': [2, 1, 3]}]
    assert all(cell.energy is None and cell.forces is None and not cell.split for cell in cells)
    assert cells[0].frame_id == frame.frame_id and cells[0].lineage == 'x'


def test_density_and_neighbours_are_kept() -> None:
    frame = Frame.from_atoms(bulk('Si'))
    (cell,) = supercell(frame, SupercellParameters(((2, 2, 2),)), 0)
    assert cell.volume / len(cell) == pytest.approx(frame.volume / 2, rel=1e-12)
    distances = cell.to_atoms().get_all_distances(mic=True) + 10 * np.eye(16)
    assert np.allclose(np.sort(distances, axis=1)[:, 3], 2.35126, atol=1e-4)  # four neighbours each


def test_only_periodic_axes_are_repeated_and_no_duplicates() -> None:
    slab = Frame.from_atoms(fcc111('Cu', (1, 1, 3), vacuum=6.0))
    cells = supercell(slab, SupercellParameters(((2, 2, 1), (2, 2, 2))), 0)
    assert [len(cell) for cell in cells] == [12]


@pytest.mark.parametrize('repeats', [[], [[1, 1]], [[0, 1, 1]], [[1.5, 1, 1]], 3, [[21, 1, 1]]])
def test_bad_repeats(repeats: object) -> None:
    with pytest.raises(ValueError, match='repeats'):
        SupercellParameters(repeats)  # type: ignore[arg-type]
