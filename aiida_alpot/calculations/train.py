"""Training of the members of a committee in one job."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from aiida import orm
from aiida.common import CalcInfo, CodeInfo
from aiida.common.folders import Folder
from aiida.engine import CalcJob

from aiida_alpot.calculations.parent_folder import define_parent_folder
from aiida_alpot.data.committee import CommitteeData
from aiida_alpot.data.pes import PESData
from aiida_alpot.data.potential import PotentialData
from aiida_alpot.worker.options import integer, unknown_name
from aiida_alpot.worker.registry import find
from aiida_alpot.worker.training.data import TrainingFrames
from aiida_alpot.worker.training.registry import GROUP, OWN
from aiida_alpot.worker.training.settings import TrainingSettings, parse_settings

WALLTIME_SHARE = 0.95
"""Share of the job's walltime after which a training stops by itself; another job goes on from its checkpoints."""
OF_A_MEMBER = ('index', 'seed', 'start')
SAME_CUTOFF = 1e-5
"""Cutoffs that differ by less than so many A are the same: models may keep them in single precision."""


class TrainCalculation(CalcJob):
    """Train members of a committee by ``alpot-train``, side by side in one job.

    They are trained on split ``train``, the epoch is chosen on ``validation``; ``test`` stays unseen. A job that has
    this one as `parent_folder`, and is otherwise the same, goes on with the members that are not done.
    """

    CONFIG = 'train.json'
    SUMMARY = 'training.json'
    CURVES = 'curves.npz'
    MEMBER_SUMMARY = 'members/*/state.json'
    MEMBER_OUTPUT = 'members/*/train.out'
    MODELS = 'models/*'
    CHECKPOINTS = 'checkpoints/*'
    EARLIER = 'earlier'

    @classmethod
    def define(cls, spec: Any) -> None:
        super().define(spec)
        spec.input('dataset', valid_type=PESData, help='Labelled frames with their splits.')
        spec.input(
            'parameters',
            valid_type=orm.Dict,
            validator=validate_parameters,
            help='Options of the training, the same for all members; `parameters` in it are the options of the trainer '
            'by the names it gives them.',
        )
        spec.input(
            'members',
            valid_type=orm.List,
            validator=validate_members,
            help='Each member of this job: `index` in the committee, `seed` of its initial weights and the order of '
            'its data, and perhaps `start`, the member of the input `start` that it goes on from.',
        )
        spec.input(
            'start',
            valid_type=CommitteeData,
            required=False,
            help='An earlier committee, whose members are gone on with.',
        )
        spec.input(
            'foundation',
            valid_type=PotentialData,
            required=False,
            help='A model that is tuned, in place of new weights.',
        )
        spec.input(
            'replay', valid_type=PESData, required=False, help='Frames that the foundation model was trained on.'
        )
        define_parent_folder(
            spec,
            'Folder of the same job on the same computer, which was interrupted.',
            validate_training,
        )
        spec.inputs['metadata']['options']['parser_name'].default = 'alpot.train'
        spec.inputs['metadata']['options']['output_filename'].default = 'train.out'
        spec.inputs['metadata']['options']['withmpi'].default = False
        spec.inputs['metadata']['options']['resources'].default = lambda: {'num_machines': 1}
        spec.output_namespace('potentials', valid_type=PotentialData, dynamic=True, help='Models, by `member_<index>`.')
        spec.output(
            'results',
            valid_type=orm.Dict,
            required=False,
            help='Errors by split and origin, loss and attempts of each member; warnings; reference energies.',
        )
        spec.output_namespace(
            'curves', valid_type=orm.ArrayData, dynamic=True, help='Losses and errors by epoch, by `member_<index>`.'
        )
        spec.default_output_node = 'results'
        define_exit_codes(spec)

    def prepare_for_submission(self, folder: Folder) -> CalcInfo:
        """Write the configuration; shards and models are copied from their nodes."""
        inputs = self.inputs
        copies = {name: inputs[name].copy_list(name) for name in ('dataset', 'replay') if name in inputs}
        starts = inputs.start.start_list('start') if 'start' in inputs else []
        members = inputs.members.get_list()
        used = sorted({of['start'] for of in members if of.get('start') is not None})
        files = [entry for entries in copies.values() for entry in entries] + [starts[index] for index in used]
        config: dict[str, Any] = {
            **inputs.parameters.get_dict(),
            'members': [{**of, 'start': None if of.get('start') is None else starts[of['start']][2]} for of in members],
            **{name: [target for _, _, target in entries] for name, entries in copies.items()},
        }
        if 'foundation' in inputs:
            files.append(inputs.foundation.start_entry('foundation'))
            config['foundation'] = files[-1][2]
        if self.options.get('max_wallclock_seconds'):
            config['max_seconds'] = WALLTIME_SHARE * self.options.max_wallclock_seconds
        code = CodeInfo()
        code.code_uuid = inputs.code.uuid
        code.cmdline_params = [self.CONFIG]
        code.stdout_name = self.options.output_filename
        code.join_files = True
        calcinfo = CalcInfo()
        calcinfo.codes_info = [code]
        calcinfo.local_copy_list = files
        if 'parent_folder' in inputs:
            parent = inputs.parent_folder
            config['earlier'] = self.EARLIER
            calcinfo.remote_symlink_list = [(parent.computer.uuid, parent.get_remote_path(), self.EARLIER)]
        (pathlib.Path(folder.abspath) / self.CONFIG).write_text(json.dumps(config, indent=1, sort_keys=True))
        calcinfo.retrieve_list = [
            self.options.output_filename,
            self.SUMMARY,
            (self.MEMBER_SUMMARY, '.', 3),
            (self.MEMBER_OUTPUT, '.', 3),
        ]
        calcinfo.retrieve_temporary_list = [self.CURVES, (self.MODELS, '.', 2), (self.CHECKPOINTS, '.', 2)]
        return calcinfo


