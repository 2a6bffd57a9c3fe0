"""Between data sets and AiiDA's structures and trajectories."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from aiida import orm
from ase import Atoms
from ase.build import bulk

from aiida_alpot.calculations.functions import structures_to_frames
from aiida_alpot.calculations.imports import (
    frames_from_trajectory,
    frames_to_structures,
    frames_to_trajectory,
    select_frames,
)
from aiida_alpot.data.pes import PESData
from aiida_alpot.worker.frames import Frame

pytestmark = pytest.mark.usefixtures('aiida_profile_clean')

PBC = [True, True, False]


@pytest.fixture
def trajectory() -> orm.TrajectoryData:
    """Three steps of Si C, periodic along two axes."""
    node = orm.TrajectoryData()
    positions = np.random.default_rng(1).uniform(0, 4, size=(3, 2, 3))
    cells = np.array([(4 + 0.1 * k) * np.eye(3) for k in range(3)])
    times = np.array([0.0, 0.5, 1.0])
    node.set_trajectory(['Si', 'C'], positions, np.array([0, 10, 20]), cells, times, pbc=PBC)
    return node


def without_pbc(trajectory: orm.TrajectoryData, symbols: list[str] | None = None) -> orm.TrajectoryData:
    """The trajectory as AiiDA before 2.8 stored it."""
    node = trajectory.clone()
    node.base.attributes.delete('pbc')
    if symbols:
        node.base.attributes.set('symbols', symbols)
    return node


def test_select_frames(make_frame: Callable[..., Frame], assert_same_frame: Callable[[Frame, Frame], None]) -> None:
    """In the order asked for, linked to the source."""
    frames = [make_frame(i) for i in range(6)]
    source = PESData(frames=frames)
    node = select_frames(source, orm.List([4, 0, 4]))
    for found, index in zip(node, (4, 0, 4), strict=True):
        assert_same_frame(found, frames[index])
    assert node.creator.inputs.dataset.uuid == source.uuid and node.creator.process_label == 'select_frames'


@pytest.mark.parametrize('indices', [[], [6], [-1], [0.5], [True], ['a']])
def test_wrong_indices(make_frame: Callable[..., Frame], indices: list[Any]) -> None:
    """With the range there is."""
    source = PESData(frames=[make_frame(i) for i in range(6)])
    for function in (select_frames, frames_to_structures, frames_to_trajectory):
        with pytest.raises(ValueError, match='whole numbers from 0 to 5'):
            function(source, orm.List(indices))


class TestFromTrajectory:
    """Unlabelled frames of each step."""

    def test_steps(self, trajectory: orm.TrajectoryData) -> None:
        """Structure, step and time of each; one lineage; no labels."""
        node = frames_from_trajectory(trajectory)
        assert node.n_frames == 3 and not node.column('has_energy').any()
        frames = list(node)
        assert [frame.metadata for frame in frames] == [
            {'step': step, 'time_ps': time} for step, time in ((0, 0.0), (10, 0.5), (20, 1.0))
        ]
        assert {frame.lineage for frame in frames} == {frames[0].frame_id[:16]}
        assert node.origins == {'trajectory': 3}
        for k, frame in enumerate(frames):
            assert frame.numbers.tolist() == [14, 6] and frame.pbc.tolist() == PBC
            assert np.array_equal(frame.positions, trajectory.get_positions()[k])
            assert np.array_equal(frame.cell, trajectory.get_cells()[k])
        assert node.creator.process_label == 'frames_from_trajectory'

    def test_molecule_without_cell(self) -> None:
        """No cell is no periodicity."""
        node = orm.TrajectoryData()
        node.set_trajectory(['H', 'H'], np.array([[[0, 0, 0], [0, 0, 0.74]]], dtype=float))
        frame = frames_from_trajectory(node, origin=orm.Str('scan')).frame(0)
        assert not frame.pbc.any() and not frame.cell.any() and frame.origin == 'scan'

    def test_old_trajectory(self, trajectory: orm.TrajectoryData) -> None:
        """One that does not say what is periodic needs to be told, or the structure."""
        with pytest.raises(ValueError, match=r'before AiiDA 2\.8: give `pbc`'):
            frames_from_trajectory(without_pbc(trajectory))
        told = frames_from_trajectory(without_pbc(trajectory), pbc=orm.List([True, True, True]))
        assert told.frame(0).pbc.all()
        with pytest.raises(ValueError, match='three booleans'):
            frames_from_trajectory(without_pbc(trajectory), pbc=orm.List([1, 1, 1]))
        with pytest.raises(ValueError, match='contradictory'):
            frames_from_trajectory(trajectory, pbc=orm.List([True, True, True]))

    def test_kinds_that_are_no_elements(self, trajectory: orm.TrajectoryData) -> None:
        """Names such as Si1 need the structure that explains them, which also gives lineage and periodicity."""
        named = without_pbc(trajectory, ['Si1', 'C'])
        with pytest.raises(ValueError, match='sites named Si1'):
            frames_from_trajectory(named, pbc=orm.List(PBC))
        structure = orm.StructureData(cell=4 * np.eye(3), pbc=PBC)
        structure.append_atom(position=(0, 0, 0), symbols='Si', name='Si1')
        structure.append_atom(position=(1, 1, 1), symbols='C')
        node = frames_from_trajectory(named, structure=structure)
        assert node.frame(0).numbers.tolist() == [14, 6] and node.frame(0).pbc.tolist() == PBC
        lineage = structures_to_frames(a=structure).frame(0).lineage
        assert set(node.column('lineage').tolist()) == {lineage}
        with pytest.raises(ValueError, match='are not those of the trajectory'):
            frames_from_trajectory(trajectory, structure=structure)


class TestToStructures:
    """Structures of frames."""

    def test_round_trip(self, make_frame: Callable[..., Frame]) -> None:
        """Sites in order, periodicity and cell to the last digit that AiiDA keeps."""
        frames = [make_frame(i, pbc=(True, i > 0, True)) for i in range(3)]
        structures = frames_to_structures(PESData(frames=frames), orm.List([2, 0]))
        assert set(structures) == {'frame_0', 'frame_2'}
        back = structures_to_frames(**structures)
        assert back.column('frame_id').tolist() == [frames[0].frame_id, frames[2].frame_id]
        assert np.allclose(back.frame(1).positions, frames[2].positions, rtol=0, atol=1e-12)
        assert back.n_labelled == 0

    def test_without_cell(self) -> None:
        """AiiDA's structures have one."""
        dataset = PESData(frames=[Frame.from_atoms(Atoms('H'))])
        with pytest.raises(ValueError, match='no three-dimensional cell'):
            frames_to_structures(dataset, orm.List([0]))


