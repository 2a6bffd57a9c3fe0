"""Energies of isolated atoms, from labels and by least squares."""

from __future__ import annotations

import numpy as np
import pytest

from aiida_alpot.worker.training.reference_energies import reference_energies

COUNTS = np.array([[4, 0, 0], [3, 1, 0], [2, 2, 1], [1, 3, 2], [0, 2, 5]])
TRUE = np.array([-10.0, -200.0, 3000.0])


def test_labels_of_isolated_atoms() -> None:
    """Elements that are in no frame are left out."""
    labels = {'H': [-13.6], 'C': [-1000.0], 'Si': [-5.0]}
    found = reference_energies(['H', 'C'], labels, COUNTS[:, :2], COUNTS @ TRUE)
    assert found.energies == {'H': -13.6, 'C': -1000.0}
    assert found.source == 'isolated_atoms' and found.warnings == ()


def test_several_labels_of_one_atom() -> None:
    """The lowest is the ground state."""
    found = reference_energies(['H'], {'H': [-12.0, -13.6, -13.5]}, COUNTS[:, :1], np.zeros(5))
    assert found.energies == {'H': -13.6} and 'has 3 labels between -13.6000 and -12.0000' in found.warnings[0]
    assert not reference_energies(['H'], {'H': [-13.6, -13.6001]}, COUNTS[:, :1], np.zeros(5)).warnings


def test_least_squares() -> None:
    """Of energies that are sums of those of atoms the fit finds these."""
    found = reference_energies(['H', 'C', 'O'], {}, COUNTS, COUNTS @ TRUE)
    assert list(found.energies.values()) == pytest.approx(TRUE.tolist())
    assert found.source == 'least_squares' and len(found.warnings) == 1
    assert 'isolated atom of H, C, O' in found.warnings[0] and 'not unique' not in found.warnings[0]


def test_those_known_stay_and_the_others_are_fitted_to_what_remains() -> None:
    found = reference_energies(['H', 'C', 'O'], {'C': [-200.0]}, COUNTS, COUNTS @ TRUE)
    assert found.energies == pytest.approx({'H': -10.0, 'C': -200.0, 'O': 3000.0}) and found.energies['C'] == -200.0
    assert found.source == 'least_squares' and 'isolated atom of H, O' in found.warnings[0]
    # A label that is far from what a fit of all would give changes what the others become.
    other = reference_energies(['H', 'C', 'O'], {'C': [-100.0]}, COUNTS, COUNTS @ TRUE).energies
    remainder = COUNTS @ TRUE + 100.0 * COUNTS[:, 1]
    expected, *_ = np.linalg.lstsq(COUNTS[:, [0, 2]], remainder, rcond=None)
    assert [other['H'], other['O']] == pytest.approx(expected.tolist())


def test_one_composition_determines_a_sum_only() -> None:
    """The least in norm is taken, and said."""
    counts = np.array([[2, 2], [4, 4], [6, 6]])
    found = reference_energies(['Na', 'Cl'], {}, counts, counts @ np.array([-3.0, -7.0]))
    assert found.energies == pytest.approx({'Na': -5.0, 'Cl': -5.0})
    assert 'determine only 1 of these 2 numbers' in found.warnings[0] and 'not unique' in found.warnings[0]
    # With one of them known the other is unique.
    found = reference_energies(['Na', 'Cl'], {'Na': [-3.0]}, counts, counts @ np.array([-3.0, -7.0]))
    assert found.energies == pytest.approx({'Na': -3.0, 'Cl': -7.0}) and 'not unique' not in found.warnings[0]


def test_an_element_that_nothing_is_known_about() -> None:
    counts = np.array([[2, 0], [3, 0]])
    with pytest.raises(ValueError, match='no training frame with an energy contains Cl'):
        reference_energies(['Na', 'Cl'], {}, counts, np.ones(2))


def test_no_energies_at_all() -> None:
    """Where only forces are learnt, the energies have no zero."""
    found = reference_energies(['Na', 'Cl'], {'Na': [-3.0]}, np.zeros((0, 2)), np.zeros(0))
    assert found.energies == {'Na': -3.0, 'Cl': 0.0} and 'Cl are taken as 0' in found.warnings[0]
