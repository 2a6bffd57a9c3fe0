"""Explorers other than molecular dynamics, with a committee."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from aiida import orm
from aiida.common import CalcInfo, CodeInfo
from aiida.common.folders import Folder
from aiida.engine import CalcJob

from aiida_alpot.calculations.parent_folder import define_parent_folder
from aiida_alpot.data.committee import CommitteeData
from aiida_alpot.data.pes import PESData
from aiida_alpot.worker.explorers import make_explorer
from aiida_alpot.worker.explorers.job import Job
from aiida_alpot.worker.frames import write_shard
from aiida_alpot.worker.options import build

STAND_INS = {'committee': ['0', '1'], 'runs': [{'explorer': 'relaxation'}]}
"""Settings of a job that are only known when it is made, so that the others can be checked before."""


class ExploreCalculation(CalcJob):
    """Runs of ``alpot-explore``, one after the other in one job, with the models loaded once.

    A job that has this one as `parent_folder`, and is otherwise the same, goes on with the runs that are not finished.
    """

    JOB = 'job.json'
    SUMMARY = 'explore.json'
    FOLDERS = 'run_*'
    FRAMES = 'frames/*.h5'
    STARTS = 'starts'

    @classmethod
    def define(cls, spec: Any) -> None:
        super().define(spec)
        spec.input('committee', valid_type=CommitteeData, help='The committee: one member drives, the others watch.')
        spec.input('structures', valid_type=PESData, help='Frames that runs start from.')
        spec.input(
            'parameters',
            valid_type=orm.Dict,
            help='Settings of all runs: those of a job of `alpot-explore` but for `committee` and `runs`.',
        )
        spec.input(
            'runs',
            valid_type=orm.List,
            help='Each run: `explorer`, `settings`, `starts` (frames of `structures`), `lineage`, `origin`, `seed`, '
            '`driving_member`.',
        )
        spec.input(
            'calibration',
            valid_type=orm.Dict,
            required=False,
            help='The output of an evaluation; bounds of the uncertainty are then expected errors.',
        )
        define_parent_folder(
            spec,
            'Folder of the same job on the same computer, which was interrupted.',
            validate_runs,
        )
        spec.inputs['metadata']['options']['parser_name'].default = 'alpot.explore'
        spec.inputs['metadata']['options']['output_filename'].default = 'explore.out'
        spec.inputs['metadata']['options']['withmpi'].default = False
        spec.inputs['metadata']['options']['resources'].default = lambda: {'num_machines': 1}
        spec.output('frames', valid_type=PESData, required=False, help='Candidates of all runs, without labels.')
        spec.output('results', valid_type=orm.Dict, required=False, help='How each run ended.')
        spec.exit_code(
            301,
            'ERROR_NO_SUMMARY',
            invalidates_cache=True,
            message='the job was killed before it could write `explore.json`: {message}',
        )
        spec.exit_code(302, 'ERROR_BAD_INPUT', message='alpot-explore refused its input: {message}')
        spec.exit_code(311, 'ERROR_NO_FRAMES', message='no run gave a frame: {message}')
        spec.exit_code(
            312, 'ERROR_WALLTIME', invalidates_cache=True, message='the time was up: {message}; what was found is kept'
        )
        spec.exit_code(
            313,
            'ERROR_TERMINATED',
            invalidates_cache=True,
            message='a signal ended the job: {message}; what was found is kept',
        )

    def prepare_for_submission(self, folder: Folder) -> CalcInfo:
        """Write the job and one shard with the start structures; models are copied from their node."""
        copies = self.inputs.committee.copy_list('committee')
        shard = write_job(
            pathlib.Path(folder.abspath),
            self.inputs.structures,
            self.inputs.parameters.get_dict(),
            self.inputs.runs.get_list(),
            [target for _, _, target in copies],
            calibration=self.inputs.calibration.get_dict() if 'calibration' in self.inputs else None,
        )
        code = CodeInfo()
        code.code_uuid = self.inputs.code.uuid
        code.cmdline_params = [self.JOB]
        code.stdout_name = self.options.output_filename
        code.join_files = True
        calcinfo = CalcInfo()
        calcinfo.codes_info = [code]
        calcinfo.local_copy_list = copies
        calcinfo.provenance_exclude_list = [shard] if shard else []
        calcinfo.retrieve_list = [
            self.options.output_filename,
            self.SUMMARY,
            (f'{self.FOLDERS}/{self.SUMMARY}', '.', 2),
        ]
        calcinfo.retrieve_temporary_list = [(f'{self.FOLDERS}/{self.FRAMES}', '.', 3)]
        if 'parent_folder' in self.inputs:
            parent = self.inputs.parent_folder
            calcinfo.remote_copy_list = [(parent.computer.uuid, f'{parent.get_remote_path()}/{self.FOLDERS}', '.')]
        return calcinfo


def write_job(
    folder: pathlib.Path,
    structures: PESData,
    parameters: Mapping[str, Any],
    runs: Sequence[Mapping[str, Any]],
    members: Sequence[str],
    *,
    calibration: Mapping[str, Any] | None = None,
) -> str | None:
    """Write what ``alpot-explore`` reads.

    :param calibration: ``forces`` of it is used where something is bounded by the expected error.
    :return: path of the shard with the start structures in the folder, if there are any.
    """
    wanted = list(dict.fromkeys(index for run in runs for index in run.get('starts', ())))
    shard = None
    if wanted:
        with structures.open_store() as store:
            path = write_shard(store.select(wanted), folder / ExploreCalculation.STARTS)
        shard = str(path.relative_to(folder))
    written = []
    for run in runs:
        places = [[shard, wanted.index(index)] for index in run.get('starts', ())]
        written.append({**{key: value for key, value in run.items() if key != 'starts'}, 'start': places})
    job = {**parameters, 'committee': list(members), 'runs': written}
    if job.get('uncertainty') and calibration is not None:
        job['uncertainty'] = {**job['uncertainty'], 'calibration': calibration['forces']}
    (folder / ExploreCalculation.JOB).write_text(json.dumps(job, indent=1, sort_keys=True))
    return shard


def validate_runs(inputs: Mapping[str, Any], _: Any) -> str | None:
    """Refuse settings that cannot be, and starts that are not there."""
    if not {'runs', 'parameters', 'structures'} <= set(inputs):
        return None  # a part of the inputs of a work chain
    runs = inputs['runs'].get_list()
    if not runs:
        return '`runs` is empty: give at least one run'
    try:
        build(Job, {**inputs['parameters'].get_dict(), **STAND_INS}, 'setting')
        for run in runs:
            explorer = make_explorer(run['explorer'], run.get('settings', {}))
            starts = run.get('starts', ())
            if len(starts) != explorer.n_starts:
                raise ValueError(f'`{run["explorer"]}` takes {explorer.n_starts} start structures, {len(starts)} given')
            if any(not 0 <= index < len(inputs['structures']) for index in starts):
                raise ValueError(f'`starts` is {starts}, `structures` has {len(inputs["structures"])} frames')
    except (KeyError, TypeError, ValueError) as exception:
        return str(exception)
    return None
