"""Random structures of a composition: cells and positions drawn at random, no two atoms too close."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from ase.data import atomic_numbers, covalent_radii

from aiida_alpot.worker.frames.frame import Frame
from aiida_alpot.worker.options import number

LONGEST = 2.0
"""Lengths of the cell's vectors are drawn from 1 to this, before the volume is set."""
ANGLES = (60.0, 120.0)
N_CELLS = 200
N_TRIES = 200
"""Cells that are tried, and places tried for each atom."""

_IMAGES = np.stack(np.meshgrid(*[np.arange(-1, 2)] * 3, indexing='ij'), axis=-1).reshape(-1, 3).astype(float)


def check_composition(composition: object) -> dict[str, int]:
    """A composition, by atomic number.

    :raises ValueError: for what is no number of atoms by chemical symbol.
    """
    if not isinstance(composition, Mapping) or not composition:
        raise ValueError(f'`composition` is {composition!r}, expected atoms by element, e.g. {{"Si": 8}}')
    for symbol, count in composition.items():
        if symbol not in atomic_numbers or atomic_numbers[symbol] < 1:
            raise ValueError(f'`composition` names {symbol!r}, which is no chemical symbol')
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise ValueError(f'`composition` has {count!r} atoms of {symbol}, expected a whole number of at least 1')
    return dict(sorted(composition.items(), key=lambda item: atomic_numbers[item[0]]))


def check_volume(volume: object) -> tuple[float, float]:
    """A range of volumes.

    :raises ValueError: for anything else.
    """
    if not isinstance(volume, Sequence) or isinstance(volume, str) or len(volume) != 2:
        raise ValueError(f'`volume` is {volume!r}, expected the smallest and the largest volume, A^3/atom')
    low = number('volume', volume[0], 0.0, exclusive=True)
    return low, number('volume', volume[1], low)


def random_structure(
    composition: Mapping[str, int],
    volume: Sequence[float],
    seed: int,
    *,
    min_distance: float = 0.6,
    periodic: bool = True,
) -> Frame:
    """One structure with random cell and positions (Pickard and Needs, J. Phys.: Condens. Matter 23, 053201).

    Periodic: vectors with lengths of ratios up to :data:`LONGEST` and angles in :data:`ANGLES`, scaled to a volume
    drawn uniformly from the range; every atom is put at a random place that is far enough from those there already and
    from all periodic images. Otherwise a cluster: random places in a ball of that volume, no cell.

    :param composition: number of atoms by chemical symbol.
    :param volume: smallest and largest volume, A^3/atom.
    :param min_distance: smallest distance as a fraction of the sum of the covalent radii, in [0, 1.5].
    :param seed: the same seed gives the same structure.
    :raises ValueError: for arguments that cannot be, and where no place is found: the structure is too dense.
    """
    counts = check_composition(composition)
    low, high = check_volume(volume)
    number('min_distance', min_distance, 0.0, 1.5)
    numbers = np.repeat([atomic_numbers[symbol] for symbol in counts], list(counts.values()))
    rng = np.random.default_rng(seed)
    for _ in range(N_CELLS):
        size = rng.uniform(low, high) * len(numbers)
        cell = _random_cell(rng, size) if periodic else np.zeros((3, 3))
        order = rng.permutation(len(numbers))
        placed = _place(numbers[order], cell, size, min_distance, rng)
        if placed is not None:
            positions = np.empty_like(placed)
            positions[order] = placed
            return Frame(numbers, positions, cell, np.full(3, periodic))
    raise ValueError(
        f'no random structure of {len(numbers)} atoms at {low:g} to {high:g} A^3/atom has all distances above '
        f'{min_distance:g} of the sums of the covalent radii: enlarge `volume` or reduce `min_distance`'
    )


def _random_cell(rng: np.random.Generator, volume: float) -> np.ndarray:
    """Lattice vectors as rows, of the volume, shape (3, 3)."""
    from ase.geometry import cellpar_to_cell

    while True:
        angles = rng.uniform(*ANGLES, size=3)
        cosines = np.cos(np.radians(angles))
        squared = 1.0 + 2.0 * cosines.prod() - np.square(cosines).sum()
        if squared > 0.09:  # flat cells are made of other lattices as well
            cell = np.asarray(cellpar_to_cell([*rng.uniform(1.0, LONGEST, size=3), *angles]))
            return cell * np.cbrt(volume / abs(np.linalg.det(cell)))


def _place(
    numbers: np.ndarray, cell: np.ndarray, volume: float, min_distance: float, rng: np.random.Generator
) -> np.ndarray | None:
    """Positions, or ``None`` where an atom finds no place."""
    periodic = bool(cell.any())
    radii = covalent_radii[numbers]
    if periodic and _shortest_translation(cell) < 2.0 * min_distance * radii.max():
        return None
    images = _IMAGES @ cell if periodic else np.zeros((1, 3))
    positions = np.empty((len(numbers), 3))
    for i in range(len(numbers)):
        for _ in range(N_TRIES):
            place = rng.random(3) @ cell if periodic else _in_ball(rng, volume)
            vectors = (place - positions[:i])[:, None] - images
            distances = np.sqrt(np.square(vectors).sum(axis=-1)).min(axis=1)
            if (distances >= min_distance * (radii[i] + radii[:i])).all():
                positions[i] = place
                break
        else:
            return None
    return positions


def _in_ball(rng: np.random.Generator, volume: float) -> np.ndarray:
    direction = rng.normal(size=3)
    radius = np.cbrt(3.0 * volume / (4.0 * np.pi) * rng.random())
    place: np.ndarray = direction / np.linalg.norm(direction) * radius
    return place


def _shortest_translation(cell: np.ndarray) -> float:
    lengths = np.linalg.norm(_IMAGES @ cell, axis=1)
    return float(lengths[lengths > 0].min())
