"""Molecular dynamics in LAMMPS with the committee inside."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from aiida import orm
from aiida.common import CalcInfo, CodeInfo
from aiida.common.folders import Folder
from aiida_lammps.calculations.raw import LammpsRawCalculation

from aiida_alpot.calculations.parent_folder import define_parent_folder
from aiida_alpot.data.committee import CommitteeData
from aiida_alpot.data.pes import PESData
from aiida_alpot.worker.md.lammps_input import DATA_FILE, DRIVER_FILE, SCRIPT_FILE, write_lammps_input
from aiida_alpot.worker.md.run import SUMMARY_FILE
from aiida_alpot.worker.md.settings import MDSettings
from aiida_alpot.worker.md.several import EARLIER, RESTART_LINK, RESTART_SCRIPT
from aiida_alpot.worker.seeds import derive_seed

COMMITTEE_DIRECTORY = 'committee'
SURROUNDINGS = ('device', 'dtype')
"""Parameters that are no conditions of the dynamics."""
RESTARTS = 10
"""A run writes so many restart files on its way where it is not said how often."""


class MDCalculation(LammpsRawCalculation):
    """Runs of ``alpot-md``: LAMMPS' raw calculation that also carries a committee and brings sampled frames back.

    Either ``structures``, ``parameters`` and ``runs`` say what is run, and the files are written from them: a folder
    for each run, one after the other in one job, with the models loaded once. Or ``script`` and ``files`` are these
    files, for one run, as in the raw calculation.
    """

    SUMMARY = SUMMARY_FILE
    FRAMES = 'frames/*.h5'
    WATCH = 'watch*.h5'
    FOLDERS = 'run_*'
    ACTIVE_SET = 'active_set'

    @classmethod
    def define(cls, spec: Any) -> None:
        super().define(spec)
        spec.inputs['script'].required = False
        spec.input('committee', valid_type=CommitteeData, help='The committee: one member drives, the others watch.')
        spec.input('structures', valid_type=PESData, required=False, help='Frames that runs start from.')
        spec.input(
            'parameters',
            valid_type=orm.Dict,
            required=False,
            help='Settings of all runs: fields of `MDSettings`, `device`, `dtype`.',
        )
        spec.input(
            'runs',
            valid_type=orm.List,
            required=False,
            help='What each run has of its own: `start` (frame of `structures`), `seed`, `lineage`, `settings`; with '
            '`parent_folder` also `earlier`, the name of the folder there of the run that it goes on with.',
        )
        spec.input(
            'calibration',
            valid_type=orm.Dict,
            required=False,
            help='The output of an evaluation; bounds of the uncertainty are then expected errors.',
        )
        spec.input(
            'active_set',
            valid_type=orm.SinglefileData,
            required=False,
            help='Extrapolation active sets, by which the grade of frames is measured.',
        )
        define_parent_folder(
            spec,
            'Folder of a job on the same computer whose runs are gone on with from their newest restart files.',
            validate_runs,
        )
        spec.inputs['metadata']['options']['parser_name'].default = 'alpot.md'
        spec.inputs['metadata']['options']['withmpi'].default = False
        spec.inputs['metadata']['options']['resources'].default = lambda: {'num_machines': 1}
        spec.outputs['results'].required = False
        spec.output('frames', valid_type=PESData, required=False, help='Sampled frames of all runs, without labels.')
        spec.output(
            'deviations',
            valid_type=orm.ArrayData,
            required=False,
            help='What the committee said on the way: columns of `watch.h5`, and `run`, the number of the run.',
        )
        define_exit_codes(spec)

    def prepare_for_submission(self, folder: Folder) -> CalcInfo:
        """As the raw calculation, with the members of the committee and a folder for each run."""
        if 'script' in self.inputs:
            calcinfo = super().prepare_for_submission(folder)
            calcinfo.retrieve_list.append(self.SUMMARY)
            calcinfo.retrieve_temporary_list = [(self.FRAMES, '.', 2), self.WATCH]
        else:
            calcinfo = self._folders(folder)
        calcinfo.codes_info[0].join_files = True
        calcinfo.local_copy_list = self.inputs.committee.copy_list(COMMITTEE_DIRECTORY)
        if 'active_set' in self.inputs:
            node = self.inputs.active_set
            calcinfo.local_copy_list.append((node.uuid, node.filename, active_set_name(node)))
        return calcinfo

    def _folders(self, folder: Folder) -> CalcInfo:
        """Write a folder for each run."""
        runs = self.inputs.runs.get_list()
        names = [folder_name(index) for index in range(len(runs))]
        active_set = self.inputs.get('active_set')
        write_runs(
            pathlib.Path(folder.abspath),
            self.inputs.structures,
            self.inputs.parameters.get_dict(),
            runs,
            self.inputs.committee,
            calibration=self.inputs.calibration.get_dict() if 'calibration' in self.inputs else None,
            active_set=None if active_set is None else active_set_name(active_set),
        )
        code = CodeInfo()
        code.code_uuid = self.inputs.code.uuid
        code.cmdline_params = ['-in', SCRIPT_FILE, '-folders', *names]
        code.stdout_name = self.inputs.metadata.options.output_filename
        calcinfo = CalcInfo()
        calcinfo.codes_info = [code]
        calcinfo.provenance_exclude_list = [
            f'{name}/{file}' for name in names for file in (DATA_FILE, RESTART_SCRIPT)
        ]  # the inputs say what is in them
        calcinfo.retrieve_list = [code.stdout_name, (f'{self.FOLDERS}/{self.SUMMARY}', '.', 2)]
        calcinfo.retrieve_temporary_list = [
            (f'{self.FOLDERS}/{self.FRAMES}', '.', 3),
            (f'{self.FOLDERS}/{self.WATCH}', '.', 2),
        ]
        if 'parent_folder' in self.inputs:
            parent = self.inputs.parent_folder
            calcinfo.remote_symlink_list = [
                (parent.computer.uuid, f'{parent.get_remote_path()}/{run["earlier"]}', f'{name}/{EARLIER}')
                for name, run in zip(names, runs, strict=True)
                if run.get('earlier')
            ]
        return calcinfo


def define_exit_codes(spec: Any) -> None:
    """One for each cause; the first run that did not end well decides, those that can go on before others."""
    spec.exit_code(
        301,
        'ERROR_NO_SUMMARY',
        invalidates_cache=True,
        message='a run was killed before it could write `md.json`: {message}',
    )
    spec.exit_code(302, 'ERROR_BAD_INPUT', message='alpot-md refused its input: {message}')
    spec.exit_code(311, 'ERROR_NO_FRAMES', message='no frame was sampled in {steps} steps: lower `sample_every`')
    for status, name, what in (
        (312, 'WALLTIME', 'the run stopped at the walltime'),
        (313, 'TERMINATED', 'a signal ended the run'),
        (320, 'POTENTIAL', 'the potential failed'),
        (321, 'NOT_FINITE', 'positions, energy or forces were not finite'),
        (322, 'TEMPERATURE', 'the temperature exceeded its bound'),
        (323, 'LOST_ATOMS', 'LAMMPS lost atoms'),
        (324, 'LAMMPS', 'LAMMPS stopped with an error'),
    ):
        spec.exit_code(
            status,
            f'ERROR_{name}',
            invalidates_cache=status < 320,
            message=f'{what}, after {{steps}} steps: {{message}}; what was sampled is kept',
        )


def folder_name(index: int) -> str:
    """Folder of a run in its job."""
    return f'run_{index:04d}'


def active_set_name(node: orm.SinglefileData) -> str:
    """Name of the active set in the job."""
    return f'{MDCalculation.ACTIVE_SET}{pathlib.Path(node.filename).suffix}'


def md_settings(parameters: Mapping[str, Any], run: Mapping[str, Any]) -> MDSettings:
    """Settings of one run.

    :param parameters: of all runs; ``restart_every: null`` is a tenth of the steps.
    :param run: what it has of its own.
    :raises ValueError: for values out of range.
    """
    values = {key: value for key, value in parameters.items() if key not in SURROUNDINGS} | dict(run['settings'])
    if values.get('restart_every', 0) is None:
        values['restart_every'] = max(1, values['n_steps'] // RESTARTS)
    if run.get('bias') and values.get('bias'):
        values['bias'] = {**values['bias'], **run['bias']}
    return MDSettings(**values, seed=run['seed'])


def write_runs(
    folder: pathlib.Path,
    structures: PESData,
    parameters: Mapping[str, Any],
    runs: Sequence[Mapping[str, Any]],
    committee: CommitteeData,
    *,
    calibration: Mapping[str, Any] | None = None,
    active_set: str | None = None,
) -> None:
    """Write a folder with the files of ``alpot-md`` for each run: for its start, and for going on with it.

    :param calibration: ``forces`` of it is used where something is bounded by the expected error.
    :param active_set: name of the file in ``folder``.
    :raises ValueError: for what a run cannot be made of.
    """
    members = [f'../{COMMITTEE_DIRECTORY}/{pathlib.Path(name).name}' for name in committee.member_filenames]
    surroundings = {key: parameters[key] for key in SURROUNDINGS if key in parameters}
    with structures.open_store() as store:
        for index, run in enumerate(runs):
            settings = md_settings(parameters, run)
            bounds = settings.uncertainty_bounds if settings.uncertainty is not None else None
            bounded = bounds is not None and bounds.lower is not None
            options: dict[str, Any] = {
                **surroundings,
                'committee': members,
                'driving_member': derive_seed(run['seed'], 'driving member') % committee.n_members,
                'lineage': run['lineage'],
                'calibration': calibration['forces'] if calibration is not None and bounded else None,
                'active_set': None if active_set is None else f'../{active_set}',
            }
            frame = store[run['start']]
            target = folder / folder_name(index)
            write_lammps_input(frame, settings, **options).write(target)
            if settings.plumed is None:  # the history of PLUMED's biases is not carried over
                again = write_lammps_input(frame, settings, **options, restart_file=RESTART_LINK)
                (target / RESTART_SCRIPT).write_text(again.script)


def validate_runs(inputs: Mapping[str, Any], _: Any) -> str | None:
    """Refuse a job that does not know what to run, or runs that cannot be."""
    written = [name for name in ('structures', 'parameters', 'runs') if name in inputs]
    if 'script' in inputs:
        if written or 'parent_folder' in inputs:
            names = ', '.join(f'`{name}`' for name in [*written, 'parent_folder'] if name in inputs)
            return f'{names} and `script` exclude each other: the script already says what is run'
        return None
    if 'committee' not in inputs:
        return None  # a part of the inputs of a work chain
    if len(written) < 3:
        return 'give `structures`, `parameters` and `runs`, or a `script` with its `files`'
    runs, parameters = inputs['runs'].get_list(), inputs['parameters'].get_dict()
    if not runs:
        return '`runs` is empty: give at least one run'
    for index, run in enumerate(runs):
        try:
            settings = md_settings(parameters, run)
        except (KeyError, TypeError, ValueError) as exception:
            return f'run {index}: {exception}'
        if run['start'] >= len(inputs['structures']):
            return f'run {index} starts from frame {run["start"]}, `structures` has {len(inputs["structures"])}'
        if run.get('earlier') and settings.plumed is not None:
            return f'run {index} uses PLUMED, whose history is not carried over: start it anew'
    return None


__all__ = ['DRIVER_FILE', 'MDCalculation', 'folder_name', 'md_settings', 'validate_runs', 'write_runs']
