"""Labels by the real pw.x, and what is refused before it runs."""

from __future__ import annotations

import shutil
from typing import Any

import numpy as np
import pytest
from aiida import orm
from aiida.engine import run_get_node
from ase import Atoms
from ase.build import bulk

from aiida_alpot.data.pes import PESData
from aiida_alpot.worker.frames import Frame
from aiida_alpot.workflows.labelling import AbInitioLabellingWorkChain, check_pseudo_family, isolated_atom_spin

FAMILY = 'Debian/PBE'
OVERRIDES: dict[str, Any] = {'pseudo_family': FAMILY, 'kpoints_distance': 0.8, 'use_ledger': False}
"""Without the ledger, which would know the labels of other tests; it has tests of its own."""


def silicon(volume: float, shift: float = 0.05, **fields: Any) -> Frame:
    """Two atoms, one of them shifted so that there are forces; the volume as a fraction of that of 5.43 A."""
    atoms = bulk('Si', a=5.43 * volume ** (1 / 3))
    atoms.positions[0, 0] += shift
    return Frame.from_atoms(atoms, **fields)


def build(code: str, frames: PESData | None = None, **kwargs: Any) -> Any:
    """Builder of the fast protocol."""
    overrides = {**OVERRIDES, **kwargs.pop('overrides', {})}
    return AbInitioLabellingWorkChain.get_builder_from_protocol(
        code, frames, protocol='fast', overrides=overrides, **kwargs
    )


@pytest.mark.parametrize(
    ('symbol', 'z_valence', 'cards'),
    [
        ('Si', 4.0, {'nspin': 2, 'starting_magnetization': {'Si': 0.5}}),
        ('H', 1.0, {'nspin': 2, 'starting_magnetization': {'H': 1.0}}),
        ('Mn', 3.0, {'nspin': 2, 'starting_magnetization': {'Mn': 1.0}}),
        ('Ar', 8.0, {}),
    ],
)
def test_isolated_atom_spin(symbol: str, z_valence: float, cards: dict[str, Any]) -> None:
    """The moment of the ground state over the valence, at most one; closed shells without spin."""
    assert isolated_atom_spin(symbol, symbol, z_valence) == cards


@pytest.mark.usefixtures('environment')
class TestPseudoFamily:
    """The family must be there and complete."""

    def test_complete(self) -> None:
        """All elements are in it."""
        check_pseudo_family(FAMILY, ['Si', 'H'])

    @pytest.mark.parametrize('label', [None, 'SSSP/1.3/PBE/efficiency'])
    def test_not_installed(self, label: str | None) -> None:
        """What is there instead, and how to install one."""
        with pytest.raises(ValueError) as error:
            check_pseudo_family(label, ['Si'])
        assert str(error.value).startswith(
            f'`labelling.pseudo_family`: {label!r} is not installed (installed: `{FAMILY}`)'
        )
        assert '`aiida-pseudo install`' in str(error.value)

    def test_missing_elements(self) -> None:
        """All that are missing, in one sentence."""
        with pytest.raises(
            ValueError, match=r"`Debian/PBE'? has no|'Debian/PBE' has no pseudopotential for Ti, W; choose"
        ):
            check_pseudo_family(FAMILY, ['W', 'Si', 'Ti'])


