"""SOAP: smooth overlap of atomic positions, a descriptor that no model is needed for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from ase.data import atomic_numbers

from aiida_alpot.worker.acquisition.representations.optional import require
from aiida_alpot.worker.options import integer, number

if TYPE_CHECKING:
    from ase import Atoms

    from aiida_alpot.worker.frames.frame import Frame

SMOOTHING = 0.5
"""Width over which neighbours fade out below the cutoff, A: without it rows would jump when an atom crosses it."""


def soap(
    frames: Sequence[Frame],
    elements_of_model: Sequence[str],
    elements: Sequence[str] | None = None,
    r_cut: float = 6.0,
    n_max: int = 8,
    l_max: int = 6,
    sigma: float = 1.0,
) -> np.ndarray:
    r"""SOAP power spectrum, averaged over the atoms of each frame, shape (n, d).

    Bartok, Kondor and Csanyi, Phys. Rev. B 87, 184115, by featomic. The density of species a about atom i (a Gaussian
    for each of its atoms, i itself among them) is expanded in radial functions and spherical harmonics, and

    .. math:: \phi(x) = \frac{1}{N} \sum_i p_i, \qquad
        p_{i,\, ab\, nn'\, l} = \sqrt{\frac{2 - \delta_{ab}}{2l + 1}} \sum_m c^{a*}_{i, nlm} c^b_{i, n'lm},
        \qquad a \le b,

    so that the inner product of two atoms is the squared overlap of their densities, averaged over all rotations. The
    length is d = Z (Z + 1) / 2 x n_max^2 (l_max + 1) for Z elements: name those of the data set where the model knows
    many more. The defaults are those of the study on pretrained representations, which took DScribe's; the densities of
    the two fade out differently at the cutoff.

    :param elements: species that enter, by default all of the model.
    :param r_cut: radius of an environment, A.
    :param n_max: number of radial functions.
    :param l_max: largest degree of the spherical harmonics.
    :param sigma: width of the Gaussians, A.
    :raises ImportError: without featomic.
    :raises ValueError: for a frame with an element that is not among the species, or options that cannot be.
    """
    spectra = _Spectra(frames, elements_of_model, elements, r_cut, n_max, l_max, sigma)
    return np.array([rows.mean(axis=0) for rows in spectra]).reshape(len(frames), spectra.d)


def soap_per_atom(
    frames: Sequence[Frame],
    elements_of_model: Sequence[str],
    elements: Sequence[str] | None = None,
    r_cut: float = 6.0,
    n_max: int = 8,
    l_max: int = 6,
    sigma: float = 1.0,
) -> np.ndarray:
    """SOAP power spectrum of each atom, shape (N, d): what :func:`soap` is the mean of, with its options.

    It lets any potential have an extrapolation grade, also one whose inside is not known.
    """
    spectra = _Spectra(frames, elements_of_model, elements, r_cut, n_max, l_max, sigma)
    return np.concatenate([np.empty((0, spectra.d)), *spectra])


class _Spectra:
    """Power spectra of frames, one after the other, each of shape (n_atoms, d)."""

    def __init__(
        self,
        frames: Sequence[Frame],
        elements_of_model: Sequence[str],
        elements: Sequence[str] | None,
        r_cut: float,
        n_max: int,
        l_max: int,
        sigma: float,
    ) -> None:
        _check_options(r_cut, n_max, l_max, sigma)
        species = elements_of_model if elements is None else elements
        numbers = _numbers(species)
        self._frames, self._r_cut = frames, r_cut
        self._pairs = np.array([(a, b) for place, a in enumerate(numbers) for b in numbers[place:]])
        self.d = len(self._pairs) * n_max**2 * (l_max + 1)
        _check_elements(frames, species)
        featomic = require('featomic', 'featomic', 'the representation `soap`')
        self._calculator = featomic.SoapPowerSpectrum(
            cutoff={'radius': float(r_cut), 'smoothing': {'type': 'ShiftedCosine', 'width': SMOOTHING}},
            density={'type': 'Gaussian', 'width': float(sigma)},
            basis={
                'type': 'TensorProduct',
                'max_angular': l_max,
                'radial': {'type': 'Gto', 'max_radial': n_max - 1},
            },
        )

    def __iter__(self) -> Iterator[np.ndarray]:
        labels = require('metatensor', 'metatensor-core', 'the representation `soap`').Labels
        pairs = labels(['neighbor_1_type', 'neighbor_2_type'], self._pairs)
        for frame in self._frames:
            system = _closed(frame.unlabelled().to_atoms(), self._r_cut)
            spectrum: Any = self._calculator.compute(system, use_native_system=True)
            yield spectrum.keys_to_samples('center_type').keys_to_properties(pairs).block().values


def _closed(atoms: Atoms, r_cut: float) -> Atoms:
    """The same structure, periodic along all axes or none: along others the images are out of reach of each other."""
    if atoms.pbc.all():
        return atoms
    if not atoms.pbc.any():
        atoms.cell[:] = 0.0
        return atoms
    cell = np.where(atoms.pbc[:, None], atoms.cell.array, 0.0)
    free = np.linalg.svd(cell)[2][atoms.pbc.sum() :]  # directions at right angles to the periodic axes
    for axis, direction in zip(np.flatnonzero(~atoms.pbc), free, strict=True):
        cell[axis] = direction * (np.ptp(atoms.positions @ direction) + 2.0 * r_cut)
    atoms.set_cell(cell)
    atoms.pbc = True
    return atoms


def _check_options(r_cut: float, n_max: int, l_max: int, sigma: float) -> None:
    number('r_cut', r_cut, SMOOTHING, exclusive=True)
    number('sigma', sigma, 0.0, exclusive=True)
    integer('n_max', n_max, 1)
    integer('l_max', l_max, 0)


def _numbers(species: Sequence[str]) -> list[int]:
    unknown = [symbol for symbol in species if symbol not in atomic_numbers]
    if unknown or not len(species):
        raise ValueError(f'`elements` of SOAP is {species!r}, expected a list of chemical symbols')
    return sorted({atomic_numbers[symbol] for symbol in species})


def _check_elements(frames: Sequence[Frame], species: Sequence[str]) -> None:
    for index, frame in enumerate(frames):
        foreign = sorted(set(frame.to_atoms().symbols) - set(species))
        if foreign:
            raise ValueError(
                f'frame {index} contains {", ".join(foreign)}, but SOAP is to know {", ".join(sorted(species))} only: '
                'name all elements of the pool and of the data set in `elements`'
            )
