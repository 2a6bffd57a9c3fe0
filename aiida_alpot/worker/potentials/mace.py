"""Committees of MACE models, evaluated in batches on one shared graph.

The neighbour list and the tensors of a batch are made once and used by all members; no ASE calculator is involved.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import mace  # noqa: F401 -- before e3nn, whose constants cannot be loaded by a recent torch otherwise
import numpy as np
import torch
from ase.data import chemical_symbols

from aiida_alpot.worker.acquisition.representations import REPRESENTATIONS, Feature
from aiida_alpot.worker.acquisition.representations.recording import FORCE_DERIVATIVES
from aiida_alpot.worker.frames.frame import Frame
from aiida_alpot.worker.potentials.batches import Cost
from aiida_alpot.worker.potentials.committee import Committee
from aiida_alpot.worker.potentials.following import Follower
from aiida_alpot.worker.potentials.mace_contraction import speed_up
from aiida_alpot.worker.potentials.mace_following import MACEFollower
from aiida_alpot.worker.potentials.mace_model import check_embedding, check_model, common, memory_cost, single_head
from aiida_alpot.worker.potentials.mace_pass import Graph, run
from aiida_alpot.worker.potentials.memory import check_device, memory_for_batches
from aiida_alpot.worker.potentials.neighbours import Neighbourhood
from aiida_alpot.worker.potentials.predictions import Predictions, stress_from_virial

TWICE_DIFFERENTIATED = 3.0
"""A pass through which is differentiated once more keeps so many times as much."""


class MACECommittee(Committee):
    """MACE models with the same elements and the same cutoff.

    :param models: one a member; they are moved to the device and the precision, and their parameters are frozen.
    :param batch_size: largest number of frames evaluated at once; by default as many as fit.
    :param memory: bytes that a batch may take, by default what :func:`memory_for_batches` finds.
    :raises ValueError: for models of another kind, or that do not go together.
    """

    kind = 'MACE models'

    def __init__(
        self,
        models: Sequence[torch.nn.Module],
        *,
        device: str = 'cpu',
        dtype: str = 'float64',
        batch_size: int | None = None,
        memory: float | None = None,
    ) -> None:
        for index, model in enumerate(models):
            check_model(model, f'member {index}')
        numbers = common([model.atomic_numbers.tolist() for model in models], 'elements')
        cutoff = common([float(model.r_max) for model in models], 'cutoffs')
        super().__init__([chemical_symbols[number] for number in numbers], cutoff, len(models), batch_size, memory)
        self._device = torch.device(device)
        self._dtype = getattr(torch, dtype)
        self._models = [
            model.to(device=self._device, dtype=self._dtype).eval().requires_grad_(False) for model in models
        ]
        for model in self._models:
            speed_up(model)
        self._heads = [single_head(getattr(model, 'heads', ['Default']), index) for index, model in enumerate(models)]
        self._head_tensors = [torch.tensor([head], device=self._device) for head in self._heads]
        self._row_of_number = np.full(119, -1, dtype=np.int64)
        self._row_of_number[numbers] = np.arange(len(numbers))
        self._n_elements = len(numbers)
        self._cost = memory_cost(self._models, self._dtype.itemsize)

    @classmethod
    def from_files(
        cls,
        paths: Sequence[Path],
        *,
        device: str = 'cpu',
        dtype: str = 'float64',
        batch_size: int | None = None,
        memory: float | None = None,
    ) -> MACECommittee:
        """Committee of the models in ``.model`` files.

        **Trust**: MACE stores models as pickles, and loading a pickle can run any code. Load only files you trust.
        """
        check_device(device)
        models = [torch.load(path, map_location=device, weights_only=False) for path in paths]
        for path, model in zip(paths, models, strict=True):
            check_model(model, str(path))
        return cls(models, device=device, dtype=dtype, batch_size=batch_size, memory=memory)

    @property
    def device(self) -> torch.device:
        """Where the models run."""
        return self._device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the models."""
        return self._dtype

    def member(self, index: int) -> tuple[torch.nn.Module, torch.Tensor]:
        """A model, and the head of one structure that is read of it, shape (1,)."""
        return self._models[index], self._head_tensors[index]

    def describe(self, numbers: np.ndarray) -> Graph:
        """The part of the models' input that does not change while one structure moves; positions are the origin.

        :param numbers: atomic numbers that the models know, shape (N,).
        """
        n = len(numbers)
        return {
            'positions': torch.zeros((n, 3), dtype=self._dtype, device=self._device),
            'node_attrs': self._tensor(np.eye(self._n_elements)[self._row_of_number[numbers]]),
            'cell': torch.zeros((3, 3), dtype=self._dtype, device=self._device),
            'batch': torch.zeros(n, dtype=torch.int64, device=self._device),
            'ptr': self._index(np.array([0, n])),
        }

    def follow(self) -> Follower:
        """A neighbour list that is kept from call to call."""
        return MACEFollower(self)

    def possible_features(self) -> tuple[str, ...]:
        """Whatever is made of a pass of a MACE model."""
        return tuple(name for name, kind in REPRESENTATIONS.items() if kind.of_recording is not None)

    def _neighbourhood(self, frame: Frame) -> Neighbourhood:
        return Neighbourhood.of(frame, self.cutoff)

    def _memory(self) -> float:
        return memory_for_batches(self._device)

    def _cost_of(self, features: Sequence[Feature]) -> Cost:
        twice = any(FORCE_DERIVATIVES in feature.representation.needs for feature in features)
        return self._cost.times(TWICE_DIFFERENTIATED) if twice else self._cost

    def _check_features(self, features: Sequence[Feature], member: int) -> None:
        super()._check_features(features, member)
        if any(feature.representation.needs for feature in features):
            check_embedding(self._models[member], f'member {member}')

    def _evaluate_batch(
        self, batch: Sequence[Neighbourhood], members: tuple[int, ...], features: Sequence[Feature]
    ) -> Predictions:
        graph, offsets = self._graph(batch)
        rows = []
        found: dict[str, np.ndarray] = {}
        for place, member in enumerate(members):
            needs = frozenset().union(*(f.representation.needs for f in features)) if place == 0 else frozenset()
            output, recording = run(self._models[member], graph, self._heads[member], needs)
            rows.append([_array(tensor) for tensor in vars(output).values()])
            if place == 0:
                found = {feature.name: feature.of_recording(recording) for feature in features}
            del output, recording
        energy, forces, virial, atomic = (np.stack([row[k] for row in rows]) for k in range(4))
        stress = stress_from_virial(virial, [structure.frame for structure in batch])
        return Predictions(energy, forces, stress, offsets, virial, atomic, features=found)

    def _graph(self, batch: Sequence[Neighbourhood]) -> tuple[Graph, np.ndarray]:
        """The input of the models, shared by all members, and the offsets of the frames' atoms, shape (n + 1,)."""
        frames = [structure.frame for structure in batch]
        offsets = np.concatenate([[0], np.cumsum([len(frame) for frame in frames])])
        vectors = np.concatenate([structure.shifts @ structure.cell for structure in batch])
        edges = [structure.edges + start for structure, start in zip(batch, offsets, strict=False)]
        rows = self._row_of_number[np.concatenate([frame.numbers for frame in frames])]
        return {
            'positions': self._tensor(np.concatenate([frame.positions for frame in frames])),
            'node_attrs': self._tensor(np.eye(self._n_elements)[rows]),
            'edge_index': self._index(np.concatenate(edges, axis=1)),
            'unit_shifts': self._tensor(np.concatenate([structure.shifts for structure in batch])),
            'shifts': self._tensor(vectors),
            'cell': self._tensor(np.concatenate([structure.cell for structure in batch])),
            'batch': self._index(np.repeat(np.arange(len(frames)), np.diff(offsets))),
            'ptr': self._index(offsets),
        }, offsets

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.as_tensor(array, dtype=self._dtype, device=self._device)

    def _index(self, array: np.ndarray) -> torch.Tensor:
        return torch.as_tensor(array, dtype=torch.int64, device=self._device)


def _array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.cpu().numpy().astype(np.float64)
