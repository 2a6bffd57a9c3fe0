"""Calculation functions between data sets and AiiDA's own structures and trajectories: what they make has a creator."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from aiida import orm
from aiida.engine import calcfunction
from ase.data import atomic_numbers

from aiida_alpot.data.pes import PESData
from aiida_alpot.data.structures import frame_to_structure, structure_to_frame
from aiida_alpot.worker.frames import Frame


@calcfunction
def select_frames(dataset: PESData, indices: orm.List) -> PESData:
    """Data set of some frames of another, in the order of ``indices``, in one shard of its own."""
    return dataset.select(checked_indices(indices.get_list(), len(dataset)))


@calcfunction
def frames_from_trajectory(
    trajectory: orm.TrajectoryData,
    structure: orm.StructureData | None = None,
    pbc: orm.List | None = None,
    origin: orm.Str | None = None,
) -> PESData:
    """Frames of every step of a trajectory, without labels, all of one lineage.

    The lineage is that of ``structure`` where it is given, otherwise that of the first step. The metadata of a frame
    hold ``step`` and, where the trajectory has times, ``time_ps``.

    :param structure: a structure with the sites of the trajectory; needed where the trajectory names kinds (``Fe1``)
        and not elements, and says for old trajectories which axes are periodic.
    :param pbc: three booleans, for a trajectory that was stored without them and has no ``structure``.
    :param origin: origin of the frames, by default ``trajectory``.
    :raises ValueError: for names that are no elements, and where it is not known which axes are periodic.
    """
    given = None if pbc is None else pbc.get_list()
    return PESData(frames=trajectory_frames(trajectory, structure, given, origin.value if origin else 'trajectory'))


@calcfunction
def frames_to_structures(dataset: PESData, indices: orm.List) -> dict[str, orm.StructureData]:
    """Structures of some frames, as outputs ``frame_<index>``; labels stay behind.

    :raises ValueError: for a frame without a three-dimensional cell, which ``StructureData`` needs.
    """
    chosen = checked_indices(indices.get_list(), len(dataset))
    with dataset.open_store() as store:
        frames = store.select(chosen)
        return {f'frame_{index}': frame_to_structure(frame) for index, frame in zip(chosen, frames, strict=True)}


@calcfunction
def frames_to_trajectory(dataset: PESData, indices: orm.List) -> orm.TrajectoryData:
    """Trajectory whose steps are some frames, with their indices as step numbers; labels stay behind.

    :raises ValueError: where the frames differ in the order of their species or in periodicity.
    """
    chosen = checked_indices(indices.get_list(), len(dataset))
    with dataset.open_store() as store:
        return _to_trajectory(chosen, list(store.select(chosen)))


def checked_indices(indices: Sequence[Any], n_frames: int) -> list[int]:
    """Indices of frames.

    :raises ValueError: for none, and for what is not a whole number from 0 to ``n_frames - 1``.
    """
    wrong = [index for index in indices if isinstance(index, bool) or not isinstance(index, int)]
    wrong = wrong or [index for index in indices if not 0 <= index < n_frames]
    if wrong or not indices:
        raise ValueError(
            f'`indices` must be whole numbers from 0 to {n_frames - 1}, at least one; found {wrong[:5] or "none"}'
        )
    return list(indices)


def trajectory_frames(
    trajectory: orm.TrajectoryData, structure: orm.StructureData | None, pbc: Sequence[bool] | None, origin: str
) -> Iterator[Frame]:
    """Frames of every step, see :func:`frames_from_trajectory`."""
    numbers = _trajectory_numbers(trajectory, structure)
    periodic = _trajectory_pbc(trajectory, structure, pbc)
    positions, cells = trajectory.get_positions(), trajectory.get_cells()
    steps, times = trajectory.get_stepids(), trajectory.get_times()
    lineage = '' if structure is None else structure_to_frame(structure).lineage
    for k, step in enumerate(steps.tolist()):
        metadata = {'step': step} if times is None else {'step': step, 'time_ps': float(times[k])}
        cell = np.zeros((3, 3)) if cells is None else cells[k]
        frame = Frame(numbers, positions[k], cell, periodic, origin=origin, metadata=metadata)
        lineage = lineage or frame.frame_id[:16]
        yield frame.replace(lineage=lineage)


def _trajectory_numbers(trajectory: orm.TrajectoryData, structure: orm.StructureData | None) -> np.ndarray:
    names = list(trajectory.symbols)
    if structure is None:
        unknown = sorted({name for name in names if not atomic_numbers.get(name)})
        if unknown:
            raise ValueError(
                f'the trajectory has sites named {", ".join(unknown)}, which are no elements: give the `structure` '
                'that says what they are'
            )
        return np.array([atomic_numbers[name] for name in names])
    kinds = [site.kind_name for site in structure.sites]
    if kinds != names:
        raise ValueError(
            f'the sites of the structure, {_short(kinds)}, are not those of the trajectory, {_short(names)}'
        )
    return structure_to_frame(structure).numbers


def _trajectory_pbc(
    trajectory: orm.TrajectoryData, structure: orm.StructureData | None, pbc: Sequence[bool] | None
) -> np.ndarray:
    if pbc is not None and (len(pbc) != 3 or not all(isinstance(flag, bool) for flag in pbc)):
        raise ValueError(f'`pbc` must be three booleans, found {list(pbc)}')
    candidates = {
        'the trajectory': trajectory.pbc,
        '`structure`': None if structure is None else structure.pbc,
        '`pbc`': pbc,
    }
    said = {source: tuple(map(bool, flags)) for source, flags in candidates.items() if flags is not None}
    if len(set(said.values())) > 1:
        raise ValueError(f'which axes are periodic is contradictory: {said}')
    if not said:
        raise ValueError(
            'the trajectory does not say which axes are periodic, as it was stored before AiiDA 2.8: give `pbc`, three '
            'booleans, or the `structure`'
        )
    return np.array(next(iter(said.values())))


def _to_trajectory(indices: list[int], frames: list[Frame]) -> orm.TrajectoryData:
    first = frames[0]
    for index, frame in zip(indices, frames, strict=True):
        if not np.array_equal(frame.numbers, first.numbers) or not np.array_equal(frame.pbc, first.pbc):
            raise ValueError(
                f'frame {index} is {frame.formula} with pbc {frame.pbc.tolist()}, frame {indices[0]} is '
                f'{first.formula} with pbc {first.pbc.tolist()}: the steps of a trajectory must have the same species '
                'in the same order and the same periodicity; choose frames that have'
            )
    cells = np.array([frame.cell for frame in frames])
    trajectory = orm.TrajectoryData()
    trajectory.set_trajectory(
        first.to_atoms().get_chemical_symbols(),
        np.array([frame.positions for frame in frames]),
        stepids=np.array(indices, dtype=int),
        cells=cells if cells.any() else None,
        pbc=[bool(flag) for flag in first.pbc],
    )
    return trajectory


def _short(names: Sequence[str]) -> str:
    return ' '.join(names[:10]) + (' ...' if len(names) > 10 else '')
