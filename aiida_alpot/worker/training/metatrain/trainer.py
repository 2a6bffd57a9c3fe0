"""metatrain behind the interface of the trainers."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

from ase.data import atomic_numbers

from aiida_alpot.worker.training.metatrain.architectures import import_architecture, merged
from aiida_alpot.worker.training.metatrain.checkpoints import (
    can_be_reset,
    check_checkpoint,
    description_of,
    lora_of,
    read_checkpoint,
    write_start,
)
from aiida_alpot.worker.training.metatrain.data import Files, training_files, write_rows
from aiida_alpot.worker.training.metatrain.options import (
    TARGET,
    Architecture,
    architecture_of,
    check_settings,
    finetune_block,
    training_options,
)
from aiida_alpot.worker.training.metatrain.outputs import (
    attempts,
    checkpoints,
    is_whole,
    loss_weights,
    newest_checkpoint,
    options_in_force,
    read_curve,
)
from aiida_alpot.worker.training.plain import read_json, write_json
from aiida_alpot.worker.training.trainer import (
    Epoch,
    Member,
    Result,
    Task,
    Trainer,
    TrainingFailed,
)

OPTIONS_FILE, MODEL_FILE, CHECKPOINT_FILE, START_FILE, FRAMES_FILE, ROWS_FILE, NOTE_FILE = (
    'options.yaml',
    'model.pt',
    'model.ckpt',
    'start.ckpt',
    'train.xyz',
    'rows.txt',
    'prepared.json',
)
MAX_WORKERS = 4
"""Processes that make batches for an accelerator; beyond these it is the limit."""


class MetatrainTrainer(Trainer):
    """PET, SOAP-BPNN, GAP and what else metatrain trains.

    ``parameters`` is the block ``architecture`` of its file of options, by its own names: ``name``, ``model``,
    ``training``, ``atomic_types``. The weights of the loss are those of metatrain: of the mean squared errors of the
    energy of an atom, of the components of the forces, and of those of the *virial of an atom*, each over the square
    of the spread of the energies of an atom.
    """

    name = 'metatrain'
    requires = 'metatrain'

    def __init__(self, settings: Any) -> None:
        super().__init__(settings)
        self._known: Architecture | None = None
        self._files: dict[Path, Files] = {}

    @property
    def _architecture(self) -> Architecture:
        if self._known is None:
            self._known = architecture_of(self.settings)
        return self._known

    def check_options(self) -> None:
        """See :meth:`Trainer.check_options`."""
        check_settings(self.settings)

    def check_task(self, task: Task) -> list[str]:
        """See :meth:`Trainer.check_task`."""
        architecture, warnings = self._architecture, []
        if task.replay is not None:
            raise ValueError('metatrain has no replay: leave out `replay`, or give `trainer: mace`')
        if task.foundation is not None:
            self._check_foundation(task, task.foundation)
        elif self.settings.fine_tuning.lora_rank is not None or 'finetune' in architecture.training:
            raise ValueError('fine-tuning is asked for, but no `foundation` is given: give its checkpoint (.ckpt)')
        _check_elements(architecture, task)
        files = self._files_of(task)
        if architecture.name == 'gap' and files.train != task.data.train:
            raise ValueError(
                'GAP is fitted to frames that have all of the labels, and some lack one: leave these out, or take '
                'another architecture'
            )
        if not architecture.has_epochs:
            warnings.append(
                f'{architecture.name} is fitted at once: the epochs, the weights of the loss and earlier models have '
                'no influence'
            )
        return warnings

    def _check_foundation(self, task: Task, path: Path) -> None:
        if not self._architecture.has_epochs:
            raise ValueError(f'{self._architecture.name!r} cannot be fine-tuned: leave out `foundation`')
        try:
            found = read_checkpoint(path)
        except TrainingFailed as error:
            raise ValueError(f'`foundation`: {error}') from error
        check_checkpoint(found, path, self._architecture, task.data.elements, self.settings.cutoff)
        if not self._architecture.fine_tunes and not can_be_reset(found):
            raise ValueError(f'metatrain cannot fine-tune {self._architecture.name!r}: leave out `foundation`')

    def load(self, task: Task) -> None:
        """See :meth:`Trainer.load`."""
        import torch

        torch.set_num_threads(1)
        import metatrain.__main__  # noqa: F401 -- 2 s, and as much for what optimizers import when they are first used
        import torch._dynamo

        import_architecture(self._architecture.name)
        self._files_of(task)

    def _files_of(self, task: Task) -> Files:
        if task.folder not in self._files:
            self._files[task.folder] = training_files(task)
        return self._files[task.folder]

    def prepare(self, task: Task, member: Member) -> None:
        """See :meth:`Trainer.prepare`.

        :raises TrainingFailed: where the model that is to be gone on from cannot be.
        """
        import yaml

        files = self._files_of(task)
        options: dict[str, Any] = {
            'seed': member.seed,
            'device': member.device.partition(':')[0],
            'base_precision': int(self.settings.dtype.removeprefix('float')),
            'final_eval': False,  # done for all members at once, and by origin
            'print_stats': False,
            'architecture': self._block(task, member),
            'training_set': self._data_set(files.train, files),
            'validation_set': self._data_set(files.validation, files),
            'test_set': 0.0,
        }
        self._add_rows(options['training_set'], files, member)
        self._add_start(options, task, member)
        (member.folder / OPTIONS_FILE).write_text(yaml.safe_dump(options, sort_keys=False))
        write_json(member.folder / NOTE_FILE, {'density': files.density})

    def _data_set(self, path: Path, files: Files) -> dict[str, Any]:
        gradients = {
            name: {'key': files.keys[name]} if name in self.settings.properties else False
            for name in ('forces', 'stress')
        }
        return {
            'systems': {'read_from': str(path), 'length_unit': 'angstrom'},
            'targets': {TARGET: {'quantity': 'energy', 'key': files.keys['energy'], 'unit': 'eV', **gradients}},
        }

    def _block(self, task: Task, member: Member) -> dict[str, Any]:
        architecture, settings = self._architecture, self.settings
        warm = member.start is not None and architecture.has_epochs
        epochs = settings.epochs
        if warm:
            epochs = settings.warm_start.epochs or math.ceil(settings.epochs / 4)
        n_frames = task.data.n_train if member.indices is None else len(member.indices)
        on_accelerator = not member.device.startswith('cpu')
        training = training_options(
            architecture,
            settings,
            epochs=epochs,
            batch_size=min(member.batch_size, n_frames),
            factor=member.learning_rate_factor * (settings.warm_start.learning_rate_factor if warm else 1.0),
            workers=min(member.threads - 1, MAX_WORKERS) if on_accelerator else 0,
            baseline={atomic_numbers[name]: energy for name, energy in task.data.reference_energies.items()},
        )
        return {
            'name': architecture.name,
            # Not what a member happens to see: all members of a committee know the same elements.
            'atomic_types': sorted(_types(architecture, task)),
            'model': merged(architecture.model),
            'training': training,
        }

    def _add_rows(self, data_set: dict[str, Any], files: Files, member: Member) -> None:
        """Say which rows a member sees."""
        if member.indices is None:
            return
        rows = [int(row) for row in member.indices]
        if len(set(rows)) == len(rows):
            (member.folder / ROWS_FILE).write_text(''.join(f'{row}\n' for row in rows))
            data_set['indices'] = str(member.folder / ROWS_FILE)
        else:
            write_rows(files.train, rows, member.folder / FRAMES_FILE)
            data_set['systems']['read_from'] = str(member.folder / FRAMES_FILE)

    def _add_start(self, options: dict[str, Any], task: Task, member: Member) -> None:
        """Say what the member goes on from: a model of an earlier round, else the foundation."""
        architecture, path = self._architecture, member.start or task.foundation
        (member.folder / START_FILE).unlink(missing_ok=True)
        if path is None or not architecture.has_epochs:
            return
        try:
            found = read_checkpoint(path)
            check_checkpoint(found, path, architecture, task.data.elements, self.settings.cutoff)
        except ValueError as error:
            raise TrainingFailed(str(error)) from error
        options['architecture'].pop('atomic_types')  # those of the model
        options['training_set']['targets'][TARGET]['description'] = description_of(found)
        options['validation_set']['targets'][TARGET]['description'] = description_of(found)
        if architecture.fine_tunes:
            block = self._tuning(task, path, lora_of(found))
            options['architecture']['training']['finetune'] = block
        elif can_be_reset(found):
            write_start(found, member.folder / START_FILE)
        else:
            raise TrainingFailed(f'metatrain cannot go on from a model of {architecture.name!r}: start without it')

    def _tuning(self, task: Task, path: Path, lora: Mapping[str, Any] | None) -> dict[str, Any]:
        if lora is not None:
            return {**lora, 'read_from': str(path)}
        if task.foundation is not None:
            return finetune_block(self._architecture, self.settings, str(path))
        return {'method': 'full', 'read_from': str(path), 'config': {}, 'inherit_heads': {}}

    def has_checkpoint(self, member: Member) -> bool:
        """See :meth:`Trainer.has_checkpoint`."""
        return bool(checkpoints(member.folder))

    def command(self, task: Task, member: Member) -> list[str]:
        """See :meth:`Trainer.command`.

        :raises CorruptCheckpoint: where there are checkpoints and none can be read.
        """
        module = 'aiida_alpot.worker.training.metatrain.process'
        environment = [f'{name}={value}' for name, value in _environment(member).items()]
        return [
            *(['env', *environment] if environment else []),
            *(sys.executable, '-W', 'ignore', '-m', module, self._architecture.name, str(member.threads)),
            *self._arguments(member),
        ]

    def _arguments(self, member: Member) -> list[str]:
        """What `mtt train` is told."""
        start = newest_checkpoint(member.folder)
        if start is None and (member.folder / START_FILE).is_file():
            start = member.folder / START_FILE
        return [OPTIONS_FILE, '-o', MODEL_FILE, *([] if start is None else ['--restart', str(start)])]

    def run(self, task: Task, member: Member) -> NoReturn:
        """See :meth:`Trainer.run`: in this process, which has from its parent what takes 3 s to import."""
        from aiida_alpot.worker.training.metatrain.process import train

        os.environ.update(_environment(member))
        code = train(self._arguments(member), import_architecture(self._architecture.name), member.threads)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # nothing of the parent is to be run again

    def history(self, member: Member) -> list[Epoch]:
        """See :meth:`Trainer.history`.

        metatrain says the error of the virial of an atom; that of the stress is it times the mean density of the
        validation frames: exact where all have one, else within their spread.
        """
        return read_curve(member.folder, (read_json(member.folder / NOTE_FILE) or {}).get('density'))

    def result(self, task: Task, member: Member) -> Result:
        """See :meth:`Trainer.result`."""
        model, checkpoint = member.folder / MODEL_FILE, member.folder / CHECKPOINT_FILE
        if not model.is_file():
            raise TrainingFailed(f'metatrain ended, but left no {model}: see what it has printed')
        if not is_whole(model):
            raise TrainingFailed(f'{model} cannot be read: it is cut off. See whether the disk is full')
        options = options_in_force(member.folder)
        if options is None:
            raise TrainingFailed(f'metatrain has written no options to {member.folder}: see what it has printed')
        block = options['architecture']
        common = {'model': model, 'hyper_parameters': block, 'version': version('metatrain')}
        if not self._architecture.has_epochs:
            return Result(epoch=0, loss_name='regularised least squares', loss_weights=_fitted(member, block), **common)
        loss = block['training']['loss'][TARGET]
        return Result(
            epoch=_best_epoch(checkpoint),
            loss_name=str(loss['type']),
            loss_weights=loss_weights(member.folder, options),
            checkpoint=checkpoint,
            **common,
        )


def _types(architecture: Architecture, task: Task) -> set[int]:
    return {atomic_numbers[symbol] for symbol in task.data.elements} | set(architecture.atomic_types or ())


def _check_elements(architecture: Architecture, task: Task) -> None:
    if architecture.atomic_types is None:
        return
    missing = [symbol for symbol in task.data.elements if atomic_numbers[symbol] not in architecture.atomic_types]
    if missing:
        raise ValueError(f'`parameters.atomic_types` lacks {" ".join(missing)}, which the data have: add them')


def _best_epoch(path: Path) -> int:
    best = read_checkpoint(path).get('best_epoch')
    if best is None:
        raise TrainingFailed('no epoch had a finite loss: give a smaller `learning_rate`')
    return int(best) + 1


def _fitted(member: Member, block: Mapping[str, Any]) -> dict[str, float]:
    """Weights of the squared errors of a GAP: the squares of the inverse regularisers, where there are such labels."""
    log = ''.join((attempt / 'train.log').read_text() for attempt in attempts(member.folder)[-1:])
    training = block['training']
    energy = float(training['regularizer'])
    forces = training['regularizer_forces']
    forces = energy if forces is None else float(forces)
    return {'energy': energy**-2, 'forces': forces**-2 if 'Forces found' in log else 0.0, 'stress': 0.0}


def _environment(member: Member) -> dict[str, str]:
    """By which one of several accelerators is the only one there: metatrain cannot be told its number."""
    kind, _, number = member.device.partition(':')
    if kind != 'cuda' or not number:
        return {}
    visible = [name for name in os.environ.get('CUDA_VISIBLE_DEVICES', '').split(',') if name]
    index = int(number)
    return {'CUDA_VISIBLE_DEVICES': visible[index] if index < len(visible) else number}
