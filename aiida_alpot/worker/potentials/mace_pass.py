"""A forward and a backward pass of a MACE model: energies, forces, virials, and what representations are made of."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from aiida_alpot.worker.acquisition.representations.force_features import softened_norms
from aiida_alpot.worker.acquisition.representations.last_layer import last_linear, scalars
from aiida_alpot.worker.acquisition.representations.recording import (
    EMBEDDING_GRADIENT,
    FORCE_DERIVATIVES,
    LAST_LAYER,
    LAST_LAYER_GRADIENT,
    Recording,
)
from aiida_alpot.worker.potentials.mace_contraction import as_mace_does

Graph = dict[str, torch.Tensor]


@dataclass(frozen=True, eq=False)
class Output:
    """What a pass over n structures with N atoms gives.

    :param energy: shape (n,), eV.
    :param forces: shape (N, 3), eV/A.
    :param virial: minus the derivative of the energy by the strain, shape (n, 3, 3), eV.
    :param atomic_energies: shape (N,), eV.
    """

    energy: torch.Tensor
    forces: torch.Tensor
    virial: torch.Tensor
    atomic_energies: torch.Tensor


class _Taps:
    """What is caught inside of the model while it runs."""

    def __init__(self) -> None:
        self.embedding: torch.Tensor | None = None
        self.last_layer: list[torch.Tensor] = []

    def catch_embedding(self, _module: torch.nn.Module, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        """Make the embedding a variable of its own.

        What flows on is a copy: some models add to the embedding in place, which a leaf of the graph does not allow.
        """
        self.embedding = output.detach().requires_grad_(True)
        return self.embedding.clone()

    def catch_input(self, linear: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        self.last_layer.append(scalars(linear, inputs[0]))


@contextmanager
def _tapped(model: torch.nn.Module, needs: frozenset[str]) -> Iterator[_Taps]:
    taps, handles = _Taps(), []
    if needs & {EMBEDDING_GRADIENT, FORCE_DERIVATIVES}:
        handles.append(model.node_embedding.register_forward_hook(taps.catch_embedding))
    if needs & {LAST_LAYER, LAST_LAYER_GRADIENT}:
        for readout in model.readouts:
            handles.append(last_linear(readout).register_forward_pre_hook(taps.catch_input))
    try:
        yield taps
    finally:
        for handle in handles:
            handle.remove()


def run(
    model: torch.nn.Module, graph: Graph, head: int, needs: frozenset[str] = frozenset()
) -> tuple[Output, Recording]:
    """Evaluate a batch and record what is asked for, with one backward pass in all.

    :param graph: as MACE takes it, without heads; it is not changed.
    :param head: number of the head that is read.
    :param needs: of :mod:`~aiida_alpot.worker.acquisition.representations.recording`; derivatives of the forces take
        another backward pass, through the first.
    """
    twice = FORCE_DERIVATIVES in needs
    with _tapped(model, needs) as taps, as_mace_does() if twice else nullcontext():
        # The model differentiates by itself, but not by the embedding: here it only gives the energy.
        data = _with_head(graph, head)
        out = model(data, compute_force=False, compute_displacement=True)
    variables = [graph['positions'], out['displacement']]
    if taps.embedding is not None:
        variables.append(taps.embedding)
    keep = LAST_LAYER_GRADIENT in needs
    gradients = _gradients(out['energy'].sum(), variables, create_graph=twice, retain_graph=twice or keep)
    forces = -gradients[0]
    output = Output(*(t.detach() for t in (out['energy'], forces, -gradients[1], out['node_energy'])))
    recording = Recording(
        model=model,
        numbers=model.atomic_numbers.cpu().numpy(),
        structure=graph['batch'],
        species=graph['node_attrs'].argmax(dim=1),
        n_structures=len(graph['ptr']) - 1,
        forces=output.forces,
        node_features=out['node_feats'].detach(),
        energy_alone=partial(energy_alone, model, graph, head),
        embedding_gradient=gradients[2].detach() if taps.embedding is not None else None,
        last_layer=tuple(tensor.detach() for tensor in taps.last_layer),
        embedding_force_gradient=_force_gradient(forces, graph, taps.embedding, keep) if twice else None,
        last_layer_gradient=partial(_combination_gradient, taps.last_layer, graph['positions'])
        if LAST_LAYER_GRADIENT in needs
        else None,
    )
    return output, recording


def _gradients(
    value: torch.Tensor, variables: list[torch.Tensor], create_graph: bool = False, retain_graph: bool | None = None
) -> tuple[torch.Tensor, ...]:
    """Derivatives of a sum; zero where a variable does not enter, as for isolated atoms."""
    if not value.requires_grad:
        return tuple(torch.zeros_like(variable) for variable in variables)
    return torch.autograd.grad(
        value,
        variables,
        create_graph=create_graph,
        retain_graph=retain_graph,
        allow_unused=True,
        materialize_grads=True,
    )


def _combination_gradient(
    last_layer: list[torch.Tensor], positions: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """Derivative by the positions of a combination of last-layer features, shape (d,) -> (N, 3)."""
    combination = (torch.cat(last_layer, dim=1) @ weights).sum()
    return _gradients(combination, [positions], retain_graph=True)[0]


def _force_gradient(
    forces: torch.Tensor, graph: Graph, embedding: torch.Tensor | None, retain_graph: bool
) -> torch.Tensor:
    assert embedding is not None
    norms = softened_norms(forces, graph['batch'], len(graph['ptr']) - 1)
    return _gradients(norms.sum(), [embedding], retain_graph=retain_graph)[0]


def _with_head(graph: Graph, head: int) -> Graph:
    """A dictionary of its own for the model, which writes strained positions into it."""
    n_structures = len(graph['ptr']) - 1
    return {**graph, 'head': torch.full((n_structures,), head, device=graph['ptr'].device)}


def energy_alone(model: torch.nn.Module, graph: Graph, head: int, index: int) -> torch.Tensor:
    """Energy of one structure of a batch, evaluated by itself; a scalar with its graph, eV."""
    out = model(_with_head(one_structure(graph, index), head), compute_force=False)
    return out['energy'].sum()


def one_structure(graph: Graph, index: int) -> Graph:
    """The graph of one structure of a batch."""
    start, stop = graph['ptr'][index : index + 2].tolist()
    edges = (graph['edge_index'][0] >= start) & (graph['edge_index'][0] < stop)
    part = {name: graph[name][start:stop] for name in ('positions', 'node_attrs')}
    part |= {name: graph[name][edges] for name in ('unit_shifts', 'shifts')}
    part['edge_index'] = graph['edge_index'][:, edges] - start
    part['cell'] = graph['cell'][3 * index : 3 * index + 3]
    part['batch'] = torch.zeros_like(graph['batch'][start:stop])
    part['ptr'] = graph['ptr'].new_tensor([0, stop - start])
    return {name: tensor.detach() for name, tensor in part.items()}
