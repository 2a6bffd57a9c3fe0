"""What a run of ``alpot-md`` left behind, however it ended."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import numpy as np
from aiida import orm
from aiida.engine import ExitCode
from aiida.parsers import Parser

from aiida_alpot.calculations.md import MDCalculation
from aiida_alpot.data.pes import PESData
from aiida_alpot.parsers.mace_train import last_words


class MDParser(Parser):
    """Frames, deviations and summary; a run that stopped early still gives what it had sampled."""

    def parse(self, **kwargs: Any) -> ExitCode | None:
        folder = pathlib.Path(kwargs['retrieved_temporary_folder'])
        shards = sorted((folder / 'frames').glob('*.h5'))
        if shards:
            self.out('frames', PESData.from_shards(shards))
        if (folder / MDCalculation.DEVIATIONS).is_file():
            self.out('deviations', array_data(folder / MDCalculation.DEVIATIONS))
        names = self.retrieved.base.repository.list_object_names()
        if MDCalculation.SUMMARY not in names:
            output = self.node.get_option('output_filename')
            words = last_words(self.retrieved.base.repository.get_object_content(output)) if output in names else 'nothing'
            return self.exit_codes.ERROR_NO_SUMMARY.format(last_words=words)
        summary = json.loads(self.retrieved.base.repository.get_object_content(MDCalculation.SUMMARY))
        self.out('results', orm.Dict(summary))
        steps = summary['n_steps_done']
        if summary['reason'] == 'walltime':
            return self.exit_codes.ERROR_WALLTIME.format(steps=steps)
        if summary['exit_code'] != 0:
            return self.exit_codes.ERROR_STOPPED.format(steps=steps, reason=summary['message'])
        if not shards:
            return self.exit_codes.ERROR_NO_FRAMES
        return None


def array_data(path: pathlib.Path) -> orm.ArrayData:
    """``ArrayData`` of the arrays of an ``.npz`` file."""
    node = orm.ArrayData()
    with np.load(path, allow_pickle=False) as arrays:
        for name in sorted(arrays.files):
            node.set_array(name, arrays[name])
    return node
