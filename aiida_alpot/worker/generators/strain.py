"""Strains: the cell deformed along its periodic directions, the atoms with it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aiida_alpot.worker.frames.frame import Frame
from aiida_alpot.worker.generators.derivation import derive
from aiida_alpot.worker.options import integer, number, numbers


@dataclass(frozen=True)
class StrainParameters:
    """Parameters of the strains; strains have no unit.

    All act within the space spanned by the periodic lattice vectors, in its orthonormal directions: x, y, z of a bulk
    crystal, the plane of a slab, the axis of a chain. Lists may be empty.

    :param volumetric: relative changes of the volume (of the area, of the length), in [-0.6, 2]; one frame each.
    :param uniaxial: strains along one direction, in [-0.4, 1]; one frame each, along x, y, z in turn.
    :param shear: off-diagonal components of the strain tensor (half the engineering shear), in [-0.4, 0.4]; one frame
        each, in the planes xy, xz, yz in turn; none where fewer than two directions are periodic.
    :param n_random: number of random symmetric strains, all components at once, 0 to 10000.
    :param random_amplitude: standard deviation of their diagonal components, in (0, 0.2].
    """

    volumetric: tuple[float, ...] = (-0.1, -0.05, 0.05, 0.1)
    uniaxial: tuple[float, ...] = (-0.04, 0.04, 0.04)
    shear: tuple[float, ...] = (0.04, 0.04, 0.04)
    n_random: int = 0
    random_amplitude: float = 0.03

    def __post_init__(self) -> None:
        for name, low, high in (('volumetric', -0.6, 2.0), ('uniaxial', -0.4, 1.0), ('shear', -0.4, 0.4)):
            object.__setattr__(self, name, numbers(name, getattr(self, name), low, high))
        integer('n_random', self.n_random, 0, 10000)
        number('random_amplitude', self.random_amplitude, 0.0, 0.2, exclusive=True)


def unsuitable(frame: Frame, parameters: StrainParameters) -> str:
    """Frames without a periodic direction."""
    return '' if frame.pbc.any() else 'has no periodic direction to strain'


def strain(frame: Frame, parameters: StrainParameters, seed: int) -> list[Frame]:
    """Strained copies of a frame: volumetric, uniaxial, shear, random, in this order."""
    axes = periodic_axes(frame)
    return [_strained(frame, axes, kind, tensor) for kind, tensor in _tensors(len(axes), parameters, seed)]


def periodic_axes(frame: Frame) -> np.ndarray:
    """Orthonormal rows that span the periodic lattice vectors, shape (k, 3); x, y, z where all three are periodic."""
    if frame.pbc.all():
        return np.eye(3)
    q, r = np.linalg.qr(frame.cell[frame.pbc].T)
    return (q * np.sign(np.diag(r))).T


def _tensors(k: int, parameters: StrainParameters, seed: int) -> list[tuple[str, np.ndarray]]:
    """The symmetric strain tensors asked for in k dimensions, shape (k, k) each, with the name of their kind."""
    tensors = [('volumetric', ((1 + v) ** (1 / k) - 1) * np.eye(k)) for v in parameters.volumetric]
    tensors += [('uniaxial', _component(k, i % k, i % k, value)) for i, value in enumerate(parameters.uniaxial)]
    planes = [(i, j) for i in range(k) for j in range(i + 1, k)]
    if planes:
        tensors += [
            ('shear', _component(k, *planes[i % len(planes)], value)) for i, value in enumerate(parameters.shear)
        ]
    rng = np.random.default_rng(seed)
    tensors += [('random', _random_tensor(k, parameters.random_amplitude, rng)) for _ in range(parameters.n_random)]
    return tensors


def _component(k: int, i: int, j: int, value: float) -> np.ndarray:
    tensor = np.zeros((k, k))
    tensor[i, j] = tensor[j, i] = value
    return tensor


def _random_tensor(k: int, amplitude: float, rng: np.random.Generator) -> np.ndarray:
    """Symmetric tensor whose distribution does not change under rotation.

    That asks for off-diagonal components of half the variance; the mean of a matrix of independent entries and its
    transpose has it.
    """
    tensor = rng.normal(scale=amplitude, size=(k, k))
    symmetric = (tensor + tensor.T) / 2
    symmetric[np.diag_indices(k)] = np.diag(tensor)
    return symmetric


def _strained(frame: Frame, axes: np.ndarray, kind: str, tensor: np.ndarray) -> Frame:
    """The deformation 1 + e is symmetric (no rotation) and leaves alone what is perpendicular to the periodic axes:
    vacuum, and the distance between the layers of a slab."""
    strain_tensor = axes.T @ tensor @ axes
    deformation = np.eye(3) + strain_tensor
    return derive(
        frame,
        'strain',
        positions=frame.positions @ deformation,
        cell=frame.cell @ deformation,
        kind=kind,
        tensor=strain_tensor.tolist(),
    )
