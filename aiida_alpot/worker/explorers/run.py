"""One run of an explorer, from its start, or from where it was interrupted, to the files that tell about it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from aiida_alpot.worker.explorers.base import (
    EXPLORER_ERROR,
    HALTED,
    RUNNING,
    TERMINATED,
    UNFINISHED,
    WALLTIME,
    EndedError,
    Outcome,
)
from aiida_alpot.worker.explorers.job import PreparedRun
from aiida_alpot.worker.explorers.journal import Journal
from aiida_alpot.worker.explorers.stream import FrameStream
from aiida_alpot.worker.explorers.watch import Watch
from aiida_alpot.worker.potentials import Committee

SUMMARY_FILE, JOURNAL_FILE = 'explore.json', 'journal.bin'


class Stop:
    """Whether all runs are to stop.

    :param deadline: of ``time.monotonic``; ``None``: none.
    :ivar signal: set it to let the run end before its next evaluation.
    """

    def __init__(self, deadline: float | None = None) -> None:
        self._deadline = deadline
        self.signal = False

    @property
    def status(self) -> str:
        """``terminated``, ``walltime``, or '' to go on."""
        if self.signal:
            return TERMINATED
        late = self._deadline is not None and time.monotonic() >= self._deadline
        return WALLTIME if late else ''

    def check(self) -> None:
        """Stop where it is time to.

        :raises EndedError: ``terminated`` or ``walltime``.
        """
        if self.status == TERMINATED:
            raise EndedError(TERMINATED, 'a signal ended the run: start again to go on')
        if self.status == WALLTIME:
            raise EndedError(WALLTIME, 'the time was up: start again to go on')


def finished(folder: Path, fingerprint: str) -> dict[str, Any] | None:
    """The summary of a run that an earlier start has finished; ``None`` where there is something to do.

    :raises ValueError: where the folder belongs to another run.
    """
    path = folder / SUMMARY_FILE
    if not path.is_file():
        return None
    summary: dict[str, Any] = json.loads(path.read_text())
    if summary.get('fingerprint') != fingerprint:
        raise ValueError(
            f'{folder} holds a run with other settings, start structures or potentials: start in another folder, or '
            'remove it'
        )
    return summary if summary['status'] not in UNFINISHED else None


def execute(
    prepared: PreparedRun, committee: Committee, folder: Path, *, batch_size: int, stop: Stop | None = None
) -> dict[str, Any]:
    """Run an explorer in a folder of its own; go on with what an earlier start left there unfinished.

    :return: the content of ``explore.json``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    _write(folder, {**_identity(prepared), 'status': RUNNING, 'message': 'the run goes on'})
    stream, journal = FrameStream(folder), Journal(folder / JOURNAL_FILE)
    run = prepared.settings
    watch = Watch(
        committee,
        run.driving_member or 0,
        stream,
        limits=run.limits,
        uncertainty=run.uncertainty,
        batch_size=batch_size,
        origin=run.origin,
        lineage=prepared.lineage,
        metadata={**run.metadata, 'explorer': run.explorer},
        journal=journal,
        check_stop=(stop or Stop()).check,
    )
    outcome = _explore(prepared, watch)
    is_finished = outcome.status not in UNFINISHED
    shards = stream.finish() if is_finished else stream.pause(watch.provisional())
    summary = {
        **_identity(prepared),
        'status': outcome.status,
        'message': outcome.message,
        'results': dict(outcome.results),
        'n_frames': stream.n_frames,
        'shards': shards,
        'n_evaluations': watch.n_evaluations,
        'n_repeated': watch.n_repeated,
        'n_candidates': watch.n_candidates,
        'n_uncertain': watch.n_uncertain,
        'n_junk': watch.n_junk,
        'n_members': committee.n_members,
        'highest_expected_force_error': watch.highest_expected_force_error,
        'seconds': time.monotonic() - began,
    }
    _write(folder, summary)
    journal.close(delete=is_finished)
    if is_finished:
        stream.forget()
    return summary


def _explore(prepared: PreparedRun, watch: Watch) -> Outcome:
    """How the run ended; whatever it had sampled by then is assessed, unless it goes on another time."""
    try:
        outcome = prepared.explorer.explore(prepared.starts, watch, prepared.settings.seed or 0)
        json.dumps(dict(outcome.results), allow_nan=False)
    except EndedError as error:
        outcome = Outcome(error.status, str(error))
    except Exception as error:  # noqa: BLE001 -- whatever it is, the next run shall go on
        outcome = Outcome(EXPLORER_ERROR, f'the explorer failed: {type(error).__name__}: {error}')
    if outcome.status in UNFINISHED:
        return outcome
    try:
        watch.assess()
    except EndedError as error:
        if outcome.status != HALTED:
            return Outcome(error.status, f'{error}; before: {outcome.message}', outcome.results)
    return outcome


def _identity(prepared: PreparedRun) -> dict[str, Any]:
    run = prepared.settings
    return {
        'explorer': run.explorer,
        'settings': dict(run.settings),
        'seed': run.seed,
        'driving_member': run.driving_member,
        'origin': run.origin,
        'lineage': prepared.lineage,
        'fingerprint': prepared.fingerprint,
    }


def _write(folder: Path, summary: dict[str, Any]) -> None:
    write_json(folder / SUMMARY_FILE, summary)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a file that is there complete or not at all."""
    temporary = path.with_name(f'.{path.name}')
    temporary.write_text(json.dumps(content, indent=2) + '\n')
    temporary.replace(path)
