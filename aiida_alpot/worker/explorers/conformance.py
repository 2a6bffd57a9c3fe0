"""What every explorer has to hold, as checks that one of another package runs in its tests.

Each check raises ``AssertionError`` with a sentence that says what does not hold.
"""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from aiida_alpot.worker.explorers.base import (
    COMPLETED,
    NOT_CONVERGED,
    POTENTIAL_ERROR,
    STATUSES,
    WALLTIME,
    EndedError,
    Explorer,
)
from aiida_alpot.worker.explorers.job import PreparedRun, RunSettings
from aiida_alpot.worker.explorers.limits import Limits
from aiida_alpot.worker.explorers.run import Stop, execute
from aiida_alpot.worker.frames.frame import Frame
from aiida_alpot.worker.frames.store import FrameStore
from aiida_alpot.worker.potentials import Committee, Predictions

ORIGIN, LINEAGE = 'conformance', 'lineage-of-the-check'
MORE = 3
"""Evaluations that a run may do beyond the one at which it was told to stop, and beyond those that it had to repeat."""


def check_explorer(
    make: Callable[[], Explorer],
    committee: Committee,
    starts: Sequence[Frame],
    *,
    seed: int = 1,
    batch_size: int = 4,
    limits: Limits | None = None,
) -> None:
    """Check an explorer with a committee, in folders of its own that are removed afterwards.

    It ends by itself and gives frames: of the elements and the periodicity of the start, without labels, with lineage,
    origin and a reason, cells along axes that are not periodic untouched. The same seed gives the same bytes,
    whatever the state of the global random numbers. It writes nothing into the working folder. Stopped on its way it
    keeps what it has, and started again it ends as if it had never been stopped, without asking the potential twice. A
    potential that fails, or that predicts what is not finite, ends it with a status, and what it had by then is kept.

    :param make: makes the explorer.
    :param committee: on which it ends by itself, after at least ten evaluations.
    :param starts: as many as it takes.
    :param limits: of the runs; those of the case must not be reached.
    """
    explorer = make()
    assert len(starts) == explorer.n_starts, f'the explorer takes {explorer.n_starts} starts, {len(starts)} were given'
    explorer.check(starts)
    counted = _Counting(committee)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def run(label: str, potential: _Counting, stop: Stop | None = None) -> dict[str, Any]:
            prepared = _prepared(make(), starts, seed, limits)
            return execute(prepared, potential, folder / label, batch_size=batch_size, stop=stop)

        with _empty_working_folder() as here, _global_random(1):
            whole = run('whole', counted)
            left = sorted(os.listdir(here))
        assert not left, f'it wrote {", ".join(left)} into the working folder: hand over frames and results, no files'
        assert whole['status'] in (COMPLETED, NOT_CONVERGED), f'it ended as {whole["status"]}: {whole["message"]}'
        assert whole['n_frames'] > 0, 'it gave no frame'
        assert counted.n_driving >= 10, 'give a case that takes at least ten evaluations'
        frames = _frames(folder / 'whole')
        _check_frames(frames, starts, explorer)
        with _global_random(2):
            again = run('again', _Counting(committee))
        assert again['shards'] == whole['shards'], 'the same seed gave other frames: draw all random numbers from it'
        _check_interruption(run, committee, counted.n_driving, whole, folder)
        _check_failures(run, committee, counted.n_driving, frames, folder)


