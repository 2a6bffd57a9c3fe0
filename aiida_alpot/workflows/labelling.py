"""Ab initio labels by Quantum ESPRESSO."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from aiida import orm
from aiida.common import AttributeDict
from aiida.engine import ExitCode, Process, while_
from aiida_pseudo.groups.family import PseudoPotentialFamily
from aiida_quantumespresso.workflows.pw.base import PwBaseWorkChain
from ase.data import atomic_numbers, ground_state_magnetic_moments

from aiida_alpot.calculations.labels import (
    ask_ledger,
    collect_labels,
    extract_structures,
    frames_to_calculate,
    level_of_theory,
    reuse_labels,
)
from aiida_alpot.data.pes import PESData
from aiida_alpot.worker.frames import ISOLATED_ATOM, LevelOfTheory
from aiida_alpot.worker.options import boolean, number
from aiida_alpot.workflows.codes import checked_concurrency, checked_options, load_checked_code
from aiida_alpot.workflows.fan_out import FanOutWorkChain, how_it_ended, validate_positive
from aiida_alpot.workflows.protocols import ProtocolMixin

CARDS = ('CONTROL', 'SYSTEM', 'ELECTRONS')
"""Cards of pw.x that a static calculation reads."""

OURS = {
    'CONTROL': ('calculation', 'prefix', 'outdir', 'pseudo_dir', 'tprnfor', 'tstress'),
    'SYSTEM': ('nat', 'ntyp', 'ibrav', 'celldm', 'a', 'b', 'c'),
    'ELECTRONS': ('conv_thr',),
}
"""Keys of these cards that are not the user's: a label is one static step, and `conv_thr_per_atom` sets `conv_thr`."""

CHUNK = 50
"""Number of frames whose structures are extracted by one calcfunction."""


