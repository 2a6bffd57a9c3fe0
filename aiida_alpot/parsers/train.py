"""What ``alpot-train`` left behind, however it ended."""

from __future__ import annotations

import json
import pathlib
import re
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
from aiida import orm
from aiida.engine import ExitCode
from aiida.parsers import Parser

from aiida_alpot.calculations.train import TrainCalculation, requested_settings
from aiida_alpot.data.potential import PotentialData
from aiida_alpot.parsers.retrieved import TRUNCATED, arrays_of, last_words
from aiida_alpot.worker.training.outcome import (
    CORRUPT_CHECKPOINT,
    CURVE,
    DIVERGED,
    FAILED,
    NO_MODEL,
    OUT_OF_MEMORY,
    PROPERTY_NOT_TRAINED,
    STOPPED,
    TRAINED,
)
from aiida_alpot.worker.training.plain import plain
from aiida_alpot.worker.training.settings import TrainingSettings

PROGRAM = 'alpot-train: '
EPOCH = re.compile(r'^member (\d+): epoch (\d+)', flags=re.MULTILINE)
"""What the program prints from time to time while a member trains."""
REASONS = {'walltime': 'by itself, ahead of the walltime', 'signal': 'by a signal'}
"""What the program writes down when it stops, and what that means."""
CODES = {
    PROPERTY_NOT_TRAINED: 'ERROR_PROPERTY_NOT_TRAINED',
    NO_MODEL: 'ERROR_NO_MODEL',
    DIVERGED: 'ERROR_DIVERGED',
    OUT_OF_MEMORY: 'ERROR_OUT_OF_MEMORY',
    CORRUPT_CHECKPOINT: 'ERROR_CORRUPT_CHECKPOINT',
    FAILED: 'ERROR_TRAINING_FAILED',
}
"""Exit code of a member that was not trained, by its status."""
LEFT_OUT = ('model', 'checkpoint', 'curve', 'result')
"""What of a member's entry is in nodes of its own, or twice."""


