"""Last-layer features: what the energy depends on linearly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiida_alpot.worker.acquisition.representations.recording import Recording, sum_over_atoms

if TYPE_CHECKING:
    import torch


def last_layer_per_atom(recording: Recording) -> torch.Tensor:
    """What the last linear map of each readout of a MACE model gets for each atom, shape (N, d).

    The readouts come one after the other. The energy of an atom, less its isolated-atom energy, is a linear function of
    this row.
    """
    import torch

    return torch.cat(recording.last_layer, dim=1)


def last_layer(recording: Recording) -> torch.Tensor:
    """Sum of :func:`last_layer_per_atom` over the atoms of each structure, shape (n, d).

    Up to constant factors this is the derivative of the total energy by the last weights of the readouts, from which
    last-layer prediction rigidities are made (Bigi et al., Mach. Learn.: Sci. Technol. 5, 045018).
    """
    return sum_over_atoms(last_layer_per_atom(recording), recording.structure, recording.n_structures)


def last_linear(readout: torch.nn.Module) -> torch.nn.Module:
    """The last linear map of a readout.

    :raises ValueError: for a readout without one.
    """
    for name in ('linear_2', 'linear'):
        if hasattr(readout, name):
            return getattr(readout, name)
    raise ValueError(
        f'a readout of the model is a {type(readout).__name__}, in which no last linear map was found: '
        'use another representation'
    )


def scalars(linear: torch.nn.Module, values: torch.Tensor) -> torch.Tensor:
    """Those columns of the input of a linear map that are even scalars: no others reach an energy."""
    import torch
    from e3nn.o3 import Irreps

    irreps: Any = Irreps(str(linear.irreps_in))
    pieces = zip(irreps.slices(), irreps, strict=True)
    return torch.cat([values[:, piece] for piece, (_, irrep) in pieces if irrep.l == 0 and irrep.p == 1], dim=1)