def define_exit_codes(spec: Any) -> None:
    """One exit code a cause."""
    spec.exit_code(301, 'ERROR_NO_RETRIEVED', message='nothing was retrieved from the job')
    spec.exit_code(310, 'ERROR_TRAINING_FAILED', message='{member} failed: {message}')
    spec.exit_code(
        311, 'ERROR_PROPERTY_NOT_TRAINED', message='{member} was not trained on all that was asked for: {message}'
    )
    spec.exit_code(
        312,
        'ERROR_STOPPED',
        invalidates_cache=True,
        message='the training was stopped ({reason}) after {n} epochs of all members together; what is done is kept',
    )
    spec.exit_code(313, 'ERROR_NO_MODEL', message='the trainer ended well, but left no model of {member}: {message}')
    spec.exit_code(
        314,
        'ERROR_DIVERGED',
        message='{member} diverged, also when it was started again with a lower learning rate: {message}',
    )
    spec.exit_code(
        315,
        'ERROR_OUT_OF_MEMORY',
        message='the memory did not suffice for {member}, also with half the batch size: {message}',
    )
    spec.exit_code(316, 'ERROR_BAD_INPUT', message='alpot-train refused its input: {message}')
    spec.exit_code(317, 'ERROR_CORRUPT_CHECKPOINT', message='what {member} was to go on from cannot be read: {message}')
    spec.exit_code(
        318,
        'ERROR_INTERRUPTED',
        invalidates_cache=True,
        message='the job was killed before it had written `training.json`: {message}; its checkpoints are kept',
    )


def requested_settings(parameters: orm.Dict) -> TrainingSettings:
    """The settings of a training; another trainer than there is, is refused.

    :raises ValueError: as :func:`~aiida_alpot.worker.training.settings.parse_settings`.
    """
    settings = parse_settings(parameters.get_dict())
    find(OWN, GROUP, settings.trainer, 'trainer')
    return settings


def validate_parameters(node: orm.Dict, _: Any) -> str | None:
    """Refuse options that no trainer takes; what only the trainer knows is checked when a builder is made."""
    try:
        requested_settings(node)
    except ValueError as exception:
        return str(exception)
    return None


