"""Evaluation of a committee: calibration, metrics, scores of a pool, selection."""

from __future__ import annotations

import json
import pathlib
from typing import Any

from aiida import orm
from aiida.common import CalcInfo, CodeInfo
from aiida.common.folders import Folder
from aiida.engine import CalcJob

from aiida_alpot.calculations.parent_folder import define_parent_folder
from aiida_alpot.data.committee import CommitteeData
from aiida_alpot.data.pes import PESData

WALLTIME_SHARE = 0.95
"""Share of the job's walltime after which an evaluation stops by itself; what it has evaluated is kept."""


class EvaluateCalculation(CalcJob):
    """One pass of ``alpot-evaluate`` over the labelled frames and a pool.

    What the committee said stays in the folder of the job, frame by frame: a job that has this one as `parent_folder`
    evaluates only frames that are new, or that this one did not come to.
    """

    CONFIG = 'evaluate.json'
    SUMMARY = 'evaluation.json'
    SCORES = 'scores.npz'
    PREDICTIONS = 'predictions.npz'
    SELECTED = 'selected/*.h5'
    PROGRESS = 'progress.json'
    EARLIER = 'earlier'

    @classmethod
    def define(cls, spec: Any) -> None:
        super().define(spec)
        spec.input('committee', valid_type=CommitteeData, help='The committee to evaluate.')
        spec.input(
            'dataset',
            valid_type=PESData,
            help='Labelled frames: `validation` calibrates, `test` measures, all are kept from being selected again.',
        )
        spec.input(
            'pool', valid_type=PESData, required=False, help='Frames to select from; without it only metrics are made.'
        )
        spec.input('parameters', valid_type=orm.Dict, help='Tolerance, signal, calibration, gate and selector.')
        spec.input('seed', valid_type=orm.Int, help='Seed of the selection.')
        define_parent_folder(
            spec, 'Folder of an earlier evaluation on the same computer: what the same committee said there is used.'
        )
        spec.inputs['metadata']['options']['parser_name'].default = 'alpot.evaluate'
        spec.inputs['metadata']['options']['output_filename'].default = 'evaluate.out'
        spec.inputs['metadata']['options']['withmpi'].default = False
        spec.inputs['metadata']['options']['resources'].default = lambda: {'num_machines': 1}
        spec.output('calibration', valid_type=orm.Dict, help='Calibration of the deviations and its quality.')
        spec.output('metrics', valid_type=orm.Dict, help='Errors of the labelled frames by split.')
        spec.output(
            'selection', valid_type=orm.Dict, help='Selected and rejected frames with reasons, counts, thresholds.'
        )
        spec.output('selected', valid_type=PESData, required=False, help='The frames to label next.')
        spec.output(
            'scores', valid_type=orm.ArrayData, required=False, help='Deviations and expected errors by frame_id.'
        )
        spec.output('predictions', valid_type=orm.ArrayData, help='Labels and predictions of the labelled frames.')
        spec.output('progress', valid_type=orm.Dict, required=False, help='How far it came, where it was stopped.')
        spec.exit_code(301, 'ERROR_NO_RETRIEVED', message='nothing was retrieved from the job')
        spec.exit_code(310, 'ERROR_EVALUATION_FAILED', message='alpot-evaluate failed: {last_words}')
        spec.exit_code(
            312,
            'ERROR_WALLTIME',
            invalidates_cache=True,
            message='the evaluation was stopped ({reason}) after {n} more frames; what it has evaluated is kept',
        )

    def prepare_for_submission(self, folder: Folder) -> CalcInfo:
        """Write the configuration; models and shards are copied from their nodes."""
        copies = self.inputs.committee.copy_list('committee')
        members = [target for _, _, target in copies]
        shards = self.inputs.dataset.copy_list('dataset')
        pool = self.inputs.pool.copy_list('pool') if 'pool' in self.inputs else []
        config = {
            **self._keeping(),
            **self.inputs.parameters.get_dict(),
            'committee': members,
            'dataset': [target for _, _, target in shards],
            'pool': [target for _, _, target in pool],
            'seed': self.inputs.seed.value,
        }
        (pathlib.Path(folder.abspath) / self.CONFIG).write_text(json.dumps(config, indent=1, sort_keys=True))
        code = CodeInfo()
        code.code_uuid = self.inputs.code.uuid
        code.cmdline_params = [self.CONFIG]
        code.stdout_name = self.options.output_filename
        code.join_files = True
        calcinfo = CalcInfo()
        calcinfo.codes_info = [code]
        calcinfo.local_copy_list = [*copies, *shards, *pool]
        if 'parent_folder' in self.inputs:
            parent = self.inputs.parent_folder
            calcinfo.remote_symlink_list = [(parent.computer.uuid, parent.get_remote_path(), self.EARLIER)]
        calcinfo.retrieve_list = [self.options.output_filename, self.SUMMARY, self.PROGRESS]
        calcinfo.retrieve_temporary_list = [self.SCORES, self.PREDICTIONS, (self.SELECTED, '.', 2)]
        return calcinfo

    def _keeping(self) -> dict[str, Any]:
        """Settings of what is kept and when to stop; nothing where the user wants nothing to be kept."""
        if not self.inputs.parameters.get_dict().get('keep_predictions', True):
            return {}
        walltime = self.options.get('max_wallclock_seconds')
        settings: dict[str, Any] = {'max_seconds': WALLTIME_SHARE * walltime} if walltime else {}
        return {**settings, 'earlier': [self.EARLIER]} if 'parent_folder' in self.inputs else settings