class TestToTrajectory:
    """One trajectory of frames."""

    def test_round_trip(self) -> None:
        """The indices are the step numbers."""
        frames = []
        for k in range(4):
            atoms = bulk('Si', cubic=True)
            atoms.positions[0, 0] += 0.01 * k
            frames.append(Frame.from_atoms(atoms))
        node = frames_to_trajectory(PESData(frames=frames), orm.List([3, 1]))
        assert node.get_stepids().tolist() == [3, 1] and node.symbols == ['Si'] * 8 and node.pbc == [True] * 3
        back = frames_from_trajectory(node)
        assert back.column('frame_id').tolist() == [frames[3].frame_id, frames[1].frame_id]
        assert node.creator.process_label == 'frames_to_trajectory'

    def test_no_cell(self) -> None:
        """Molecules without a cell."""
        molecule = Frame.from_atoms(Atoms('H2', [[0, 0, 0], [0, 0, 0.74]]))
        node = frames_to_trajectory(PESData(frames=[molecule]), orm.List([0]))
        assert node.get_cells() is None
        assert frames_from_trajectory(node).frame(0).frame_id == molecule.frame_id

    @pytest.mark.parametrize('other', [Atoms('CSi', cell=4 * np.eye(3)), Atoms('SiC', cell=4 * np.eye(3), pbc=True)])
    def test_frames_that_do_not_fit(self, other: Atoms) -> None:
        """Another order of species, another periodicity."""
        other.positions = [[0, 0, 0], [1, 1, 1]]
        first = Atoms('SiC', [[0, 0, 0], [1, 1, 1]], cell=4 * np.eye(3))
        dataset = PESData(frames=[Frame.from_atoms(first), Frame.from_atoms(other)])
        with pytest.raises(ValueError, match='the same species in the same order'):
            frames_to_trajectory(dataset, orm.List([0, 1]))
