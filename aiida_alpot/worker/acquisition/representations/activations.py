"""Activations: the hidden states of a MACE model that do not change when everything is rotated."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiida_alpot.worker.acquisition.representations.recording import Recording, sum_over_atoms

if TYPE_CHECKING:
    import torch


def activations_per_atom(recording: Recording) -> torch.Tensor:
    """Invariant channels (L=0, even parity) of all layers for each atom, shape (N, d).

    The layers come one after the other, each with as many channels as it has.
    """
    import torch

    return recording.node_features[:, torch.cat(invariant_channels(recording.model)).to(recording.structure.device)]


def activations_sum(recording: Recording) -> torch.Tensor:
    """Sum of :func:`activations_per_atom` over the atoms of each structure, shape (n, d)."""
    return sum_over_atoms(activations_per_atom(recording), recording.structure, recording.n_structures)


def activations(recording: Recording) -> torch.Tensor:
    r"""Mean of :func:`activations_per_atom` over the atoms of each structure, shape (n, d).

    .. math:: \phi(x) = \operatorname{concat}_\ell \frac{1}{N} \sum_i h_{i,L=0}^{(\ell)}(x)

    Equation 6 of the study on pretrained representations (``Pretrained Model Representations as Acquisition Signals``).
    """
    return activations_sum(recording) / recording.n_atoms[:, None]


def invariant_channels(model: torch.nn.Module) -> list[torch.Tensor]:
    """Columns of the node features that are even scalars, for each layer."""
    import torch
    from e3nn.o3 import Irreps

    columns, start = [], 0
    for product in model.products:
        irreps = Irreps(str(product.linear.irreps_out))
        scalars = [
            torch.arange(piece.start, piece.stop) + start
            for piece, (_, irrep) in zip(irreps.slices(), irreps, strict=True)
            if irrep.l == 0 and irrep.p == 1
        ]
        columns.append(torch.cat(scalars))
        start += irreps.dim
    return columns
