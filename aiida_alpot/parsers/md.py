"""What runs of ``alpot-md`` left behind, however they ended."""

from __future__ import annotations

import json
import pathlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from aiida import orm
from aiida.engine import ExitCode
from aiida.parsers import Parser

from aiida_alpot.calculations.md import MDCalculation, folder_name
from aiida_alpot.data.pes import PESData
from aiida_alpot.parsers.retrieved import TRUNCATED, last_words
from aiida_alpot.worker.frames import FrameStore
from aiida_alpot.worker.frames.shard import check_shard_name
from aiida_alpot.worker.md.trajectory import COLUMNS, read_watch

KILLED, NOT_STARTED, BAD_INPUT = 'killed', 'not_started', 'bad_input'
UNFINISHED = (KILLED, 'terminated', 'walltime', NOT_STARTED)
"""Reasons of runs that can go on in another job."""
SETTLED = ('completed', 'halted')

EXIT_CODES = {
    KILLED: 'ERROR_NO_SUMMARY',
    BAD_INPUT: 'ERROR_BAD_INPUT',
    'walltime': 'ERROR_WALLTIME',
    NOT_STARTED: 'ERROR_WALLTIME',
    'terminated': 'ERROR_TERMINATED',
    'potential_error': 'ERROR_POTENTIAL',
    'not_finite': 'ERROR_NOT_FINITE',
    'temperature': 'ERROR_TEMPERATURE',
    'lost_atoms': 'ERROR_LOST_ATOMS',
    'lammps_error': 'ERROR_LAMMPS',
}
PROGRAM = 'alpot-md: '
BANNER = 'LAMMPS ('
LEFT_OUT = ('shards', 'completed', 'exit_code')
"""What of ``md.json`` the results need not repeat."""


class MDParser(Parser):
    """Frames, deviations and summaries; runs that stopped early still give what they had sampled."""

    def parse(self, **kwargs: Any) -> ExitCode | None:
        folder = pathlib.Path(kwargs['retrieved_temporary_folder'])
        places = self._places()
        shards = [path for place in places for path in readable_shards(folder / place, self.logger.warning)]
        if shards:
            self.out('frames', PESData.from_shards(shards))
        tables = [self._tables(folder / place) for place in places]
        if any(tables):
            self.out('deviations', deviations(tables))
        runs = [self._run(index, place, tables[index]) for index, place in enumerate(places)]
        self._explain(runs)
        reasons = Counter(run['reason'] for run in runs)
        if shards or any(tables) or set(reasons) != {NOT_STARTED}:
            self.out('results', orm.Dict({'reasons': dict(reasons), 'runs': runs}))
        return self._exit_code(runs, bool(shards))

    def _places(self) -> list[str]:
        """Folders of the runs."""
        inputs = self.node.base.links.get_incoming().nested()
        return [folder_name(i) for i in range(len(inputs['runs'].get_list()))] if 'runs' in inputs else ['.']

    def _tables(self, place: pathlib.Path) -> list[dict[str, np.ndarray]]:
        """Tables of a run that can be read; those of an interrupted start, set aside, come first."""
        tables = []
        for path in sorted(place.glob(MDCalculation.WATCH), key=lambda path: (path.name == 'watch.h5', path.name)):
            try:
                tables.append(read_watch(path))
            except TRUNCATED as exception:
                self.logger.warning(f'no deviations: {exception}')
        return tables

    def _run(self, index: int, place: str, tables: Sequence[Mapping[str, np.ndarray]]) -> dict[str, Any]:
        """The summary of one run; of one that was killed what its tables tell."""
        try:
            text = self.retrieved.base.repository.get_object_content(
                str(pathlib.PurePosixPath(place) / MDCalculation.SUMMARY)
            )
            summary = json.loads(text)
            found = {'reason': summary['reason'], 'message': summary['message'], **summary}
        except (*TRUNCATED, TypeError):
            steps = np.concatenate([table['step'] for table in tables]) if tables else np.zeros(0, dtype=int)
            found = {'reason': KILLED if tables else NOT_STARTED, 'message': 'there is no `md.json`'}
            if len(steps):
                found |= {'first_step': int(tables[-1]['step'][0]) if len(tables[-1]['step']) else int(steps[-1])}
                found |= {'last_step': int(steps[-1]), 'n_steps_done': int(steps[-1]) - found['first_step']}
        kept = {key: value for key, value in found.items() if key not in LEFT_OUT}
        return {'run': index, 'n_steps_done': 0, **kept}

    def _explain(self, runs: Sequence[dict[str, Any]]) -> None:
        """Say of the last run that began, if it was killed, what the log says of it."""
        began = [run for run in runs if run['reason'] != NOT_STARTED]
        output = self._output()
        if not began:
            words = last_words(output)
            for run in runs:
                run['message'] = words
                run['reason'] = BAD_INPUT if words.startswith(PROGRAM) else NOT_STARTED
        elif began[-1]['reason'] == KILLED:
            error = lammps_error(output)
            if error:
                began[-1]['reason'] = 'lost_atoms' if 'Lost atoms' in error else 'lammps_error'
            began[-1]['message'] = error or last_words(output)

    def _exit_code(self, runs: Sequence[Mapping[str, Any]], sampled: bool) -> ExitCode | None:
        if all(run['reason'] == NOT_STARTED for run in runs):
            return self.exit_codes.ERROR_NO_SUMMARY.format(message=runs[0]['message'])
        for reasons in (UNFINISHED, tuple(EXIT_CODES)):
            for run in runs:
                if run['reason'] in reasons:
                    where = f'{folder_name(run["run"])}: ' if len(runs) > 1 else ''
                    code = getattr(self.exit_codes, EXIT_CODES[run['reason']])
                    return code.format(steps=run['n_steps_done'], message=f'{where}{run["message"]}')
        if not sampled:
            return self.exit_codes.ERROR_NO_FRAMES.format(steps=sum(run['n_steps_done'] for run in runs))
        return None

    def _output(self) -> str:
        output = self.node.get_option('output_filename')
        if output not in self.retrieved.base.repository.list_object_names():
            return ''
        return self.retrieved.base.repository.get_object_content(output, mode='rb').decode(errors='replace')


def readable_shards(place: pathlib.Path, warn: Callable[[str], None]) -> Iterator[pathlib.Path]:
    """Shards of a run that can be read.

    :param place: folder of the run.
    :param warn: is told of the others.
    """
    for path in sorted((place / 'frames').glob('*.h5')):
        try:
            check_shard_name(path)
            FrameStore([path]).close()
        except TRUNCATED as exception:
            warn(f'frames are lost: {exception}')
        else:
            yield path


def lammps_error(output: str) -> str:
    """What LAMMPS said was wrong with the last of its runs in a log, or ''."""
    lines = output[max(output.rfind(BANNER), 0) :].splitlines()
    found = [line.strip() for line in lines if line.startswith('ERROR')]
    return found[-1][:300] if found else ''


def deviations(tables: Sequence[Sequence[Mapping[str, np.ndarray]]]) -> orm.ArrayData:
    """``ArrayData`` of the tables of runs: their columns, and the number of the run.

    :param tables: for each run those that it wrote.
    """
    node = orm.ArrayData()
    rows = [(index, table) for index, of_run in enumerate(tables) for table in of_run]
    for name in COLUMNS:
        column = np.concatenate([table[name] for _, table in rows])
        node.set_array(name, column.astype('S64') if name == 'kept' else column)
    node.set_array('run', np.repeat([index for index, _ in rows], [len(table['step']) for _, table in rows]))
    return node
