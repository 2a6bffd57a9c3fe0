"""Processes forked from this one, so that they share what it has loaded."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

_PR_SET_PDEATHSIG = 1
_THREAD_VARIABLES = ('OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'OPENBLAS_NUM_THREADS')
_POLL = 0.05


class Process:
    """A function in a process of its own. It ends with this one, whatever ends that.

    :param function: called in it; exit code 0 where it returns, 1 where it raises.
    :param folder: its working directory; absolute.
    :param output: file that what it prints is added to.
    :param environment: variables that are changed for it.
    :param threads: that numerical libraries may use in it.
    """

    def __init__(
        self,
        function: Callable[[], object],
        folder: Path,
        output: Path,
        environment: Mapping[str, str] | None = None,
        threads: int = 1,
    ) -> None:
        self.code: int | None = None
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            _become(function, parent, folder, output, dict(environment or {}), threads)
        with suppress(OSError):  # both sides do it, as nobody knows who comes first
            os.setpgid(self.pid, self.pid)

    def poll(self) -> int | None:
        """Exit code, minus the signal where one ended it; ``None`` while it runs."""
        if self.code is None and os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            self.send(signal.SIGKILL)  # whatever it has started goes with it; its number is its own until it is reaped
            _, status = os.waitpid(self.pid, 0)
            self.code = os.waitstatus_to_exitcode(status)
        return self.code

    def send(self, number: int) -> None:
        """Send a signal to it and to all that it has started."""
        if self.code is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)


def end(processes: Iterable[Process], grace: float) -> None:
    """End processes by SIGTERM, and after a while by SIGKILL.

    :param grace: s.
    """
    left = [process for process in processes if process.poll() is None]
    for number, seconds in ((signal.SIGTERM, grace), (signal.SIGKILL, float('inf'))):
        for process in left:
            process.send(number)
        until = time.monotonic() + seconds
        while left and time.monotonic() < until:
            time.sleep(_POLL)
            left = [process for process in left if process.poll() is None]


def _become(
    function: Callable[[], object],
    parent: int,
    folder: Path,
    output: Path,
    environment: Mapping[str, str],
    threads: int,
) -> NoReturn:
    """Go on as the new process; whatever happens, the code of the old one is not returned to."""
    code = 1
    try:
        with suppress(OSError):
            os.setpgid(0, 0)
        _die_with(parent)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        _redirect(output)
        os.chdir(folder)
        os.environ.update({**dict.fromkeys(_THREAD_VARIABLES, str(threads)), **environment})
        if 'torch' in sys.modules:
            sys.modules['torch'].set_num_threads(threads)
        function()
        code = 0
    except SystemExit as ending:
        code = ending.code if isinstance(ending.code, int) else int(ending.code is not None)
        if isinstance(ending.code, str):
            print(ending.code, file=sys.stderr)
    except BaseException:  # noqa: BLE001 -- there is nobody to raise it to
        traceback.print_exc()
    finally:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _die_with(parent: int) -> None:
    """Be killed as soon as the parent is gone, also where that was killed itself."""
    if sys.platform.startswith('linux'):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def _redirect(output: Path) -> None:
    """Let the standard streams be those of a process that writes into a file."""
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (file, 1), (file, 2)):
        os.dup2(source, target)
    # What a test or a notebook put in their place does not write to these descriptors.
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout = os.fdopen(1, 'w', buffering=1, closefd=False, errors='backslashreplace')
    sys.stderr = os.fdopen(2, 'w', buffering=1, closefd=False, errors='backslashreplace')


def ask(question: Callable[[], Any], environment: Mapping[str, str] | None = None) -> Any:
    """What a function says in a throw-away process, so that nothing of what it touches stays in this one.

    :param question: its answer must be JSON-serialisable.
    :raises RuntimeError: where it fails, with its last words.
    """
    reader, writer = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        _answer(question, writer, environment or {})
    os.close(writer)
    with os.fdopen(reader, encoding='utf-8') as stream:
        text = stream.read()
    os.waitpid(pid, 0)
    answer = json.loads(text) if text else {'error': 'it ended without an answer'}
    if 'error' in answer:
        raise RuntimeError(answer['error'])
    return answer['value']


def _answer(question: Callable[[], Any], writer: int, environment: Mapping[str, str]) -> NoReturn:
    try:
        os.environ.update(environment)
        try:
            text = json.dumps({'value': question()})
        except BaseException as error:  # noqa: BLE001 -- it is told on the other side
            text = json.dumps({'error': f'{type(error).__name__}: {error}'})
        with os.fdopen(writer, 'w', encoding='utf-8') as stream:
            stream.write(text)
    finally:
        os._exit(0)
