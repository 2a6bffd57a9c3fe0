"""Extrapolation grades of atoms and configurations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk

from aiida_alpot.worker.acquisition.extrapolation import ActiveSets, choose_active_sets, configuration_grades
from aiida_alpot.worker.frames.frame import Frame

SPECIES = np.array([1, 8])


@pytest.fixture
def training() -> tuple[np.ndarray, np.ndarray]:
    """Features of 400 atoms of hydrogen and oxygen, which do not resemble each other, in mixed order."""
    rng = np.random.default_rng(0)
    numbers = rng.choice(SPECIES, 400)
    features = rng.standard_normal((400, 5))
    features[numbers == 8] = 3.0 + features[numbers == 8] @ np.diag([1.0, 0.5, 0.2, 2.0, 1.0])
    return features, numbers


def naive_grades(sets: ActiveSets, features: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Eq 12 of the W study atom by atom; the least of the clusters' grades."""
    out = []
    for row, number in zip(features, numbers, strict=True):
        own = [one for one in sets.sets if one.number == number]
        out.append(min((np.abs(np.linalg.pinv(one.rows.T) @ row).max() for one in own), default=np.inf))
    return np.array(out)


def test_grades_are_those_of_the_atom_s_own_species(training):
    features, numbers = training
    sets = choose_active_sets(features, numbers)
    assert [one.number for one in sets.sets] == [1, 8]
    assert [len(one.index) for one in sets.sets] == [5, 5]
    for one in sets.sets:
        assert (numbers[one.index] == one.number).all()
        np.testing.assert_array_equal(one.rows, features[one.index])
    new = 2.0 * np.random.default_rng(1).standard_normal((50, 5))
    new_numbers = np.random.default_rng(2).choice(SPECIES, 50)
    found = sets.grade_atoms(new, new_numbers)
    np.testing.assert_allclose(found.grade, naive_grades(sets, new, new_numbers), rtol=1e-9)
    assert found.nearest.tolist() == np.searchsorted(SPECIES, new_numbers).tolist()


def test_lists_of_atomic_numbers_are_taken(training):
    features, numbers = training
    sets = choose_active_sets(features, numbers.tolist())
    found, expected = (sets.grade_atoms(features[:20], of) for of in (numbers[:20].tolist(), numbers[:20]))
    np.testing.assert_array_equal(found.grade, expected.grade)
    assert np.isfinite(found.grade).all() and found.nearest.tolist() == np.searchsorted(SPECIES, numbers[:20]).tolist()


@pytest.mark.parametrize('rectangular', [False, True])
def test_training_atoms_are_within_the_tolerance_and_active_ones_at_most_one(training, rectangular: bool):
    features, numbers = training
    sets = choose_active_sets(features, numbers, rectangular=rectangular)
    grade = sets.grade_atoms(features, numbers).grade
    assert grade.max() <= 1.01
    for one in sets.sets:
        assert grade[one.index].max() <= 1.0 + 1e-9
        assert one.largest_grade == pytest.approx(grade[numbers == one.number].max())


def test_the_unit_of_a_feature_does_not_matter(training):
    features, numbers = training
    units = np.array([1e-3, 1.0, 1e4, 7.0, 0.1])
    sets, scaled = choose_active_sets(features, numbers), choose_active_sets(features * units, numbers)
    new = np.random.default_rng(3).standard_normal((30, 5)) * 3
    np.testing.assert_allclose(
        scaled.grade_atoms(new * units, np.ones(30, dtype=int)).grade,
        sets.grade_atoms(new, np.ones(30, dtype=int)).grade,
        rtol=1e-9,
    )


def test_files_are_graded_in_blocks(training, tmp_path: Path):
    features, numbers = training
    sets = choose_active_sets(features, numbers)
    many, of = np.tile(features, (200, 1)), np.tile(numbers, 200)
    np.save(tmp_path / 'many.npy', many)
    stored = np.load(tmp_path / 'many.npy', mmap_mode='r')
    np.testing.assert_array_equal(
        sets.grade_atoms(stored, of).grade, np.tile(sets.grade_atoms(features, numbers).grade, 200)
    )
    again = choose_active_sets(stored, of)
    assert all(one.index.max() < 400 for one in again.sets)


def test_an_unknown_species_is_as_new_as_can_be(training):
    features, numbers = training
    sets = choose_active_sets(features, numbers)
    found = sets.grade_atoms(features[:3], np.array([1, 6, 8]))
    assert np.isinf(found.grade).tolist() == [False, True, False]
    assert found.nearest.tolist() == [0, -1, 1]
    assert configuration_grades(found.grade, np.array([0, 2, 3]))[0] == np.inf


def test_nan_stays_nan(training):
    features, numbers = training
    sets = choose_active_sets(features, numbers, clusters=np.arange(400) % 2, min_environments=1)
    broken = features[:4].copy()
    broken[2, 3] = np.nan
    assert np.isnan(sets.grade_atoms(broken, numbers[:4]).grade).tolist() == [False, False, True, False]


def test_a_row_outside_the_span_of_the_training_set():
    rng = np.random.default_rng(4)
    features = (rng.standard_normal((300, 3)) @ rng.standard_normal((3, 8))).astype(np.float32)
    sets = choose_active_sets(features, np.full(300, 74))
    assert sets.sets[0].rank == 3
    assert sets.grade_atoms(features, np.full(300, 74)).grade.max() <= 1.01
    outside = 0.1 * features[:5] + 0.1 * rng.standard_normal((5, 8)).astype(np.float32)
    assert sets.grade_atoms(outside, np.full(5, 74)).grade.min() > 100.0


