"""Small random MACE models with vectors in their hidden states, and structures of several kinds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from aiida_alpot.worker.frames.frame import Frame

NUMBERS = [1, 6, 8, 14]


def build(kind: str, seed: int = 0, hidden: str = '4x0e+4x1o', **changes: Any):  # type: ignore[no-untyped-def]
    """A model in float64 with two interactions, which knows H, C, O and Si."""
    import mace  # noqa: F401 -- before e3nn
    import torch
    from e3nn import o3
    from mace import modules
    from mace.tools.torch_tools import default_dtype

    block = modules.interaction_classes['RealAgnosticResidualInteractionBlock']
    settings: dict[str, Any] = {
        'r_max': 4.0,
        'num_bessel': 4,
        'num_polynomial_cutoff': 5,
        'max_ell': 2,
        'interaction_cls': block,
        'interaction_cls_first': block,
        'num_interactions': 2,
        'num_elements': len(NUMBERS),
        'hidden_irreps': o3.Irreps(hidden),
        'MLP_irreps': o3.Irreps('6x0e'),
        'atomic_energies': -3.0 * np.arange(1, len(NUMBERS) + 1),
        'avg_num_neighbors': 8.0,
        'atomic_numbers': NUMBERS,
        'correlation': 2,
        'gate': torch.nn.functional.silu,
        'radial_MLP': [8],
    }
    if kind == 'ScaleShiftMACE':
        settings |= {'atomic_inter_scale': 1.7, 'atomic_inter_shift': 0.1}
    torch.manual_seed(seed)
    with default_dtype('float64'):
        return getattr(modules, kind)(**settings | changes)


@pytest.fixture(scope='session')
def models() -> dict[str, Any]:
    """One model of each class, random."""
    return {kind: build(kind) for kind in ('MACE', 'ScaleShiftMACE')}


@pytest.fixture
def committee(models: dict[str, Any]) -> Any:
    """A committee of one, in float64."""
    from aiida_alpot.worker.potentials.mace import MACECommittee

    return MACECommittee([models['ScaleShiftMACE']])


@pytest.fixture
def frames() -> list[Frame]:
    """Molecules and crystals of one to twelve atoms, distorted; an isolated atom."""
    silicon = bulk('Si').repeat((2, 1, 1))
    quartz = Atoms('SiO2', [[0, 0, 0], [1.6, 0.1, 0], [0, 1.7, 0.2]], cell=[3.0, 3.3, 3.6], pbc=True)
    atoms = [molecule(name) for name in ('CH3OH', 'C6H6', 'H2O')] + [silicon, quartz, Atoms('C')]
    rng = np.random.default_rng(5)
    for structure in atoms:
        structure.positions += 0.05 * rng.normal(size=structure.positions.shape)
    return [Frame.from_atoms(structure) for structure in atoms]


@pytest.fixture
def turned() -> Callable[[Frame], Frame]:
    """Turns a frame, and permutes its atoms."""

    def turn(frame: Frame) -> Frame:
        rng = np.random.default_rng(len(frame))
        rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        order = rng.permutation(len(frame))
        return Frame(frame.numbers[order], frame.positions[order] @ rotation, frame.cell @ rotation, frame.pbc)

    return turn