class TestBuilder:
    """From a protocol to inputs."""

    def test_inputs(self, campaign_codes: dict[str, str]) -> None:
        """Cut-offs and pseudopotentials of the elements there are; what depends on the frame is left out."""
        frames = PESData(frames=[silicon(1.0)])
        builder = build(campaign_codes['pw'], frames, options={'max_wallclock_seconds': 60})
        parameters = builder.pw.pw.parameters.get_dict()
        assert parameters['SYSTEM']['ecutwfc'] == 24 and parameters['SYSTEM']['ecutrho'] == 96
        assert parameters['SYSTEM']['smearing'] == 'gaussian' and parameters['SYSTEM']['degauss'] == 0.015
        assert 'conv_thr' not in parameters['ELECTRONS']
        assert set(builder.pw.pw.pseudos) == {'Si'}
        assert builder.kpoints_distance.value == 0.8 and builder.conv_thr_per_atom.value == 1e-8
        assert builder.pw.pw.metadata.options.max_wallclock_seconds == 60
        assert builder.pw.pw.metadata.options.withmpi is False
        assert builder.frames is frames
        assert builder.use_ledger.value is False
        assert AbInitioLabellingWorkChain.get_protocol_inputs()['use_ledger'] is True

    def test_kpoints_of_the_pw_protocol(self, campaign_codes: dict[str, str]) -> None:
        """Without a distance that of aiida-quantumespresso's protocol counts."""
        builder = build(campaign_codes['pw'], elements=['Si'], overrides={'kpoints_distance': None})
        assert builder.kpoints_distance.value == pytest.approx(0.3)

    def test_own_cards(self, campaign_codes: dict[str, str]) -> None:
        """Cards of pw.x that the protocol does not have are taken over."""
        overrides = {'parameters': {'SYSTEM': {'vdw_corr': 'dft-d3'}, 'ELECTRONS': {'mixing_beta': 0.2}}}
        parameters = build(campaign_codes['pw'], elements=['Si'], overrides=overrides).pw.pw.parameters.get_dict()
        assert parameters['SYSTEM']['vdw_corr'] == 'dft-d3' and parameters['SYSTEM']['degauss'] == 0.015
        assert parameters['ELECTRONS']['mixing_beta'] == 0.2

    @pytest.mark.parametrize(
        ('overrides', 'sentence'),
        [
            ({'kpoint_distance': 1.0}, 'unknown option `labelling.kpoint_distance`: did you mean `kpoints_distance`?'),
            ({'parameters': {'SYSTEM': 3}}, 'option `labelling.parameters.SYSTEM` must be a mapping'),
            ({'max_concurrent': 1000}, '`labelling.max_concurrent`: 1000 jobs at a time'),
            ({'kpoints_distance': -0.1}, 'kpoints_distance'),
            ({'conv_thr_per_atom': 0.0}, 'conv_thr_per_atom'),
        ],
    )
    def test_refusals(self, campaign_codes: dict[str, str], overrides: dict[str, Any], sentence: str) -> None:
        """Before anything runs."""
        with pytest.raises(ValueError) as error:
            build(campaign_codes['pw'], elements=['Si'], overrides=overrides)
        assert sentence in str(error.value)

    def test_no_elements(self, campaign_codes: dict[str, str]) -> None:
        """Nothing to choose pseudopotentials by."""
        with pytest.raises(ValueError, match='`frames`: neither frames nor elements are given'):
            build(campaign_codes['pw'])


@pytest.fixture(scope='module')
def frames(aiida_profile: Any) -> PESData:
    """Silicon at rest volume, compressed by 10 % and a little more and less, on one spot, and as an atom."""
    atom = Atoms('Si', [[3.0, 3.0, 3.0]], cell=6.0 * np.eye(3))
    return PESData(
        frames=[
            silicon(1.0, lineage='a', origin='strain', split='train'),
            silicon(0.9, lineage='b', origin='strain', split='validation', metadata={'k': 1}),
            Frame.from_atoms(Atoms('Si2', [[0, 0, 0], [0, 0, 1e-5]], cell=4 * np.eye(3), pbc=True), lineage='c'),
            silicon(0.88, lineage='d'),
            silicon(0.92, lineage='d'),
            Frame.from_atoms(atom, lineage='atom', origin='isolated_atom', split='train'),
        ]
    )


RUN: dict[str, orm.WorkChainNode] = {}


