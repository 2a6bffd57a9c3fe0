r"""Which frames of trajectories are worth keeping: each structure once, and none that hardly differs from another.

Frames of one trajectory are compared by how far the atoms have moved, which needs no model and no descriptor:

.. math:: d^2 = \frac{1}{N} \sum_k |\mathbf u_k|^2 + l^2 \, \lVert \varepsilon \rVert^2, \qquad l = 2.5\,\mathrm{A}

with the displacement :math:`\mathbf u_k` of atom k in scaled coordinates of the mean cell, to the nearest image and
without that of the centre, the strain :math:`\varepsilon` from one cell to the other (symmetric, Frobenius norm), and a
distance l as that of neighbours. Two decorrelated frames of a crystal have :math:`d \approx \sqrt 2 u`, u being the
root mean square amplitude of its atoms: 0.1 to 0.3 A at room temperature. It tells when atoms have moved, not whether
the structure is of another kind: two snapshots of a liquid, or a molecule and the same one turned round, are far from
one another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf

import numpy as np

from aiida_alpot.worker.frames.carry import first_of_equals
from aiida_alpot.worker.frames.frame import Frame
from aiida_alpot.worker.frames.store import FrameStore
from aiida_alpot.worker.options import integer, number
from aiida_alpot.worker.potentials.neighbours import complete_cell

NEIGHBOURS = 2.5
"""A distance as that of neighbours, A: a strain moves them by so much times itself."""
UNCERTAIN = 'uncertain'
"""Why a frame is kept whose error is expected to be beyond the bound; these go first."""
DYNAMICS = ('md',)
"""Origins of frames of dynamics, whose steps count on."""


@dataclass(frozen=True)
class ThinSettings:
    """What is left out, of the frames of one trajectory.

    :param min_steps: frames are at least so many steps apart; for dynamics.
    :param min_distance: frames differ at least by so much, A, see :mod:`aiida_alpot.worker.frames.thin`; ``None``: any.
    :param max_frames: at most so many, those farthest from one another; ``None``: any.
    :raises ValueError: for values out of range.
    """

    min_steps: int = 0
    min_distance: float | None = None
    max_frames: int | None = None

    def __post_init__(self) -> None:
        integer('keep.min_steps', self.min_steps, 0)
        if self.min_distance is not None:
            number('keep.min_distance', self.min_distance, 0.0)
        if self.max_frames is not None:
            integer('keep.max_frames', self.max_frames, 1)


@dataclass(frozen=True, eq=False)
class Thinned:
    """What is kept.

    :param kept: indices of the frames, ascending, shape (k,).
    :param counts: by lineage ``n_sampled``, and of these ``n_repeated``, ``n_known``, ``n_correlated`` and ``n_kept``,
        which add up to it; and ``n_uncertain`` of those that are neither repeated nor known.
    """

    kept: np.ndarray
    counts: Mapping[str, Mapping[str, int]]


def thin(
    store: FrameStore,
    settings: ThinSettings,
    is_known: Callable[[np.ndarray], np.ndarray] | None = None,
    dynamics: Sequence[str] = DYNAMICS,
) -> Thinned:
    """Choose from the frames of trajectories, each the frames of one lineage.

    A frame that is the same structure as one before it, or the same step of the same dynamics (which a run repeats that
    goes on from a restart file), is repeated: the first counts. Of the others, in each trajectory, uncertain frames go
    first, those with the largest expected error before others.

    :param is_known: whether frames are known already, by their digests, shape (n, 32).
    :param dynamics: origins whose steps count on.
    """
    repeated = _repeated(store, dynamics)
    known = ~repeated & (is_known(store.digests()) if is_known else np.zeros(len(store), dtype=bool))
    lineages = store.column('lineage')
    moves = np.isin(store.column('origin'), list(dynamics))
    order = _priority(store)
    uncertain = _uncertain(store)
    kept = np.zeros(len(store), dtype=bool)
    counts = {}
    for lineage in dict.fromkeys(lineages.tolist()):
        own = lineages == lineage
        wanted = order[(own & ~repeated & ~known)[order]]
        chosen = _thinned(store, wanted, settings, moves)
        kept[chosen] = True
        counts[str(lineage)] = {
            'n_sampled': int(own.sum()),
            'n_repeated': int((own & repeated).sum()),
            'n_known': int((own & known).sum()),
            'n_correlated': len(wanted) - len(chosen),
            'n_kept': len(chosen),
            'n_uncertain': int(uncertain[wanted].sum()),
        }
    return Thinned(np.flatnonzero(kept), counts)


def _repeated(store: FrameStore, dynamics: Sequence[str]) -> np.ndarray:
    """Whether a frame comes again, shape (n,)."""
    n = len(store)
    repeated = first_of_equals(store.digests(), np.zeros(n, dtype=int)) != np.arange(n) if n else np.zeros(0, bool)
    seen: set[tuple[str, int]] = set()
    columns = (store.column('lineage').tolist(), store.column('origin').tolist(), store.metadata('step'))
    for index, (lineage, origin, step) in enumerate(zip(*columns, strict=True)):
        if origin in dynamics and step is not None and not repeated[index]:
            repeated[index] = (lineage, step) in seen
            seen.add((lineage, step))
    return repeated


def _uncertain(store: FrameStore) -> np.ndarray:
    """Whether the error of a frame was expected to be beyond the bound, shape (n,)."""
    marks = zip(store.metadata('why'), store.metadata('uncertain'), strict=True)
    return np.array([why == UNCERTAIN or mark is True for why, mark in marks], dtype=bool)


def _priority(store: FrameStore) -> np.ndarray:
    """Indices of the frames: uncertain ones first, by expected error, then the others as they come; shape (n,)."""
    errors = store.metadata('expected_force_error')
    ranks = [
        (0, -(error or 0.0), index) if is_uncertain else (1, 0.0, index)
        for index, (is_uncertain, error) in enumerate(zip(_uncertain(store).tolist(), errors, strict=True))
    ]
    return np.array([index for _, _, index in sorted(ranks)], dtype=np.int64)


def _thinned(store: FrameStore, wanted: np.ndarray, settings: ThinSettings, moves: np.ndarray) -> np.ndarray:
    """What is left of the frames of a trajectory, given in their order of priority."""
    if settings.min_steps:
        wanted = _apart(wanted, store.metadata('step'), settings.min_steps, moves)
    if settings.min_distance is None and (settings.max_frames is None or len(wanted) <= settings.max_frames):
        return wanted
    frames = list(store.select(wanted.tolist()))
    return wanted[farthest(frames, settings.min_distance or 0.0, settings.max_frames)]


def _apart(wanted: np.ndarray, steps: Sequence[int | None], least: int, moves: np.ndarray) -> np.ndarray:
    """Frames that are so many steps from all that were taken before them."""
    chosen: list[int] = []
    taken: list[int] = []
    for index in wanted.tolist():
        step = steps[index]
        if moves[index] and step is not None:
            if any(abs(step - other) < least for other in taken):
                continue
            taken.append(step)
        chosen.append(index)
    return np.array(chosen, dtype=np.int64)


def farthest(frames: Sequence[Frame], min_distance: float = 0.0, max_frames: int | None = None) -> list[int]:
    """Indices of frames that are far from one another: the first, then always the one farthest from all before.

    :param min_distance: no nearer than this, A; a frame at distance zero is never taken.
    :param max_frames: at most so many.
    """
    if not frames:
        return []
    places = _Places.of(frames)
    chosen, nearest = [0], places.distances(0)
    while max_frames is None or len(chosen) < max_frames:
        index = int(np.argmax(nearest))
        if not nearest[index] > 0.0 or nearest[index] < min_distance:
            break
        chosen.append(index)
        nearest = np.minimum(nearest, places.distances(index))
    return chosen


def distance(left: Frame, right: Frame) -> float:
    """How far the atoms have moved from one frame of a trajectory to another, A; infinite for other atoms."""
    return float(_Places.of([left, right]).distances(0)[1])


@dataclass(frozen=True, eq=False)
class _Places:
    """Where the atoms of n frames are.

    :param kinds: frames of one kind have the same atoms in the same order, shape (n,).
    :param scaled: of each frame, shape (N, 3).
    :param cells: shape (n, 3, 3), A.
    """

    kinds: np.ndarray
    scaled: Sequence[np.ndarray]
    cells: np.ndarray
    pbc: np.ndarray

    @classmethod
    def of(cls, frames: Sequence[Frame]) -> _Places:
        known: dict[tuple[bytes, bytes], int] = {}
        kinds = [known.setdefault((frame.numbers.tobytes(), frame.pbc.tobytes()), len(known)) for frame in frames]
        cells = np.array([complete_cell(frame.cell, frame.pbc) for frame in frames])
        scaled = [frame.positions @ np.linalg.inv(cell) for frame, cell in zip(frames, cells, strict=True)]
        return cls(np.array(kinds), scaled, cells, np.array([frame.pbc for frame in frames]))

    def distances(self, index: int) -> np.ndarray:
        """From one frame to all, shape (n,), A."""
        found = np.full(len(self.kinds), inf)
        alike = np.flatnonzero(self.kinds == self.kinds[index])
        here, pbc, cells = self.scaled[index], self.pbc[index], self.cells[alike]
        moved = np.stack([self.scaled[i] for i in alike.tolist()]) - here
        moved -= np.where(pbc, np.rint(moved), 0.0)
        moved -= moved.mean(axis=1, keepdims=True)
        moved -= np.where(pbc, np.rint(moved), 0.0)
        middle = (cells + self.cells[index]) / 2.0
        vectors = np.einsum('nka,nab->nkb', moved, middle)
        change = np.linalg.inv(self.cells[index]) @ cells
        strain = (change + change.transpose(0, 2, 1)) / 2.0 - np.eye(3)
        found[alike] = np.sqrt(
            np.square(vectors).sum(axis=2).mean(axis=1) + NEIGHBOURS**2 * np.square(strain).sum(axis=(1, 2))
        )
        found[index] = 0.0
        return found
