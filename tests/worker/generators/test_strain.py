"""Strains."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111

from aiida_alpot.worker.frames.frame import Frame
from aiida_alpot.worker.generators.strain import StrainParameters, periodic_axes, strain, unsuitable

ONLY = {'volumetric': (), 'uniaxial': (), 'shear': ()}


def tensors(frames: list[Frame]) -> np.ndarray:
    return np.array([frame.metadata['generated'][-1]['tensor'] for frame in frames])


def test_volumetric() -> None:
    frame = Frame.from_atoms(bulk('Si'))
    frames = strain(frame, StrainParameters(**{**ONLY, 'volumetric': [-0.1, 0.0, 0.15]}), 0)
    assert [f.volume / frame.volume for f in frames] == pytest.approx([0.9, 1.0, 1.15], abs=1e-12)
    for f in frames:
        assert np.allclose(f.to_atoms().get_scaled_positions(), frame.to_atoms().get_scaled_positions(), atol=1e-12)


def test_uniaxial_and_shear_by_hand() -> None:
    frame = Frame.from_atoms(Atoms('Cu', [[1, 1, 1]], cell=[2, 3, 4], pbc=True))
    frames = strain(frame, StrainParameters(**{**ONLY, 'uniaxial': [0.1, -0.1, 0.2], 'shear': [0.05, 0.0, -0.05]}), 0)
    assert [np.diag(f.cell).tolist() for f in frames[:3]] == [
        pytest.approx([2.2, 3, 4]),
        pytest.approx([2, 2.7, 4]),
        pytest.approx([2, 3, 4.8]),
    ]
    assert np.allclose(frames[3].cell, [[2, 0.1, 0], [0.15, 3, 0], [0, 0, 4]], atol=1e-12)
    assert np.allclose(frames[5].cell, [[2, 0, 0], [0, 3, -0.15], [0, -0.2, 4]], atol=1e-12)
    assert np.allclose(frames[3].positions, [[1.05, 1.05, 1]], atol=1e-12)
    assert [f.metadata['generated'][-1]['kind'] for f in frames] == ['uniaxial'] * 3 + ['shear'] * 3


@pytest.mark.parametrize('orthogonal', [True, False])
def test_slab_keeps_its_vacuum_and_thickness(orthogonal: bool) -> None:
    """Peer defect 4: the vacuum of slabs was scaled."""
    atoms = fcc111('Cu', (2, 2, 4), vacuum=7.0)
    cell = atoms.cell.array.copy()
    if not orthogonal:
        cell[2] += 0.4 * cell[0]
    slab = Frame(atoms.numbers, atoms.positions, cell, (True, True, False))
    frames = strain(slab, StrainParameters(n_random=3), 5)
    assert len(frames) == 4 + 3 + 3 + 3
    for f in frames:
        assert np.allclose(f.positions[:, 2], slab.positions[:, 2], atol=1e-12)
        assert f.cell[2, 2] == pytest.approx(slab.cell[2, 2], abs=1e-12)
        assert np.allclose(f.cell[:2, 2], 0, atol=1e-12)
        assert np.allclose(
            np.linalg.solve(f.cell.T, f.positions.T), np.linalg.solve(slab.cell.T, slab.positions.T), atol=1e-10
        )
    areas = [np.linalg.norm(np.cross(*f.cell[:2])) / np.linalg.norm(np.cross(*slab.cell[:2])) for f in frames[:4]]
    assert areas == pytest.approx([0.9, 0.95, 1.05, 1.1], abs=1e-12)


def test_chain_along_a_tilted_axis() -> None:
    axis = np.array([1.0, 1.0, 0.0])
    frame = Frame([6, 6], [[0, 0, 0], axis * 0.5], [axis * 3, [0, 0, 0], [0, 0, 0]], (True, False, False))
    (made,) = strain(frame, StrainParameters(**{**ONLY, 'uniaxial': [0.1], 'shear': [0.1]}), 0)
    assert np.allclose(made.cell, frame.cell * 1.1, atol=1e-12)
    assert np.allclose(made.positions, frame.positions * 1.1, atol=1e-12)


def test_random_strains_are_symmetric_and_isotropic() -> None:
    frame = Frame.from_atoms(bulk('Si'))
    drawn = tensors(strain(frame, StrainParameters(**ONLY, n_random=4000, random_amplitude=0.02), 1))
    assert np.allclose(drawn, drawn.transpose(0, 2, 1), atol=1e-15)
    spread = drawn.std(axis=0)
    assert np.allclose(np.diag(spread), 0.02, rtol=0.05)
    assert np.allclose(spread[np.triu_indices(3, 1)], 0.02 / np.sqrt(2), rtol=0.05)
    assert np.all(np.abs(drawn.mean(axis=0)) < 4 * 0.02 / np.sqrt(4000))


def test_axes_are_orthonormal_and_span_the_periodic_vectors() -> None:
    frame = Frame([6], [[0, 0, 0]], [[2, 0.3, 0.1], [0.4, 3, 0.2], [0, 0, 0]], (True, True, False))
    axes = periodic_axes(frame)
    assert np.allclose(axes @ axes.T, np.eye(2), atol=1e-12)
    assert np.allclose(frame.cell[:2] @ axes.T @ axes, frame.cell[:2], atol=1e-12)
    assert axes[0] @ frame.cell[0] > 0


def test_molecule_is_unsuitable() -> None:
    assert 'no periodic direction' in unsuitable(Frame.from_atoms(Atoms('H')), StrainParameters())


@pytest.mark.parametrize(
    'bad', [{'volumetric': [-0.7]}, {'uniaxial': [2.0]}, {'shear': 0.1}, {'n_random': -1}, {'random_amplitude': 0.0}]
)
def test_bad_parameters(bad: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        StrainParameters(**bad)
