"""What a run of ``alpot-md`` left behind, however it ended."""

from __future__ import annotations

import json
import pathlib
import zipfile
from typing import Any

import numpy as np
from aiida import orm
from aiida.engine import ExitCode
from aiida.parsers import Parser

from aiida_alpot.calculations.md import MDCalculation
from aiida_alpot.data.pes import PESData
from aiida_alpot.parsers.mace_train import last_words

TRUNCATED = (OSError, EOFError, ValueError, zipfile.BadZipFile)
"""What reading a file raises that is not there, or was cut short when its job was killed."""


class MDParser(Parser):
    """Frames, deviations and summary; a run that stopped early still gives what it had sampled."""

    def parse(self, **kwargs: Any) -> ExitCode | None:
        folder = pathlib.Path(kwargs['retrieved_temporary_folder'])
        shards = sorted((folder / 'frames').glob('*.h5'))
        if shards:
            self.out('frames', PESData.from_shards(shards))
        try:
            self.out('deviations', array_data(folder / MDCalculation.DEVIATIONS))
        except TRUNCATED as exception:
            self.logger.warning(f'no deviations: {exception}')
        try:
            summary = json.loads(self.retrieved.base.repository.get_object_content(MDCalculation.SUMMARY))
        except TRUNCATED:
            return self.exit_codes.ERROR_NO_SUMMARY.format(last_words=self._last_words())
        self.out('results', orm.Dict(summary))
        steps = summary['n_steps_done']
        if summary['reason'] == 'walltime':
            return self.exit_codes.ERROR_WALLTIME.format(steps=steps)
        if summary['exit_code'] != 0:
            return self.exit_codes.ERROR_STOPPED.format(steps=steps, reason=summary['message'])
        if not shards:
            return self.exit_codes.ERROR_NO_FRAMES.format(steps=steps)
        return None

    def _last_words(self) -> str:
        output = self.node.get_option('output_filename')
        if output not in self.retrieved.base.repository.list_object_names():
            return 'nothing'
        return last_words(self.retrieved.base.repository.get_object_content(output))


def array_data(path: pathlib.Path) -> orm.ArrayData:
    """``ArrayData`` of the arrays of an ``.npz`` file."""
    node = orm.ArrayData()
    with np.load(path, allow_pickle=False) as arrays:
        for name in sorted(arrays.files):
            node.set_array(name, arrays[name])
    return node
