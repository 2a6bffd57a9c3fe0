"""Disagreement of a committee."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from aiida_alpot.worker.acquisition.signals import SIGNALS, deviations, maximum_deviations
from aiida_alpot.worker.potentials.predictions import Predictions

FIELDS = ('energy', 'force', 'max_force', 'mean_force', 'stress')


def random_predictions(n_members: int = 4, sizes: tuple[int, ...] = (1, 5, 2), seed: int = 0) -> Predictions:
    rng = np.random.default_rng(seed)
    stress = rng.normal(size=(n_members, len(sizes), 3, 3))
    return Predictions(
        energy=rng.normal(size=(n_members, len(sizes))),
        forces=rng.normal(size=(n_members, sum(sizes), 3)),
        stress=stress + stress.swapaxes(2, 3),
        offsets=np.concatenate([[0], np.cumsum(sizes)]),
    )


def of_forces(*members: list[list[float]]) -> Predictions:
    forces = np.array(members, dtype=float)
    n = forces.shape[1]
    return Predictions(np.zeros((len(forces), 1)), forces, np.zeros((len(forces), 1, 3, 3)), np.array([0, n]))


def test_opposite_forces_disagree() -> None:
    """Peer defect 2: forces +x, +y and -x have equal norms, and the peer found no disagreement."""
    members = [[1, 0, 0]], [[0, 1, 0]], [[-1, 0, 0]]
    # The mean is (0, 1/3, 0); the squared distances are 10/9, 4/9, 10/9.
    assert deviations(of_forces(*members)).force == pytest.approx([np.sqrt(8 / 9)], abs=1e-15)
    assert maximum_deviations(of_forces(*members)).force == pytest.approx([np.sqrt(10 / 9)], abs=1e-15)


def test_values_by_hand() -> None:
    stress = np.zeros((2, 2, 3, 3))
    stress[0, 0], stress[1, 0] = np.eye(3), -np.eye(3)
    stress[:, 1] = np.nan
    forces = np.zeros((2, 3, 3))
    forces[0, 0, 0], forces[1, 0, 0], forces[0, 1, 2], forces[1, 1, 2] = 1.0, 3.0, 0.0, 8.0
    found = deviations(Predictions(np.array([[2.0, 5.0], [6.0, 5.0]]), forces, stress, np.array([0, 2, 3])))
    assert found.energy.tolist() == [1.0, 0.0]  # 2 eV apart from the mean, two atoms
    assert found.force.tolist() == [1.0, 4.0, 0.0]
    assert found.max_force.tolist() == [4.0, 0.0]
    assert found.mean_force.tolist() == [2.5, 0.0]
    assert found.stress[0] == pytest.approx(np.sqrt(3), abs=1e-15) and np.isnan(found.stress[1])


@pytest.mark.parametrize('name', ['committee', 'committee_maximum'])
def test_naive_reference(name: str) -> None:
    p = random_predictions()
    found = SIGNALS[name]()(p)
    combine = (lambda x: np.sqrt(np.mean(np.square(x)))) if name == 'committee' else max
    for i, (start, stop) in enumerate([(0, 1), (1, 6), (6, 8)]):
        per_atom = [e / (stop - start) for e in p.energy[:, i]]
        assert found.energy[i] == pytest.approx(combine([abs(e - np.mean(per_atom)) for e in per_atom]), rel=1e-12)
        force = [
            combine([np.linalg.norm(member[a] - p.forces[:, a].mean(axis=0)) for member in p.forces])
            for a in range(start, stop)
        ]
        assert found.force[start:stop] == pytest.approx(force, rel=1e-12)
        assert found.max_force[i] == pytest.approx(max(force), rel=1e-12)
        assert found.mean_force[i] == pytest.approx(np.mean(force), rel=1e-12)
        stress = [np.linalg.norm(member[i] - p.stress[:, i].mean(axis=0)) for member in p.stress]
        assert found.stress[i] == pytest.approx(combine(stress), rel=1e-12)


@pytest.mark.parametrize('name', ['committee', 'committee_maximum'])
def test_invariant_under_rotation_and_permutation(name: str) -> None:
    p = random_predictions(n_members=5)
    rotation = Rotation.random(random_state=3).as_matrix()
    order = [3, 0, 4, 1, 2]
    q = Predictions(p.energy[order], p.forces[order] @ rotation.T, (rotation @ p.stress @ rotation.T)[order], p.offsets)
    for field in FIELDS:
        assert np.allclose(getattr(SIGNALS[name]()(p), field), getattr(SIGNALS[name]()(q), field), rtol=1e-12, atol=0)


def test_equal_members_agree() -> None:
    p = random_predictions(n_members=1)
    twice = Predictions(*(np.repeat(x, 2, axis=0) for x in (p.energy, p.forces, p.stress)), p.offsets)
    assert all(np.all(getattr(deviations(twice), field) == 0) for field in FIELDS)


@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize('bad', [np.nan, np.inf])
def test_what_is_not_finite_is_confined_to_its_frame(bad: float) -> None:
    p = random_predictions()
    p.forces[1, 2, 0] = bad
    p.energy[0, 2] = bad
    found = deviations(p)
    assert np.isfinite(found.max_force).tolist() == [True, False, True]
    assert np.isfinite(found.energy).tolist() == [True, True, False]
    assert np.isfinite(found.force).sum() == 7


def test_no_frames() -> None:
    empty = Predictions(np.zeros((2, 0)), np.zeros((2, 0, 3)), np.zeros((2, 0, 3, 3)), np.zeros(1, dtype=int))
    assert all(getattr(deviations(empty), field).shape == (0,) for field in FIELDS)


def test_one_member_is_refused() -> None:
    with pytest.raises(ValueError, match='committee of 1 cannot disagree'):
        deviations(random_predictions(n_members=1))
