"""Levels of theory, labels that the database has, and labels from what pw.x leaves."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from aiida import orm

from aiida_alpot.calculations.labels import (
    ask_ledger,
    collect_labels,
    extract_structures,
    frame_levels,
    frames_to_calculate,
    label_frame,
    level_of_theory,
    picked_frames,
    reuse_labels,
)
from aiida_alpot.data.pes import PESData
from aiida_alpot.worker.frames import Frame, LevelOfTheory

SYSTEM = {'ecutwfc': 30.0, 'ecutrho': 120.0, 'occupations': 'smearing', 'smearing': 'gaussian', 'degauss': 0.01}
PSEUDOS = {'Si': 'a' * 32, 'H': 'b' * 32}


def fingerprint(
    system: dict[str, Any] | None = None, pseudos: dict[str, str] | None = None, distance: float = 0.3, **cards: Any
) -> str:
    """Fingerprint with some things changed."""
    parameters = {'SYSTEM': {**SYSTEM, **(system or {})}, **cards}
    return str(level_of_theory(parameters, {**PSEUDOS, **(pseudos or {})}, distance)[0])


@pytest.mark.parametrize(
    'change',
    [
        {'system': {'ecutwfc': 31.0}},
        {'system': {'ecutrho': 121.0}},
        {'system': {'degauss': 0.02}},
        {'system': {'smearing': 'cold'}},
        {'system': {'nspin': 2}},
        {'system': {'tot_magnetization': 2}},
        {'CONTROL': {'tefield': True}},
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
        {'system': {'ecutwfc': 30}},
        {'system': {'smearing': 'Gaussian '}},
        {'CONTROL': {'tefield': False}},
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
    level, content = level_of_theory({'SYSTEM': {'ECUTWFC': 30.0, 'nat': 2}}, PSEUDOS, 0.3)
    assert content == {
        'code': 'quantumespresso.pw',
        'system': {'ecutwfc': 30.0},
        'pseudos': {'H': 'b' * 32, 'Si': 'a' * 32},
        'kpoints_distance': 0.3,
    }
    assert level == level_of_theory({'SYSTEM': {'ecutwfc': 30.0}}, PSEUDOS, 0.3)[0]
    assert str(level) == f'{level.base}[H:{"b" * 12},Si:{"a" * 12}]'


def test_pseudopotentials_of_other_elements_do_not_matter() -> None:
    """The label of a silicon crystal is the same whether the campaign has hydrogen or not."""
    with_hydrogen, alone = (level_of_theory({'SYSTEM': SYSTEM}, p, 0.3)[0] for p in (PSEUDOS, {'Si': 'a' * 32}))
    assert with_hydrogen.of(['Si']) == alone.of(['Si'])
    assert with_hydrogen.of(['Si'], 'isolated') != alone.of(['Si'])


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

    def test_no_stress_of_isolated_atoms(self, make_frame: Callable[..., Frame]) -> None:
        """It is not calculated, even in a periodic cell."""
        frame = make_frame(0, n_atoms=1, labelled=False, origin='isolated_atom')
        without = trajectory(1)
        without.delete_array('stress')
        assert label_frame(frame, without, 'level').stress is None

    def test_labels_that_were_there_are_dropped(self, make_frame: Callable[..., Frame]) -> None:
        """Whatever they were, pw.x did not give them."""
        frame = make_frame(0, n_atoms=2, charges=np.ones(2), dipole=np.ones(3), pbc=(True, True, False))
        assert set(label_frame(frame, trajectory(2), 'level').labels) == {'energy', 'forces'}

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


LEVEL = LevelOfTheory('pw-0123456789abcdef', {symbol: symbol.lower() * 16 for symbol in ('C', 'Si', 'Ti')})


def test_level_of_each_frame(make_frame: Callable[..., Frame], tmp_path: Any) -> None:
    """Its elements and its treatment."""
    frames = [
        make_frame(0, numbers=[14, 6, 14, 6], labelled=False),
        make_frame(1, n_atoms=1, numbers=[22], origin='isolated_atom', labelled=False),
    ]
    with PESData(frames=frames).open_store() as store:
        levels = frame_levels(store, LEVEL)
    assert levels == [f'{LEVEL.base}[C:cccccccccccc,Si:sisisisisisi]', f'{LEVEL.base}[Ti:titititititi,+isolated]']


@pytest.mark.usefixtures('aiida_profile_clean')
class TestReuse:
    """Labels from the ledger."""

    @pytest.fixture
    def make(self, make_frame: Callable[..., Frame]) -> Callable[..., Frame]:
        """Factory of frames that are labelled at the level of their elements."""

        def factory(seed: int, labelled: bool = True, treatment: str = '', **fields: Any) -> Frame:
            frame = make_frame(seed, labelled=labelled, **fields)
            symbols = frame.to_atoms().get_chemical_symbols()
            return frame.replace(level_of_theory=str(LEVEL.of(symbols, treatment)) if labelled else '')

        return factory

    def test_each_atom_gets_its_own(self, make: Callable[..., Frame]) -> None:
        """Atoms in another order and in other cells; everything but the labels stays; sources of several shards."""
        known = [make(seed, n_atoms=6, charges=np.arange(6.0)) for seed in range(5)]
        sources = [PESData(frames=known[:2]).store(), PESData(frames=known[2:4]).store(), PESData(frames=known[4:])]
        PESData.merge([sources[1], sources[2]]).store()
        order = np.array([4, 0, 5, 2, 1, 3])
        asked = [
            Frame(
                frame.numbers[order],
                frame.positions[order] + np.arange(-1, 2) @ frame.cell,
                frame.cell,
                frame.pbc,
                lineage=f'mine-{i}',
                origin='md',
                split='test',
                metadata={'step': i},
            )
            for i, frame in enumerate([known[4], make(99, n_atoms=6), known[0], known[3]])
        ]
        frames = PESData(frames=asked).store()
        picks = ask_ledger(frames, LEVEL).picks()
        nodes = {key: orm.load_node(pick['uuid']) for key, pick in picks.items()}
        reused = reuse_labels(frames, orm.Dict(picks), **nodes)
        assert picked_frames(picks) == [2, 3, 0]
        for index, place, frame in zip((2, 3, 0), (0, 3, 4), reused, strict=True):
            for name in ('forces', 'charges'):
                assert np.array_equal(getattr(frame, name), getattr(known[place], name)[order]), name
            assert frame.energy == known[place].energy and np.array_equal(frame.stress, known[place].stress)
            for name in ('frame_id', 'lineage', 'origin', 'split', 'metadata'):
                assert getattr(frame, name) == getattr(asked[index], name), name
            assert np.array_equal(frame.positions, asked[index].positions)
        assert reused.creator.process_label == 'reuse_labels'
        incoming = {link.link_label: link.node.uuid for link in reused.creator.base.links.get_incoming().all()}
        assert {key: pick['uuid'] for key, pick in picks.items()}.items() <= incoming.items()

    def test_same_inputs_same_bytes(self, make: Callable[..., Frame]) -> None:
        """Nothing in the frames tells when or from which node their labels were taken."""
        frames = PESData(frames=[make(0, labelled=False)])
        made = []
        for extra in (1, 2):
            source = PESData(frames=[make(0), make(extra)]).store()
            picks = {'source_0': {'uuid': source.uuid, 'frames': [0], 'indices': [0]}}
            made.append(reuse_labels(frames, orm.Dict(picks), source_0=source))
        assert made[0].shards == made[1].shards and made[0].base.caching.get_hash() == made[1].base.caching.get_hash()

    def test_a_wrong_pick_is_refused(self, make: Callable[..., Frame]) -> None:
        """Another structure never gets the label."""
        frames, source = PESData(frames=[make(0)]), PESData(frames=[make(1)]).store()
        picks = {'source_0': {'uuid': source.uuid, 'frames': [0], 'indices': [0]}}
        with pytest.raises(ValueError, match='are not the same structure'):
            reuse_labels(frames, orm.Dict(picks), source_0=source)

    def test_what_is_asked_for(self, make: Callable[..., Frame]) -> None:
        """Stress only of frames that would get one; the treatment of the frame; its own elements."""
        atom = {'n_atoms': 1, 'numbers': [14], 'positions': [[0.0, 0, 0]], 'cell': 9 * np.eye(3)}
        known = [
            make(0, stress=None),
            make(1, stress=None, pbc=(True, True, False)),
            make(2, stress=None, origin='isolated_atom', treatment='isolated', **atom),
            make(3, **atom),
        ]
        PESData(frames=known).store()
        asked = [frame.unlabelled() for frame in known]
        found = ask_ledger(PESData(frames=asked), LEVEL)
        assert found.questions.tolist() == [1, 2, 3] and found.index.tolist() == [1, 2, 3]

    def test_equal_frames_are_calculated_once(self, make: Callable[..., Frame]) -> None:
        """The first of them; an isolated atom and a crystal on the same spot are two."""
        same = make(0, labelled=False)
        frames = [same, make(1), same.replace(origin='isolated_atom'), same.replace(lineage='x'), make(2), make(1)]
        assert frames_to_calculate(PESData(frames=frames), LEVEL, []) == [0, 1, 2, 4]
        assert frames_to_calculate(PESData(frames=frames), LEVEL, [1, 5, 4]) == [0, 2]


@pytest.mark.usefixtures('aiida_profile')
class TestCollect:
    """What goes into the data set of a labelling, and into its report."""

    def collect(self, frames: list[Frame], **inputs: Any) -> dict[str, Any]:
        """Outputs for silicon; the level of theory follows from a pseudopotential that is made up."""
        pseudo = SimpleNamespace(md5='f' * 32)
        values: dict[str, Any] = {'failures': orm.List([]), 'trajectories': {}, 'pseudos': {'Si': pseudo}}
        dataset = PESData(frames=frames)
        # The function itself: made-up pseudopotentials are no nodes.
        function = inspect.unwrap(collect_labels)
        return function(dataset, orm.Dict({'SYSTEM': SYSTEM}), orm.Float(0.3), **(values | inputs))

    @pytest.fixture
    def silicon(self, make_frame: Callable[..., Frame]) -> Callable[..., Frame]:
        """Factory of two silicon atoms."""
        return lambda seed, **fields: make_frame(seed, 2, labelled=False, numbers=[14, 14], **fields)

    def test_order_and_sources(self, silicon: Callable[..., Frame]) -> None:
        """Calculated, reused and equal frames in the order of the question; failures for each frame."""
        swapped = silicon(0).replace(positions=silicon(0).positions[::-1], lineage='twin')
        frames = [silicon(0), silicon(1), silicon(2), swapped, silicon(3), silicon(2), silicon(4)]
        level = level_of_theory({'SYSTEM': SYSTEM}, {'Si': 'f' * 32}, 0.3)[0]
        taken = [
            frame.replace(energy=float(index), forces=np.zeros((2, 3)), level_of_theory=str(level))
            for index, frame in ((4, frames[4]), (1, frames[1]))
        ]
        picks = {
            'source_10': {'uuid': 'b', 'frames': [1], 'indices': [7]},
            'source_9': {'uuid': 'a', 'frames': [4], 'indices': [3]},
        }
        failure = {'index': 2, 'exit_status': 410, 'reason': 'no convergence'}
        outputs = self.collect(
            frames,
            reused=PESData(frames=taken),
            picks=orm.Dict(picks),
            failures=orm.List([failure]),
            trajectories={'frame_0': trajectory(2), 'frame_6': trajectory(2)},
        )
        labelled = list(outputs['labelled'])
        assert [frame.energy for frame in labelled] == [-310.5, 1.0, -310.5, 4.0, -310.5]
        wanted = [frames[index] for index in (0, 1, 3, 4, 6)]
        assert [frame.frame_id for frame in labelled] == [frame.frame_id for frame in wanted]
        assert [frame.lineage for frame in labelled] == [frame.lineage for frame in wanted]
        assert np.array_equal(labelled[2].forces, labelled[0].forces[::-1])
        assert {frame.level_of_theory for frame in labelled} == {str(level)}
        report = outputs['report'].get_dict()
        counts = {key: value for key, value in report.items() if key.startswith('n_')}
        assert counts == {'n_requested': 7, 'n_labelled': 5, 'n_reused': 2, 'n_calculated': 2, 'n_failed': 2}
        assert report['reused_from'] == {'a': 1, 'b': 1}
        assert [(entry['index'], entry['frame_id']) for entry in report['failures']] == [
            (2, frames[2].frame_id),
            (5, frames[2].frame_id),
        ]
        assert report['level_of_theory'] == level.base and report['level_of_theory_content']['pseudos'] == {
            'Si': 'f' * 32
        }

    def test_nothing_labelled(self, silicon: Callable[..., Frame]) -> None:
        """A report, and no data set."""
        failure = {'index': 0, 'exit_status': 1, 'reason': 'x'}
        outputs = self.collect([silicon(0)], failures=orm.List([failure]))
        assert set(outputs) == {'report'} and outputs['report']['n_labelled'] == 0
