"""What a pass of a MACE model leaves behind for representations to be made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

EMBEDDING_GRADIENT = 'embedding_gradient'
LAST_LAYER = 'last_layer'
LAST_LAYER_GRADIENT = 'last_layer_gradient'
FORCE_DERIVATIVES = 'force_derivatives'
"""What a pass records only where it is asked to; a representation names what it needs."""


@dataclass(frozen=True, eq=False)
class Recording:
    """One pass over n structures with N atoms by a model with Z species and C channels in its node embedding.

    All tensors lie on the device of the model and have its precision.

    :param model: the model itself.
    :param numbers: atomic number of each row of the embedding, ascending, shape (Z,).
    :param structure: structure of each atom, shape (N,).
    :param species: row of the embedding of each atom, shape (N,).
    :param n_structures: n.
    :param forces: shape (N, 3), eV/A.
    :param node_features: hidden states of all layers, one after the other, shape (N, sum of the layers' dimensions).
    :param energy_alone: total energy of one structure, evaluated by itself, with its graph; a scalar, eV.
    :param embedding_gradient: derivative of the total energy by the output of the node embedding, shape (N, C), eV.
    :param last_layer: what the last linear map of each readout gets, shapes (N, c).
    :param embedding_force_gradient: likewise of the softened norm of the forces of each structure, shape (N, C), eV/A.
    :param last_layer_gradient: derivative by the positions of a combination of the last-layer features, summed over
        atoms: from the weights of the features, shape (d,), to shape (N, 3), 1/A.
    """

    model: torch.nn.Module
    numbers: np.ndarray
    structure: torch.Tensor
    species: torch.Tensor
    n_structures: int
    forces: torch.Tensor
    node_features: torch.Tensor
    energy_alone: Callable[[int], torch.Tensor]
    embedding_gradient: torch.Tensor | None = None
    last_layer: tuple[torch.Tensor, ...] = ()
    embedding_force_gradient: torch.Tensor | None = None
    last_layer_gradient: Callable[[torch.Tensor], torch.Tensor] | None = None

    @property
    def n_atoms(self) -> torch.Tensor:
        """Number of atoms of each structure, shape (n,)."""
        return self.structure.bincount(minlength=self.n_structures)


def sum_over_atoms(values: torch.Tensor, structure: torch.Tensor, n_structures: int) -> torch.Tensor:
    """Sum over the atoms of each structure, (N, d) -> (n, d)."""
    return values.new_zeros(n_structures, values.shape[1]).index_add_(0, structure, values)
