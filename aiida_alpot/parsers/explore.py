"""What ``alpot-explore`` left behind, however it ended."""

from __future__ import annotations

import json
import pathlib
from collections import Counter
from typing import Any

from aiida import orm
from aiida.engine import ExitCode
from aiida.parsers import Parser

from aiida_alpot.calculations.explore import ExploreCalculation
from aiida_alpot.calculations.md import folder_name
from aiida_alpot.data.pes import PESData
from aiida_alpot.parsers.md import KILLED, NOT_STARTED, readable_shards
from aiida_alpot.parsers.retrieved import TRUNCATED, last_words

PROGRAM = 'alpot-explore: '
LEFT_OUT = ('shards', 'fingerprint', 'settings')


class ExploreParser(Parser):
    """Frames and summaries; runs that were interrupted still give what they had found."""

    def parse(self, **kwargs: Any) -> ExitCode | None:
        folder = pathlib.Path(kwargs['retrieved_temporary_folder'])
        inputs = self.node.base.links.get_incoming().nested()
        names = [folder_name(index) for index in range(len(inputs['runs'].get_list()))]
        shards = [path for name in names for path in readable_shards(folder / name, self.logger.warning)]
        if shards:
            self.out('frames', PESData.from_shards(shards))
        runs = [self._run(index, name) for index, name in enumerate(names)]
        summary = self._json(ExploreCalculation.SUMMARY)
        words = last_words(self._output())
        if summary is None and all(run['reason'] == NOT_STARTED for run in runs):
            code = 'ERROR_BAD_INPUT' if words.startswith(PROGRAM) else 'ERROR_NO_SUMMARY'
            return getattr(self.exit_codes, code).format(message=words)
        reasons = Counter(run['reason'] for run in runs)
        self.out('results', orm.Dict({'reasons': dict(reasons), 'runs': runs}))
        if summary is None:
            return self.exit_codes.ERROR_NO_SUMMARY.format(message=words)
        codes = {'walltime': 'ERROR_WALLTIME', 'terminated': 'ERROR_TERMINATED', 'no_frames': 'ERROR_NO_FRAMES'}
        if summary['reason'] in codes:
            return getattr(self.exit_codes, codes[summary['reason']]).format(message=summary['message'])
        return None

    def _run(self, index: int, name: str) -> dict[str, Any]:
        """The summary of one run, with `reason` for what the program calls status, as of runs of MD."""
        summary = self._json(f'{name}/{ExploreCalculation.SUMMARY}')
        if summary is None or 'status' not in summary:
            return {'run': index, 'reason': NOT_STARTED, 'message': f'there is no `{ExploreCalculation.SUMMARY}`'}
        status = summary.pop('status')
        kept = {key: value for key, value in summary.items() if key not in LEFT_OUT}
        return {'run': index, 'reason': KILLED if status == 'running' else status, **kept}

    def _json(self, path: str) -> dict[str, Any] | None:
        """Content of a JSON file; nothing where it is not there or was cut short."""
        try:
            content = json.loads(self.retrieved.base.repository.get_object_content(path))
        except TRUNCATED:
            return None
        return content if isinstance(content, dict) else None

    def _output(self) -> str:
        output = self.node.get_option('output_filename')
        if output not in self.retrieved.base.repository.list_object_names():
            return ''
        return self.retrieved.base.repository.get_object_content(output, mode='rb').decode(errors='replace')