def validate_members(node: orm.List, _: Any) -> str | None:
    """Refuse members that cannot be told apart, or have no seed."""
    members = node.get_list()
    if not members:
        return '`members` is empty: give at least one'
    for of in members:
        if not isinstance(of, Mapping) or not {'index', 'seed'} <= set(of):
            return f'a member is {of!r}, expected `index` and `seed`, and perhaps `start`'
        for name, value in of.items():
            if name not in OF_A_MEMBER:
                return unknown_name(name, OF_A_MEMBER, 'entry of a member')
            if value is None and name == 'start':
                continue
            try:
                integer(name, value, 0)
            except ValueError as exception:
                return str(exception)
    for name in ('index', 'seed'):
        found = [of[name] for of in members]
        if len(set(found)) < len(found):
            return f'two members have the same {name}: {found}'
    return None


def validate_training(inputs: Mapping[str, Any], _: Any) -> str | None:
    """Refuse what does not go together: data and options, models and data."""
    if not {'dataset', 'parameters'} <= set(inputs):
        return None  # a part of the inputs of a work chain
    try:
        settings = requested_settings(inputs['parameters'])
    except ValueError as exception:
        return str(exception)
    members = inputs['members'].get_list() if 'members' in inputs else []
    return next(_problems(inputs, settings, [of.get('start') for of in members]), None)


def _problems(inputs: Mapping[str, Any], settings: TrainingSettings, starts: Sequence[int | None]) -> Iterator[str]:
    start, foundation = inputs.get('start'), inputs.get('foundation')
    problem = validate_dataset(inputs['dataset'], settings.properties)
    if problem:
        yield problem
    for name, model in (('start', start), ('foundation', foundation)):
        misfits = model is not None and misfit(model, settings, inputs['dataset'].elements)
        if misfits:
            yield f'`{name}`: {misfits}'
    beyond = [index for index in starts if index is not None and (start is None or index >= start.n_members)]
    if beyond:
        there = 'the input `start` is not given' if start is None else f'`start` has {start.n_members} members'
        yield f'a member goes on from member {beyond[0]} of an earlier committee, but {there}'
    yield from problems_of_replay('replay' in inputs, foundation is not None, settings)
    if settings.cutoff is None and foundation is None and (start is None or None in starts):
        yield '`cutoff` is null, and there is no model to take it from: give it in A'


def problems_of_replay(replay: bool, foundation: bool, settings: TrainingSettings) -> Iterator[str]:
    """What is wrong with frames that are to be replayed, or are missing."""
    method = settings.fine_tuning.method
    if replay and not foundation:
        yield '`replay` is given without `foundation`, the model that was trained on these frames: give both or none'
    if replay and method != 'replay':
        yield f'`replay` is given, but `fine_tuning.method` is {method!r}: set it to replay, or leave the frames out'
    if method == 'replay' and foundation and not replay:
        yield '`fine_tuning.method` is replay: give `replay`, frames that the foundation model was trained on'
    if method == 'replay' and not foundation:
        yield '`fine_tuning.method` is replay, but there is no `foundation`, the model to be tuned: give one'
    for name in ('freeze', 'lora_rank'):
        if getattr(settings.fine_tuning, name) is not None and not foundation:
            yield f'`fine_tuning.{name}` is given, but there is no `foundation`, the model to be tuned: give one'


def misfit(
    model: CommitteeData | PotentialData, settings: TrainingSettings, elements: Iterable[str] = ()
) -> str | None:
    """Why a training with these settings cannot go on from a model, or nothing.

    :param elements: of what is trained on, as far as it is known.
    """
    if model.trainer != settings.trainer:
        return f'it is of the trainer {model.trainer!r}, and this training is by {settings.trainer!r}: give one of it'
    if settings.cutoff is not None and abs(model.cutoff - settings.cutoff) > SAME_CUTOFF:
        return (
            f'its cutoff is {model.cutoff:g} A, and `cutoff` is {settings.cutoff:g} A: set `cutoff` to null, so that '
            'it is that of the model'
        )
    unknown = sorted(set(elements) - set(model.elements))
    if unknown:
        return (
            f'it knows {", ".join(model.elements)}, and there is {", ".join(unknown)} in what is trained on: give a '
            'model that knows all elements, or train from scratch'
        )
    return None


def validate_dataset(node: PESData, properties: Sequence[str]) -> str | None:
    """Refuse a data set from which nothing can be learnt, or nothing consistent.

    :param properties: what is to be learnt of it.
    """
    with node.open_store() as store:
        try:
            TrainingFrames(store, properties)
        except ValueError as exception:
            return str(exception)
    return None
