"""Committees of MACE models, evaluated in batches on one shared graph.

The neighbour list and the tensors of a batch are made once and used by all members; no ASE calculator is involved.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mace  # noqa: F401 -- before e3nn, whose constants cannot be loaded by a recent torch otherwise
import numpy as np
import torch
from ase.data import chemical_symbols

from aiida_alpot.worker.frames.frame import Frame
from aiida_alpot.worker.potentials.committee import Committee
from aiida_alpot.worker.potentials.neighbours import neighbour_edges
from aiida_alpot.worker.potentials.predictions import Predictions, stress_from_virial

MODEL_CLASSES = ('MACE', 'ScaleShiftMACE')


class MACECommittee(Committee):
    """MACE models with the same elements and the same cutoff.

    :param models: one a member; they are moved to the device and the precision, and their parameters are frozen.
    :raises ValueError: for models of another kind, or that do not go together.
    """

    def __init__(
        self,
        models: Sequence[torch.nn.Module],
        *,
        device: str = 'cpu',
        dtype: str = 'float64',
        batch_size: int = 32,
    ) -> None:
        for index, model in enumerate(models):
            _check_model(model, f'member {index}')
        numbers = _common([model.atomic_numbers.tolist() for model in models], 'elements')
        cutoff = _common([float(model.r_max) for model in models], 'cutoffs')
        super().__init__([chemical_symbols[number] for number in numbers], cutoff, len(models), batch_size)
        self._device = torch.device(device)
        self._dtype = getattr(torch, dtype)
        self._models = [
            model.to(device=self._device, dtype=self._dtype).eval().requires_grad_(False) for model in models
        ]
        self._heads = [_head(model.heads, index) for index, model in enumerate(models)]
        self._row_of_number = np.full(119, -1, dtype=np.int64)
        self._row_of_number[numbers] = np.arange(len(numbers))
        self._n_elements = len(numbers)

    @classmethod
    def from_files(
        cls, paths: Sequence[Path], *, device: str = 'cpu', dtype: str = 'float64', batch_size: int = 32
    ) -> MACECommittee:
        """Committee of the models in ``.model`` files.

        **Trust**: MACE stores models as pickles, and loading a pickle can run any code. Load only files you trust.
        """
        if torch.device(device).type == 'cuda' and not torch.cuda.is_available():
            raise ValueError(
                f'`device` is {device!r}, but torch finds no such device here: use "cpu" or a CUDA build of torch'
            )
        models = [torch.load(path, map_location=device, weights_only=False) for path in paths]
        for path, model in zip(paths, models, strict=True):
            _check_model(model, str(path))
        return cls(models, device=device, dtype=dtype, batch_size=batch_size)

    def _evaluate_batch(self, frames: Sequence[Frame], members: tuple[int, ...]) -> Predictions:
        graph, offsets = self._graph(frames)
        rows = [self._evaluate_member(graph, member) for member in members]
        energy, forces, virial, atomic = (np.stack([row[k] for row in rows]) for k in range(4))
        return Predictions(energy, forces, stress_from_virial(virial, frames), offsets, virial, atomic)

    def _evaluate_member(self, graph: dict[str, torch.Tensor], member: int) -> tuple[np.ndarray, ...]:
        """Energy (n,), forces (N, 3), virial (n, 3, 3) and energies of the atoms (N,) by one member."""
        n_graphs = len(graph['ptr']) - 1
        # The model writes strained positions into the dictionary it gets: give it its own.
        data = {**graph, 'head': torch.full((n_graphs,), self._heads[member], device=self._device)}
        out: dict[str, Any] = self._models[member](data, compute_force=True, compute_virials=True, compute_stress=False)
        tensors = (out['energy'], out['forces'], out['virials'], out['node_energy'])
        return tuple(tensor.detach().cpu().numpy().astype(np.float64) for tensor in tensors)

    def _graph(self, frames: Sequence[Frame]) -> tuple[dict[str, torch.Tensor], np.ndarray]:
        """The input of the models, shared by all members, and the offsets of the frames' atoms, shape (n + 1,)."""
        offsets = np.concatenate([[0], np.cumsum([len(frame) for frame in frames])])
        edges, shifts, cells = zip(*(neighbour_edges(frame, self.cutoff) for frame in frames), strict=True)
        unit_shifts = np.concatenate(shifts).astype(np.float64)
        vectors = np.concatenate([shift @ cell for shift, cell in zip(shifts, cells, strict=True)])
        rows = self._row_of_number[np.concatenate([frame.numbers for frame in frames])]
        return {
            'positions': self._tensor(np.concatenate([frame.positions for frame in frames])),
            'node_attrs': self._tensor(np.eye(self._n_elements)[rows]),
            'edge_index': self._index(
                np.concatenate([e + start for e, start in zip(edges, offsets, strict=False)], axis=1)
            ),
            'unit_shifts': self._tensor(unit_shifts),
            'shifts': self._tensor(vectors),
            'cell': self._tensor(np.concatenate(cells)),
            'batch': self._index(np.repeat(np.arange(len(frames)), np.diff(offsets))),
            'ptr': self._index(offsets),
        }, offsets

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.as_tensor(array, dtype=self._dtype, device=self._device)

    def _index(self, array: np.ndarray) -> torch.Tensor:
        return torch.as_tensor(array, dtype=torch.int64, device=self._device)


def _check_model(model: Any, name: str) -> None:
    """Refuse what this module would evaluate wrongly or not at all."""
    kind = type(model).__name__
    if kind not in MODEL_CLASSES:
        raise ValueError(
            f'{name} is a {kind}, expected one of {", ".join(MODEL_CLASSES)}: give the .model file that MACE writes, '
            'neither its compiled form nor a checkpoint'
        )
    if hasattr(model, 'joint_embedding'):
        raise ValueError(
            f'{name} depends on charge, spin or other global inputs, which frames do not carry: it cannot be used'
        )


def _common(values: Sequence[Any], name: str) -> Any:
    if any(value != values[0] for value in values):
        raise ValueError(f'the members of a committee have different {name}, {values}: train them alike')
    return values[0]


def _head(heads: Sequence[str], member: int) -> int:
    """The head to read: the only one, or the one that is called ``default``."""
    if len(heads) == 1:
        return 0
    named = [index for index, head in enumerate(heads) if head.lower() == 'default']
    if not named:
        raise ValueError(
            f'member {member} has the heads {list(heads)} and none is called "default": '
            'extract one with mace_select_head'
        )
    return named[0]
