"""Finite-width neural tangent kernel of the energy: how it responds to the model's weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from ase.data import atomic_numbers, chemical_symbols

from aiida_alpot.worker.acquisition.representations.recording import Recording
from aiida_alpot.worker.acquisition.representations.sketch import Sketch

if TYPE_CHECKING:
    import torch

WIDE_PARAMETERS = ('products', 'readouts')


def ntk(recording: Recording, elements: Sequence[str] | None = None) -> torch.Tensor:
    r"""Derivative of the total energy by the weights of the node embedding, shape (n, number of elements x C), eV.

    .. math:: \phi(x) = \nabla_W E(x), \qquad
        \phi_{zc}(x) = \frac{1}{\sqrt{Z}} \sum_{i:\, z_i = z} \frac{\partial E(x)}{\partial h^{(0)}_{ic}}

    Equation 5 of the study on pretrained representations with its choice of parameters. The embedding gives an atom
    the row of its species, :math:`h^{(0)}_{ic} = W_{z_i c} / \sqrt{Z}` with Z species in the model, and structures of a
    batch do not interact: one backward pass of the summed energy gives the rows of all structures exactly.

    The row of element z holds its C channels one after the other; elements come in the given order. Rows of elements
    that a structure does not contain are zero: name the elements of the data set where the model knows many more.

    :param elements: whose rows are kept, by default all that the model knows, by atomic number.
    :raises ValueError: for an element that the model does not know, or an atom whose element is left out.
    """
    if recording.embedding_gradient is None:
        raise ValueError('the pass did not record the gradient of the embedding, which the NTK is made of')
    return sum_over_species(recording, recording.embedding_gradient, elements)


def sum_over_species(
    recording: Recording, gradient: torch.Tensor, elements: Sequence[str] | None = None
) -> torch.Tensor:
    """Derivative by the weights of the embedding from the one by its output, (N, C) -> (n, number of elements x C)."""
    place, n_elements = _places(recording, elements)
    channels = gradient.shape[1]
    rows = gradient.new_zeros(recording.n_structures * n_elements, channels)
    rows.index_add_(0, recording.structure * n_elements + place, gradient)
    return rows.reshape(recording.n_structures, n_elements * channels) / np.sqrt(len(recording.numbers))


def _places(recording: Recording, elements: Sequence[str] | None) -> tuple[torch.Tensor, int]:
    """Place of each atom's element among those that are kept, shape (N,), and their number."""
    if elements is None:
        return recording.species, len(recording.numbers)
    known = recording.numbers.tolist()
    places = np.full(len(known), -1)
    for place, symbol in enumerate(elements):
        if atomic_numbers.get(symbol) not in known:
            raise ValueError(
                f'`elements` of the NTK names {symbol}, which the model does not know: it knows '
                f'{", ".join(chemical_symbols[number] for number in known)}'
            )
        places[known.index(atomic_numbers[symbol])] = place
    place = recording.species.new_tensor(places)[recording.species]
    left_out = recording.species[place < 0].unique().tolist()
    if left_out:
        symbols = ', '.join(chemical_symbols[known[row]] for row in left_out)
        raise ValueError(
            f'frames contain {symbols}, which `elements` of the NTK leaves out: '
            'name all elements of the pool and of the data set'
        )
    return place, len(elements)


def ntk_sketch(
    recording: Recording,
    parameters: Sequence[str] = WIDE_PARAMETERS,
    size: int = 512,
    seed: int = 0,
    kind: str = 'sparse',
) -> torch.Tensor:
    """Derivative of the total energy by many weights, projected at random to a few numbers, shape (n, size), eV.

    Each structure costs one pass of its own, forward and backward, unlike :func:`ntk`. Inner products of the rows
    are those of the full gradients with the error that :class:`Sketch` states.

    :param parameters: beginnings of the names of the parameters to differentiate by, e.g. ``products`` or
        ``interactions.0.linear_up``.
    :param size: number of columns.
    :param seed: of the projection; rows of different seeds cannot be compared.
    :param kind: ``sparse`` or ``gaussian``, see :class:`Sketch`.
    :raises ValueError: if no parameter has such a name.
    """
    chosen = chosen_parameters(recording.model, parameters)
    sketch = Sketch(sum(parameter.numel() for parameter in chosen), size, seed, kind)
    rows = [sketch.project(row[None].cpu().numpy())[0] for row in gradients(recording, chosen)]
    return recording.node_features.new_tensor(np.stack(rows))


def chosen_parameters(model: torch.nn.Module, beginnings: Sequence[str]) -> list[torch.nn.Parameter]:
    """Parameters whose names begin with one of some words, in the order of the model.

    :raises ValueError: for a word that no name begins with.
    """
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.numel()]
    for beginning in beginnings:
        if not any(_begins(name, beginning) for name, _ in named):
            first = sorted({name.split('.')[0] for name, _ in named})
            raise ValueError(
                f'no parameter of the model has a name that begins with {beginning!r}: they begin with '
                f'{", ".join(first)}'
            )
    return [parameter for name, parameter in named if any(_begins(name, beginning) for beginning in beginnings)]


def _begins(name: str, beginning: str) -> bool:
    return name == beginning or name.startswith(f'{beginning}.')


def gradients(recording: Recording, parameters: Sequence[torch.nn.Parameter]) -> Iterator[torch.Tensor]:
    """Derivative of the total energy by some parameters, flat, for each structure in turn."""
    import torch

    with _differentiable(parameters):
        for index in range(recording.n_structures):
            energy = recording.energy_alone(index)
            pieces = torch.autograd.grad(energy, list(parameters), allow_unused=True, materialize_grads=True)
            yield torch.cat([piece.reshape(-1) for piece in pieces])


@contextmanager
def _differentiable(parameters: Sequence[torch.nn.Parameter]) -> Iterator[None]:
    """Parameters of a committee are frozen; these are not, for a while."""
    before = [parameter.requires_grad for parameter in parameters]
    for parameter in parameters:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter, required in zip(parameters, before, strict=True):
            parameter.requires_grad_(required)