def _check_interruption(
    run: Callable[..., dict[str, Any]], committee: Committee, n: int, whole: dict[str, Any], folder: Path
) -> None:
    first, stop = _Counting(committee), _StopAfter(n // 2)
    stop.counter = first
    halfway = run('interrupted', first, stop)
    assert halfway['status'] == WALLTIME, f'told to stop, it ended as {halfway["status"]}: let EndedError through'
    assert halfway['n_frames'] == len(_frames(folder / 'interrupted')), 'frames were lost at the interruption'
    second = _Counting(committee)
    rest = run('interrupted', second)
    assert rest['shards'] == whole['shards'], 'interrupted and started again, it gave other frames'
    assert rest['results'] == whole['results'], 'interrupted and started again, it gave other results'
    assert first.n_driving + second.n_driving <= n + MORE, 'started again, it asked for other forces than before'


def _check_failures(
    run: Callable[..., dict[str, Any]], committee: Committee, n: int, frames: Sequence[Frame], folder: Path
) -> None:
    known = {frame.frame_id for frame in frames}
    for kind in (_Raising, _NotFinite):
        label = kind.__name__
        summary = run(label, kind(committee, n // 2))
        assert summary['status'] in STATUSES, f'{summary["status"]!r} is no status: give one of {", ".join(STATUSES)}'
        if kind is _Raising:
            assert summary['status'] == POTENTIAL_ERROR, f'the potential failed, and it ended as {summary["status"]}'
        kept = _frames(folder / label)
        early = {frame.frame_id for frame in kept[: summary['n_frames'] // 2]}
        assert early <= known, 'what it had sampled before the potential failed differs from what it samples otherwise'


def _check_frames(frames: Sequence[Frame], starts: Sequence[Frame], explorer: Explorer) -> None:
    for frame in frames:
        assert not frame.labels, 'a frame has labels: predictions are none'
        assert frame.lineage.startswith(LINEAGE), f'a frame has the lineage {frame.lineage!r}'
        assert frame.origin == ORIGIN, f'a frame has the origin {frame.origin!r}'
        assert frame.metadata.get('why'), 'a frame was kept without a reason'
        assert 'potential_energy' in frame.metadata, 'a frame has no energy of the driving member in its metadata'
        if starts:
            first = starts[0]
            assert sorted(frame.numbers) == sorted(first.numbers), 'a frame has other atoms than the start'
            assert (frame.pbc == first.pbc).all(), 'a frame has another periodicity than the start'
            free = ~first.pbc
            assert (frame.cell[free] == first.cell[free]).all(), 'the cell changed along an axis that is not periodic'
    ids = [frame.frame_id for frame in frames]
    assert len(set(ids)) == len(ids), 'a frame was kept twice'


def _prepared(explorer: Explorer, starts: Sequence[Frame], seed: int, limits: Limits | None) -> PreparedRun:
    settings = RunSettings(explorer='conformance', seed=seed, driving_member=0, origin=ORIGIN, limits=limits)
    return PreparedRun(settings, explorer, tuple(starts), LINEAGE, fingerprint='')


def _frames(folder: Path) -> list[Frame]:
    shards = sorted((folder / 'frames').glob('*.h5'))
    if not shards:
        return []
    with FrameStore(shards) as store:
        return list(store)


@contextmanager
def _empty_working_folder() -> Iterator[Path]:
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)
        try:
            yield Path(name)
        finally:
            os.chdir(before)


@contextmanager
def _global_random(seed: int) -> Iterator[None]:
    """Other global random numbers for a while, which must make no difference."""
    before: tuple[Any, Any] = random.getstate(), np.random.get_state()  # noqa: NPY002
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002


class _Counting(Committee):
    """A committee that counts the structures of which the driving member alone was asked."""

    def __init__(self, committee: Committee) -> None:
        super().__init__(committee.elements, committee.cutoff, committee.n_members)
        self._inner = committee
        self.n_driving = 0

    def evaluate(self, frames: Sequence[Frame], members: Any = None, features: Any = ()) -> Predictions:
        """As the committee."""
        if members is not None:
            self.n_driving += len(frames)
        return self._inner.evaluate(frames, members, features)

    def _evaluate_batch(self, batch: Any, members: Any, features: Any) -> Predictions:
        raise NotImplementedError


class _Failing(_Counting):
    """A committee that works for so many structures."""

    def __init__(self, committee: Committee, after: int) -> None:
        super().__init__(committee)
        self._after = after

    @property
    def failing(self) -> bool:
        """Whether it has worked long enough."""
        return self.n_driving > self._after


class _Raising(_Failing):
    def evaluate(self, frames: Sequence[Frame], members: Any = None, features: Any = ()) -> Predictions:
        """As the committee, while it works."""
        found = super().evaluate(frames, members, features)
        if self.failing and members is not None:
            raise RuntimeError('the check lets the potential fail')
        return found


class _NotFinite(_Failing):
    def evaluate(self, frames: Sequence[Frame], members: Any = None, features: Any = ()) -> Predictions:
        """As the committee, while it works."""
        found = super().evaluate(frames, members, features)
        return replace(found, energy=found.energy * np.nan) if self.failing and members is not None else found


class _StopAfter(Stop):
    """Told to stop after so many evaluations."""

    counter: _Counting

    def __init__(self, n: int) -> None:
        super().__init__()
        self._n = n

    def check(self) -> None:
        """Stop where there were enough of them."""
        if self.counter.n_driving >= self._n:
            raise EndedError(WALLTIME, 'the check stops the run')
