"""``alpot-md -in FILE -folders run_0000 run_0001 ...``: several runs one after the other, with the models loaded once.

Each folder holds the files of one run, as ``alpot-md`` without ``-folders`` would want them, and gets what such a run
leaves. A run that fails does not stop the others. Started again in the same place, what has ended is skipped, and what
was interrupted goes on from its newest restart file. Such a file is also looked for in ``earlier``, a link in the
folder to that of an interrupted run, and in its own ``earlier``. A run goes on by the script :data:`RESTART_SCRIPT`,
which reads :data:`RESTART_LINK`; where there is no such script or no restart file, it begins anew.

``timer timeout`` in the scripts is the time that the program has for all of its runs: what is left of it when a run
begins is what this one gets, and where nothing is left, no other run begins.
"""

from __future__ import annotations

import json
import os
import struct
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from aiida_alpot.worker.md.preparation import prepare_run
from aiida_alpot.worker.md.run import SUMMARY_FILE, WATCH_FILE
from aiida_alpot.worker.md.script import Timer, script_commands
from aiida_alpot.worker.potentials import Committee, load_committee

EARLIER = 'earlier'
RESTART_SCRIPT, RESTART_LINK = 'restart.lammps', 'start.restart'
RESTART_FILES = ('run.restart.a', 'run.restart.b', 'final.restart')
UNFINISHED = ('walltime', 'terminated')
"""Reasons in ``md.json`` of runs that can go on."""
BAD_INPUT, TERMINATED = 2, 15

_MAGIC = b'LammpS RestartT\x00'
_DEEPEST = 100


def run_folders(
    folders: Sequence[Path],
    *,
    script: Path,
    driver: Path,
    log: Path,
    arguments: Sequence[str] = (),
    clock: Callable[[], float] = time.monotonic,
) -> int:
    """Run what is to be run in each folder, in this order.

    :param script: of each run, relative to its folder; likewise ``driver`` and ``log``.
    :param arguments: of LAMMPS.
    :return: exit code: that of the first run that failed, 15 after a signal, else 0.
    """
    began, worst = clock(), 0
    load, run = once(load_committee), None
    for folder in folders:
        if is_finished(folder):
            continue
        with _inside(folder):
            set_aside(Path(WATCH_FILE))
            try:
                commands = left_of(script_commands(script_of_run(script).read_text()), clock() - began)
                run = prepare_run(commands, driver, load, log, arguments)
            except OutOfTimeError:
                break
            except (OSError, ValueError, RuntimeError) as error:
                worst = worst or _refuse(folder, str(error))
                continue
            summary = run.execute()
        if summary['exit_code']:
            print(f'alpot-md: {folder}: {summary["message"]}', file=sys.stderr)
            worst = worst or int(summary['exit_code'])
        if summary['reason'] == 'terminated':
            break
    if run is not None:
        run.end_mpi()
    return worst


class OutOfTimeError(Exception):
    """There is no time left for another run."""


def once(load: Callable[..., Committee]) -> Callable[..., Committee]:
    """A function that loads each committee once, whatever the working folder."""
    known: dict[Any, Committee] = {}

    def loaded(paths: Sequence[str | Path], **options: Any) -> Committee:
        key = (*(str(Path(path).resolve()) for path in paths), *sorted(options.items()))
        if key not in known:
            known[key] = load(paths, **options)
        return known[key]

    return loaded


def left_of(commands: Iterable[str], elapsed: float) -> list[str]:
    """The commands with what is left of the time in ``timer timeout``.

    :param elapsed: s, of the time that they give to the whole program.
    :raises OutOfTimeError: where less than a second is left.
    """
    changed = []
    for command in commands:
        timer = Timer()
        timer.note(command, elapsed)
        again = timer.again(2.0 * elapsed)  # `elapsed` has passed since it was noted
        if again.startswith('timer timeout off'):
            changed.append(command)
            continue
        words = command.split()
        seconds = float(again.split()[2])
        if elapsed and seconds <= 1.0:
            raise OutOfTimeError
        words[words.index('timeout') + 1] = f'{seconds:.0f}'
        changed.append(' '.join(words))
    return changed


def is_finished(folder: Path) -> bool:
    """Whether a run in this folder has ended for good."""
    try:
        return json.loads((folder / SUMMARY_FILE).read_text())['reason'] not in UNFINISHED
    except (OSError, ValueError, KeyError):
        return False


def script_of_run(script: Path) -> Path:
    """The script for the run in the working folder: the one that goes on where there is something to go on from."""
    newest = find_restart(Path()) if Path(RESTART_SCRIPT).is_file() else None
    if newest is None:
        return script
    link = Path(RESTART_LINK)
    with suppress(FileNotFoundError):
        link.unlink()
    with suppress(FileExistsError):  # another MPI rank was faster
        link.symlink_to(newest.resolve())
    return Path(RESTART_SCRIPT)


def find_restart(folder: Path) -> Path | None:
    """The complete restart file of the latest step in a folder or, where it has none, in the earlier ones."""
    place = folder
    for _ in range(_DEEPEST):
        steps = {place / name: restart_step(place / name) for name in RESTART_FILES}
        known = {path: step for path, step in steps.items() if step is not None}
        if known:
            return max(known, key=lambda path: known[path])
        place = place / EARLIER
        if not place.is_dir():
            return None
    return None


def restart_step(path: Path) -> int | None:
    """Step of a restart file of LAMMPS; ``None`` where it is not there, or not complete.

    Such a file begins and ends with the same words. Its head is a list of integers, texts and, behind the units, the
    step (``header()`` in LAMMPS' ``write_restart.cpp``).
    """
    try:
        with path.open('rb') as file:
            head = file.read(4096)
            file.seek(-len(_MAGIC), os.SEEK_END)
            if not head.startswith(_MAGIC) or file.read() != _MAGIC:
                return None
        return _step_in(head[len(_MAGIC) + 8 :])  # an integer for the byte order, and one for the version
    except (OSError, struct.error, ValueError):
        return None


_VERSION, _UNITS, _STEP = 0, 4, 5
"""Marks of the entries of the head; all others are integers."""


def _step_in(head: bytes) -> int | None:
    place = 0
    while place < len(head) - 12:
        (mark,) = struct.unpack_from('i', head, place)
        if mark == _STEP:
            return int(struct.unpack_from('q', head, place + 4)[0])
        if mark < 0:
            return None
        (value,) = struct.unpack_from('i', head, place + 4)
        place += 8 + (value if mark in (_VERSION, _UNITS) else 0)
    return None


def set_aside(table: Path) -> None:
    """Keep what an interrupted run wrote: the next one would replace it."""
    if table.exists():
        number = len(list(table.parent.glob(f'{table.stem}.*{table.suffix}')))
        with suppress(FileNotFoundError):  # another MPI rank was faster
            table.rename(table.with_name(f'{table.stem}.{number:03d}{table.suffix}'))


def _refuse(folder: Path, message: str) -> int:
    """Write down, in the working folder, that the run was refused."""
    print(f'alpot-md: {folder}: {message}', file=sys.stderr)
    summary = {
        'completed': False,
        'reason': 'bad_input',
        'message': message,
        'exit_code': BAD_INPUT,
        'n_steps_done': 0,
        'n_frames': 0,
    }
    Path(SUMMARY_FILE).write_text(json.dumps(summary, indent=2) + '\n')
    return BAD_INPUT


@contextmanager
def _inside(folder: Path) -> Iterator[None]:
    """Work in a folder, and come back."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
