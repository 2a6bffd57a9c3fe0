"""What ``alpot-explore`` is asked to do."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ase.data import chemical_symbols

from aiida_alpot.worker.explorers import Explorer, make_explorer
from aiida_alpot.worker.explorers.limits import Limits
from aiida_alpot.worker.explorers.uncertainty import Uncertainty
from aiida_alpot.worker.explorers.watch import BATCH_SIZE
from aiida_alpot.worker.frames.frame import Frame
from aiida_alpot.worker.frames.shard import hash_file
from aiida_alpot.worker.frames.store import FrameStore
from aiida_alpot.worker.options import build, choice, device, integer, number
from aiida_alpot.worker.potentials.load import DTYPES
from aiida_alpot.worker.seeds import derive_seed

Start = tuple[str, int]


@dataclass(frozen=True)
class RunSettings:
    """One run of an explorer, as in the list ``runs`` of the file.

    :param explorer: its name in the registry.
    :param settings: those of the explorer.
    :param start: ``[shard, index]`` of the start structure, or a list of such where the explorer takes several; empty
        where it takes none.
    :param lineage: of the frames; by default ``<frame id of the first start, 16 hex>:<origin>:<seed>``.
    :param origin: of the frames; by default the name of the explorer.
    :param seed: of the explorer, at least 0; ``None``: made of the job's.
    :param driving_member: ``None``: the job's.
    :param uncertainty: see :class:`Uncertainty`; ``None``: the job's.
    :param limits: see :class:`Limits`; ``None``: the job's.
    :param metadata: of the frames, besides the job's.
    """

    explorer: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    start: Sequence[Any] = ()
    lineage: str = ''
    origin: str = ''
    seed: int | None = None
    driving_member: int | None = None
    uncertainty: Uncertainty | None = None
    limits: Limits | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, 'start', _starts(self.start))
        object.__setattr__(self, 'uncertainty', Uncertainty.of(self.uncertainty))
        object.__setattr__(self, 'limits', _limits(self.limits))
        if self.seed is not None:
            integer('seed', self.seed, 0)
        for name in ('settings', 'metadata'):
            if not isinstance(getattr(self, name), Mapping):
                raise ValueError(f'`{name}` is {getattr(self, name)!r}, expected an object')
        for name in ('lineage', 'origin'):
            if not isinstance(getattr(self, name), str):
                raise ValueError(f'`{name}` is {getattr(self, name)!r}, expected a text')


@dataclass(frozen=True)
class Job:
    """Several runs with one committee, as in the JSON file. Paths are relative to the folder of that file.

    :param committee: files of the members.
    :param runs: what to run, one after the other.
    :param device: where torch computes, e.g. ``cpu`` or ``cuda``.
    :param dtype: ``float64`` or ``float32``.
    :param driving_member: the member that gives forces.
    :param seed: of all runs, at least 0; each draws from its own part.
    :param uncertainty: bounds on what the committee does not know, see :class:`Uncertainty`; ``None``: none.
    :param limits: bounds on what the driving member says, see :class:`Limits`.
    :param max_seconds: the program stops in good order after so many seconds; ``None``: when all is done.
    :param batch_size: candidates that the committee evaluates in one pass, at least 1.
    :param metadata: of all frames.
    """

    committee: Sequence[str]
    runs: Sequence[Any]
    device: str = 'cpu'
    dtype: str = 'float64'
    driving_member: int = 0
    seed: int = 0
    uncertainty: Uncertainty | None = None
    limits: Limits | None = None
    max_seconds: float | None = None
    batch_size: int = BATCH_SIZE
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.committee, str) or not all(isinstance(path, str) for path in self.committee):
            raise ValueError(f'`committee` is {self.committee!r}, expected a list of paths')
        if not self.committee or len(set(self.committee)) < len(self.committee):
            raise ValueError('`committee` is empty or names one file twice: give one file for each member')
        device('device', self.device)
        choice('dtype', self.dtype, DTYPES)
        integer('seed', self.seed, 0)
        integer('batch_size', self.batch_size, 1)
        if self.max_seconds is not None:
            number('max_seconds', self.max_seconds, 0.0, exclusive=True)
        if not isinstance(self.metadata, Mapping):
            raise ValueError(f'`metadata` is {self.metadata!r}, expected an object')
        object.__setattr__(self, 'uncertainty', Uncertainty.of(self.uncertainty))
        object.__setattr__(self, 'limits', _limits(self.limits) or Limits())
        object.__setattr__(self, 'runs', self._runs())

    def _runs(self) -> tuple[RunSettings, ...]:
        if not isinstance(self.runs, Sequence) or isinstance(self.runs, str) or not self.runs:
            raise ValueError('`runs` must list at least one run, e.g. {"explorer": "relaxation", "start": ["a.h5", 0]}')
        made = []
        for index, given in enumerate(self.runs):
            if not isinstance(given, Mapping):
                raise ValueError(f'run {index} is {given!r}, expected an object with `explorer`')
            try:
                made.append(self._complete(build(RunSettings, given, 'setting of a run'), index))
            except ValueError as error:
                raise ValueError(f'run {index}: {error}') from error
        return tuple(made)

    def _complete(self, run: RunSettings, index: int) -> RunSettings:
        """A run with what it takes from the job."""
        member = self.driving_member if run.driving_member is None else run.driving_member
        integer('driving_member', member, 0, len(self.committee) - 1)
        uncertainty = run.uncertainty or self.uncertainty
        if uncertainty is not None and len(self.committee) < 2:
            raise ValueError('`uncertainty` needs a committee of at least two members: one cannot disagree with itself')
        return replace(
            run,
            driving_member=member,
            seed=derive_seed(self.seed, 'run', index) if run.seed is None else run.seed,
            uncertainty=uncertainty,
            limits=run.limits or self.limits,
            origin=run.origin or run.explorer,
            metadata={**self.metadata, **run.metadata},
        )


@dataclass(frozen=True, eq=False)
class PreparedRun:
    """A run whose explorer is made and whose start structures are read and found to suit.

    :param fingerprint: of everything that decides what it gives.
    """

    settings: RunSettings
    explorer: Explorer
    starts: tuple[Frame, ...]
    lineage: str
    fingerprint: str


def read_job(path: Path | str) -> Job:
    """The job in a JSON file.

    :raises FileNotFoundError: if there is none.
    :raises ValueError: for an unknown or missing setting or a value that cannot be.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f'there is no file {file}: give the path of the JSON file with the job')
    try:
        given = json.loads(file.read_text(encoding='utf-8'))
    except ValueError as error:
        raise ValueError(f'{file} is not valid JSON: {error}') from error
    if not isinstance(given, dict):
        raise ValueError(f'{file} holds a JSON {type(given).__name__}, expected an object')
    return build(Job, given, 'setting')