@pytest.mark.skipif(shutil.which('pw.x') is None, reason='needs Quantum ESPRESSO')
class TestRun:
    """One run for all, as pw.x takes seconds."""

    @pytest.fixture
    def node(self, frames: PESData, campaign_codes: dict[str, str]) -> orm.WorkChainNode:
        """The work chain, run at the first test that asks for it."""
        if 'node' not in RUN:
            RUN['node'] = run_get_node(build(campaign_codes['pw'], frames))[1]
        return RUN['node']

    def test_failed_frame_does_not_stop_the_others(self, node: orm.WorkChainNode, frames: PESData) -> None:
        """The chain is content; the failure is listed with exit code, index, frame and reason, and counted."""
        assert node.is_finished_ok, node.exit_message
        report = node.outputs.report.get_dict()
        assert (report['n_requested'], report['n_labelled'], report['n_failed']) == (6, 5, 1)
        (failure,) = report['failures']
        assert failure['index'] == 2 and failure['frame_id'] == frames.frame(2).frame_id
        assert failure['exit_status'] > 0 and len(failure['reason']) > 10
        assert 'the last calculation ended with exit code 3' in failure['reason']
        failed = orm.load_node(failure['pk'])
        assert failed.exit_status == failure['exit_status'] and failed.uuid == failure['process']

    def test_labelled_frames_keep_what_they_are(self, node: orm.WorkChainNode, frames: PESData) -> None:
        """Order, structure, lineage, origin, split and metadata of the frames that have a label."""
        labelled = list(node.outputs.labelled)
        wanted = [frame for index, frame in enumerate(frames) if index != 2]
        for name in ('frame_id', 'lineage', 'origin', 'split', 'metadata'):
            assert [getattr(frame, name) for frame in labelled] == [getattr(frame, name) for frame in wanted], name
        assert node.outputs.labelled.creator.process_label == 'collect_labels'
        assert node.outputs.labelled.n_labelled == 5

    def test_one_level_of_theory(self, node: orm.WorkChainNode) -> None:
        """The isolated atom with spin has the same base, and a treatment of its own."""
        base = node.outputs.report['level_of_theory']
        assert base.startswith('pw-') and len(base) == 19
        assert node.outputs.labelled.levels_of_theory == {base: 5}
        md5 = node.inputs.pw.pw.pseudos.Si.md5[:12]
        levels = node.outputs.labelled.column('level_of_theory').tolist()
        assert levels == [f'{base}[Si:{md5}]'] * 4 + [f'{base}[Si:{md5},+isolated]']

    def test_forces(self, node: orm.WorkChainNode) -> None:
        """They sum to zero, and pull the shifted atom back: eV/A, not Ry/bohr (a factor of 26)."""
        for frame in list(node.outputs.labelled)[:4]:
            assert np.abs(frame.forces.sum(axis=0)).max() < 1e-3
        force = node.outputs.labelled.frame(0).forces[0, 0]
        assert -1.5 < force < -0.2

    def test_stress_has_the_sign_of_ase(self, node: orm.WorkChainNode) -> None:
        """Negative under compression, and the derivative of the energy by the volume within 10 %."""
        _, compressed, smaller, larger, _ = list(node.outputs.labelled)
        assert (np.diag(compressed.stress) < 0).all()
        slope = (larger.energy - smaller.energy) / (larger.volume - smaller.volume)
        assert slope < -0.03  # eV/A^3: about 10 GPa
        assert np.trace(compressed.stress) / 3 == pytest.approx(slope, rel=0.1)
        assert np.allclose(compressed.stress, compressed.stress.T, rtol=0, atol=1e-6)

    def test_isolated_atom(self, node: orm.WorkChainNode) -> None:
        """No periodicity, no stress; the atom is less bound than in the crystal, and was calculated with spin."""
        crystal, *_, atom = list(node.outputs.labelled)
        assert atom.stress is None and not atom.pbc.any()
        assert 2.0 < atom.energy - crystal.energy / 2 < 8.0
        tasks = {link.link_label: link.node for link in node.base.links.get_outgoing().all()}
        assert np.abs(atom.forces).max() < 1e-3
        spins = {
            child.inputs.pw.structure.get_formula(): child.inputs.pw.parameters['SYSTEM'].get('nspin')
            for label, child in tasks.items()
            if label.startswith('task_')
        }
        assert spins == {'Si2': None, 'Si': 2}

    def test_children(self, node: orm.WorkChainNode) -> None:
        """Largest first; convergence by atom; a structure comes from a calcfunction."""
        tasks = [link for link in node.base.links.get_outgoing().all() if link.link_label.startswith('task_')]
        assert len(tasks) == 6
        by_label = {link.link_label: link.node for link in tasks}
        assert [len(by_label[f'task_{i}'].inputs.pw.structure.sites) for i in range(6)] == [2] * 5 + [1]
        for child in by_label.values():
            n_atoms = len(child.inputs.pw.structure.sites)
            assert child.inputs.pw.parameters['ELECTRONS']['conv_thr'] == pytest.approx(1e-8 * n_atoms)
            assert child.inputs.pw.structure.creator.process_label == 'extract_structures'


@pytest.mark.skipif(shutil.which('pw.x') is None, reason='needs Quantum ESPRESSO')
def test_all_failed(frames: PESData, campaign_codes: dict[str, str]) -> None:
    """Then the chain fails, and its report is there all the same."""
    node = run_get_node(build(campaign_codes['pw'], PESData(frames=[frames.frame(2)])))[1]
    assert node.exit_status == 310
    assert 'none of 1 pw.x calculations gave a label' in node.exit_message
    assert node.outputs.report['n_failed'] == 1 and 'labelled' not in node.outputs
