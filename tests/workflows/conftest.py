"""Nodes that the work chains start from, made without a calculation."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
from aiida.engine.utils import instantiate_process
from aiida.manage import get_manager

from aiida_alpot.data.committee import CommitteeData
from aiida_alpot.data.potential import PotentialData


@pytest.fixture
def make_committee(aiida_profile: Any) -> Callable[..., CommitteeData]:
    """Factory of committees whose models are only bytes."""

    def make(n_members: int = 2, elements: tuple[str, ...] = ('Si',)) -> CommitteeData:
        fields: dict[str, Any] = {'trainer': 'mace', 'elements': elements, 'cutoff': 5.0, 'dtype': 'float64'}
        potentials = [
            PotentialData(io.BytesIO(b'weights %d' % seed), f'{seed}.model', seed=seed, **fields)
            for seed in range(n_members)
        ]
        return CommitteeData.from_potentials(potentials)

    return make


@pytest.fixture
def instantiate(aiida_profile: Any) -> Callable[..., Any]:
    """Make the process of a builder, or of a class and its inputs, without running it."""

    def make(process: Any, **inputs: Any) -> Any:
        return instantiate_process(get_manager().get_runner(), process, **inputs)

    return make
