"""Levels of theory, and labels from what pw.x leaves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from aiida import orm

from aiida_alpot.calculations.labels import extract_structures, label_frame, level_of_theory
from aiida_alpot.data.pes import PESData
from aiida_alpot.worker.frames import Frame

SYSTEM = {'ecutwfc': 30.0, 'ecutrho': 120.0, 'occupations': 'smearing', 'smearing': 'gaussian', 'degauss': 0.01}
PSEUDOS = {'Si': 'a' * 32, 'H': 'b' * 32}


def fingerprint(
    system: dict[str, Any] | None = None, pseudos: dict[str, str] | None = None, distance: float = 0.3, **cards: Any
) -> str:
    """Fingerprint with some things changed."""
    parameters = {'SYSTEM': {**SYSTEM, **(system or {})}, **cards}
    return level_of_theory(parameters, {**PSEUDOS, **(pseudos or {})}, distance)[0]


@pytest.mark.parametrize(
    'change',
    [
        {'system': {'ecutwfc': 31.0}},
        {'system': {'ecutrho': 121.0}},
        {'system': {'degauss': 0.02}},
        {'system': {'smearing': 'cold'}},
        {'system': {'nspin': 2}},
        {'system': {'vdw_corr': 'dft-d3'}},
        {'system': {'input_dft': 'pbesol'}},
        {'pseudos': {'Si': 'c' * 32}},
        {'distance': 0.2},
    ],
)
def test_what_changes_a_label_changes_the_level(change: dict[str, Any]) -> None:
    """Cut-offs, smearing, spin, functional, dispersion, pseudopotentials, k-points."""
    assert fingerprint(**change) != fingerprint()


@pytest.mark.parametrize(
    'change',
    [
        {'system': {'starting_magnetization': {'Si': 0.5}}},
        {'system': {'nbnd': 20}},
        {'ELECTRONS': {'conv_thr': 1e-9, 'mixing_beta': 0.2}},
        {'CONTROL': {'max_seconds': 100}},
        {'pseudos': dict(reversed(PSEUDOS.items()))},
    ],
)
def test_what_does_not_change_a_label_leaves_the_level(change: dict[str, Any]) -> None:
    """Where the calculation starts, how it converges, the order of the elements."""
    assert fingerprint(**change) == fingerprint()


def test_content_tells_what_went_in() -> None:
    """The keys in lower case, whatever the user wrote."""
    digest, content = level_of_theory({'SYSTEM': {'ECUTWFC': 30.0, 'nat': 2}}, PSEUDOS, 0.3)
    assert content == {
        'code': 'quantumespresso.pw',
        'system': {'ecutwfc': 30.0},
        'pseudos': {'H': 'b' * 32, 'Si': 'a' * 32},
        'kpoints_distance': 0.3,
    }
    assert digest == level_of_theory({'SYSTEM': {'ecutwfc': 30.0}}, PSEUDOS, 0.3)[0]


def trajectory(n_atoms: int, n_steps: int = 1) -> orm.TrajectoryData:
    """What the parser of pw.x makes of a static calculation: eV, eV/A, and GPa with the sign of a pressure."""
    node = orm.TrajectoryData()
    node.set_trajectory(
        symbols=['Si'] * n_atoms, positions=np.zeros((n_steps, n_atoms, 3)), cells=np.array([5 * np.eye(3)] * n_steps)
    )
    node.set_array('energy', np.array([-310.5] * n_steps))
    node.set_array('forces', np.arange(n_steps * n_atoms * 3, dtype=float).reshape(n_steps, n_atoms, 3))
    node.set_array('stress', np.array([np.diag([10.0, 20.0, -5.0])] * n_steps))
    return node


@pytest.mark.usefixtures('aiida_profile')
class TestLabelFrame:
    """Conversion happens here and nowhere else."""

    def test_units_and_sign(self, make_frame: Callable[..., Frame]) -> None:
        """A pressure of 160.2 GPa is a stress of -1 eV/A^3."""
        frame = make_frame(0, n_atoms=2, labelled=False, split='train', metadata={'a': 1})
        labelled = label_frame(frame, trajectory(2), 'level')
        assert labelled.energy == -310.5 and labelled.level_of_theory == 'level'
        assert np.array_equal(labelled.forces, [[0, 1, 2], [3, 4, 5]])
        assert np.allclose(labelled.stress, -np.diag([10.0, 20.0, -5.0]) / 160.21766208, rtol=1e-12, atol=0)
        for name in ('frame_id', 'lineage', 'origin', 'split', 'metadata'):
            assert getattr(labelled, name) == getattr(frame, name)

    def test_no_stress_without_full_periodicity(self, make_frame: Callable[..., Frame]) -> None:
        """A stress of a cell with vacuum means nothing."""
        frame = make_frame(0, n_atoms=2, labelled=False, pbc=(True, True, False))
        assert label_frame(frame, trajectory(2), 'level').stress is None

    @pytest.mark.parametrize(('n_atoms', 'n_steps'), [(3, 1), (2, 2)])
    def test_other_calculations_are_refused(self, make_frame: Callable[..., Frame], n_atoms: int, n_steps: int) -> None:
        """Other atoms, or a relaxation, whose last structure is not that of the frame."""
        with pytest.raises(ValueError, match='expected the forces of one step on 2 atoms'):
            label_frame(make_frame(0, n_atoms=2), trajectory(n_atoms, n_steps), 'level')


@pytest.mark.usefixtures('aiida_profile')
def test_extract_structures(make_frame: Callable[..., Frame]) -> None:
    """By index, sites in the order of the atoms, with a creator."""
    frames = PESData(frames=[make_frame(i, n_atoms=3 + i) for i in range(4)])
    structures = extract_structures(frames, orm.List([3, 1]))
    assert set(structures) == {'frame_3', 'frame_1'}
    assert np.allclose(structures['frame_1'].get_ase().positions, frames.frame(1).positions, rtol=0, atol=1e-12)
    assert structures['frame_3'].get_ase().numbers.tolist() == frames.frame(3).numbers.tolist()
    assert structures['frame_3'].creator.process_label == 'extract_structures'
