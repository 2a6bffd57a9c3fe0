"""Morgan fingerprints of molecules, and their Tanimoto similarity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from ase.data import chemical_symbols

from aiida_alpot.worker.acquisition.representations.optional import require

if TYPE_CHECKING:
    from aiida_alpot.worker.frames.frame import Frame


def morgan(
    frames: Sequence[Frame], elements_of_model: Sequence[str] = (), radius: int = 3, n_bits: int = 2048
) -> np.ndarray:
    """Morgan fingerprint of each molecule, zeros and ones, shape (n, n_bits).

    Rogers and Hahn, J. Chem. Inf. Model. 50, 742, by RDKit; the defaults are those of the study on pretrained
    representations. Atoms are connected where they are close (RDKit's van der Waals method); orders of bonds and
    charges, which a frame does not say, do not enter. Inner products of these rows count common bits, and of normalised
    ones are their cosines; for the kernel of that study, Tanimoto's, see :func:`morgan_tanimoto`.

    :param radius: bonds between an atom and what enters its bits.
    :param n_bits: number of columns.
    :raises ImportError: without RDKit.
    :raises ValueError: for a periodic frame, which is no molecule.
    """
    for index, frame in enumerate(frames):
        if frame.pbc.any():
            raise ValueError(
                f'frame {index} is periodic: fingerprints are for molecules, use `soap` or a representation of a model'
            )
    generators = require('rdkit.Chem.rdFingerprintGenerator', 'rdkit', 'the representation `morgan`')
    generator = generators.GetMorganGenerator(radius=radius, fpSize=n_bits)
    rows = [generator.GetFingerprintAsNumPy(_molecule(frame)) for frame in frames]
    return np.array(rows, dtype=np.uint8).reshape(len(frames), n_bits)


def morgan_tanimoto(
    frames: Sequence[Frame],
    elements_of_model: Sequence[str] = (),
    radius: int = 3,
    n_bits: int = 2048,
    size: int = 1024,
    seed: int = 0,
) -> np.ndarray:
    """Rows whose inner products are the Tanimoto similarities of Morgan fingerprints on average, shape (n, size).

    See :func:`morgan` and :func:`tanimoto_features`, which states the error. Selectors work on rows, and no short ones
    have this kernel exactly.

    :param radius: bonds between an atom and what enters its bits.
    :param n_bits: length of the fingerprints.
    :param size: number of columns; similarities have a standard error of at most 1 over its root.
    :param seed: of the random orders; rows of different seeds cannot be compared.
    :raises ImportError: without RDKit.
    :raises ValueError: for a periodic frame, which is no molecule.
    """
    return tanimoto_features(morgan(frames, elements_of_model, radius, n_bits), size, seed)


def _molecule(frame: Frame) -> Any:
    """Molecule with single bonds between the atoms that are close to each other."""
    chem = require('rdkit.Chem', 'rdkit', 'the representation `morgan`')
    bonds = require('rdkit.Chem.rdDetermineBonds', 'rdkit', 'the representation `morgan`')
    lines = [
        f'{chemical_symbols[number]} {x:.8f} {y:.8f} {z:.8f}'
        for number, (x, y, z) in zip(frame.numbers.tolist(), frame.positions.tolist(), strict=True)
    ]
    molecule = chem.MolFromXYZBlock('\n'.join([str(len(frame)), '', *lines, '']))
    bonds.DetermineConnectivity(molecule)
    molecule.UpdatePropertyCache(strict=False)  # valences of transition states are not those of the books
    chem.GetSymmSSSR(molecule)
    return molecule


def tanimoto(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    r"""Tanimoto similarity of sets of bits, shape (n, m), in [0, 1].

    .. math:: k(x, x') = \frac{|x \cap x'|}{|x \cup x'|}

    Equation 4 of the study on pretrained representations; 1 for two empty sets.

    :param a: zeros and ones, shape (n, d).
    :param b: shape (m, d).
    """
    a, b = np.asarray(a, dtype=np.float32), np.asarray(b, dtype=np.float32)
    both = a @ b.T
    either = a.sum(axis=1)[:, None] + b.sum(axis=1)[None] - both
    return np.where(either > 0, both / np.maximum(either, 1.0), 1.0)


def tanimoto_features(bits: np.ndarray, size: int = 1024, seed: int = 0) -> np.ndarray:
    r"""Rows whose inner products are Tanimoto similarities on average, shape (n, size).

    For each column the bits are put into a random order and the first bit that is set is found: two sets agree about it
    with a probability of their Tanimoto similarity J (Broder's MinHash). The column holds a random sign that depends on
    this bit, over the root of the number of columns, so that

    .. math:: \langle\phi, \phi'\rangle = J \pm \sqrt{(1 - J^2) / \mathrm{size}}

    and lengths are 1: selectors that work on rows can be used with no matrix of all pairs. An empty set has a bit of
    its own.

    :param bits: zeros and ones, shape (n, d).
    :param seed: of orders and signs; rows of different seeds cannot be compared.
    """
    bits = np.asarray(bits) > 0
    n, d = bits.shape
    rng = np.random.default_rng(seed)
    signs = rng.integers(2, size=(size, d + 1)).astype(np.int8) * 2 - 1
    features = np.empty((n, size), dtype=np.float32)
    empty = ~bits.any(axis=1)
    for column in range(size):
        order = rng.permutation(d)
        first = order[np.argmax(bits[:, order], axis=1)]
        features[:, column] = signs[column, np.where(empty, d, first)]
    return features / np.float32(np.sqrt(size))
