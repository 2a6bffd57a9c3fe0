"""Frames in batches of flat arrays, as a model takes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from .frame import PROPERTIES, STRUCTURE
from .shard import COLUMNS, is_per_atom
from .store import FrameStore

if TYPE_CHECKING:
    import torch

BATCH_ATOMS = 2**14
"""Size of a batch where nothing is said about it, in atoms."""


@dataclass(frozen=True)
class Batch:
    """Some frames as arrays; of ``n`` frames with ``N`` atoms in all.

    :param index: place of each frame in the store, shape (n,).
    :param offsets: frame ``i`` owns the atoms ``offsets[i]:offsets[i + 1]``, shape (n + 1,).
    :param numbers: atomic numbers, shape (N,), int32.
    :param positions: shape (N, 3), A.
    :param cell: lattice vectors as rows, shape (n, 3, 3), A.
    :param pbc: shape (n, 3).
    :param labels: by property, rows of frames or atoms as in :meth:`FrameStore.column`; NaN where a frame has none.
    :param has: by property, which frames have it, shape (n,).
    """

    index: np.ndarray
    offsets: np.ndarray
    numbers: np.ndarray
    positions: np.ndarray
    cell: np.ndarray
    pbc: np.ndarray
    labels: dict[str, np.ndarray]
    has: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.index)

    @property
    def frame_of_atom(self) -> np.ndarray:
        """Which frame of the batch each atom belongs to, shape (N,)."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    def to_torch(self, device: str = 'cpu', dtype: torch.dtype | None = None) -> dict[str, Any]:
        """The batch as tensors: its fields and ``frame_of_atom``, labels by property and ``has_<property>``.

        On the CPU and without ``dtype`` the tensors share the memory of the arrays.

        :param dtype: floating-point type; by default float64, as stored.
        """
        import torch

        arrays = {name: getattr(self, name) for name in ('index', 'offsets', *STRUCTURE, 'frame_of_atom')}
        arrays['numbers'] = arrays['numbers'].astype(np.int64)
        arrays |= self.labels | {f'has_{name}': mask for name, mask in self.has.items()}
        tensors = {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}
        if dtype is None:
            return tensors
        return {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


def batches(
    store: FrameStore,
    *,
    max_atoms: int = BATCH_ATOMS,
    max_frames: int | None = None,
    indices: Sequence[int] | np.ndarray | None = None,
    seed: int | None = None,
    properties: Sequence[str] | None = None,
) -> Iterator[Batch]:
    """The frames of a store in batches, each read when it is due.

    :param max_atoms: a batch holds at most this many atoms, and always at least one frame.
    :param max_frames: a batch holds at most this many frames.
    :param indices: only these frames, in this order; by default all.
    :param seed: shuffle the frames by this seed; by default they keep their order.
    :param properties: labels to read; by default those that some frame of the store has.
    :raises ValueError: for bounds below one and unknown properties.
    """
    if max_atoms < 1 or (max_frames is not None and max_frames < 1):
        raise ValueError(f'a batch holds at least one frame, found max_atoms={max_atoms}, max_frames={max_frames}')
    if properties is None:
        properties = [name for name in PROPERTIES if store.has(name).any()]
    unknown = sorted(set(properties) - set(PROPERTIES))
    if unknown:
        raise ValueError(f'there is no property {unknown}, only {", ".join(PROPERTIES)}')
    order = np.arange(len(store)) if indices is None else np.asarray(indices, dtype=np.int64)
    if len(order) and not (-len(store) <= order.min() and order.max() < len(store)):
        raise IndexError(f'frame {order.min()} or {order.max()} of a store of {len(store)}')
    order = np.where(order < 0, order + len(store), order)
    if seed is not None:
        order = np.random.default_rng(seed).permutation(order)
    sizes = np.diff(store.offsets)[order]
    for start, stop in _bounds(sizes, max_atoms, max_frames):
        yield _read(store, order[start:stop], properties)


def _bounds(sizes: np.ndarray, max_atoms: int, max_frames: int | None) -> Iterator[tuple[int, int]]:
    ends, start = np.cumsum(sizes), 0
    while start < len(sizes):
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + max_atoms, side='right')))
        stop = stop if max_frames is None else min(stop, start + max_frames)
        yield start, stop
        start = stop


def _read(store: FrameStore, index: np.ndarray, properties: Sequence[str]) -> Batch:
    """Frames as one batch; those that follow one another in the store are read together."""
    columns: dict[str, list[np.ndarray]] = {name: [] for name in (*STRUCTURE, *properties)}
    has: dict[str, list[np.ndarray]] = {name: [] for name in properties}
    sizes = []
    for _, run in groupby(enumerate(index.tolist()), key=lambda pair: pair[1] - pair[0]):
        frames = [frame for _, frame in run]
        for shard, start, stop in store.ranges(frames[0], frames[-1] + 1):
            sizes.append(np.diff(shard.offsets[start : stop + 1]))
            rows = shard.rows(columns, start, stop)
            for name, parts in columns.items():
                n_rows = int(sizes[-1].sum()) if is_per_atom(name) else stop - start
                parts.append(rows[name] if name in rows else _absent(name, n_rows))
            for name in properties:
                has[name].append(shard.mask(name, start, stop))
    arrays = {name: parts[0] if len(parts) == 1 else np.concatenate(parts) for name, parts in columns.items()}
    return Batch(
        index=index,
        offsets=np.concatenate([[0], np.cumsum(np.concatenate(sizes))]),
        numbers=arrays['numbers'].astype(np.int32),
        positions=arrays['positions'],
        cell=arrays['cell'],
        pbc=arrays['pbc'].astype(np.bool_),
        labels={name: arrays[name] for name in properties},
        has={name: np.concatenate(parts) for name, parts in has.items()},
    )


def _absent(name: str, rows: int) -> np.ndarray:
    return np.full((rows, *COLUMNS[name][1]), np.nan)
