"""MACE behind the interface of trainers."""

from __future__ import annotations

import json
import math
import os
import re
import sys
from collections.abc import Mapping
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from ase.data import atomic_numbers

from aiida_alpot.worker.training.mace import schema
from aiida_alpot.worker.training.mace.checkpoints import FOLDER, STATE, Checkpoints, best_of, check_file
from aiida_alpot.worker.training.mace.history import History, end_line
from aiida_alpot.worker.training.mace.loss import parse_loss
from aiida_alpot.worker.training.mace.options import (
    OF_SCHEDULE,
    annealing,
    check_labels,
    is_hyper_parameter,
    loss_of,
    read_options,
    stage_two,
)
from aiida_alpot.worker.training.settings import PROPERTIES, TrainingSettings
from aiida_alpot.worker.training.trainer import (
    ENERGY_KEY,
    FORCES_KEY,
    STRESS_KEY,
    CorruptCheckpoint,
    Epoch,
    Member,
    Result,
    Task,
    Trainer,
    TrainingFailed,
)

if TYPE_CHECKING:
    from aiida_alpot.worker.training.mace.job import Job
    from aiida_alpot.worker.training.mace.origin import Origins

NAME = 'mace'
MODEL, MODEL_STAGE_TWO, ONE_HEAD = f'{NAME}.model', f'{NAME}_stagetwo.model', f'{NAME}_one_head.model'
START, ROWS, E0S = 'start.model', 'train.xyz', 'E0s.json'
HYPER_PARAMETERS, LOSS = 'hyper_parameters.json', 'loss.json'
OUTPUT = 'train.out'
"""What a member prints, where the job keeps it."""

REPLAY_LEARNING_RATE, REPLAY_EMA_DECAY = 1e-4, 0.99999
"""What MACE takes by default when it replays."""

ANNEALED_TO = 0.1
"""Share of the learning rate at the start that is left at the end of a warm start; measured: 0.01 learns less."""

OPTIONAL = {
    'enable_cueq': ('cuequivariance_torch', 'cuequivariance-torch cuequivariance-ops-torch-cu12'),
    'enable_oeq': ('openequivariance', 'openequivariance'),
}
"""Packages that faster backends need, and how they are installed."""

LEFT_OUT = 0.1
"""A share of the frames or epochs above which it is reported that MACE makes nothing of them."""


