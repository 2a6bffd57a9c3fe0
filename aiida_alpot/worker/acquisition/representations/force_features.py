"""Features of the forces: how these, and not the energy, respond to the model's weights.

Which of them ranks the errors of forces best depends on the material: the topic "Representations" of the documentation
has what was measured. In short, ``force_gram`` was the best or near it on silicon, tungsten and molecules, and
``force_ntk`` no improvement over the energy's NTK where that works. Beside energies, forces and stresses of the model,
``force_ntk`` makes a pass 1.6 to 2.4 times as long, ``force_gram`` 6 to 10 times, ``ntk`` and activations not at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from aiida_alpot.worker.acquisition.representations.ntk import sum_over_species
from aiida_alpot.worker.acquisition.representations.recording import Recording, sum_over_atoms

if TYPE_CHECKING:
    import torch

SOFTENING = 1e-3
"""Force below which an atom's direction is noise, eV/A."""

COMBINATIONS = 16


def force_ntk(recording: Recording, elements: Sequence[str] | None = None) -> torch.Tensor:
    r"""Derivative of the norm of all forces by the weights of the node embedding, shape (n, number of elements x C).

    .. math:: \phi(x) = \nabla_W \sqrt{\textstyle\sum_i |\mathbf F_i|^2 + N \delta^2}
        = \sum_i \hat{\mathbf F}_i \cdot \nabla_W \mathbf F_i

    The derivative of the 3N forces by the weights is contracted with their own direction (a unit vector of length 3N),
    which turns with the structure: the result is invariant under rotation and permutation of atoms. The softening
    :math:`\delta` = 1 meV/A makes it vanish where all forces vanish by symmetry. Layout and elements as for
    :func:`~aiida_alpot.worker.acquisition.representations.ntk.ntk`. It takes a second backward pass through the first.
    """
    if recording.embedding_force_gradient is None:
        raise ValueError('the pass did not record the derivatives of the forces, which the force NTK is made of')
    return sum_over_species(recording, recording.embedding_force_gradient, elements)


def force_gram(recording: Recording, size: int = COMBINATIONS, seed: int = 0) -> torch.Tensor:
    r"""Inner products of the forces of random last-layer models, shape (n, size (size + 1) / 2), 1/A^2.

    The last-layer features :math:`\varphi(x)` of a structure, of length d, are combined by weights that are drawn at
    random, and each combination is differentiated by the positions as if it were an energy:

    .. math:: M_{kl}(x) = \sum_i \nabla_i (\mathbf r_k \cdot \varphi) \cdot \nabla_i (\mathbf r_l \cdot \varphi)
        = \mathbf r_k^T \Big(\sum_i J_i^T J_i\Big) \mathbf r_l, \qquad J_i = \partial \varphi / \partial \mathbf x_i,

    of which the row is the upper triangle, diagonal included. The d x 3N Jacobian is what the forces of a last-layer
    model are linear in; it is contracted over atoms and directions, so that the row is invariant under rotation and
    permutation, and projected to a few combinations, as d of them would cost d backward passes in place of `size`.

    :param size: number of combinations; with fewer than 16 molecules are ranked worse than by the energy's NTK.
    :param seed: of the weights; rows of different seeds cannot be compared.
    """
    import torch

    if recording.last_layer_gradient is None:
        raise ValueError('the pass did not keep the graph of the last-layer features, which is differentiated here')
    d = sum(part.shape[1] for part in recording.last_layer)
    drawn = np.random.default_rng(seed).normal(scale=1.0 / np.sqrt(size), size=(size, d))
    fields = [recording.last_layer_gradient(recording.forces.new_tensor(weights)) for weights in drawn]
    first, second = np.triu_indices(size)
    stacked = torch.stack(fields)
    products = (stacked[first] * stacked[second]).sum(dim=2).T
    return sum_over_atoms(products, recording.structure, recording.n_structures)


def softened_norms(forces: torch.Tensor, structure: torch.Tensor, n_structures: int) -> torch.Tensor:
    """Norm of all forces of each structure, shape (n,), eV/A, smooth where they vanish."""
    squares = (forces**2).sum(dim=1) + SOFTENING**2
    return squares.new_zeros(n_structures).index_add(0, structure, squares).sqrt()