def prepare(job: Job, folder: Path) -> list[PreparedRun]:
    """Make the explorers and read the start structures, before anything runs.

    :param folder: that paths are relative to.
    :raises ValueError: for a run that cannot be, by its number.
    :raises FileNotFoundError: for files that are not there.
    """
    paths = [folder / path for path in job.committee]
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f'there is no potential at {path}: correct the path')
    potentials = [hash_file(path) for path in paths]
    runs = []
    for index, run in enumerate(job.runs):
        try:
            runs.append(_prepare(job, run, folder, potentials))
        except ValueError as error:
            raise ValueError(f'run {index} (`{run.explorer}`): {error}') from error
    return runs


def check_elements(runs: Sequence[PreparedRun], known: Sequence[str]) -> None:
    """Refuse runs with elements that the committee does not know.

    :raises ValueError: naming the run and the elements.
    """
    for index, run in enumerate(runs):
        present = {chemical_symbols[number] for frame in run.starts for number in frame.numbers.tolist()}
        unknown = sorted((present | set(run.explorer.elements)) - set(known))
        if unknown:
            raise ValueError(
                f'run {index} (`{run.settings.explorer}`) has {", ".join(unknown)}, but the committee knows '
                f'{", ".join(known)} only: leave the run out, or name another committee'
            )


def _prepare(job: Job, run: RunSettings, folder: Path, potentials: Sequence[str]) -> PreparedRun:
    explorer = make_explorer(run.explorer, run.settings)
    if len(run.start) != explorer.n_starts:
        raise ValueError(f'`start` names {len(run.start)} structures, this explorer takes {explorer.n_starts}')
    starts = tuple(_read_start(folder, *place) for place in run.start)
    explorer.check(starts)
    root = f'{starts[0].frame_id[:16]}:' if starts else ''
    lineage = run.lineage or f'{root}{run.origin}:{run.seed}'
    content = {
        **asdict(run),
        'start': [frame.frame_id for frame in starts],
        'committee': potentials,
        'dtype': job.dtype,
        'batch_size': job.batch_size,
    }
    text = json.dumps(content, sort_keys=True, default=str)
    return PreparedRun(run, explorer, starts, lineage, hashlib.sha256(text.encode()).hexdigest())


def _read_start(folder: Path, shard: str, index: int) -> Frame:
    path = folder / shard
    if not path.is_file():
        raise ValueError(f'`start` names {path}, which does not exist: correct the path')
    with FrameStore([path]) as store:
        if not 0 <= index < len(store):
            raise ValueError(f'`start` names frame {index} of {shard}, which has frames 0 to {len(store) - 1}')
        return store[index]


def _starts(given: object) -> tuple[Start, ...]:
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise ValueError(f'`start` is {given!r}, expected [shard, index], or a list of such')
    places = [given] if len(given) == 2 and isinstance(given[0], str) else list(given)
    for place in places:
        if not isinstance(place, Sequence) or len(place) != 2 or not isinstance(place[0], str):
            raise ValueError(f'`start` has {place!r}, expected [shard, index]')
        integer('start', place[1], 0)
    return tuple((place[0], place[1]) for place in places)


def _limits(given: object) -> Limits | None:
    if given is None or isinstance(given, Limits):
        return given
    if not isinstance(given, Mapping):
        raise ValueError(f'`limits` is {given!r}, expected an object, or null')
    return build(Limits, given, 'setting of `limits`')
