"""Labels of pw.x calculations in the database, of real ones and of made-up ones."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from aiida import orm
from aiida.common.links import LinkType
from aiida.engine import run_get_node
from aiida_quantumespresso.workflows.pw.base import PwBaseWorkChain
from ase import Atoms
from ase.build import bulk

from aiida_alpot.campaign import collect
from aiida_alpot.campaign.collect import Collection, collect_pw
from aiida_alpot.data.pes import PESData
from aiida_alpot.worker.frames import Frame
from aiida_alpot.workflows.labelling import AbInitioLabellingWorkChain

DISTANCE = 0.8
RUNS: dict[str, Any] = {}


def silicon(shift: float = 0.05) -> Atoms:
    """Two atoms, one of them shifted so that there are forces."""
    atoms = bulk('Si', a=5.43)
    atoms.positions[0, 0] += shift
    return atoms


@pytest.mark.skipif(shutil.which('pw.x') is None, reason='needs Quantum ESPRESSO')
class TestRealRuns:
    """A labelling, a relaxation and a static calculation with a mesh, run at the first test that asks for them."""

    @pytest.fixture
    def runs(self, campaign_codes: dict[str, str]) -> dict[str, Any]:
        """Finished processes: `labelling`, `relax` and `mesh`."""
        if RUNS:
            return RUNS
        atom = Atoms('Si', [[3.0, 3.0, 3.0]], cell=6.0 * np.eye(3))
        frames = PESData(
            frames=[
                Frame.from_atoms(silicon(), lineage='a', origin='rattle', split='test', metadata={'k': 1}),
                Frame.from_atoms(atom, lineage='atom', origin='isolated_atom', split='train'),
            ]
        )
        overrides = {'pseudo_family': 'Debian/PBE', 'kpoints_distance': DISTANCE}
        builder = AbInitioLabellingWorkChain.get_builder_from_protocol(
            campaign_codes['pw'], frames, protocol='fast', overrides=overrides
        )
        RUNS['labelling'] = run_get_node(builder)[1]
        parameters = builder.pw.pw.parameters.get_dict()
        parameters['ELECTRONS']['conv_thr'] = 2e-8
        for name, calculation in (('relax', 'relax'), ('mesh', 'scf')):
            base = PwBaseWorkChain.get_builder()
            for key in ('code', 'pseudos', 'metadata'):
                base.pw[key] = builder.pw.pw[key]
            base.pw.structure = orm.StructureData(ase=silicon())
            control = {'calculation': calculation, 'tprnfor': True, 'tstress': True}
            base.pw.parameters = orm.Dict({**parameters, 'CONTROL': control})
            if calculation == 'relax':
                base.kpoints_distance = orm.Float(DISTANCE)
            else:
                base.kpoints = orm.KpointsData()
                base.kpoints.set_kpoints_mesh([3, 3, 3])
            RUNS[name] = run_get_node(base)[1]
        return RUNS

    def test_labels_are_those_of_the_labelling(
        self, runs: dict[str, Any], assert_same_frame: Callable[[Frame, Frame], None]
    ) -> None:
        """To the last bit, with lineage, origin, split and level of theory, isolated atom included."""
        labelled = list(runs['labelling'].outputs.labelled)
        found = collect_pw([runs['labelling']])
        assert found.counts['n_used'] == 2 and not found.reasons
        collected = {frame.frame_id: frame for frame in found.dataset}
        for frame in labelled:
            taken = collected[frame.frame_id]
            assert set(taken.metadata) == {*frame.metadata, 'calculation', 'step'}
            assert_same_frame(taken.replace(metadata=frame.metadata), frame)
        assert {frame.level_of_theory.endswith('+isolated]') for frame in labelled} == {True, False}

    def test_relaxation(self, runs: dict[str, Any]) -> None:
        """The first step is the labelled structure; the others go down in energy, in the same lineage."""
        (wanted,) = (frame for frame in runs['labelling'].outputs.labelled if len(frame) == 2)
        found = collect_pw([runs['relax']])
        first, *others = list(found.dataset)
        assert others and first.frame_id == wanted.frame_id and first.level_of_theory == wanted.level_of_theory
        assert first.energy == pytest.approx(wanted.energy, abs=1e-6)
        assert np.allclose(first.forces, wanted.forces, rtol=0, atol=1e-4)
        # The stress of a relaxation is read from the text of the output, with fewer digits.
        assert np.allclose(first.stress, wanted.stress, rtol=0, atol=2e-6)
        energies = [frame.energy for frame in (first, *others)]
        assert energies == sorted(energies, reverse=True) and np.abs(others[-1].forces).max() < 0.1
        assert {frame.lineage for frame in (first, *others)} == {wanted.frame_id[:16]}
        assert {frame.origin for frame in others} == {'relax'}
        assert np.trace(others[-1].stress) < 0  # below the volume of rest

    def test_mesh_without_distance(self, runs: dict[str, Any]) -> None:
        """Refused, unless the distance is given and gives this mesh; then the label is the same once more."""
        found = collect_pw([runs['mesh']])
        assert found.dataset is None and found.counts['n_skipped'] == 1
        (reason,) = found.reasons
        assert 'was given without a distance' in reason
        (reason,) = collect_pw([runs['mesh']], kpoints_distance=0.2).reasons
        assert 'is not the one that a distance of 0.2 1/A gives' in reason
        found = collect_pw([runs['relax'], runs['mesh']], kpoints_distance=DISTANCE)
        assert found.counts['n_used'] == 2 and found.counts['n_duplicates'] == 1

    def test_provenance(self, runs: dict[str, Any]) -> None:
        """From the data set to the calculations by links."""
        found = collect_pw([runs['relax'], runs['labelling']])
        ancestors = orm.QueryBuilder().append(orm.Node, filters={'uuid': found.dataset.uuid}, tag='node')
        ancestors.append(orm.CalcJobNode, with_descendants='node', project='uuid')
        calculations = {frame.metadata['calculation'] for frame in found.dataset}
        assert calculations <= set(ancestors.all(flat=True))
        inputs = found.dataset.creator.inputs
        assert {type(node).__name__ for node in inputs.pseudos.values()} == {'UpfData'}
        assert [node.uuid for node in inputs.sources.values()] == [runs['labelling'].inputs.frames.uuid]

    def test_group(self, runs: dict[str, Any]) -> None:
        """A group of work chains; data in it is counted as no calculation."""
        group = orm.Group(label='relaxations').store()
        group.add_nodes([runs['relax'], orm.Int(1).store()])
        found = collect_pw([group])
        assert found.counts['n_used'] == 1 and found.reasons == {'it is no pw.x calculation, and called none': 1}


@pytest.fixture
def calculation(environment: Any) -> Callable[..., orm.CalcJobNode]:
    """Factory of finished calculations with made-up outputs."""
    from aiida_pseudo.groups.family import PseudoPotentialFamily

    code = orm.load_code(environment.codes['pw'])
    family = orm.QueryBuilder().append(PseudoPotentialFamily).first(flat=True)
    pseudo = family.get_pseudo('Si')
    kpoints = orm.KpointsData()
    kpoints.set_kpoints_mesh([3, 3, 3])
    kpoints.store()

    def make(shift: float, exit_status: int | None = 0, state: str = 'finished', ecut: float = 20.0) -> Any:
        atoms = silicon(shift)
        node = orm.CalcJobNode(computer=code.computer, process_type='aiida.calculations:quantumespresso.pw')
        inputs = {
            'structure': orm.StructureData(ase=atoms),
            'parameters': orm.Dict({'CONTROL': {'calculation': 'scf'}, 'SYSTEM': {'ecutwfc': ecut}}),
            'kpoints': kpoints,
            'pseudos__Si': pseudo,
        }
        for label, data in inputs.items():
            node.base.links.add_incoming(data.store(), LinkType.INPUT_CALC, label)
        node.set_process_state(state)
        if exit_status is not None:
            node.set_exit_status(exit_status)
            node.set_exit_message('a reason')
        node.store()
        trajectory = orm.TrajectoryData()
        cells = np.array([atoms.cell.array])
        trajectory.set_trajectory(['Si', 'Si'], np.array([atoms.positions]), cells=cells, pbc=[True] * 3)
        trajectory.set_array('energy', np.array([-100.0 - shift]))
        trajectory.set_array('forces', np.full((1, 2, 3), shift))
        trajectory.set_array('stress', np.eye(3)[None])
        trajectory.base.links.add_incoming(node, LinkType.CREATE, 'output_trajectory')
        trajectory.store()
        return node

    return make


class TestMadeUp:
    """Many, failed and unlike calculations."""

    def test_many(self, calculation: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
        """In several calculation functions, each of which adds a shard; order by PK, one data set at the end."""
        monkeypatch.setattr(collect, 'CHUNK', 4)
        nodes = [calculation(0.01 * k) for k in range(1, 10)]
        found = collect_pw([*reversed(nodes), calculation(0.01)], kpoints_distance=DISTANCE)
        assert len(found.reports) == 3 and len(found.dataset.shards) == 3
        assert found.counts['n_frames'] == 9 and found.counts['n_duplicates'] == 1
        assert found.dataset.column('energy').tolist() == [-100.0 - 0.01 * k for k in range(1, 10)]
        creator = found.dataset.creator
        assert creator.inputs.dataset.n_frames == 8
        # Nodes that all calculations share come in once.
        assert len(list(creator.inputs.pseudos)) == len(list(creator.inputs.kpoints)) == 1

    def test_what_did_not_end_well(self, calculation: Callable[..., Any]) -> None:
        """Counted by reason, each in the report; the rest is taken."""
        nodes = [
            calculation(0.1),
            calculation(0.2, exit_status=410),
            calculation(0.3, exit_status=410),
            calculation(0.4, exit_status=None, state='killed'),
            calculation(0.5, exit_status=None, state='running'),
        ]
        found = collect_pw(nodes, kpoints_distance=DISTANCE)
        assert found.reasons == {
            'it ended with exit code 410: a reason': 2,
            'it was killed': 1,
            'it has not ended yet': 1,
        }
        assert found.counts['n_calculations'] == 5 and found.counts['n_frames'] == 1
        (report,) = found.reports
        assert {entry['calculation'] for entry in report['skipped']} == {node.uuid for node in nodes[1:]}

    def test_nothing_usable(self, calculation: Callable[..., Any]) -> None:
        """A report and no data set; and an error where there is nothing at all."""
        found = collect_pw([calculation(0.1, exit_status=410)])
        assert isinstance(found, Collection) and found.dataset is None and found.counts['n_used'] == 0
        with pytest.raises(ValueError, match='among what was given, nor below it'):
            collect_pw([])

    def test_levels_of_theory(self, calculation: Callable[..., Any]) -> None:
        """Two are refused with how many there are of each; one is chosen, or both are taken on purpose."""
        nodes = [calculation(0.1), calculation(0.2), calculation(0.3, ecut=30.0)]
        n_processes = orm.QueryBuilder().append(orm.ProcessNode).count()
        with pytest.raises(ValueError, match=r'2 levels of theory .* of 2 calculations, pw-\w+ of 1 calculation\.'):
            collect_pw(nodes, kpoints_distance=DISTANCE)
        assert orm.QueryBuilder().append(orm.ProcessNode).count() == n_processes
        mixed = collect_pw(nodes, kpoints_distance=DISTANCE, allow_mixed_levels=True)
        assert sorted(mixed.dataset.levels_of_theory.values()) == [1, 2]
        (level,) = (base for base, count in mixed.dataset.levels_of_theory.items() if count == 1)
        chosen = collect_pw(nodes, kpoints_distance=DISTANCE, level_of_theory=level)
        assert chosen.dataset.levels_of_theory == {level: 1} and chosen.counts['n_skipped'] == 2
        assert any(f'{level} was asked for' in reason for reason in chosen.reasons)
