"""``mace_run_train`` inside a process that was forked from one that holds the data.

Of MACE are replaced: its two loaders of data by what remembers their results (:mod:`.shared_data`), and what writes
and reads checkpoints (:class:`_Checkpoints`), because MACE forgets the lowest loss when it goes on. Its training loop
is called as it is.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import mace.cli.run_train as run_train
import mace.tools
import mace.tools.checkpoint
import numpy as np
import torch
from ase.data import atomic_numbers
from mace.tools.torch_tools import default_dtype

from aiida_alpot.worker.training.mace import backend, schema
from aiida_alpot.worker.training.mace.checkpoints import LAST, Checkpoints, best_of
from aiida_alpot.worker.training.mace.history import REPLAY_HEAD, History
from aiida_alpot.worker.training.mace.options import is_hyper_parameter
from aiida_alpot.worker.training.mace.shared_data import LOADERS, SharedData
from aiida_alpot.worker.training.settings import PROPERTIES
from aiida_alpot.worker.training.trainer import CorruptCheckpoint, TrainingFailed

LAST_EVERY = 60.0
"""An epoch that is not the best so far is kept as the last after so many seconds."""

HYPER_PARAMETERS, LOSS = 'hyper_parameters.json', 'loss.json'
"""Files in the folder of a member that say how MACE was run."""

DEFAULT_HEAD = 'Default'
OF_CHECKPOINTS = ('_get_checkpoint_filename', 'save', 'load_latest', 'load')

FASTER: Mapping[str, backend.Convert] = {
    'enable_cueq': backend.to_cuequivariance,
    'enable_oeq': backend.to_openequivariance,
}


def can_run_inside() -> bool:
    """Whether the names of MACE that are needed here are there: a later version may have others."""
    io = getattr(mace.tools.checkpoint, 'CheckpointIO', None)
    return (
        all(callable(getattr(run_train, name, None)) for name in (*LOADERS, 'run'))
        and callable(getattr(mace.tools, 'train', None))
        and all(callable(getattr(io, name, None)) for name in OF_CHECKPOINTS)
    )


class _EnoughEpochs(Exception):  # noqa: N818 -- it ends the training loop and is no error
    """The option ``patience`` is used up. MACE 0.3.16 says that it stops, and goes on on a single device."""


class Job:
    """MACE in this process, from which members are forked."""

    def __init__(self, dtype: str) -> None:
        torch.set_num_threads(1)  # threads do not survive a fork
        self._dtype = dtype
        self.data = SharedData(run_train)
        self._validation: list[Any] = []

    def fill(self, arguments: Sequence[str], cutoff: float, elements: Sequence[str]) -> Any:
        """Load the data as MACE will do with these arguments.

        :param cutoff: A, to the last digit that of the models.
        :param elements: of all heads.
        :return: the configurations of the data set (not of the replay).
        """
        with default_dtype(self._dtype):
            return self._fill(arguments, cutoff, elements)

    def _fill(self, arguments: Sequence[str], cutoff: float, elements: Sequence[str]) -> Any:
        args = schema.parser().parse_args(list(arguments))
        keys = run_train.KeySpecification()
        run_train.update_keyspec_from_kwargs(keys, vars(args))
        files = {DEFAULT_HEAD: (args.train_file, args.valid_file)}
        if args.pt_train_file:
            files[REPLAY_HEAD] = (args.pt_train_file, args.pt_valid_file)
        heads = sorted(files, key=lambda head: head != REPLAY_HEAD)
        table = run_train.AtomicNumberTable(sorted(atomic_numbers[symbol] for symbol in elements))
        found = {}
        for head, (train, valid) in files.items():
            collections, _ = self.data.get_dataset_from_xyz(
                work_dir=args.work_dir,
                train_path=[train],
                valid_path=[valid],
                valid_fraction=args.valid_fraction,
                config_type_weights=run_train.get_config_type_weights(args.config_type_weights),
                key_specification=keys,
                head_name=head,
                keep_isolated_atoms=args.keep_isolated_atoms,
            )
            for path, part in ((train, collections.train), (valid, collections.valid)):
                self.data.load_dataset_for_path([path], cutoff, table, heads, head_config=None, collection=part)
            found[head] = collections
        self._validation = self.data.graphs_of(found[DEFAULT_HEAD].valid[: backend.N_FRAMES])
        return found[DEFAULT_HEAD]

    def run(self, arguments: Sequence[str], rows: np.ndarray | None, threads: int, verify: bool, folder: Path) -> None:
        """Train a member in its folder, which is the working directory; nothing of this process is of use later.

        :param rows: of the training frames that it sees.
        :param verify: whether a faster backend is compared with the usual one.
        :raises TrainingFailed: where the model is of no use.
        """
        logging.getLogger().handlers.clear()  # MACE adds its own
        torch.set_num_threads(threads)
        self.data.rows = rows
        self.data.install(run_train)
        args = schema.parser().parse_args(list(arguments))
        asked = {name for name in FASTER if getattr(args, name, False)}
        kept = _Kept(folder, patience=args.patience)
        mace.tools.checkpoint.CheckpointIO = kept.make_io
        mace.tools.train = _then(mace.tools.train, args, kept, folder)
        run_train.run(args)
        for name in asked if verify else ():
            model = torch.load(kept.model(args), map_location='cpu', weights_only=False)
            energy, forces = backend.verify(model, self._validation, args.device, FASTER[name])
            logging.info(f'`{name}` agrees with the usual backend to {energy:.1e} eV/atom and {forces:.1e} eV/A')


def _then(train: Callable[..., Any], args: Any, kept: _Kept, folder: Path) -> Callable[..., None]:
    """MACE's training loop, and what is to be known before and after it."""

    def wrapped(*positional: Any, **given: Any) -> None:
        kept.check_start(given.get('start_epoch'))
        losses = {'1': given.get('loss_fn'), '2': getattr(given.get('swa'), 'loss_fn', None)}
        described = {stage: _describe(loss) for stage, loss in losses.items() if loss is not None}
        (folder / LOSS).write_text(json.dumps(described), encoding='utf-8')
        plain = {name: _plain(value) for name, value in sorted(vars(args).items()) if is_hyper_parameter(name)}
        (folder / HYPER_PARAMETERS).write_text(json.dumps(plain), encoding='utf-8')
        try:
            train(*positional, **given)
        except _EnoughEpochs as enough:
            logging.info(str(enough))
        kept.done = True

    return wrapped


