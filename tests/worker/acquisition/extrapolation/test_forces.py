"""Which atoms active sets are chosen from."""

from __future__ import annotations

import numpy as np
import pytest

from aiida_alpot.worker.acquisition.extrapolation import usual_forces


def forces(*sizes: float) -> np.ndarray:
    """Vectors of these lengths in different directions."""
    directions = np.random.default_rng(0).standard_normal((len(sizes), 3))
    return directions / np.linalg.norm(directions, axis=1, keepdims=True) * np.array(sizes)[:, None]


def test_by_hand():
    # Quartiles of 1..4, 5 and x: for x = 10 they are 2.25 and 4.75, so that the fence is 4.75 + 1.5 * 2.5 = 8.5.
    assert usual_forces(forces(1, 2, 3, 4, 5, 10), np.full(6, 1)).tolist() == [True] * 5 + [False]
    assert usual_forces(forces(1, 2, 3, 4, 5, 8.4), np.full(6, 1)).all()


def test_each_species_for_itself():
    sizes = [1, 2, 3, 4, 5, 6, 100, 200, 300, 400, 500, 600]
    numbers = np.repeat([74, 1], 6)
    assert usual_forces(forces(*sizes), numbers).all()
    assert not usual_forces(forces(*sizes[:5], 100, *sizes[6:]), numbers)[5]


def test_symmetric_crystals_keep_all_atoms():
    assert usual_forces(np.zeros((8, 3)), np.full(8, 14)).all()


def test_what_has_no_force_is_left_out():
    values = forces(1, 2, 3, 4)
    values[1, 2] = np.nan
    assert usual_forces(values, np.full(4, 1)).tolist() == [True, False, True, True]
    assert not usual_forces(np.full((2, 3), np.nan), np.full(2, 1)).any()


def test_bad_input():
    with pytest.raises(ValueError, match=r'`forces` has shape \(4,\), expected \(4, 3\)'):
        usual_forces(np.zeros(4), np.full(4, 1))
