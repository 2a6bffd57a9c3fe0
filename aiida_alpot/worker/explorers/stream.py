"""Frames on their way to the disk while a run goes on."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from aiida_alpot.worker.frames.frame import Frame
from aiida_alpot.worker.frames.shard import SUFFIX, write_shard
from aiida_alpot.worker.frames.store import FrameStore

FRAMES_FOLDER, PIECES_FILE = 'frames', 'pieces.json'
MAX_FRAMES = 200
MAX_SECONDS = 60.0


class FrameStream:
    """Frames of one run, written in pieces as they come and as one shard at the end.

    So memory stays flat, a kill loses at most what came since the last piece, and how the pieces were cut does not show
    in the end. ``pieces.json`` lists them in order. What an earlier start of the same run wrote is not written again.

    :param folder: of the run.
    :param max_frames: a piece is written when so many frames wait,
    :param max_seconds: or when the first of them has waited so long.
    """

    def __init__(
        self,
        folder: Path,
        max_frames: int = MAX_FRAMES,
        max_seconds: float = MAX_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder
        self._frames_folder = folder / FRAMES_FOLDER
        self._max_frames, self._max_seconds, self._clock = max_frames, max_seconds, clock
        self._names: list[str] = []
        self._waiting: list[Frame] = []
        self._since = 0.0
        self.n_frames = 0
        self._n_written = self._take_over()

    def _take_over(self) -> int:
        """Number of frames in the pieces of an earlier start; what it wrote beyond them is removed."""
        path = self._folder / PIECES_FILE
        listed = json.loads(path.read_text()) if path.is_file() else {'shards': []}
        self._names = list(listed['shards'])
        for shard in self._frames_folder.glob(f'*{SUFFIX}'):
            if shard.name not in self._names:
                shard.unlink()
        if not self._names:
            return 0
        with FrameStore([self._frames_folder / name for name in self._names]) as store:
            return len(store)

    def add(self, frame: Frame) -> None:
        """Take a frame."""
        self.n_frames += 1
        if self.n_frames <= self._n_written:
            return
        if not self._waiting:
            self._since = self._clock()
        self._waiting.append(frame)
        self.write_if_due()

    def write_if_due(self) -> None:
        """Write a piece if enough frames wait, or long enough."""
        if len(self._waiting) >= self._max_frames or (
            self._waiting and self._clock() - self._since >= self._max_seconds
        ):
            self._write()

    def _write(self) -> None:
        if not self._waiting:
            return
        self._names.append(write_shard(self._waiting, self._frames_folder).name)
        self._waiting = []
        self._list()

    def _list(self) -> None:
        temporary = self._folder / f'.{PIECES_FILE}'
        temporary.write_text(json.dumps({'shards': self._names}) + '\n')
        temporary.replace(self._folder / PIECES_FILE)

    def pause(self, provisional: Sequence[Frame] = ()) -> list[str]:
        """Write what waits, of a run that is not finished.

        :param provisional: frames that the next start will take once more.
        :return: the shards, relative to the folder of the run.
        """
        self._write()
        names = list(self._names)
        if provisional:
            names.append(write_shard(provisional, self._frames_folder).name)
            self.n_frames += len(provisional)
        return [f'{FRAMES_FOLDER}/{name}' for name in names]

    def forget(self) -> None:
        """Remove the list of pieces, of a run whose summary is written."""
        (self._folder / PIECES_FILE).unlink(missing_ok=True)

    def finish(self) -> list[str]:
        """Write all frames as one shard.

        :return: the shards, relative to the folder of the run: one, or none where there is no frame.
        """
        self._write()
        if len(self._names) > 1:
            with FrameStore([self._frames_folder / name for name in self._names]) as store:
                whole = write_shard(iter(store), self._frames_folder).name
            pieces, self._names = self._names, [whole]
            self._list()
            for name in pieces:
                (self._frames_folder / name).unlink(missing_ok=True)
        return [f'{FRAMES_FOLDER}/{name}' for name in self._names]
