"""The cluster-local grade, on a plane."""

from __future__ import annotations

import numpy as np
import pytest

from aiida_alpot.worker.acquisition.extrapolation import ActiveSets, choose_active_sets

#: Three narrow cones that do not overlap: along x, between, and along y.
SUBSETS = {
    'a': [(1.0, 0.0), (0.9, 0.12), (0.95, 0.06)],
    'b': [(0.98, 0.25), (0.9, 0.6), (0.94, 0.4)],
    'c': [(0.0, 1.0), (0.12, 0.9), (0.06, 0.95)],
}
#: On the other side of the y axis, where there is no training row at all.
NEW = np.array([[-0.6, 0.7]])
#: 0.6 of one active row of subset b plus 0.6 of the other.
KNOWN = np.array([[1.128, 0.51]])


def tungsten(rows: np.ndarray) -> np.ndarray:
    return np.full(len(rows), 74)


def sets_of(names: str, *, local: bool = False) -> ActiveSets:
    rows = np.array([row for name in names for row in SUBSETS[name]])
    clusters = np.repeat(list(names), 3) if local else None
    return choose_active_sets(rows, tungsten(rows), clusters=clusters, min_environments=1)


def grade(sets: ActiveSets, rows: np.ndarray) -> float:
    return float(sets.grade_atoms(rows, tungsten(rows)).grade[0])


def test_active_sets_by_hand():
    combined = sets_of('abc').sets[0]
    assert combined.rows.tolist() == [[1.0, 0.0], [0.0, 1.0]]  # |det| = 1, more than any other pair
    assert sets_of('b').sets[0].rows.tolist() == [[0.98, 0.25], [0.9, 0.6]]


def test_a_new_point_that_the_combined_active_set_takes_for_known():
    """In the paper's figure 7: point A. It is -0.6 and 0.7 of the two active rows of all, which span the whole plane
    between them, and far outside of each subset."""
    assert grade(sets_of('abc'), NEW) == pytest.approx(0.7)
    # a: 0.7 / 0.12 = 5.83 of its second active row, and -0.6 - 0.9 * 5.83 of the first. c: -5 and
    # 0.7 + 0.9 * 5. b: coefficients (-0.6 * 0.6 - 0.7 * 0.9) / 0.363 = -2.727 and 2.303.
    assert grade(sets_of('a'), NEW) == pytest.approx(5.85)
    assert grade(sets_of('b'), NEW) == pytest.approx(0.99 / 0.363)
    assert grade(sets_of('c'), NEW) == pytest.approx(5.2)
    # No cluster knows it: the minimum over clusters is that of b, above 1. The local grade cures the miss.
    assert grade(sets_of('abc', local=True), NEW) == pytest.approx(0.99 / 0.363)


def test_a_point_of_a_subset_that_the_combined_active_set_takes_for_new():
    """In the paper's figure 7: point B. The minimum is at most the grade of its own subset, which knows it: the local
    grade cures the false alarm.

    What that means: it can be no training row, nor lie between training rows. Those have grades of at most the
    tolerance in the combined set, and so has everything in their convex hull, because the grade is a norm. A point
    that the combined set calls new and a subset knows is a sum of active rows with coefficients up to 1 each, outside
    the hull: "known" in the sense of a linear model that interpolates coefficients, not positions.
    """
    assert grade(sets_of('abc'), KNOWN) == pytest.approx(1.128)
    assert grade(sets_of('b'), KNOWN) == pytest.approx(0.6)
    assert grade(sets_of('a'), KNOWN) > 1.0
    assert grade(sets_of('c'), KNOWN) > 1.0
    local = sets_of('abc', local=True)
    found = local.grade_atoms(KNOWN, tungsten(KNOWN))
    assert found.grade[0] == pytest.approx(0.6)
    assert local.sets[found.nearest[0]].cluster == 'b'
    rows = np.concatenate(list(SUBSETS.values()))
    weights = np.random.default_rng(0).dirichlet(np.ones(len(rows)), 200)
    assert sets_of('abc').grade_atoms(weights @ rows, tungsten(weights)).grade.max() <= 1.01


def test_training_rows_are_known_locally_too():
    rows = np.concatenate(list(SUBSETS.values()))
    assert sets_of('abc', local=True).grade_atoms(rows, tungsten(rows)).grade.max() <= 1.01


def test_the_local_grade_is_the_least_over_the_clusters():
    rows = np.random.default_rng(1).uniform(-2, 2, (100, 2))
    each = [sets_of(name).grade_atoms(rows, tungsten(rows)).grade for name in 'abc']
    found = sets_of('abc', local=True).grade_atoms(rows, tungsten(rows))
    np.testing.assert_allclose(found.grade, np.min(each, axis=0), rtol=1e-12)
    assert found.nearest.tolist() == np.argmin(each, axis=0).tolist()


def test_a_species_has_the_clusters_that_its_own_atoms_are_in():
    rng = np.random.default_rng(2)
    rows, numbers = rng.standard_normal((300, 3)), np.repeat([1, 8], 150)
    clusters = np.where(numbers == 1, 'gas', np.where(np.arange(300) % 2, 'bulk', 'surface'))
    sets = choose_active_sets(rows, numbers, clusters=clusters)
    assert [(one.number, one.cluster) for one in sets.sets] == [(1, 'gas'), (8, 'bulk'), (8, 'surface')]
