"""What ``alpot-evaluate`` left behind."""

from __future__ import annotations

import json
import pathlib
from typing import Any

from aiida import orm
from aiida.engine import ExitCode
from aiida.parsers import Parser

from aiida_alpot.calculations.evaluate import EvaluateCalculation
from aiida_alpot.data.pes import PESData
from aiida_alpot.parsers.retrieved import TRUNCATED, array_data, last_words

REASONS = {'walltime': 'by itself, ahead of the walltime', 'signal': 'by a signal'}
"""What the program writes down when it stops, and what that means."""


class EvaluateParser(Parser):
    """Calibration, metrics, scores and selection as nodes of their own."""

    def parse(self, **kwargs: Any) -> ExitCode | None:
        folder = pathlib.Path(kwargs['retrieved_temporary_folder'])
        names = self.retrieved.base.repository.list_object_names()
        output = self.node.get_option('output_filename')
        if output not in names:
            return self.exit_codes.ERROR_NO_RETRIEVED
        shards = sorted((folder / 'selected').glob('*.h5'))
        try:
            summary = json.loads(self.retrieved.base.repository.get_object_content(EvaluateCalculation.SUMMARY))
            predictions = array_data(folder / EvaluateCalculation.PREDICTIONS)
            complete = bool(shards) or summary['counts']['selected'] == 0  # the selected frames are written last
        except TRUNCATED:
            complete = False
        if not complete:
            stopped = self._stopped()
            if stopped is not None:
                return stopped
            words = last_words(self.retrieved.base.repository.get_object_content(output))
            return self.exit_codes.ERROR_EVALUATION_FAILED.format(last_words=words)
        self.out('calibration', orm.Dict(summary.pop('calibration')))
        self.out('metrics', orm.Dict(summary.pop('metrics')))
        self.out('selection', orm.Dict(summary))
        self.out('predictions', predictions)
        if (folder / EvaluateCalculation.SCORES).is_file():
            self.out('scores', array_data(folder / EvaluateCalculation.SCORES))
        if shards:
            self.out('selected', PESData.from_shards(shards))
        return ExitCode(0)  # all is there, whatever the scheduler says

    def _stopped(self) -> ExitCode | None:
        """How far an evaluation came that was stopped by itself, by a signal, or by the scheduler."""
        try:
            progress = json.loads(self.retrieved.base.repository.get_object_content(EvaluateCalculation.PROGRESS))
        except TRUNCATED:
            progress = {}
        if progress:
            self.out('progress', orm.Dict(progress))
        reason = REASONS.get(progress.get('stopped', ''))
        if self.node.exit_status == self.exit_codes.ERROR_SCHEDULER_OUT_OF_WALLTIME.status:
            reason = reason or 'by the scheduler, at the walltime'
        if reason is None:
            return None
        return self.exit_codes.ERROR_WALLTIME.format(reason=reason, n=progress.get('evaluated', 0))
