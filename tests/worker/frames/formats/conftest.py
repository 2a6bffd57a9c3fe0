"""Frames with everything that a frame can have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

from aiida_alpot.worker.frames import PROPERTIES, SPLITS, Frame

texts = st.text(st.characters(exclude_categories=['Cs'], exclude_characters='\x00'), max_size=12)
numberlike = st.sampled_from(['12', '0012', '1e5', 'nan', 'True', 'inf', '12345678e12345678', '9' * 400])
floats = st.floats(allow_nan=False, allow_infinity=False)
values = st.none() | st.booleans() | floats | st.integers() | texts
metadata = st.dictionaries(texts, st.recursive(values, lambda inner: st.lists(inner, max_size=3)), max_size=3)
array_names = st.sampled_from(
    ['a', 'a1', 'a0', 'REF_forces', 'REF_forces0', 'pos0', 'energies', 'momenta', 'tags', 'move_mask', 'Z', 'x.y-z']
)


@st.composite
def frames(draw: st.DrawFn) -> Frame:
    """Any frame."""
    n = draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    pbc = draw(st.tuples(st.booleans(), st.booleans(), st.booleans()))
    cell = np.diag(np.where(pbc, 5.0, draw(st.sampled_from([0.0, 7.0])))) @ (np.eye(3) + rng.uniform(-0.1, 0.1, (3, 3)))
    scale = draw(st.sampled_from([1.0, 1e-300, 1e100]))
    stress = rng.normal(size=(3, 3))
    labels = {
        'energy': rng.normal() * scale,
        'forces': rng.normal(size=(n, 3)) * scale,
        'stress': stress + stress.T if draw(st.booleans()) else stress,
        'charges': rng.normal(size=n),
        'magmoms': rng.normal(size=n),
        'dipole': rng.normal(size=3),
    }
    kept = draw(st.sets(st.sampled_from(PROPERTIES)))
    return Frame(
        rng.integers(1, 119, size=n),
        rng.uniform(-9, 9, size=(n, 3)),
        cell,
        pbc,
        **{name: value for name, value in labels.items() if name in kept},
        lineage=draw(texts | numberlike),
        origin=draw(texts | st.just('isolated_atom')),
        split=draw(st.sampled_from(['', *SPLITS])),
        level_of_theory=draw(st.sampled_from(['', 'PBE 520 eV', 'pw-0123456789abcdef[Si:123456789abc,+isolated]'])),
        metadata=draw(metadata),
        arrays={name: _array(draw, rng, n) for name in draw(st.sets(array_names, max_size=4))},
    )


def _array(draw: st.DrawFn, rng: np.random.Generator, n: int) -> np.ndarray:
    shape = (n, *draw(st.sampled_from([(), (1,), (2,), (3,), (3, 3), (1, 2, 2)])))
    kind = draw(st.sampled_from(['f', 'i', 'big', 'b']))
    if kind == 'f':
        return rng.normal(size=shape)
    if kind == 'b':
        return rng.random(size=shape) > 0.5
    limit = 2**62 if kind == 'big' else 5
    return rng.integers(-limit, limit, size=shape)


@pytest.fixture
def any_frame() -> st.SearchStrategy[Frame]:
    """Strategy of any frame that there can be."""
    return frames()


@pytest.fixture
def full_frame(make_frame: Callable[..., Frame]) -> Callable[..., Frame]:
    """Factory of frames with all labels and some user arrays."""

    def make(seed: int, n_atoms: int = 4, **fields: Any) -> Frame:
        rng = np.random.default_rng(seed)
        values = {
            'charges': rng.normal(size=n_atoms),
            'magmoms': rng.normal(size=n_atoms),
            'dipole': rng.normal(size=3),
            'arrays': {'weights': rng.normal(size=n_atoms), 'tensor': rng.normal(size=(n_atoms, 3, 3))},
        }
        return make_frame(seed, n_atoms, **(values | fields))

    return make