def _describe(loss: torch.nn.Module) -> dict[str, Any]:
    """Class of a loss and its weights, to the digits of single precision; MACE prints three decimals."""
    weights = {name: getattr(loss, f'{name}_weight', None) for name in PROPERTIES}
    return {
        'name': type(loss).__name__,
        'weights': {name: float(f'{float(weight):.7g}') for name, weight in weights.items() if weight is not None},
    }


def _plain(value: Any) -> Any:
    """A value that JSON can hold."""
    if type(value) in (list, tuple):  # and no kind of them: irreps are one
        return [_plain(item) for item in value]
    if isinstance(value, (np.generic, np.ndarray)):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, (bool, int, float, str, type(None))) else str(value)


class _Kept:
    """The checkpoints of a member as MACE writes and reads them."""

    def __init__(self, folder: Path, patience: int) -> None:
        self.done = False
        """Whether the training loop has ended; then the best is asked for, before it the last."""
        self._folder = folder
        self._patience = patience
        self._without_improvement = 0
        self._written = time.monotonic()

    def make_io(self, directory: str, tag: str, keep: bool = False, swa_start: int | None = None) -> _Kept:
        """Called by MACE in place of its own class."""
        self._checkpoints = Checkpoints(self._folder / directory)
        self._history = History(Path(self._folder / 'results' / f'{tag}_train.txt'))
        self._swa_start = swa_start
        return self

    def save(self, checkpoint: Any, epochs: int, keep_last: bool = False) -> None:
        """Called by MACE after each epoch that it has evaluated; it counts them from 0."""
        stage = 2 if self._swa_start is not None and epochs >= self._swa_start else 1
        loss = next((e.loss for e in reversed(self._history.epochs()) if e.epoch == epochs + 1), None)
        if loss is None or not math.isfinite(loss):
            return  # what has diverged is nothing to go on from
        best = loss < self._checkpoints.loss(stage)
        self._without_improvement = 0 if best else self._without_improvement + 1
        if best or time.monotonic() - self._written > LAST_EVERY:
            self._checkpoints.keep(lambda path: torch.save(checkpoint, path), epochs + 1, loss, stage)
            self._written = time.monotonic()
        if self._without_improvement >= self._patience and (self._swa_start is None or stage == 2):
            raise _EnoughEpochs(f'No lower loss in {self._patience} evaluations: enough')

    def load_latest(self, swa: bool | None = False, device: Any = None) -> tuple[Any, int] | None:
        """Called by MACE when it starts, and when it has ended, for the model of each stage."""
        wanted = [best_of(2), best_of(1)] if swa else [best_of(1), best_of(2)]
        kind = next((kind for kind in (wanted if self.done else [LAST]) if kind in self._checkpoints), None)
        if kind is None and self.done:
            raise TrainingFailed('no epoch had a finite loss: lower `learning_rate`')
        if kind is None:
            return None
        path, epoch = self._checkpoints.path(kind), self._checkpoints.epoch(kind)
        logging.info(f'Loading checkpoint {path} of epoch {epoch}')
        return torch.load(path, map_location=device, weights_only=False), epoch if not self.done else epoch - 1

    def check_start(self, epoch: int | None) -> None:
        """MACE begins anew without a word where a checkpoint does not fit.

        :raises CorruptCheckpoint: where it did.
        """
        if LAST in self._checkpoints and epoch != self._checkpoints.epoch(LAST):
            raise CorruptCheckpoint(
                f'{self._checkpoints.path(LAST)} does not fit the model, so the training cannot go on from it: go on '
                'with the options with which it was written, or start afresh'
            )

    @staticmethod
    def model(args: Any) -> Path:
        """File of the model of the last stage."""
        stages = [Path(args.model_dir) / f'{args.name}{suffix}.model' for suffix in ('_stagetwo', '')]
        return next(path for path in stages if path.is_file())
