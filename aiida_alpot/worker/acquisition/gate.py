"""The gate: frames that are not worth a label, each with the reason."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from ase.data import atomic_numbers, chemical_symbols, covalent_radii
from ase.neighborlist import neighbor_list

from aiida_alpot.worker.frames.frame import Frame
from aiida_alpot.worker.options import integer, number

MOST_DISTANCES = 10**5
"""Up to this number of distances all are calculated at once; above it a list of neighbours is made."""


@dataclass(frozen=True)
class GateSettings:
    """Bounds of the gate.

    :param min_distance: shortest allowed distance of two atoms, as a fraction of the sum of their covalent radii
        (no unit), in [0, 1.5].
    :param max_force: largest allowed norm of a force, as the mean of the committee predicts it, eV/A, above 0.
    :param max_expected_force_error: largest allowed calibrated force error, eV/A, above 0: what the committee is
        that unsure about is most often a structure that fell apart. ``None``: no such bound.
    :param max_atoms: largest allowed number of atoms, at least 1; ``None``: no such bound.
    """

    min_distance: float = 0.6
    max_force: float = 50.0
    max_expected_force_error: float | None = None
    max_atoms: int | None = None

    def __post_init__(self) -> None:
        number('min_distance', self.min_distance, 0.0, 1.5)
        number('max_force', self.max_force, 0.0, exclusive=True)
        if self.max_expected_force_error is not None:
            number('max_expected_force_error', self.max_expected_force_error, 0.0, exclusive=True)
        if self.max_atoms is not None:
            integer('max_atoms', self.max_atoms, 1)


@dataclass(frozen=True)
class Rejection:
    """A frame of the pool that the gate refuses.

    :param index: its place in the pool.
    """

    frame_id: str
    index: int
    reason: str


def too_close(frame: Frame, min_distance: float) -> str:
    """Sentence about the closest contact of a frame, or '' where no contact is below the bound.

    Atoms are compared with their own periodic images too.

    :param min_distance: bound as a fraction of the sum of the covalent radii.
    """
    if min_distance == 0 or (len(frame) == 1 and not frame.pbc.any()):
        return ''
    i, j, distance = _contacts(frame, covalent_radii[frame.numbers] * min_distance)
    if len(distance) == 0:
        return ''
    ratio = distance / (covalent_radii[frame.numbers[i]] + covalent_radii[frame.numbers[j]])
    k = int(np.argmin(ratio))
    pair = f'{chemical_symbols[frame.numbers[i[k]]]}-{chemical_symbols[frame.numbers[j[k]]]}'
    return (
        f'{pair} distance of {distance[k]:.3f} A is {ratio[k]:.2f} of the sum of the covalent radii, '
        f'below the bound of {min_distance:g}'
    )


def _contacts(frame: Frame, radii: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of atoms, periodic images included, that are closer than the sum of their radii (n,), A.

    :return: i, j, shape (k,), by i, and the distance, shape (k,), A.
    """
    lattice = frame.cell[frame.pbc]
    inverse = np.linalg.inv(lattice) if len(lattice) == 3 else np.linalg.pinv(lattice)
    # A vector within the cutoff has fractional coordinates up to cutoff / height; the nearest image has up to 1/2.
    reach = np.floor(2 * radii.max() * np.linalg.norm(inverse, axis=0) + 0.5).astype(np.int64)
    n_images = int(np.prod(2 * reach + 1))
    if len(frame) ** 2 * n_images > MOST_DISTANCES:
        return neighbor_list('ijd', frame.unlabelled().to_atoms(), radii)
    vectors = frame.positions[None, :] - frame.positions[:, None]
    vectors = vectors - np.rint(vectors @ inverse) @ lattice
    images = np.array(list(np.ndindex(*(2 * reach + 1)))).reshape(n_images, len(lattice)) - reach
    squares = ((vectors[:, :, None] + images @ lattice) ** 2).sum(axis=3)
    atoms = np.arange(len(frame))
    squares[atoms, atoms, np.flatnonzero(~images.any(axis=1))[0]] = np.inf
    i, j, k = np.nonzero(squares < (radii[:, None] + radii)[:, :, None] ** 2)
    return i, j, np.sqrt(squares[i, j, k])


def too_large(frame: Frame, max_atoms: int | None) -> str:
    """Sentence about the size of a frame, or '' where it is within the bound."""
    return f'{len(frame)} atoms, above the bound of {max_atoms}' if max_atoms and len(frame) > max_atoms else ''


def duplicate_of(first: int) -> str:
    """Sentence about a frame that is the same as an earlier one of the pool."""
    return f'duplicate of frame {first} of the pool'


class Gate:
    """Decides about the frames of a pool, in their order.

    :param settings: the bounds.
    :param known: ``frame_id`` of what is labelled already.
    :param elements: what the committee knows; ``None``: everything.
    """

    def __init__(
        self, settings: GateSettings, known: Iterable[str] = (), elements: Iterable[str] | None = None
    ) -> None:
        self.settings = settings
        self._known = set(known)
        self._elements = None if elements is None else {atomic_numbers[symbol] for symbol in elements}
        self._seen: dict[str, int] = {}

    def geometry(self, frame: Frame, frame_id: str, index: int) -> str:
        """Reason to refuse a frame before anything is predicted, or ''.

        To be called once for each frame of the pool: a frame seen before is a duplicate.
        """
        first = self._seen.setdefault(frame_id, index)
        return duplicate_of(first) if first != index else self.structure(frame, frame_id)

    def structure(self, frame: Frame, frame_id: str) -> str:
        """Reason to refuse a frame for itself, before anything is predicted, or ''."""
        if frame_id in self._known:
            return 'already labelled: in the data set'
        return (
            self._foreign(frame)
            or too_large(frame, self.settings.max_atoms)
            or too_close(frame, self.settings.min_distance)
        )

    def prediction(self, forces: np.ndarray, finite: bool) -> str:
        """Reason to refuse a frame for what is predicted of it, or ''.

        :param forces: mean forces of the committee, shape (n_atoms, 3), eV/A.
        :param finite: whether the energies and forces of all members are finite.
        """
        if not finite:
            return 'a member of the committee predicts energies or forces that are not finite'
        largest = float(np.linalg.norm(forces, axis=1).max())
        if largest > self.settings.max_force:
            return f'predicted force of {largest:.4g} eV/A, above the bound of {self.settings.max_force:g} eV/A'
        return ''

    def expectation(self, expected_force_error: float) -> str:
        """Reason to refuse a frame for its calibrated uncertainty, or ''."""
        bound = self.settings.max_expected_force_error
        if bound is not None and expected_force_error > bound:
            return f'expected force error of {expected_force_error:.4g} eV/A, above the bound of {bound:g} eV/A'
        return ''

    def _foreign(self, frame: Frame) -> str:
        if self._elements is None:
            return ''
        foreign = sorted(chemical_symbols[z] for z in set(frame.numbers.tolist()) - self._elements)
        return f'the committee does not know {", ".join(foreign)}' if foreign else ''
