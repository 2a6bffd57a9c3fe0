"""``alpot-explore JOB.json``: explorers with a committee, one run after the other.

Run ``i`` has the folder ``run_000i`` in the working folder, with its frames in ``frames/*.h5`` and ``explore.json``,
which says how it ended. A run that fails does not stop the others. Started again in the same folder, the program goes
on with what is not finished. ``explore.json`` of the working folder says how the program ended:

==============  =========  ==================================================================================
reason          exit code  meaning
==============  =========  ==================================================================================
``completed``   0          all runs are finished, each with the status that its own file says
``walltime``    0          ``max_seconds`` were over; the next start goes on
``terminated``  15         a signal (SIGTERM, SIGINT) ended the program; the next start goes on
``no_frames``   30         all runs are finished, and none gave a frame
==============  =========  ==================================================================================

Bad input (exit code 2) is refused before anything runs, with a sentence on the standard error.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aiida_alpot.worker.explorers.base import COMPLETED, TERMINATED, UNFINISHED, WALLTIME
from aiida_alpot.worker.explorers.job import PreparedRun, check_elements, prepare, read_job
from aiida_alpot.worker.explorers.run import SUMMARY_FILE, Stop, execute, finished, write_json
from aiida_alpot.worker.potentials import Committee, load_committee

NO_FRAMES = 'no_frames'
EXIT_CODES = {COMPLETED: 0, WALLTIME: 0, TERMINATED: 15, NO_FRAMES: 30}


def main(argv: Sequence[str] | None = None, folder: Path | None = None) -> int:
    """The console program.

    :param folder: that the runs go to; by default the working folder.
    :return: exit code.
    """
    began = time.monotonic()
    parser = argparse.ArgumentParser(prog='alpot-explore', description=(__doc__ or '').split('\n\n')[0])
    parser.add_argument('job', type=Path, metavar='JOB.json', help='what to run')
    arguments = parser.parse_args(argv)
    target = folder or Path()
    try:
        job = read_job(arguments.job)
        runs = prepare(job, arguments.job.parent)
        done = [finished(_folder(target, i), run.fingerprint) for i, run in enumerate(runs)]
        paths = [arguments.job.parent / path for path in job.committee]
        committee = load_committee(paths, device=job.device, dtype=job.dtype)
        check_elements(runs, committee.elements)
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        print(f'alpot-explore: {error}', file=sys.stderr)
        return 2
    stop = Stop(None if job.max_seconds is None else began + job.max_seconds)
    with _signals(stop):
        summaries = _run_all(runs, done, committee, target, job.batch_size, stop)
    summary = _summary(summaries, len(runs), stop)
    write_json(target / SUMMARY_FILE, summary)
    if summary['exit_code']:
        print(f'alpot-explore: {summary["message"]}', file=sys.stderr)
    return int(summary['exit_code'])


def _folder(target: Path, index: int) -> Path:
    return target / f'run_{index:04d}'


@contextmanager
def _signals(stop: Stop) -> Iterator[None]:
    """Let SIGTERM and SIGINT end the program in good order."""

    def note(*_: Any) -> None:
        stop.signal = True

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run_all(
    runs: Sequence[PreparedRun],
    done: Sequence[dict[str, Any] | None],
    committee: Committee,
    target: Path,
    batch_size: int,
    stop: Stop,
) -> list[dict[str, Any]]:
    """Summaries of the runs, as far as it came, those of earlier starts included."""
    summaries = []
    for index, (run, summary) in enumerate(zip(runs, done, strict=True)):
        if summary is None:
            if stop.status:
                continue
            summary = execute(run, committee, _folder(target, index), batch_size=batch_size, stop=stop)
        summaries.append({'run': index, **summary})
    return summaries


def _summary(summaries: Sequence[dict[str, Any]], n_runs: int, stop: Stop) -> dict[str, Any]:
    unfinished = n_runs - sum(summary['status'] not in UNFINISHED for summary in summaries)
    n_frames = sum(summary['n_frames'] for summary in summaries)
    reason = stop.status if unfinished else COMPLETED if n_frames else NO_FRAMES
    message = f'{n_runs - unfinished} of {n_runs} runs are finished, {n_frames} frames'
    if reason == NO_FRAMES:
        message += '; ' + '; '.join(f'run {s["run"]}: {s["status"]}, {s["message"]}' for s in summaries[:5])
    elif unfinished:
        message += f' ({reason}): start again in this folder to go on'
    keys = ('run', 'explorer', 'status', 'message', 'n_frames', 'lineage', 'origin')
    return {
        'reason': reason,
        'exit_code': EXIT_CODES[reason],
        'message': message,
        'n_runs': n_runs,
        'n_finished': n_runs - unfinished,
        'n_frames': n_frames,
        'runs': [{key: summary[key] for key in keys} for summary in summaries],
    }


if __name__ == '__main__':
    sys.exit(main())
