"""The symmetric contraction as a polynomial, against that of mace-torch."""

from __future__ import annotations

import mace  # noqa: F401 -- before e3nn
import pytest
import torch
from e3nn import o3
from mace.modules.symmetric_contraction import SymmetricContraction

from aiida_alpot.worker.potentials import mace_contraction
from aiida_alpot.worker.potentials.mace_contraction import Polynomial, as_mace_does, speed_up


class Product(torch.nn.Module):
    """As much of a product block as the contraction needs."""

    def __init__(self, correlation: int, irreps_out: str, n_elements: int) -> None:
        super().__init__()
        self.symmetric_contractions = SymmetricContraction(
            o3.Irreps('4x0e+4x1o+4x2e'), o3.Irreps(irreps_out), correlation=correlation, num_elements=n_elements
        )


def make_model(correlation: int = 3, irreps_out: str = '4x0e+4x1o', n_elements: int = 3) -> torch.nn.Module:
    """A model of which only the products matter, in float64, with fixed weights."""
    torch.manual_seed(correlation)
    model = torch.nn.Module()
    model.products = torch.nn.ModuleList([Product(correlation, irreps_out, n_elements)])
    return model.double().requires_grad_(False)


def make_input(species: list[int], n_elements: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Atomic basis and one-hot elements."""
    x = torch.randn(len(species), 4, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return x.requires_grad_(True), torch.eye(n_elements, dtype=torch.float64)[species]


def value_and_gradient(contraction: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
    value = contraction(x, y)
    weights = torch.linspace(-1, 1, value.numel(), dtype=value.dtype).reshape(value.shape)
    return value, torch.autograd.grad((weights * value).sum(), x)[0]


@pytest.mark.parametrize('correlation', [1, 2, 3])
@pytest.mark.parametrize('irreps_out', ['4x0e', '4x0e+4x1o', '4x0e+4x1o+4x2e'])
@pytest.mark.parametrize('species', [[1, 1, 1], [2, 0, 1, 0, 2, 2, 1]], ids=['one element', 'shuffled elements'])
def test_equal(correlation: int, irreps_out: str, species: list[int]) -> None:
    """Values and gradients are those of mace-torch, whatever the order of the atoms."""
    model = make_model(correlation, irreps_out)
    contraction = model.products[0].symmetric_contractions
    expected = value_and_gradient(contraction, *make_input(species))
    assert speed_up(model) == 1
    assert isinstance(contraction.forward, Polynomial)
    found = value_and_gradient(contraction, *make_input(species))
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape
        scale = float(theirs.detach().abs().max())
        assert torch.allclose(ours, theirs, rtol=1e-10, atol=1e-12 * scale)


def test_by_hand() -> None:
    """Of a basis whose scalar alone is not zero, the scalar product basis is a x + b x^2 + c x^3."""
    irreps = o3.Irreps('1x0e+1x1o')
    contraction = SymmetricContraction(irreps, o3.Irreps('1x0e'), correlation=3, num_elements=1).double()
    contraction.requires_grad_(False)
    part = contraction.contractions[0]
    a = float(part.U_tensors(1)[0] @ part.weights[1][0, :, 0])
    b = float(part.U_tensors(2)[0, 0] @ part.weights[0][0, :, 0])
    c = float(part.U_tensors(3)[0, 0, 0] @ part.weights_max[0, :, 0])
    x = torch.tensor([[[0.7, 0, 0, 0]], [[-1.3, 0, 0, 0]]], dtype=torch.float64, requires_grad=True)
    value = Polynomial(contraction)(x, torch.ones(2, 1, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(value.sum(), x)
    for at, got, slope in zip([0.7, -1.3], value[:, 0].tolist(), gradient[:, 0, 0].tolist(), strict=True):
        assert got == pytest.approx(a * at + b * at**2 + c * at**3, rel=1e-12)
        assert slope == pytest.approx(a + 2 * b * at + 3 * c * at**2, rel=1e-12)


def test_parameters_as_variables() -> None:
    """Where a weight is a variable, mace-torch evaluates, and the derivative by it is there."""
    model = make_model()
    contraction = model.products[0].symmetric_contractions
    speed_up(model)
    weight = contraction.contractions[0].weights_max.requires_grad_(True)
    (gradient,) = torch.autograd.grad(contraction(*make_input([0, 1, 2])).sum(), weight)
    assert float(gradient.abs().max()) > 0


def test_differentiated_twice() -> None:
    """Ours is differentiated once, and refuses more in place of being wrong; mace-torch's can be asked for."""
    model = make_model()
    contraction = model.products[0].symmetric_contractions

    def second_derivative() -> torch.Tensor:
        x, y = make_input([0, 1, 2])
        (gradient,) = torch.autograd.grad(contraction(x, y).square().sum(), x, create_graph=True)
        return torch.autograd.grad(gradient.square().sum(), x)[0]

    expected = second_derivative()
    speed_up(model)
    with pytest.raises(RuntimeError, match='within as_mace_does'):
        second_derivative()
    with as_mace_does():
        assert torch.equal(second_derivative(), expected)


def test_other_modules_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """A higher body order, a derived class and coefficients that do not agree stay with mace-torch."""

    class Derived(SymmetricContraction):
        pass

    derived = make_model()
    derived.products[0].symmetric_contractions.__class__ = Derived
    assert speed_up(derived) == 0
    high = make_model()
    high.products[0].symmetric_contractions.contractions[0].correlation = 4
    assert speed_up(high) == 0
    right = mace_contraction.symmetric_coefficients
    monkeypatch.setattr(mace_contraction, 'symmetric_coefficients', lambda *given: 1.001 * right(*given))
    assert speed_up(make_model()) == 0
    assert speed_up(torch.nn.Linear(2, 2)) == 0


def test_single_precision() -> None:
    model = make_model().float()
    contraction = model.products[0].symmetric_contractions
    x, y = (tensor.detach().float() for tensor in make_input([0, 1, 2]))
    expected = contraction(x, y)
    assert speed_up(model) == 1
    assert torch.allclose(contraction(x, y), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
