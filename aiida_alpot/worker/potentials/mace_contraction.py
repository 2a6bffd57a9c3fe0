"""The symmetric contraction of MACE as a polynomial, whose gradient falls off with its value.

In a model with fixed weights the product basis of an atom (Batatia et al., arXiv:2206.07697, eqs 10 and 11) is, for one
channel and one element, a polynomial of the atomic basis x with totally symmetric coefficients:

    f_w(x) = sum_i x_i (L_wi + sum_j Q_wij x_j + sum_jk S_wijk x_j x_k)

mace-torch contracts coupling coefficients, weights and atomic basis in one go, at each evaluation. Here coefficients
and weights are contracted once, and what is left is one product of S with the pairs x_j x_k. As S is symmetric, that
product gives the gradient too, which is L_wi + 2 sum_j Q_wij x_j + 3 sum_jk S_wijk x_j x_k.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import permutations
from typing import Any

import torch
from mace.modules.symmetric_contraction import Contraction, SymmetricContraction

MAX_CORRELATION = 3
"""Models of a higher body order are evaluated as mace-torch does it."""
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}
"""Largest difference from mace-torch, relative to the largest value, with which ours takes the place of its own."""

_as_mace_does = False


def speed_up(model: torch.nn.Module) -> int:
    """Let a model whose weights stay fixed evaluate its symmetric contractions in the faster way.

    Modules and parameters stay where they are, so that a model is stored, and differentiated by its parameters, as
    before: a contraction with a parameter that is a variable is evaluated as mace-torch does it, and so is one that is
    not what this was written for, or whose values would not agree.

    :return: number of contractions that are evaluated in the faster way.
    """
    n = 0
    for product in getattr(model, 'products', ()):
        contraction: Any = getattr(product, 'symmetric_contractions', None)
        if type(contraction) is SymmetricContraction and _is_known(contraction):
            polynomial = Polynomial(contraction)
            if polynomial.agrees():
                contraction.forward = polynomial
                n += 1
    return n


@contextmanager
def as_mace_does() -> Iterator[None]:
    """Within it, contractions are evaluated as mace-torch does it: they can then be differentiated more than once."""
    global _as_mace_does
    before, _as_mace_does = _as_mace_does, True
    try:
        yield
    finally:
        _as_mace_does = before


def _is_known(contraction: SymmetricContraction) -> bool:
    return all(type(part) is Contraction and part.correlation <= MAX_CORRELATION for part in contraction.contractions)


class Polynomial:
    """Stands in for the ``forward`` of a symmetric contraction.

    :param contraction: the module of mace-torch; its weights must not change any more.
    """

    def __init__(self, contraction: SymmetricContraction) -> None:
        self._original = SymmetricContraction.forward.__get__(contraction)
        self._parameters = list(contraction.parameters())
        self._parts = list(contraction.contractions)
        self._n_values = [len(coupling(part, 1)) for part in self._parts]
        self._of_element: dict[int, list[torch.Tensor | None]] = {}

    def __call__(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The product basis.

        :param x: atomic basis, shape (N, channels, components).
        :param y: one-hot elements, shape (N, elements).
        :return: shape (N, sum over the irreps of channels times components).
        """
        if _as_mace_does or any(parameter.requires_grad for parameter in self._parameters):
            return self._original(x, y)
        species = y.argmax(dim=1)
        present = torch.unique(species).tolist() if y.shape[1] > 1 else [0]
        basis = x.permute(1, 2, 0)  # channels, components, atoms
        if len(present) == 1:
            values = self._evaluate(basis, present[0])
        else:
            atoms = [(species == element).nonzero()[:, 0] for element in present]
            parts = [self._evaluate(basis[:, :, own], element) for own, element in zip(atoms, present, strict=True)]
            values = torch.cat(parts, dim=2)[:, :, torch.cat(atoms).argsort()]
        pieces = values.permute(2, 0, 1).split(self._n_values, dim=2)
        return torch.cat([piece.reshape(len(x), -1) for piece in pieces], dim=1)

    def agrees(self) -> bool:
        """Whether value and gradient are those of mace-torch, for random input."""
        part = self._parts[0]
        n_elements, like = len(part.weights_max), part.weights_max
        generator = torch.Generator().manual_seed(0)
        shape = (2 * n_elements, part.num_features, part.coupling_irreps.dim)
        x = torch.randn(shape, generator=generator, dtype=torch.float64).to(like).requires_grad_(True)
        y = torch.eye(n_elements).repeat(2, 1).to(like)
        results = []
        for evaluate in (self, self._original):
            value = evaluate(x, y)
            (gradient,) = torch.autograd.grad(value.square().sum(), x)
            results.append((value.detach(), gradient))
        return all(
            ours.shape == theirs.shape and (ours - theirs).abs().max() <= TOLERANCE[like.dtype] * theirs.abs().max()
            for ours, theirs in zip(*results, strict=True)
        )

    @property
    def size(self) -> int:
        """Numbers that an atom takes at most while it is evaluated."""
        n = self._parts[0].coupling_irreps.dim
        return int(self._parts[0].num_features * (5 * sum(self._n_values) * n + n * (n + 1) // 2))

    def _evaluate(self, basis: torch.Tensor, element: int) -> torch.Tensor:
        if element not in self._of_element:
            self._of_element[element] = self._coefficients(element)
        values: torch.Tensor = _Evaluation.apply(basis, *self._of_element[element])
        return values

    @torch.no_grad()
    def _coefficients(self, element: int) -> list[torch.Tensor | None]:
        """L, (channels, W n, 1), Q, (channels, W n, n), and S, (channels, W n, pairs); then the pairs, (2, pairs).

        Q and S are ``None`` where the correlation does not reach so far. Unequal pairs stand for both of their orders.
        """
        like = self._parts[0].weights_max
        pairs = torch.triu_indices(*2 * (self._parts[0].coupling_irreps.dim,), device=like.device)
        found: list[torch.Tensor | None] = [None] * MAX_CORRELATION
        for order in range(1, max(part.correlation for part in self._parts) + 1):
            tensor = torch.cat([symmetric_coefficients(part, order, element) for part in self._parts], dim=1)
            if order == 3:
                tensor = tensor[..., pairs[0], pairs[1]] * torch.where(pairs[0] == pairs[1], 1.0, 2.0)
            width = 1 if order == 1 else tensor.shape[-1]
            found[order - 1] = tensor.reshape(len(tensor), -1, width).to(like)
        return [*found, pairs]


def coupling(part: Contraction, order: int) -> torch.Tensor:
    """Generalised Clebsch-Gordan coefficients, shape (W, n, ..., n, paths) with n `order` times."""
    tensor = part.U_tensors(order)
    return tensor if tensor.dim() == order + 2 else tensor[None]


def symmetric_coefficients(part: Contraction, order: int, element: int) -> torch.Tensor:
    """Coefficients of an order, shape (channels, W, n, ..., n), float64; zero beyond the correlation of the part."""
    shape = (part.num_features, len(coupling(part, 1)), *[part.coupling_irreps.dim] * order)
    if order > part.correlation:
        return torch.zeros(shape, dtype=torch.float64, device=part.weights_max.device)
    weights = part.weights_max if order == part.correlation else part.weights[part.correlation - 1 - order]
    tensor = torch.einsum('w...k,kc->cw...', coupling(part, order).double(), weights[element].double())
    orders = list(permutations(range(order)))
    return torch.stack([tensor.permute(0, 1, *(2 + i for i in axes)) for axes in orders]).mean(dim=0)


class _Evaluation(torch.autograd.Function):
    """Values of the polynomials, shape (channels, W, N), of a basis of shape (channels, n, N)."""

    @staticmethod
    def forward(
        ctx: Any,
        basis: torch.Tensor,
        linear: torch.Tensor,
        quadratic: torch.Tensor | None,
        cubic: torch.Tensor | None,
        pairs: torch.Tensor,
    ) -> torch.Tensor:
        basis = basis.contiguous()
        n_channels, n, _ = basis.shape
        total, derivative = linear, linear
        if quadratic is not None:
            second = torch.bmm(quadratic, basis)
            total, derivative = total + second, derivative + 2 * second
        if cubic is not None:
            third = torch.bmm(cubic, basis[:, pairs[0]] * basis[:, pairs[1]])
            total, derivative = total + third, derivative.add(third, alpha=3)
        shape = (n_channels, -1, n, total.shape[2])  # one column for all atoms where it is linear
        ctx.save_for_backward(derivative.view(shape))
        return (total.view(shape) * basis[:, None]).sum(dim=2)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        if torch.is_grad_enabled():  # a second derivative is asked for, of which terms would be missing
            raise RuntimeError('these contractions are differentiated once: evaluate the model within as_mace_does()')
        (derivative,) = ctx.saved_tensors
        return (derivative * gradient[:, :, None]).sum(dim=1), None, None, None, None
