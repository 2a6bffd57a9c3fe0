"""What is asked of a MACE model before it is used, and how much memory a pass of it takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from aiida_alpot.worker.potentials.batches import Cost
from aiida_alpot.worker.potentials.mace_contraction import Polynomial

MODEL_CLASSES = ('MACE', 'ScaleShiftMACE')

OVERHEAD = 1.5
"""Peak of a pass in units of the arrays that are counted: measured 1.2 to 1.5 for 64 and 128 channels, L = 0 to 2."""
MINIMUM_PER_ATOM = 4096
MINIMUM_PER_EDGE = 1024
"""Numbers counted at least, for layers whose inside is not known."""


def check_model(model: Any, name: str) -> None:
    """Refuse what would be evaluated wrongly or not at all.

    :raises ValueError: for another kind of model, or one that depends on more than a structure.
    """
    kind = type(model).__name__
    if kind not in MODEL_CLASSES:
        raise ValueError(
            f'{name} is a {kind}, expected one of {", ".join(MODEL_CLASSES)}: give the .model file that MACE writes, '
            'neither its compiled form nor a checkpoint'
        )
    if hasattr(model, 'joint_embedding'):
        raise ValueError(
            f'{name} depends on charge, spin or other global inputs, which frames do not carry: it cannot be used'
        )


def check_embedding(model: torch.nn.Module, name: str) -> None:
    """Refuse a node embedding that does not multiply its weights by one over the root of the number of species.

    :raises ValueError: for such a model.
    """
    linear = model.node_embedding.linear
    n_species = len(model.atomic_numbers)
    with torch.no_grad():
        rows = linear(torch.eye(n_species, dtype=linear.weight.dtype, device=linear.weight.device))
    expected = linear.weight.reshape(rows.shape) / n_species**0.5 if linear.weight.numel() == rows.numel() else None
    if expected is None or not torch.allclose(rows, expected, rtol=1e-4, equal_nan=True):
        raise ValueError(
            f'the node embedding of {name} is no table of weights over the root of the number of species: '
            'derivatives by its weights are not known, use activations'
        )


def common(values: Sequence[Any], name: str) -> Any:
    """The value that all members share.

    :raises ValueError: if they do not.
    """
    if any(value != values[0] for value in values):
        raise ValueError(f'the members of a committee have different {name}, {values}: train them alike')
    return values[0]


def single_head(heads: Sequence[str], member: int) -> int:
    """The head to read: the only one, or the one that is called ``default``.

    :raises ValueError: for several heads of other names.
    """
    if len(heads) == 1:
        return 0
    named = [index for index, head in enumerate(heads) if head.lower() == 'default']
    if not named:
        raise ValueError(
            f'member {member} has the heads {list(heads)} and none is called "default": '
            'extract one with mace_select_head'
        )
    return named[0]


def memory_cost(models: Sequence[torch.nn.Module], itemsize: int) -> Cost:
    """Memory that an atom and a pair of neighbours take in the largest member; members are evaluated in turn.

    Counted are the messages on the edges with their weights, and the products of up to `correlation` features of
    an atom: what automatic differentiation keeps until the backward pass. It is an estimate: a batch that does not fit
    is halved.

    :param itemsize: bytes of a number.
    """
    atom = max(MINIMUM_PER_ATOM, *(_per_atom(model) for model in models))
    edge = max(MINIMUM_PER_EDGE, *(_per_edge(model) for model in models))
    return Cost(OVERHEAD * itemsize * atom, OVERHEAD * itemsize * edge)


def _per_edge(model: torch.nn.Module) -> int:
    """Numbers an edge keeps: its sender's features, the message and the weights of the tensor product."""
    maps = [interaction.conv_tp for interaction in model.interactions if hasattr(interaction, 'conv_tp')]
    return sum(m.irreps_in1.dim + m.irreps_out.dim + m.weight_numel for m in maps if hasattr(m, 'weight_numel'))


def _per_atom(model: torch.nn.Module) -> int:
    """Numbers an atom takes: the intermediate tensors of the symmetric contractions."""
    count = 0
    for product in model.products:
        if isinstance(product.symmetric_contractions.forward, Polynomial):
            count += product.symmetric_contractions.forward.size
            continue
        channels = max((mul for mul, _ in product.linear.irreps_in), default=0)
        for contraction in getattr(product.symmetric_contractions, 'contractions', ()):
            for order in range(2, contraction.correlation + 1):
                *shape, _, _ = contraction.U_tensors(order).shape
                count += channels * int(torch.tensor(shape).prod())
    return count