def test_the_grade_of_a_configuration_is_that_of_its_worst_atom():
    grade = np.array([0.2, 1.5, 0.9, 0.1, 3.0, 2.0])
    assert configuration_grades(grade, np.array([0, 2, 3, 6])).tolist() == [1.5, 0.9, 3.0]
    assert configuration_grades(np.empty(0), np.array([0])).tolist() == []
    for offsets in ([0, 2, 2, 6], [0, 3], [1, 6]):
        with pytest.raises(ValueError, match='`offsets`'):
            configuration_grades(grade, np.array(offsets))


def test_thresholds_are_fences_of_the_training_grades(training):
    features, numbers = training
    sets = choose_active_sets(features, numbers)
    grade = sets.grade_atoms(features, numbers).grade
    offsets = np.arange(0, 401, 8)
    expected = []
    for values in (grade, grade.reshape(-1, 8).max(axis=1)):
        first, third = np.quantile(values, [0.25, 0.75])
        expected.append(third + 1.5 * (third - first))
    assert sets.thresholds(features, numbers, offsets) == pytest.approx(expected)


def test_atoms_with_extreme_forces_are_left_out(training):
    features, numbers = training
    features = features.copy()
    hydrogen = np.flatnonzero(numbers == 1)
    features[hydrogen[7]] *= 1000.0
    forces = np.random.default_rng(5).standard_normal((400, 3))
    forces[hydrogen[7]] *= 1000.0
    all_atoms = choose_active_sets(features, numbers)
    usual = choose_active_sets(features, numbers, forces=forces)
    assert hydrogen[7] in all_atoms.sets[0].index
    assert hydrogen[7] not in usual.sets[0].index
    assert usual.sets[0].n_left_out >= 1
    assert usual.sets[0].n_environments + usual.sets[0].n_left_out == len(hydrogen)
    # The extreme environment made all others look known.
    assert usual.grade_atoms(features, numbers).grade[hydrogen[7]] > 100.0


def test_what_is_reported(training):
    features, numbers = training
    sets = choose_active_sets(features, numbers, model_hash='ab' * 32, representation='activations_per_atom')
    report = sets.as_dict()
    assert report['representation'] == 'activations_per_atom'
    assert [one['species'] for one in report['sets']] == ['H', 'O']
    assert report['sets'][0]['rank'] == report['sets'][0]['n_active'] == 5


def test_bad_input(training):
    features, numbers = training
    sets = choose_active_sets(features, numbers, model_hash='ab' * 32, representation='activations_per_atom')
    with pytest.raises(ValueError, match='`features` has 4 features an atom, the active sets have 5'):
        sets.grade_atoms(features[:, :4], numbers)
    with pytest.raises(ValueError, match='`numbers` has shape'):
        sets.grade_atoms(features, numbers[:3])
    with pytest.raises(ValueError, match='there are no atoms'):
        choose_active_sets(features[:0], numbers[:0])
    with pytest.raises(ValueError, match='no atom has a finite force'):
        choose_active_sets(features, numbers, forces=np.full((400, 3), np.nan))
    with pytest.raises(ValueError, match='`forces` has shape'):
        choose_active_sets(features, numbers, forces=np.zeros((3, 3)))
    with pytest.raises(ValueError, match=r'features of O.* are zero'):
        choose_active_sets(np.where(numbers[:, None] == 8, 0.0, features), numbers)
    with pytest.raises(ValueError, match='grades would mean nothing'):
        sets.check('cd' * 32, 'activations_per_atom')


def test_activations_of_mace(mace_files: Callable[..., list[Path]]):
    """Strained and rattled crystals are known or not as they should be, for a MACE model as it is."""
    from aiida_alpot.worker.potentials import load_committee

    rng = np.random.default_rng(6)

    def crystal(amplitude: float, strain: float) -> Frame:
        atoms = bulk('SiC', 'zincblende', a=4.36 * (1.0 + strain), cubic=True)
        atoms.positions += amplitude * rng.standard_normal(atoms.positions.shape)
        return Frame.from_atoms(atoms)

    committee = load_committee(mace_files(['C', 'Si', 'Mo'], n_members=2)[:1])

    def atoms_of(frames: list[Frame]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        found = committee.evaluate(frames, features=('activations_per_atom',))
        return found.features['activations_per_atom'], np.concatenate([f.numbers for f in frames]), found.offsets

    features, numbers, offsets = atoms_of([crystal(0.05, s) for s in np.linspace(-0.01, 0.01, 12)])
    sets = choose_active_sets(features, numbers)
    assert [one.number for one in sets.sets] == [6, 14]
    assert sets.grade_atoms(features, numbers).grade.max() <= 1.01
    threshold = sets.thresholds(features, numbers, offsets)[1]
    far, far_numbers, far_offsets = atoms_of([crystal(0.3, 0.1), crystal(0.5, -0.1)])
    graded = configuration_grades(sets.grade_atoms(far, far_numbers).grade, far_offsets)
    assert (graded > max(2.0, threshold)).all()