class AbInitioLabellingWorkChain(ProtocolMixin, FanOutWorkChain):
    """Label every frame of a data set with energy, forces and stress from pw.x.

    What a data set of the profile has at the same level of theory is taken from there. Each structure that is left gets
    one ``PwBaseWorkChain``, with k-points by distance. A frame for which pw.x fails does not stop the others: it is
    listed in ``report`` with its exit code. Isolated atoms are calculated spin-polarised, starting from the magnetic
    moment of the ground state of the atom.
    """

    STAGE = 'labelling'

    @classmethod
    def define(cls, spec: Any) -> None:
        super().define(spec)
        spec.input(
            'frames',
            valid_type=PESData,
            help='The frames to label; labels that they have at another level of theory are dropped.',
        )
        spec.input(
            'kpoints_distance',
            valid_type=orm.Float,
            validator=validate_positive,
            help='Largest distance of k-points along periodic axes, 1/A.',
        )
        spec.input(
            'conv_thr_per_atom',
            valid_type=orm.Float,
            validator=validate_positive,
            help='Convergence threshold of the self-consistency for each atom, Ry.',
        )
        spec.input(
            'use_ledger',
            valid_type=orm.Bool,
            default=lambda: orm.Bool(True),
            help='Take labels that data sets of the profile have at the same level of theory, in place of computing '
            'them again.',
        )
        spec.expose_inputs(
            PwBaseWorkChain, namespace='pw', exclude=('pw.structure', 'pw.kpoints', 'kpoints', 'kpoints_distance')
        )
        spec.output('labelled', valid_type=PESData, required=False, help='The frames that were labelled.')
        spec.output(
            'report',
            valid_type=orm.Dict,
            help='How many frames were asked for, labelled, reused and from where, failed and why.',
        )
        spec.exit_code(
            310, 'ERROR_ALL_FAILED', message='none of {n} pw.x calculations gave a label; the first: {first}'
        )
        spec.outline(cls.take_known, cls.order_tasks, while_(cls.has_tasks)(cls.run_tasks), cls.collect)

    @classmethod
    def get_builder_from_protocol(
        cls,
        code: orm.AbstractCode | str,
        frames: PESData | None = None,
        *,
        elements: Iterable[str] | None = None,
        protocol: str | None = None,
        overrides: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Any:
        """Builder with the inputs of a protocol.

        :param code: the pw.x code.
        :param frames: what to label.
        :param elements: chemical symbols, where ``frames`` are not known yet.
        :param overrides: values that replace those of the protocol.
        :param options: ``metadata.options`` of the pw.x jobs.
        :raises ValueError: for an unknown option, a missing code, an element without pseudopotential.
        """
        inputs = cls.get_protocol_inputs(protocol, overrides)
        for name in ('kpoints_distance', 'conv_thr_per_atom'):
            if name != 'kpoints_distance' or inputs[name] is not None:
                number(f'labelling.{name}', inputs[name], 0.0, exclusive=True)
        if inputs['pw_protocol'] not in PwBaseWorkChain.get_available_protocols():
            known = ', '.join(PwBaseWorkChain.get_available_protocols())
            raise ValueError(f'`labelling.pw_protocol`: {inputs["pw_protocol"]!r} is none of {known}.')
        boolean('labelling.use_ledger', inputs['use_ledger'])
        check_cards(inputs['parameters'])
        code = load_checked_code(code, 'quantumespresso.pw', 'codes.pw')
        symbols = sorted(frames.elements if frames is not None else elements or [], key=atomic_numbers.__getitem__)
        if not symbols:
            raise ValueError('`frames`: neither frames nor elements are given, so no pseudopotential can be chosen.')
        check_pseudo_family(inputs['pseudo_family'], symbols)
        job_options = checked_options(code, {**inputs['options'], **(options or {})}, 'labelling')
        with warnings.catch_warnings():
            warnings.filterwarnings('ignore', message='.*fully periodic.*')
            pw = PwBaseWorkChain.get_builder_from_protocol(
                code,
                _one_site_an_element(symbols),
                protocol=inputs['pw_protocol'],
                overrides={'pseudo_family': inputs['pseudo_family'], 'pw': {'parameters': inputs['parameters']}},
                options=job_options,
            )
        parameters = pw.pw.parameters.get_dict()
        parameters['ELECTRONS'].pop('conv_thr')
        parameters = without_nulls(parameters)
        builder = cls.get_builder()
        if frames is not None:
            builder.frames = frames
        builder.kpoints_distance = orm.Float(inputs['kpoints_distance'] or pw.kpoints_distance.value)
        builder.conv_thr_per_atom = orm.Float(inputs['conv_thr_per_atom'])
        builder.use_ledger = orm.Bool(inputs['use_ledger'])
        builder.max_concurrent = orm.Int(
            checked_concurrency(code, inputs['max_concurrent'], 'labelling.max_concurrent', job_options)
        )
        builder.pw.pw.code = code
        builder.pw.pw.pseudos = pw.pw.pseudos
        builder.pw.pw.parameters = orm.Dict(parameters)
        builder.pw.pw.metadata = pw.pw.metadata
        builder.pw.clean_workdir = orm.Bool(inputs['clean_workdir'])
        return builder

    @property
    def level(self) -> LevelOfTheory:
        """Level of theory for all elements."""
        return level_of_inputs(self.inputs)

    def take_known(self) -> None:
        """Take the labels that the database has."""
        self.ctx.reused_pk = self.ctx.picks_pk = None
        self.ctx.reused = []
        if not self.inputs.use_ledger.value:
            return
        known = ask_ledger(self.inputs.frames, self.level)
        for problem in known.problems:
            self.report(f'the label ledger is incomplete: {problem}')
        if not len(known):
            return
        picks = orm.Dict(known.picks()).store()
        sources = {key: orm.load_node(pick['uuid']) for key, pick in picks.get_dict().items()}
        self.ctx.picks_pk = picks.pk
        self.ctx.reused_pk = reuse_labels(self.inputs.frames, picks, **sources).pk
        self.ctx.reused = known.questions.tolist()
        self.report(
            f'{len(known)} of {len(self.inputs.frames)} frames have their label in the database, in {len(sources)} '
            f'data set{"" if len(sources) == 1 else "s"}'
        )

    def order_tasks(self) -> None:
        """What is not known, the largest frames first, so that the last ones to run are short."""
        sizes = self.inputs.frames.column('n_atoms')
        unknown = frames_to_calculate(self.inputs.frames, self.level, self.ctx.reused)
        self.ctx.order = sorted(unknown, key=lambda index: (-int(sizes[index]), index))
        self.ctx.n_tasks = len(self.ctx.order)
        self.ctx.isolated = np.flatnonzero(self.inputs.frames.column('origin') == ISOLATED_ATOM).tolist()
        self.ctx.structure_pks = {}
        self.ctx.parameter_pks = {}

    def build_task(self, index: int) -> tuple[type[Process], dict[str, Any]]:
        """A ``PwBaseWorkChain`` for the frame that comes at this place of the order."""
        frame_index = self.ctx.order[index]
        structure = self._structure(index)
        kinds = structure.get_kind_names()
        inputs = AttributeDict(self.exposed_inputs(PwBaseWorkChain, 'pw'))
        inputs.kpoints_distance = self.inputs.kpoints_distance
        inputs.pw = AttributeDict(inputs.pw)
        inputs.pw.structure = structure
        inputs.pw.pseudos = {kind: self.inputs.pw.pw.pseudos[kind] for kind in kinds}
        inputs.pw.parameters = self._parameters(structure, frame_index in self.ctx.isolated)
        return PwBaseWorkChain, inputs

    def _structure(self, index: int) -> orm.StructureData:
        """Structure of one task; those of a whole chunk are extracted together."""
        key = f'frame_{self.ctx.order[index]}'
        if key not in self.ctx.structure_pks:
            start = index - index % CHUNK
            chunk = self.ctx.order[start : start + CHUNK]
            structures = extract_structures(self.inputs.frames, orm.List(chunk))
            self.ctx.structure_pks = {name: node.pk for name, node in structures.items()}
        return orm.load_node(self.ctx.structure_pks[key])

    def _parameters(self, structure: orm.StructureData, isolated: bool) -> orm.Dict:
        """Parameters of pw.x for one structure; structures that need the same share one node."""
        key = f'{len(structure.sites)}/{structure.get_formula() if isolated else ""}'
        if key not in self.ctx.parameter_pks:
            parameters = self.inputs.pw.pw.parameters.get_dict()
            parameters.setdefault('CONTROL', {}).update(tprnfor=True, tstress=not isolated)
            conv_thr = self.inputs.conv_thr_per_atom.value * len(structure.sites)
            parameters.setdefault('ELECTRONS', {})['conv_thr'] = conv_thr
            if isolated:
                kind = structure.kinds[0].name
                z_valence = self.inputs.pw.pw.pseudos[kind].z_valence
                fixed = parameters['SYSTEM'].get('occupations') == 'fixed'
                parameters['SYSTEM'].update(isolated_atom_spin(structure.kinds[0].symbol, kind, z_valence, fixed))
            self.ctx.parameter_pks[key] = orm.Dict(parameters).store().pk
        return orm.load_node(self.ctx.parameter_pks[key])

    def collect(self) -> ExitCode | None:
        """Labelled frames and report."""
        failures, trajectories = [], {}
        for index, child in zip(self.ctx.order, self.children(), strict=True):
            if child.is_finished_ok and 'output_trajectory' in child.outputs:
                trajectories[f'frame_{index}'] = child.outputs.output_trajectory
            else:
                failures.append(
                    {
                        'index': index,
                        'process': child.uuid,
                        'pk': child.pk,
                        'exit_status': child.exit_status,
                        'reason': failure_reason(child),
                    }
                )
        taken = {}
        if self.ctx.reused_pk is not None:
            taken = {'reused': orm.load_node(self.ctx.reused_pk), 'picks': orm.load_node(self.ctx.picks_pk)}
        outputs = collect_labels(
            self.inputs.frames,
            self.inputs.pw.pw.parameters,
            self.inputs.kpoints_distance,
            orm.List(sorted(failures, key=lambda failure: failure['index'])),
            pseudos=dict(self.inputs.pw.pw.pseudos),
            trajectories=trajectories,
            **taken,
        )
        self.out_many(outputs)
        for failure in failures:
            self.report(f'frame {failure["index"]}: no label, exit code {failure["exit_status"]}: {failure["reason"]}')
        if 'labelled' not in outputs:
            return self.exit_codes.ERROR_ALL_FAILED.format(n=len(failures), first=failures[0]['reason'])
        return None


def level_of_inputs(inputs: Any) -> LevelOfTheory:
    """Level of theory, for all elements, of the labels that these inputs of the work chain give."""
    pseudos = {element: pseudo.md5 for element, pseudo in inputs.pw.pw.pseudos.items()}
    return level_of_theory(inputs.pw.pw.parameters.get_dict(), pseudos, inputs.kpoints_distance.value)[0]


def failure_reason(process: orm.ProcessNode) -> str:
    """Why a process failed, in its own words and, as these are often general, in those of its last calculation."""
    reason = how_it_ended(process)
    jobs = [called for called in process.called_descendants if isinstance(called, orm.CalcJobNode)]
    last = max(jobs, key=lambda job: job.pk, default=None)
    if last is None or not last.exit_status:
        return reason
    return f'{reason.rstrip(".")}; the last calculation ended with exit code {last.exit_status}: {last.exit_message}'


def isolated_atom_spin(symbol: str, kind: str, z_valence: float, fixed: bool = False) -> dict[str, Any]:
    """Cards of pw.x that give an isolated atom the magnetic moment of its ground state, to start from.

    :param fixed: with fixed occupations pw.x needs the moment itself, and keeps it.
    """
    moment = float(ground_state_magnetic_moments[atomic_numbers[symbol]])
    if moment == 0:
        return {}
    if fixed:
        return {'nspin': 2, 'tot_magnetization': moment}
    return {'nspin': 2, 'starting_magnetization': {kind: min(1.0, moment / float(z_valence))}}


def without_nulls(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Cards without the keys that are set to null, which is how a campaign takes out what a protocol has put in."""
    return {
        key: without_nulls(value) if isinstance(value, Mapping) else value
        for key, value in parameters.items()
        if value is not None
    }


def check_cards(parameters: Mapping[str, Any]) -> None:
    """Refuse cards of pw.x that are unknown, and keys that the labelling sets itself.

    :raises ValueError: naming the card or key.
    """
    for card, keys in parameters.items():
        if card not in CARDS or not isinstance(keys, Mapping):
            raise ValueError(
                f'`labelling.parameters.{card}`: must be a mapping in one of the cards {", ".join(CARDS)}.'
            )
        for key in keys:
            if str(key).lower() in OURS[card]:
                raise ValueError(
                    f'`labelling.parameters.{card}.{key}`: is set by the labelling itself, each label being one static '
                    'step; leave it out (`labelling.conv_thr_per_atom` sets `conv_thr`).'
                )


def check_pseudo_family(label: str | None, elements: Iterable[str]) -> None:
    """Refuse a family of pseudopotentials that is not installed or lacks an element.

    :raises ValueError: naming what there is instead.
    """
    families = {group.label: group for (group,) in orm.QueryBuilder().append(PseudoPotentialFamily).iterall()}
    if label not in families:
        known = ', '.join(f'`{name}`' for name in sorted(families)) or 'none'
        raise ValueError(
            f'`labelling.pseudo_family`: {label!r} is not installed (installed: {known}); install one with '
            '`aiida-pseudo install` or run `aiida-alpot setup`.'
        )
    missing = sorted(set(elements) - set(families[label].elements))
    if missing:
        raise ValueError(
            f'`labelling.pseudo_family`: {label!r} has no pseudopotential for {", ".join(missing)}; choose a family '
            'that has, or remove these elements from the structures.'
        )


def _one_site_an_element(symbols: list[str]) -> orm.StructureData:
    """A structure that holds each element once, for the protocol to choose pseudopotentials and cut-offs by."""
    structure = orm.StructureData(cell=[[10.0, 0, 0], [0, 10.0, 0], [0, 0, 10.0]])
    for height, symbol in enumerate(symbols):
        structure.append_atom(position=(0.0, 0.0, float(height)), symbols=symbol)
    return structure