class MaceTrainer(Trainer):
    """MACE models, trained by ``mace_run_train`` with the options that it has itself."""

    name = 'mace'
    requires = 'mace'
    checks_without_import = True

    def __init__(self, settings: TrainingSettings) -> None:
        super().__init__(settings)
        self._options: dict[str, Any] | None = None
        self._histories: dict[Path, History] = {}
        self._origins: Origins | None = None
        self._job: Job | None = None
        self._loaded = False

    @property
    def options(self) -> dict[str, Any]:
        """The options that are given, as MACE understands them."""
        if self._options is None:
            self._options = read_options(self.settings)
        return self._options

    def check_options(self) -> None:
        """See :meth:`Trainer.check_options`; the options are those of the parser of ``mace_run_train``."""
        self._options = read_options(self.settings)

    def check_task(self, task: Task) -> list[str]:
        """See :meth:`Trainer.check_task`."""
        self._check_packages()
        check_labels(loss_of(self.options, self.settings), self.settings, task.data.n_labelled, task.data.n_train)
        origins = self._find_origins(task)
        sentences = origins.check()
        return [*self._left_out(task, origins.n_replay), *sentences]

    def _check_packages(self) -> None:
        for option, (package, names) in OPTIONAL.items():
            if self.options.get(option) and find_spec(package) is None:
                raise ValueError(
                    f'`{option}` needs the package `{package}`, which is not installed in {sys.prefix}: '
                    f'`pip install {names}`, or leave `{option}` out'
                )
        if self.options.get('optimizer') == 'schedulefree' and find_spec('schedulefree') is None:
            raise ValueError(
                f'`optimizer: schedulefree` needs the package `schedulefree`, which is not installed in {sys.prefix}: '
                '`pip install schedulefree`'
            )

    def _left_out(self, task: Task, n_replay: int) -> list[str]:
        """Sentences about what MACE makes nothing of."""
        sentences = []
        n = max(1, round(task.data.n_train * self.settings.resampling.fraction)) + n_replay
        batch_size = self.settings.batch_size
        if batch_size > n:
            sentences.append(
                f'`batch_size` is {batch_size}, but there are {n} training frames, of which MACE would train on none: '
                f'{n} is taken'
            )
        elif n % batch_size > LEFT_OUT * n and not self.options.get('lbfgs'):
            sentences.append(
                f'MACE leaves out the last batch of an epoch where it is not full: with `batch_size` {batch_size}, '
                f'{n % batch_size} of {n} frames of each epoch, others each time'
            )
        epochs, interval = self.settings.epochs, self.options.get('eval_interval', 1)
        if (epochs - 1) % interval > LEFT_OUT * epochs:
            sentences.append(
                f'MACE looks at the epochs 1, {1 + interval}, ... only, so the last {(epochs - 1) % interval} of '
                f'{epochs} cannot be chosen: give `epochs` as a multiple of `eval_interval`, plus 1'
            )
        return sentences

    def _find_origins(self, task: Task) -> Origins:
        if self._origins is None:
            from aiida_alpot.worker.training.mace.origin import Origins

            self._origins = Origins(task, self.options)
        return self._origins

    def load(self, task: Task) -> None:
        """Read the data and make the neighbour lists, for all members."""
        if self._loaded:
            return
        self._loaded = True
        from aiida_alpot.worker.training.mace.job import Job, can_run_inside

        if not can_run_inside():
            print(
                'this version of MACE has other names inside: each member is run by mace_run_train, with its own data'
            )
            return
        origins = self._find_origins(task)
        self._job = Job(self.settings.dtype)
        member = Member(index=0, seed=0, folder=task.folder, batch_size=self.settings.batch_size)
        options = self._options_of(task, member)
        found = self._job.fill(schema.arguments(options), origins.cutoff, origins.elements)
        origins.estimate(found.train)

    def prepare(self, task: Task, member: Member) -> None:
        """See :meth:`Trainer.prepare`.

        :raises CorruptCheckpoint: where the interrupted training cannot be gone on from.
        """
        self.load(task)
        member.folder.mkdir(parents=True, exist_ok=True)
        self._check_checkpoints(member)
        for name in (MODEL, MODEL_STAGE_TWO, ONE_HEAD):
            (member.folder / name).unlink(missing_ok=True)
        end_line(self._curve(member))
        self._histories.pop(self._curve(member), None)
        origins = self._find_origins(task)
        energies = origins.reference_energies(member).items()
        by_number = {str(atomic_numbers[symbol]): energy for symbol, energy in energies}
        (member.folder / E0S).write_text(json.dumps(by_number), encoding='utf-8')
        if origins.path(member) is not None:
            origins.write(member, member.folder / START)
        if self._job is None and member.indices is not None:
            _write_rows(task.data.train, member.indices, member.folder / ROWS)

    def _check_checkpoints(self, member: Member) -> None:
        folder = member.folder / FOLDER
        if (folder / STATE).is_file():
            Checkpoints(folder).check()
        else:
            for path in folder.glob('*.pt'):
                check_file(path)

    def has_checkpoint(self, member: Member) -> bool:
        """See :meth:`Trainer.has_checkpoint`."""
        return any((member.folder / FOLDER).glob('*.pt'))

    def command(self, task: Task, member: Member) -> list[str]:
        """``mace_run_train``, which reads the data itself and knows only of its own checkpoints."""
        options = self._options_of(task, member)
        if self._job is None and member.indices is not None:
            options['train_file'] = ROWS
        options.pop('save_all_checkpoints')
        return [sys.executable, '-m', 'mace.cli.run_train', *schema.arguments(options)]

    def run(self, task: Task, member: Member) -> NoReturn:
        """Train a member in this process, on data that it shares with the others."""
        _choose_device(member.device)
        if self._job is None:
            super().run(task, member)
        arguments = schema.arguments(self._options_of(task, member))
        self._job.run(arguments, member.indices, member.threads, self.settings.verify_backend, member.folder)
        raise SystemExit(0)

    def _options_of(self, task: Task, member: Member) -> dict[str, Any]:
        """All options of a member."""
        origins = self._find_origins(task)
        settings, given = self.settings, self.options
        device = member.device.partition(':')[0]
        n_train = (task.data.n_train if member.indices is None else len(member.indices)) + origins.n_replay
        options = {
            **given,
            'name': NAME,
            'seed': member.seed,
            'device': device,
            'default_dtype': settings.dtype,
            'r_max': origins.cutoff,
            'atomic_numbers': [atomic_numbers[symbol] for symbol in origins.elements],
            'train_file': str(task.data.train),
            'valid_file': str(task.data.validation),
            'energy_key': ENERGY_KEY,
            'forces_key': FORCES_KEY,
            'stress_key': STRESS_KEY,
            'E0s': E0S,
            'keep_isolated_atoms': True,
            'model_dir': '.',
            'checkpoints_dir': FOLDER,
            'results_dir': 'results',
            'log_dir': 'logs',
            'save_cpu': True,
            'plot': False,
            'restart_latest': True,
            'save_all_checkpoints': True,
            'pin_memory': given.get('pin_memory', device == 'cuda'),
            **self._batches(member, n_train),
            **self._loss(),
            **self._schedule(member, warm=origins.is_warm(member), replay=origins.n_replay > 0),
        }
        if origins.path(member) is not None:
            options |= {'foundation_model': START, 'multiheads_finetuning': False, **origins.fine_tuning()}
        return options

    def _batches(self, member: Member, n_train: int) -> dict[str, Any]:
        less = member.batch_size / self.settings.batch_size  # where the memory did not suffice
        validation = self.options.get('valid_batch_size', self.settings.batch_size)
        return {
            'batch_size': min(member.batch_size, n_train),
            'valid_batch_size': max(1, math.floor(validation * less)),
        }

    def _loss(self) -> dict[str, Any]:
        """The loss and its weights, in stage two too, where what is not learnt stays so."""
        weights = {name: getattr(self.settings.weights, name) for name in PROPERTIES}
        options: dict[str, Any] = {'loss': loss_of(self.options, self.settings)}
        options |= {f'{name}_weight': weight for name, weight in weights.items()}
        if weights['stress']:
            options |= {'compute_stress': True, 'error_table': 'PerAtomRMSEstressvirials'}
        if stage_two(self.options):
            options |= {f'swa_{name}_weight': 0.0 for name, weight in weights.items() if not weight}
        return options

    def _schedule(self, member: Member, warm: bool, replay: bool) -> dict[str, Any]:
        settings, given = self.settings, self.options
        rate = settings.learning_rate or (REPLAY_LEARNING_RATE if replay else schema.default('lr'))
        factor = member.learning_rate_factor
        options: dict[str, Any] = {'max_num_epochs': settings.epochs}
        if stage_two(given) and factor != 1:
            options['swa_lr'] = given.get('swa_lr', schema.default('swa_lr')) * factor
        if replay:
            options |= {'ema': True, 'ema_decay': given.get('ema_decay', REPLAY_EMA_DECAY), 'force_mh_ft_lr': True}
        if warm:
            factor *= settings.warm_start.learning_rate_factor
            epochs = settings.warm_start.epochs or math.ceil(settings.epochs / 4)
            options['max_num_epochs'] = epochs
            if not set(OF_SCHEDULE) & set(given):
                options |= annealing(epochs, ANNEALED_TO)
            if given.get('start_swa') is not None:
                options['start_swa'] = max(1, given['start_swa'] * epochs // settings.epochs)
        return {**options, 'lr': rate * factor}

    def history(self, member: Member) -> list[Epoch]:
        """See :meth:`Trainer.history`; only what MACE has written since the last call is read."""
        path = self._curve(member)
        return self._histories.setdefault(path, History(path)).epochs()

    @staticmethod
    def _curve(member: Member) -> Path:
        """File with the learning curve."""
        return next(iter(member.folder.glob('results/*_train.txt')), member.folder / 'results')

    def result(self, task: Task, member: Member) -> Result:
        """See :meth:`Trainer.result`."""
        folder = member.folder
        name = next((name for name in (MODEL_STAGE_TWO, MODEL) if (folder / name).is_file()), None)
        if name is None:
            raise TrainingFailed(
                f'mace_run_train ended without a model; its last words: {_last_words(folder / OUTPUT)}'
            )
        try:
            check_file(folder / name)
        except CorruptCheckpoint as error:
            raise TrainingFailed(f'the model {folder / name} cannot be read: train it again') from error
        stage = _stage(folder) if name == MODEL_STAGE_TWO else 1
        loss = self._loss_used(folder, stage)
        return Result(
            model=self._one_head(task, folder / name, folder / ONE_HEAD),
            epoch=self._chosen(folder, stage),
            loss_name=loss['name'],
            loss_weights=loss['weights'],
            hyper_parameters=self._hyper_parameters(task, member),
            version=version('mace-torch'),
        )

    def _one_head(self, task: Task, model: Path, path: Path) -> Path:
        """A model with the head of the data set only: others are of no use to whoever evaluates it."""
        if task.replay is None:
            return model
        import torch

        from aiida_alpot.worker.training.mace.foundation import load_model, with_one_head

        torch.save(with_one_head(load_model(model, 'the model of the training')), path)
        return path

    def _loss_used(self, folder: Path, stage: int) -> Mapping[str, Any]:
        """Name and weights of the loss, from MACE's own object, or from what it has printed."""
        if (folder / LOSS).is_file():
            described = json.loads((folder / LOSS).read_text(encoding='utf-8'))
            found: Mapping[str, Any] = described.get(str(stage), described['1'])
            return found
        output = folder / OUTPUT
        text = output.read_text(encoding='utf-8', errors='replace') if output.is_file() else ''
        return parse_loss(text, {name: getattr(self.settings.weights, name) for name in PROPERTIES})

    def _chosen(self, folder: Path, stage: int) -> int:
        if (folder / FOLDER / STATE).is_file():
            checkpoints = Checkpoints(folder / FOLDER)
            return checkpoints.chosen(stage)
        epochs = [re.findall(r'_epoch-(\d+)(?:_swa)?\.pt$', path.name) for path in (folder / FOLDER).glob('*.pt')]
        return max((int(found[0]) + 1 for found in epochs if found), default=0)

    def _hyper_parameters(self, task: Task, member: Member) -> Mapping[str, Any]:
        """Options in force, with the reference energies in eV by atomic number."""
        path = member.folder / HYPER_PARAMETERS
        if path.is_file():
            options = json.loads(path.read_text(encoding='utf-8'))
        else:
            given = self._options_of(task, member)
            options = {name: value for name, value in given.items() if is_hyper_parameter(name)}
        return {**options, 'E0s': json.loads((member.folder / E0S).read_text(encoding='utf-8'))}


def _stage(folder: Path) -> int:
    """Stage of the model that MACE has written last: where the second has no epoch, it is that of the first."""
    if not (folder / FOLDER / STATE).is_file():
        return 2
    return 2 if best_of(2) in Checkpoints(folder / FOLDER) else 1


def _write_rows(source: Path, rows: np.ndarray, path: Path) -> None:
    """Frames of an extended XYZ file, possibly some of them more than once."""
    from aiida_alpot.worker.frames import read_extxyz, write_extxyz

    frames = list(read_extxyz(source))
    write_extxyz((frames[row] for row in rows), path)


def _choose_device(device: str) -> None:
    """Let torch see one accelerator only where one is numbered: MACE takes the first that there is."""
    kind, _, number = device.partition(':')
    if kind == 'cuda' and number:
        visible = [name for name in os.environ.get('CUDA_VISIBLE_DEVICES', '').split(',') if name]
        os.environ['CUDA_VISIBLE_DEVICES'] = visible[int(number)] if int(number) < len(visible) else number


def _last_words(path: Path) -> str:
    """Last line of an output that says something."""
    if not path.is_file():
        return 'nothing'
    lines = [line.strip() for line in path.read_text(encoding='utf-8', errors='replace').splitlines() if line.strip()]
    return lines[-1][:300] if lines else 'nothing'
