"""Labels from the nodes of pw.x calculations: what is taken and what is refused."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from aiida import orm
from ase import Atoms
from ase.build import bulk

from aiida_alpot.calculations.labels import GPA_PER_EV_PER_A3, level_of_theory
from aiida_alpot.calculations.pw_frames import NotUsable, PwRun, frames_from_pw, labelled_frames, level_of_run
from aiida_alpot.worker.frames import Frame

pytestmark = pytest.mark.usefixtures('aiida_profile')

SYSTEM = {'ecutwfc': 20.0, 'ecutrho': 80.0}
DISTANCE = 0.8
BOHR = 1 + 1e-8
"""pw.x's Bohr radius against AiiDA's."""


def silicon() -> Atoms:
    """Two atoms, one of them shifted."""
    atoms = bulk('Si', a=5.43)
    atoms.positions[0, 0] += 0.05
    return atoms


def mesh(size: tuple[int, int, int], offset: tuple[float, ...] = (0, 0, 0)) -> orm.KpointsData:
    """A mesh of k-points; 3 x 3 x 3 is what a distance of 0.8 1/A gives for silicon."""
    kpoints = orm.KpointsData()
    kpoints.set_kpoints_mesh(list(size), offset=list(offset))
    return kpoints


def pseudo(element: str = 'Si', content: bytes = b'') -> orm.Data:
    """A pseudopotential that is only a file."""
    from aiida_pseudo.data.pseudo import UpfData

    text = f'<UPF version="2.0.1"><PP_HEADER element="{element}" z_valence="4.0"/></UPF>'.encode()
    return UpfData(io.BytesIO(text + content), filename=f'{element}.upf')


def output(atoms: Atoms, n_steps: int = 1, **arrays: Any) -> orm.TrajectoryData:
    """What the parser leaves, with made-up numbers that depend on the step."""
    rng = np.random.default_rng(n_steps)
    shifts = rng.normal(scale=0.02, size=(n_steps, len(atoms), 3))
    shifts[0] = 0
    trajectory = orm.TrajectoryData()
    trajectory.set_trajectory(
        atoms.get_chemical_symbols(),
        (atoms.positions + shifts) * BOHR,
        cells=np.array([atoms.cell.array] * n_steps) * BOHR,
        pbc=[bool(flag) for flag in atoms.pbc],
    )
    stress = rng.normal(size=(n_steps, 3, 3))
    values: dict[str, Any] = {
        'energy': -100.0 - np.arange(n_steps),
        'forces': rng.normal(size=(n_steps, len(atoms), 3)),
        'stress': stress + stress.transpose(0, 2, 1),
    }
    for name, array in {**values, **arrays}.items():
        if array is not None:
            trajectory.set_array(name, np.asarray(array, dtype=float))
    return trajectory


@pytest.fixture
def run() -> Callable[..., PwRun]:
    """Factory of a run on silicon with some nodes or cards changed."""

    def make(
        calculation: str | None = 'scf',
        n_steps: int = 1,
        cards: dict[str, Any] | None = None,
        atoms: Atoms | None = None,
        arrays: dict[str, Any] | None = None,
        size: tuple[int, int, int] = (3, 3, 3),
        offset: tuple[float, ...] = (0, 0, 0),
        **nodes: Any,
    ) -> PwRun:
        atoms = atoms or silicon()
        parameters: dict[str, Any] = {'SYSTEM': SYSTEM, 'CONTROL': {}}
        if calculation:
            parameters['CONTROL'] = {'calculation': calculation}
        for card, keys in (cards or {}).items():
            parameters[card] = {**parameters.get(card, {}), **keys}
        values: dict[str, Any] = {
            'uuid': 'made-up',
            'structure': orm.StructureData(ase=atoms),
            'parameters': orm.Dict(parameters),
            'kpoints': mesh(size, offset),
            'pseudos': {'Si': pseudo()},
            'kpoints_distance': DISTANCE,
            'trajectory': output(atoms, n_steps, **(arrays or {})),
        }
        return PwRun(**{**values, **nodes})

    return make


def frames_of(run: PwRun) -> list[Frame]:
    """Labelled frames of a run at its level of theory."""
    return list(labelled_frames(run, level_of_run(run)[0]))


class TestLevel:
    """The level of theory is the one that a labelling would give."""

    def test_is_that_of_a_labelling(self, run: Callable[..., PwRun]) -> None:
        """From the cards of the calculation; what only starts or names it does not count."""
        made = run(cards={'SYSTEM': {'nat': 2, 'nbnd': 8}, 'ELECTRONS': {'conv_thr': 1e-9}})
        md5 = made.pseudos['Si'].base.attributes.get('md5')
        wanted, content = level_of_theory({'SYSTEM': SYSTEM}, {'Si': md5, 'H': 'f' * 32}, DISTANCE)
        level, found = level_of_run(made)
        assert str(level) == str(wanted.of(['Si'])) and level.base.startswith('pw-')
        assert found['system'] == content['system'] and found['pseudos'] == {'Si': md5}

    def test_small_letters(self, run: Callable[..., PwRun]) -> None:
        """Cards may be written in small letters, and keys in capitals: the plugin takes both."""
        made = run(parameters=orm.Dict({'system': {'ECUTWFC': 20.0, 'ecutrho': 80.0}}))
        assert level_of_run(made)[0] == level_of_run(run())[0]
        assert made.calculation == 'scf'

    def test_spin_is_another_level(self, run: Callable[..., PwRun]) -> None:
        """For calculations of others, also of isolated atoms."""
        assert level_of_run(run(cards={'SYSTEM': {'nspin': 2}}))[0].base != level_of_run(run())[0].base

    def test_isolated_atom_of_a_labelling(self, run: Callable[..., PwRun]) -> None:
        """Its spin is the treatment of this frame, not the level."""
        atom = Atoms('Si', cell=6 * np.eye(3))
        made = run(
            atoms=atom,
            cards={'SYSTEM': {'nspin': 2, 'starting_magnetization': {'Si': 0.5}}},
            theory=orm.Dict({'SYSTEM': SYSTEM}),
            frame=Frame.from_atoms(atom, origin='isolated_atom', lineage='atom'),
            size=(1, 1, 1),
        )
        level, _ = level_of_run(made)
        assert level.base == level_of_run(run())[0].base and level.treatment == 'isolated'
        (frame,) = frames_of(made)
        assert frame.stress is None and frame.lineage == 'atom' and frame.origin == 'isolated_atom'

    @pytest.mark.parametrize(
        ('changes', 'reason'),
        [
            ({'calculation': 'nscf'}, "it is of type 'nscf', which has no forces"),
            (
                {'settings': {'FIXED_COORDS': [[True] * 3, [False] * 3]}},
                'FIXED_COORDS is in use: atoms were held fixed',
            ),
            ({'settings': {'fixed_coords': [[True] * 3, [False] * 3]}}, 'FIXED_COORDS is in use'),
            ({'settings': {'ENVIRON': {'ENVIRON': {}}}}, 'an environment'),
            ({'cards': {'ELECTRONS': {'scf_must_converge': False}}}, 'allowed not to converge'),
            ({'size': (4, 4, 4)}, 'is not the one that a distance of 0.8 1/A gives'),
            ({'offset': (0.5, 0.5, 0.5)}, 'is not the one that a distance'),
            ({'kpoints_distance': None}, 'was given without a distance'),
            ({'kpoints_distance': 0.2}, 'is not the one that a distance of 0.2 1/A gives'),
            ({'pseudos': {}}, 'has no pseudopotential'),
        ],
    )
    def test_refusals(self, run: Callable[..., PwRun], changes: dict[str, Any], reason: str) -> None:
        """What a level of theory does not hold, or what makes other forces."""
        if 'settings' in changes:
            changes = {'settings': orm.Dict(changes['settings'])}
        with pytest.raises(NotUsable, match=reason.replace('.', r'\.')):
            level_of_run(run(**changes))

    def test_settings_that_do_not_matter(self, run: Callable[..., PwRun]) -> None:
        """A command line, nothing fixed."""
        settings = orm.Dict({'CMDLINE': ['-nk', '2'], 'FIXED_COORDS': [], 'GAMMA_ONLY': False})
        assert level_of_run(run(settings=settings))[0] == level_of_run(run())[0]

    def test_list_of_kpoints(self, run: Callable[..., PwRun]) -> None:
        """There is no distance."""
        kpoints = orm.KpointsData()
        kpoints.set_kpoints([[0, 0, 0], [0.5, 0, 0]], weights=[0.5, 0.5])
        with pytest.raises(NotUsable, match='its k-points are a list'):
            level_of_run(run(kpoints=kpoints))

    def test_two_pseudopotentials_of_one_element(self, run: Callable[..., PwRun]) -> None:
        """Two kinds may share one; two of them are refused."""
        structure = orm.StructureData(cell=silicon().cell.array)
        for name, position in zip(('Si1', 'Si2'), silicon().positions, strict=True):
            structure.append_atom(position=position, symbols='Si', name=name)
        one = run(structure=structure, pseudos={'Si1': pseudo(), 'Si2': pseudo()})
        assert level_of_run(one)[0] == level_of_run(run())[0]
        two = run(structure=structure, pseudos={'Si1': pseudo(), 'Si2': pseudo(content=b' ')})
        with pytest.raises(NotUsable, match='two pseudopotentials for one element'):
            level_of_run(two)

    def test_hubbard(self, run: Callable[..., PwRun]) -> None:
        """Parameters that are in the structure and in no card."""
        from aiida_quantumespresso.data.hubbard_structure import HubbardStructureData

        structure = HubbardStructureData.from_structure(orm.StructureData(ase=silicon()))
        assert level_of_run(run(structure=structure))[0] == level_of_run(run())[0]
        structure.initialize_onsites_hubbard('Si', '3p', 1.0)
        with pytest.raises(NotUsable, match='Hubbard parameters'):
            level_of_run(run(structure=structure))


class TestFrames:
    """Structures and labels of each step that is taken."""

    def test_scf(self, run: Callable[..., PwRun]) -> None:
        """Units and sign of the stress, the structure to the last digit, and where it comes from."""
        made = run()
        (frame,) = frames_of(made)
        assert frame.frame_id == Frame.from_atoms(made.structure.get_ase()).frame_id
        assert np.array_equal(frame.positions, silicon().positions)
        assert frame.energy == -100.0
        assert np.array_equal(frame.forces, made.trajectory.get_array('forces')[0])
        assert np.array_equal(frame.stress, -made.trajectory.get_array('stress')[0] / GPA_PER_EV_PER_A3)
        assert frame.metadata == {'calculation': 'made-up', 'step': 0}
        assert frame.origin == 'input' and frame.frame_id.startswith(frame.lineage) and len(frame.lineage) == 16

    @pytest.mark.parametrize('calculation', ['relax', 'md'])
    def test_every_step(self, run: Callable[..., PwRun], calculation: str) -> None:
        """One lineage; lengths without the difference of the Bohr radii; each step with its own labels."""
        made = run(calculation, n_steps=4)
        frames = frames_of(made)
        assert len(frames) == 4 and len({frame.lineage for frame in frames}) == 1
        assert [frame.origin for frame in frames] == ['input', calculation, calculation, calculation]
        assert [frame.metadata['step'] for frame in frames] == [0, 1, 2, 3]
        assert [frame.energy for frame in frames] == [-100.0, -101.0, -102.0, -103.0]
        assert np.array_equal(frames[0].positions, silicon().positions)
        for k, frame in enumerate(frames):
            assert np.array_equal(frame.cell, silicon().cell.array)
            assert np.allclose(frame.positions * BOHR, made.trajectory.get_positions()[k], rtol=0, atol=1e-13)
            assert np.array_equal(frame.forces, made.trajectory.get_array('forces')[k])
            assert np.array_equal(frame.stress, -made.trajectory.get_array('stress')[k] / GPA_PER_EV_PER_A3)

    @pytest.mark.parametrize('calculation', ['vc-relax', 'vc-md'])
    def test_first_step_where_the_cell_changes(self, run: Callable[..., PwRun], calculation: str) -> None:
        """The others have the plane waves of another cell; a vc-relax has one more energy than steps."""
        made = run(calculation, n_steps=3)
        (frame,) = frames_of(made)
        assert frame.energy == -100.0 and np.array_equal(frame.forces, made.trajectory.get_array('forces')[0])

    def test_lineage_of_a_restart(self, run: Callable[..., PwRun]) -> None:
        """That of the structure that the chain started from."""
        root = orm.StructureData(ase=bulk('Si', a=5.43))
        frames = frames_of(run('relax', n_steps=2, root=root))
        assert {frame.lineage for frame in frames} == {Frame.from_atoms(root.get_ase()).frame_id[:16]}

    def test_lineage_of_a_frame(self, run: Callable[..., PwRun]) -> None:
        """A structure made of a frame keeps lineage, origin, split and metadata of that, and not its labels."""
        source = Frame.from_atoms(
            silicon(), lineage='a', origin='rattle', split='test', metadata={'k': 1}, energy=5.0, level_of_theory='lda'
        )
        first, second = frames_of(run('relax', n_steps=2, frame=source))
        assert (first.lineage, first.origin, first.split) == ('a', 'rattle', 'test')
        assert first.metadata == {'k': 1, 'calculation': 'made-up', 'step': 0} and first.energy == -100.0
        assert (second.lineage, second.origin, second.split) == ('a', 'relax', 'test')
        other = source.replace(positions=source.positions + 0.1 * np.eye(2, 3))
        assert frames_of(run(frame=other))[0].lineage != 'a'

    def test_without_stress(self, run: Callable[..., PwRun]) -> None:
        """A calculation without, one with a stress for some steps only, and a slab."""
        assert frames_of(run(arrays={'stress': None}))[0].stress is None
        assert frames_of(run('relax', n_steps=3, arrays={'stress': np.zeros((1, 3, 3))}))[1].stress is None
        slab = silicon()
        slab.pbc = (True, True, False)
        assert frames_of(run(atoms=slab, size=(3, 3, 1)))[0].stress is None

    @pytest.mark.parametrize(
        ('arrays', 'reason'),
        [
            ({'forces': None}, 'holds no forces'),
            ({'energy': None}, 'holds no energy'),
            ({'energy': [1.0, 2.0]}, 'one energy and the forces on all atoms for each step'),
            ({'forces': np.zeros((3, 1, 3))}, 'one energy and the forces on all atoms for each step'),
            ({'forces': np.full((3, 2, 3), np.nan)}, 'not finite'),
            ({'positions': np.zeros((2, 2, 3))}, 'one structure for each step'),
            ({'positions': np.zeros((3, 2, 3))}, 'the first step of its trajectory is not its input structure'),
            ({'cells': np.array([4 * np.eye(3)] * 3)}, 'the cell of its steps is not that of its input structure'),
        ],
    )
    def test_outputs_that_do_not_fit(self, run: Callable[..., PwRun], arrays: dict[str, Any], reason: str) -> None:
        """Such as those of a run that was restarted from another structure."""
        with pytest.raises(NotUsable, match=reason):
            frames_of(run('relax', n_steps=3, arrays=arrays))

    def test_no_output(self, run: Callable[..., PwRun]) -> None:
        """There is no trajectory."""
        with pytest.raises(NotUsable, match='holds no forces'):
            frames_of(run(trajectory=None))


class TestCalculationFunction:
    """The account of all calculations, and what is there already."""

    @staticmethod
    def inputs(runs: list[PwRun]) -> dict[str, Any]:
        """Nodes by key."""
        spaces: dict[str, dict[str, Any]] = {
            name: {} for name in ('structures', 'parameters', 'kpoints', 'pseudos', 'trajectories')
        }
        entries = []
        for i, made in enumerate(runs):
            nodes = (made.structure, made.parameters, made.kpoints, made.pseudos['Si'], made.trajectory)
            for space, node in zip(spaces.values(), nodes, strict=True):
                space[f'n_{i}'] = node
            key = f'n_{i}'
            entries.append(
                {'uuid': f'run {i}', 'structure': key, 'parameters': key, 'kpoints': key, 'trajectory': key}
                | {'pseudos': {'Si': key}, 'kpoints_distance': made.kpoints_distance}
            )
        return {'runs': orm.List(entries), 'allow_mixed_levels': orm.Bool(False), **spaces}

    def test_account(self, run: Callable[..., PwRun]) -> None:
        """Used, skipped with reasons, duplicates, frames without stress, and the settings of the level."""
        runs = [run(), run('relax', 3, arrays={'stress': None}), run(size=(2, 2, 2)), run(), run('nscf')]
        skipped = orm.List([{'calculation': 'x', 'reason': 'it was killed'}])
        outputs = frames_from_pw(skipped=skipped, **self.inputs(runs))
        report = outputs['report'].get_dict()
        assert (report['n_calculations'], report['n_used'], report['n_skipped']) == (6, 3, 3)
        assert (report['n_frames'], report['n_duplicates'], report['n_without_stress']) == (3, 2, 3)
        assert report['reasons']['it was killed'] == 1 and len(report['reasons']) == 3
        assert [entry['calculation'] for entry in report['skipped']] == ['x', 'run 2', 'run 4']
        frames = outputs['frames']
        assert frames.creator.process_label == 'frames_from_pw'
        (base,) = frames.levels_of_theory
        assert report['levels_of_theory'][base]['kpoints_distance'] == DISTANCE
        assert [frame.metadata['calculation'] for frame in frames] == ['run 0', 'run 1', 'run 1']

    def test_added_to_a_data_set(self, run: Callable[..., PwRun]) -> None:
        """Its shards are listed; what it has already is left out."""
        first = frames_from_pw(skipped=orm.List(), **self.inputs([run()]))['frames']
        outputs = frames_from_pw(skipped=orm.List(), dataset=first, **self.inputs([run('relax', 3)]))
        assert outputs['frames'].shards[0] == first.shards[0] and outputs['frames'].n_frames == 3
        assert outputs['report']['n_duplicates'] == 1
        nothing = frames_from_pw(skipped=orm.List(), dataset=first, **self.inputs([run()]))
        assert 'frames' not in nothing and nothing['report']['n_duplicates'] == 1
