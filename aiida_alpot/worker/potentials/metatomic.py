"""Committees of metatomic models (``.pt`` files, as metatrain exports them), evaluated in batches."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from ase.data import chemical_symbols
from metatensor.torch import Labels, TensorBlock
from metatomic.torch import (
    ModelEvaluationOptions,
    ModelOutput,
    System,
    load_atomistic_model,
    pick_output,
    register_autograd_neighbors,
)

from aiida_alpot.worker.acquisition.representations import Feature
from aiida_alpot.worker.frames.frame import Frame
from aiida_alpot.worker.potentials.batches import Cost
from aiida_alpot.worker.potentials.committee import Committee
from aiida_alpot.worker.potentials.following import Follower, PairFollower
from aiida_alpot.worker.potentials.memory import check_device, memory_for_batches
from aiida_alpot.worker.potentials.neighbours import Neighbourhood
from aiida_alpot.worker.potentials.predictions import Predictions, stress_from_virial

COST = Cost(per_atom=2.0**16, per_edge=2.0**16)
"""The inside of these models is not known: what a pass of a transformer over neighbours takes. Batches that do not fit
are halved."""

UNCERTAINTY = 'energy_uncertainty'
LAST_LAYER = 'mtt::aux::energy_last_layer_features'
_KINDS = {'last_layer': 'system', 'last_layer_per_atom': 'atom'}
_SHIFTS = ('cell_shift_a', 'cell_shift_b', 'cell_shift_c')


class MetatomicCommittee(Committee):
    """Metatomic models with the same elements and the same cutoff, each in its own precision.

    Where all members state an uncertainty of their energy (metatrain's LLPR), it is part of the predictions.

    :param models: exported models, one a member.
    :raises ValueError: for models without an energy, or that do not go together.
    """

    kind = 'these metatomic models'

    def __init__(
        self,
        models: Sequence[Any],
        *,
        device: str = 'cpu',
        batch_size: int | None = None,
        memory: float | None = None,
    ) -> None:
        self._device = torch.device(device)
        self._members = [_Member(model, index, self._device) for index, model in enumerate(models)]
        first = self._members[0]
        for name in ('numbers', 'cutoff'):
            values = [getattr(member, name) for member in self._members]
            if any(value != values[0] for value in values):
                raise ValueError(f'the members of a committee have different {name}, {values}: train them alike')
        symbols = [chemical_symbols[number] for number in first.numbers]
        super().__init__(symbols, first.cutoff, len(models), batch_size, memory)

    @classmethod
    def from_files(
        cls, paths: Sequence[Path], *, device: str = 'cpu', batch_size: int | None = None, memory: float | None = None
    ) -> MetatomicCommittee:
        """Committee of the models in ``.pt`` files.

        **Trust**: such a file is a program. Load only files you trust.

        :raises ValueError: for a file that holds no such model, or one that needs what is not installed.
        """
        check_device(device)
        models = []
        for path in paths:
            missing = import_extensions(path)
            try:
                models.append(load_atomistic_model(str(path)))
            except (RuntimeError, ValueError) as error:
                if missing:
                    raise ValueError(
                        f'{path} computes with {", ".join(missing)}, which is not installed here: install it, e.g. by '
                        '`pip install "metatrain[soap-bpnn]"` for a SOAP-BPNN'
                    ) from error
                raise ValueError(
                    f'{path} is no metatomic model ({str(error).strip().splitlines()[0]}): give the .pt file that '
                    '"mtt export" writes'
                ) from error
        return cls(models, device=device, batch_size=batch_size, memory=memory)

    def possible_features(self) -> tuple[str, ...]:
        """Last-layer features, where the first member gives them."""
        return tuple(_KINDS) if all(LAST_LAYER in member.outputs for member in self._members) else ()

    @property
    def states_uncertainty(self) -> bool:
        """Whether every member states how uncertain its energy is."""
        return all(UNCERTAINTY in member.outputs for member in self._members)

    def follow(self) -> Follower:
        """A neighbour list that is kept from call to call."""
        return PairFollower(self)

    def _neighbourhood(self, frame: Frame) -> Neighbourhood:
        return Neighbourhood.of(frame, self.cutoff)

    def _memory(self) -> float:
        return memory_for_batches(self._device)

    def _cost_of(self, features: Sequence[Feature]) -> Cost:
        return COST

    def _evaluate_batch(
        self, batch: Sequence[Neighbourhood], members: tuple[int, ...], features: Sequence[Feature]
    ) -> Predictions:
        rows = [
            self._members[member].evaluate(batch, features if place == 0 else ())
            for place, member in enumerate(members)
        ]
        energy, forces, virial = (np.stack([row[name] for row in rows]) for name in ('energy', 'forces', 'virial'))
        has_uncertainty = all(UNCERTAINTY in row for row in rows)
        frames = [structure.frame for structure in batch]
        return Predictions(
            energy,
            forces,
            stress_from_virial(virial, frames),
            offsets=np.concatenate([[0], np.cumsum([len(frame) for frame in frames])]),
            virial=virial,
            energy_uncertainty=np.stack([row[UNCERTAINTY] for row in rows]) if has_uncertainty else None,
            features={feature.name: rows[0][feature.name] for feature in features},
        )


class _Member:
    """One model, on its device."""

    def __init__(self, model: Any, index: int, device: torch.device) -> None:
        capabilities = model.capabilities()
        self.outputs = capabilities.outputs
        if not any(name == 'energy' or name.startswith('energy/') for name in self.outputs):
            raise ValueError(
                f'member {index} gives {", ".join(sorted(self.outputs)) or "nothing"} and no energy: give a potential'
            )
        if device.type not in capabilities.supported_devices:
            raise ValueError(
                f'member {index} runs on {", ".join(capabilities.supported_devices)} only, not on {device.type}'
            )
        self.numbers = sorted(capabilities.atomic_types)
        self._model = model.to(device=device)
        self._lists = model.requested_neighbor_lists()
        self.cutoff = max((o.engine_cutoff('angstrom') for o in self._lists), default=capabilities.interaction_range)
        self._energy = pick_output('energy', self.outputs, None)
        self._device = device
        self._dtype = getattr(torch, capabilities.dtype)

    def evaluate(self, batch: Sequence[Neighbourhood], features: Sequence[Feature]) -> dict[str, np.ndarray]:
        """Energy (n,), forces (N, 3), virial (n, 3, 3) and, if it is given, the uncertainty (n,); features by name.

        One evaluation gives all but features of atoms, which differ from those of frames in their kind of samples.
        """
        systems, positions, strains = zip(*(self._system(structure) for structure in batch), strict=True)
        wanted = {self._energy: ModelOutput(unit='eV', sample_kind='system')}
        if UNCERTAINTY in self.outputs:
            wanted[UNCERTAINTY] = ModelOutput(unit='eV', sample_kind='system')
        kinds = {feature.name: _KINDS[feature.name] for feature in features}
        if 'system' in kinds.values():
            wanted[LAST_LAYER] = ModelOutput(sample_kind='system')
        out = self._run(systems, wanted)
        energy = out[self._energy].block().values[:, 0]
        variables = [*positions, *strains]
        gradients = (
            torch.autograd.grad(energy.sum(), variables, allow_unused=True, materialize_grads=True)
            if energy.requires_grad
            else [torch.zeros_like(variable) for variable in variables]
        )
        strain = torch.stack(list(gradients[len(batch) :]))
        found = {
            'energy': _array(energy),
            'forces': _array(-torch.cat(list(gradients[: len(batch)]))),
            'virial': _array(-(strain + strain.transpose(1, 2)) / 2),
        }
        if UNCERTAINTY in out:
            found[UNCERTAINTY] = _array(out[UNCERTAINTY].block().values[:, 0])
        for name, kind in kinds.items():
            values = out if kind == 'system' else self._run(systems, {LAST_LAYER: ModelOutput(sample_kind='atom')})
            found[name] = _in_order(values[LAST_LAYER].block())
        return found

    def _run(self, systems: Sequence[Any], wanted: dict[str, Any]) -> dict[str, Any]:
        options = ModelEvaluationOptions(length_unit='angstrom', outputs=wanted)
        out: dict[str, Any] = self._model(systems=list(systems), options=options, check_consistency=False)
        return out

    def _system(self, structure: Neighbourhood) -> tuple[Any, torch.Tensor, torch.Tensor]:
        """A structure with its neighbours, and what the energy is differentiated by: positions and strain."""
        frame = structure.frame
        positions = self._tensor(frame.positions).requires_grad_(True)
        strain = torch.eye(3, dtype=self._dtype, device=self._device).requires_grad_(True)
        cell = self._tensor(np.where(frame.pbc[:, None], frame.cell, 0.0))
        types = torch.as_tensor(frame.numbers.copy(), dtype=torch.int32, device=self._device)
        pbc = torch.as_tensor(frame.pbc.copy(), device=self._device)
        system = System(types, positions @ strain, cell @ strain, pbc)
        for options in self._lists:
            neighbours = self._neighbours(structure, options.engine_cutoff('angstrom'), options.full_list)
            register_autograd_neighbors(system, neighbours, check_consistency=False)
            system.add_neighbor_list(options, neighbours)
        return system, positions, strain

    def _neighbours(self, structure: Neighbourhood, cutoff: float, full: bool) -> TensorBlock:
        """Pairs up to a cutoff that may be shorter than the one of the list, each once or in both directions."""
        first, second = structure.edges
        vectors = structure.vectors
        kept = (vectors**2).sum(axis=1) <= cutoff**2
        if not full:
            kept &= (first < second) | ((first == second) & _is_forward(structure.shifts))
        samples = np.column_stack([first, second, structure.shifts])[kept]
        return TensorBlock(
            values=self._tensor(vectors[kept]).reshape(-1, 3, 1),
            samples=Labels(
                ['first_atom', 'second_atom', *_SHIFTS],
                torch.as_tensor(samples, dtype=torch.int32, device=self._device),
            ),
            components=[Labels.range('xyz', 3).to(self._device)],
            properties=Labels.range('distance', 1).to(self._device),
        )

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.tensor(array, dtype=self._dtype, device=self._device)


def import_extensions(path: Path) -> list[str]:
    """Import the packages of which a model uses operations: TorchScript knows them once they are imported.

    :return: those that cannot be imported.
    """
    missing = []
    for extension in _extensions(path):
        # E.g. sphericart/torch/torch-2.13/lib/libsphericart_torch.so is of the package sphericart.torch.
        names = PurePosixPath(extension['path']).parts[:-1]
        while names and not all(name.isidentifier() for name in names):
            names = names[:-1]
        while names:
            with suppress(ImportError):
                import_module('.'.join(names))
                break
            names = names[:-1]
        else:
            missing.append(str(extension['name']))
    return missing


def _extensions(path: Path) -> list[dict[str, str]]:
    """What a model says that it needs, as metatomic writes it; nothing for what is no model."""
    try:
        with zipfile.ZipFile(path) as archive:
            found = [name for name in archive.namelist() if name.endswith('/extra/extensions')]
            listed: list[dict[str, str]] = json.loads(archive.read(found[0])) if found else []
    except (OSError, ValueError, zipfile.BadZipFile):
        return []
    return [extension for extension in listed if extension.get('path')]


def _is_forward(shifts: np.ndarray) -> np.ndarray:
    """Whether the first component that is not zero is positive: one of a translation and its reverse."""
    a, b, c = shifts.T
    return (a > 0) | ((a == 0) & ((b > 0) | ((b == 0) & (c > 0))))


def _in_order(block: Any) -> np.ndarray:
    """Rows in the order of their samples: systems, and their atoms."""
    samples = block.samples.values.cpu().numpy()
    values = block.values.detach().reshape(len(samples), -1).cpu().numpy()
    rows: np.ndarray = values[np.lexsort(samples.T[::-1])]
    return rows


def _array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy().astype(np.float64)