class TrainParser(Parser):
    """A potential, a learning curve and the errors of each member; what was trained is kept if other members failed."""

    def parse(self, **kwargs: Any) -> ExitCode | None:
        self.folder = pathlib.Path(kwargs['retrieved_temporary_folder'])
        if self._output is None and not self._names:
            return self.exit_codes.ERROR_NO_RETRIEVED
        summary = self._json(TrainCalculation.SUMMARY)
        members = self._members(summary)
        potentials = self._potentials(members, summary or {})
        for name, potential in potentials.items():
            self.out(f'potentials.{name}', potential)
        for name, curve in self._curves(members).items():
            self.out(f'curves.{name}', curve)
        if members or summary:
            self.out('results', orm.Dict(results(summary or {}, members)))
        if len(potentials) == len(self._asked):
            return ExitCode(0)  # all is there, whatever the scheduler says
        return self._interruption(summary, members) or self._failure(members)

    # What there is.

    @cached_property
    def _names(self) -> list[str]:
        return list(self.retrieved.base.repository.list_object_names())

    @cached_property
    def _output(self) -> str | None:
        name = self.node.get_option('output_filename')
        if name not in self._names:
            return None
        return str(self.retrieved.base.repository.get_object_content(name, mode='rb').decode(errors='replace'))

    @cached_property
    def _asked(self) -> list[dict[str, Any]]:
        return self.node.inputs.members.get_list()

    @cached_property
    def _settings(self) -> TrainingSettings:
        return requested_settings(self.node.inputs.parameters)

    def _json(self, path: str) -> dict[str, Any] | None:
        """Content of a JSON file; nothing where it is not there or was cut short."""
        try:
            content = json.loads(self.retrieved.base.repository.get_object_content(path))
        except TRUNCATED:
            return None
        return plain(content) if isinstance(content, dict) else None

    def _members(self, summary: Mapping[str, Any] | None) -> dict[str, dict[str, Any]]:
        """What is known of each member, by its index: of a job that was killed, what ended and what its output says."""
        listed = (summary or {}).get('members', {})
        reached = {} if summary else dict(EPOCH.findall(self._output or ''))
        found = {}
        for of in self._asked:
            key = str(of['index'])
            entry = listed.get(key) or self._json(f'members/{key}/state.json')
            if isinstance(entry, dict) and 'status' in entry:
                found[key] = self._judged(entry)
            elif key in reached:
                found[key] = {**of, 'status': STOPPED, 'message': 'it was killed', 'n_epochs': int(reached[key])}
        return found

    def _judged(self, entry: dict[str, Any]) -> dict[str, Any]:
        """The entry of a member, whose status holds what can be seen from here."""
        if entry['status'] != TRAINED:
            return entry
        weights = (entry.get('loss') or {}).get('weights') or {}
        missing = [name for name in self._settings.properties if not weights.get(name)]
        if missing:
            message = f'{", ".join(missing)} asked for but not in the loss: {(entry.get("loss") or {}).get("name")}'
            return {**entry, 'status': PROPERTY_NOT_TRAINED, 'message': message}
        if self._file(entry.get('model')) is None:
            return {**entry, 'status': NO_MODEL, 'message': f'{entry.get("model")} did not come back'}
        return entry

    def _file(self, name: str | None) -> pathlib.Path | None:
        """A file that came back for the parser only."""
        path = self.folder / name if name else None
        return path if path is not None and path.is_file() else None

    # What is made of it.

    def _potentials(
        self, members: Mapping[str, Mapping[str, Any]], summary: Mapping[str, Any]
    ) -> dict[str, PotentialData]:
        trained = {key: entry for key, entry in members.items() if entry['status'] == TRAINED}
        return {f'member_{key}': self._potential(int(key), entry, summary) for key, entry in trained.items()}

    def _potential(self, index: int, entry: Mapping[str, Any], summary: Mapping[str, Any]) -> PotentialData:
        inputs, settings = self.node.inputs, self._settings
        model = self.folder / entry['model']
        source = self._source(index)
        options = entry.get('hyper_parameters') or {}
        energies = entry.get('reference_energies') or summary.get('reference_energies')
        return PotentialData(
            model,
            f'model{model.suffix}',
            trainer=settings.trainer,
            elements=entry.get('elements') or summary.get('elements') or inputs.dataset.elements,
            cutoff=entry.get('cutoff') or (settings.cutoff if source is None else source.cutoff),
            dtype=settings.dtype,
            seed=entry['seed'],
            checkpoint=self._file(entry.get('checkpoint')),
            trainer_version=entry.get('version') or None,
            architecture=entry.get('architecture') or architecture(settings, options),
            hyper_parameters=options,
            data_hash=inputs.dataset.content_hash,
            level_of_theory=sorted(inputs.dataset.levels_of_theory),
            reference_energies=energies,
            started_from=self._started_from(index),
            epoch=entry.get('epoch'),
            loss=entry.get('loss'),
        )

    def _start(self, index: int) -> int | None:
        return next(of.get('start') for of in self._asked if of['index'] == index)

    def _source(self, index: int) -> Any:
        """The node of what a member started from, if it did not start from scratch."""
        inputs = self.node.inputs
        if self._start(index) is not None:
            return inputs.start
        return inputs.foundation if 'foundation' in inputs else None

    def _started_from(self, index: int) -> str | None:
        start, source = self._start(index), self._source(index)
        if source is None:
            return None
        return str(source.sha256 if start is None else source.member_hashes[start])

    def _curves(self, members: Mapping[str, Mapping[str, Any]]) -> dict[str, orm.ArrayData]:
        """Learning curve of each member; of a job that was killed, of those that had ended."""
        columns: dict[str, dict[str, np.ndarray]] = {}
        try:
            with np.load(self.folder / TrainCalculation.CURVES, allow_pickle=False) as arrays:
                for name in arrays.files:
                    index, _, column = name.partition('_')
                    columns.setdefault(index, {})[column] = arrays[name]
        except TRUNCATED:
            rows = {index: of['curve'] for index, of in members.items() if isinstance(of.get('curve'), list)}
            for index, curve in rows.items():
                table = np.array(curve, dtype=float).reshape(-1, len(CURVE))
                columns[index] = {name: table[:, place] for place, name in enumerate(CURVE)}
        return {f'member_{index}': arrays_of(found) for index, found in columns.items()}

    # How it ended.

    def _interruption(
        self, summary: Mapping[str, Any] | None, members: Mapping[str, Mapping[str, Any]]
    ) -> ExitCode | None:
        """The exit code of a job that another can go on with, or that never began."""
        scheduler, codes = self.node.exit_status, self.exit_codes
        if scheduler == codes.ERROR_SCHEDULER_OUT_OF_MEMORY.status:
            return codes.ERROR_OUT_OF_MEMORY.format(member='the job', message='the scheduler ended it')
        reason = REASONS.get((summary or {}).get('stopped') or '')
        if scheduler == codes.ERROR_SCHEDULER_OUT_OF_WALLTIME.status:
            reason = reason or 'by the scheduler, at the walltime'
        if reason is not None:
            n = sum(entry.get('n_epochs') or 0 for entry in members.values())
            return codes.ERROR_STOPPED.format(reason=reason, n=n)
        if summary is not None:
            return None
        words = last_words(self._output or '')
        if words.startswith(PROGRAM):
            return codes.ERROR_BAD_INPUT.format(message=words.removeprefix(PROGRAM))
        if 'Traceback (most recent call last)' in (self._output or ''):
            return codes.ERROR_TRAINING_FAILED.format(member='alpot-train', message=words)
        return codes.ERROR_INTERRUPTED.format(message=f'its last words: {words}')

    def _failure(self, members: Mapping[str, Mapping[str, Any]]) -> ExitCode:
        """The exit code of the first member that was not trained."""
        for of in self._asked:
            entry = members.get(str(of['index']), {'status': FAILED, 'message': 'nothing is said of it'})
            if entry['status'] == STOPPED:
                return self.exit_codes.ERROR_STOPPED.format(reason='for itself', n=entry.get('n_epochs') or 0)
            if entry['status'] != TRAINED:
                code = getattr(self.exit_codes, CODES.get(entry['status'], CODES[FAILED]))
                return code.format(
                    member=f'member {of["index"]}', message=entry.get('message') or 'it does not say why'
                )
        raise AssertionError('all members are trained')


def results(summary: Mapping[str, Any], members: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What a job tells of a training, with the members that are known."""
    told = {key: value for key, value in summary.items() if key != 'members'}
    kept = {key: {name: of[name] for name in of if name not in LEFT_OUT} for key, of in members.items()}
    return {'warnings': [], 'stopped': None, **told, 'members': kept}


def architecture(settings: TrainingSettings, options: Mapping[str, Any]) -> str | None:
    """Kind of model, from the options that were given or, where they do not say, those that were in force.

    MACE itself calls the kind of any model that goes on from another ``FoundationMACE``.
    """
    for given in (settings.parameters, options):
        for name in ('name', 'architecture', 'model'):
            found = given.get(name)
            found = found.get('name') if isinstance(found, Mapping) else found
            if isinstance(found, str):
                return found
    return None
