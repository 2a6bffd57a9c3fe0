"""The options of a training as metatrain has them: its ``architecture`` block, and its file of options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aiida_alpot.worker.options import unknown_name
from aiida_alpot.worker.training.metatrain.architectures import (
    CUTOFFS,
    DEFAULT,
    check_block,
    defaults_of,
    import_architecture,
    look_up,
    merged,
    nested,
)
from aiida_alpot.worker.training.settings import PROPERTIES, TrainingSettings

OPTIONS = ('name', 'atomic_types', 'model', 'training')
MOST_EPOCHS_LOST = 20
"""A kill loses at most so many epochs; a checkpoint is written for each hundredth of a training that is shorter."""
TARGET = 'energy'
"""Name of the target: what metatomic calls the energy."""

GRADIENTS: Mapping[str, str] = {'forces': 'positions', 'stress': 'strain'}
"""What metatrain calls the terms of the loss that are gradients of the energy."""

ELSEWHERE: Mapping[tuple[str, ...], str] = {
    ('device',): '`device`',
    ('base_precision',): '`dtype`',
    ('seed',): 'the seeds of the members',
    ('training_set',): 'the data set',
    ('validation_set',): 'the splits of the data set',
    ('test_set',): 'the splits of the data set',
    ('training', 'num_epochs'): '`epochs`',
    ('training', 'batch_size'): '`batch_size`',
    ('training', 'learning_rate'): '`learning_rate`',
    ('training', 'atomic_baseline'): 'the reference energies, from labels of isolated atoms',
    ('training', 'finetune', 'read_from'): '`foundation`',
}
"""What sets an option in place of the options of metatrain."""

HEADS = {'head_modules': ['node_heads', 'edge_heads'], 'last_layer_modules': ['node_last_layers', 'edge_last_layers']}
"""What is trained by the method ``heads``; metatrain's own default, which its validator wants to see written out."""


@dataclass(frozen=True)
class Architecture:
    """An architecture with the options that are asked for.

    :param name: in metatrain.
    :param defaults: its options as metatrain has them.
    :param model: options of the model, with the cutoff, as far as they are given.
    :param training: options of the training that are given, those of every training not among them.
    """

    name: str
    defaults: Mapping[str, Any]
    model: Mapping[str, Any]
    training: Mapping[str, Any]
    atomic_types: tuple[int, ...] | None

    @property
    def has_epochs(self) -> bool:
        """Whether it is trained step by step, and not fitted at once."""
        return 'num_epochs' in self.defaults['training']

    @property
    def fine_tunes(self) -> bool:
        """Whether metatrain has ways of its own to tune it."""
        return 'finetune' in self.defaults['training']

    def known(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Those options of a training that the architecture has."""
        return {name: value for name, value in options.items() if name in self.defaults['training']}


def architecture_of(settings: TrainingSettings) -> Architecture:
    """The architecture that is asked for; its options are not compared with those that it has.

    :raises ValueError: for a name that metatrain does not have, and for what is not an option here.
    """
    given = settings.parameters
    for path, place in ELSEWHERE.items():
        if look_up(given, path) is not None:
            raise ValueError(f'`parameters.{".".join(path)}` is set by {place} of the training: leave it out')
    for name in given:
        if name not in OPTIONS:
            raise ValueError(unknown_name(name, OPTIONS, 'option of the architecture of metatrain'))
    for name in ('model', 'training'):
        if not isinstance(given.get(name, {}), Mapping):
            raise ValueError(f'`parameters.{name}` is {given[name]!r}, expected options by name')
    name = given.get('name', DEFAULT)
    defaults = defaults_of(name)
    types = given.get('atomic_types')
    return Architecture(
        name,
        defaults,
        merged(given.get('model', {}), _cutoff(name, defaults, settings)),
        dict(given.get('training', {})),
        None if types is None else tuple(types),
    )


def _cutoff(name: str, defaults: Mapping[str, Any], settings: TrainingSettings) -> dict[str, Any]:
    path = CUTOFFS.get(name)
    if path is None:
        if settings.cutoff is None:
            return {}
        raise ValueError(
            f'where {name!r} keeps its cutoff is not known here: give `cutoff: null`, and set it among '
            '`parameters.model`'
        )
    if look_up(settings.parameters.get('model', {}), path) is not None:
        raise ValueError(f'`parameters.model.{".".join(path)}` is set by `cutoff` of the training: leave it out')
    if look_up(defaults['model'], path) is None:
        raise ValueError(
            f'{name!r} keeps its cutoff no longer in `model.{".".join(path)}`: this version of metatrain is newer than '
            'aiida-alpot knows'
        )
    return {} if settings.cutoff is None else nested(path, float(settings.cutoff))


def check_settings(settings: TrainingSettings) -> None:
    """Compare what is asked for with what metatrain and the architecture can.

    :raises ValueError: see :meth:`~.Trainer.check_options`.
    """
    architecture = architecture_of(settings)
    tuned = 'finetune' in architecture.training or settings.fine_tuning.lora_rank is not None
    finetune = finetune_block(architecture, settings, 'foundation.ckpt') if tuned else None
    _check_fine_tuning(architecture, settings)
    training = training_options(architecture, settings, finetune=finetune)
    block = merged(architecture.defaults, {'model': architecture.model, 'training': training})
    if architecture.atomic_types is not None:
        block['atomic_types'] = list(architecture.atomic_types)
    check_block({**block, 'name': architecture.name}, architecture.defaults)
    _check_abilities(architecture, settings)


def _check_fine_tuning(architecture: Architecture, settings: TrainingSettings) -> None:
    tuning = settings.fine_tuning
    if tuning.method == 'replay':
        raise ValueError(
            'metatrain trains on one data set with one head: it has no replay. Give `fine_tuning.method: naive`, or '
            '`trainer: mace`'
        )
    if tuning.freeze is not None:
        raise ValueError(
            'metatrain does not freeze layers by their number: leave out `fine_tuning.freeze`, and give '
            '`parameters.training.finetune.method: heads` to train the heads alone'
        )
    if tuning.lora_rank is not None and not architecture.fine_tunes:
        raise ValueError(
            f'metatrain has no LoRA for {architecture.name!r}: leave out `fine_tuning.lora_rank`, or take the '
            'architecture `pet`'
        )


def _check_abilities(architecture: Architecture, settings: TrainingSettings) -> None:
    """What is in the code of an architecture, not among its options."""
    model = import_architecture(architecture.name).__model__
    dtypes = [str(dtype).removeprefix('torch.') for dtype in model.__supported_dtypes__]
    if settings.dtype not in dtypes:
        raise ValueError(f'{architecture.name!r} computes in {" and ".join(dtypes)} only: give `dtype: {dtypes[0]}`')
    kind = settings.device.partition(':')[0]
    if kind not in model.__supported_devices__:
        devices = ' and '.join(model.__supported_devices__)
        raise ValueError(f'{architecture.name!r} runs on {devices} only, not on `device: {settings.device}`')
    if settings.learning_rate is not None and 'learning_rate' not in architecture.defaults['training']:
        raise ValueError(f'{architecture.name!r} is not trained by steps: leave out `learning_rate`')
    if architecture.name == 'gap' and settings.weights.stress > 0:
        raise ValueError('metatrain fits GAP to energies and forces only: give `weights.stress: 0`')


def training_options(
    architecture: Architecture,
    settings: TrainingSettings,
    *,
    epochs: int | None = None,
    batch_size: int | None = None,
    factor: float = 1.0,
    workers: int = 0,
    baseline: Mapping[int, float] | None = None,
    finetune: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The options of a training, as far as the architecture has them.

    :param epochs: other than those of the settings.
    :param batch_size: other than that of the settings.
    :param factor: of the learning rate.
    :param workers: processes that make batches.
    :param baseline: energy of the isolated atom by atomic number, eV.
    :param finetune: the block of that name.
    :raises ValueError: for a loss that cannot be.
    """
    epochs = epochs or settings.epochs
    rate = settings.learning_rate or architecture.defaults['training'].get('learning_rate')
    ours = {
        'num_epochs': epochs,
        'batch_size': batch_size or settings.batch_size,
        'learning_rate': None if rate is None else float(rate) * factor,
        'loss': _loss(architecture.training.get('loss', 'mse'), settings),
        'atomic_baseline': {TARGET: {number: float(energy) for number, energy in (baseline or {}).items()}},
        'num_workers': workers,
        # The epoch of the lowest loss is chosen, as other trainers do; each epoch is a line of the curve.
        'best_model_metric': 'loss',
        'log_interval': 1,
        'checkpoint_interval': min(max(1, epochs // 100), MOST_EPOCHS_LOST),
    }
    given = {name: value for name, value in architecture.training.items() if name not in ('loss', 'finetune')}
    if 'loss' in architecture.training and 'loss' not in architecture.defaults['training']:
        given['loss'] = architecture.training['loss']  # is refused by metatrain
    return {**architecture.known(ours), **given, **({} if finetune is None else {'finetune': dict(finetune)})}


def finetune_block(architecture: Architecture, settings: TrainingSettings, read_from: str) -> dict[str, Any]:
    """How a model is tuned, in metatrain's words.

    :param read_from: its checkpoint.
    :raises ValueError: for a rank that is given twice.
    """
    given = dict(architecture.training.get('finetune', {}))
    config = dict(given.get('config', {}))
    rank = settings.fine_tuning.lora_rank
    if rank is not None:
        if given.get('method', 'lora') != 'lora' or 'rank' in config:
            raise ValueError(
                '`fine_tuning.lora_rank` sets the method and the rank of `parameters.training.finetune`: leave them out'
            )
        given['method'] = 'lora'
        config = {'alpha': 2.0 * rank, **config, 'rank': rank}
    if given.get('method') == 'heads':
        config = {**HEADS, **config}
    return {'method': 'full', 'inherit_heads': {}, **given, 'config': config, 'read_from': read_from}


def _loss(given: Any, settings: TrainingSettings) -> dict[str, Any]:
    """The loss in metatrain's long form: kinds as they are given, weights as the settings have them."""
    kinds = _kinds(given)
    terms = {
        name: {'type': 'mse', 'reduction': 'mean', **kinds[name], 'weight': float(getattr(settings.weights, name))}
        for name in PROPERTIES
    }
    gradients = {gradient: terms[name] for name, gradient in GRADIENTS.items() if name in settings.properties}
    return {TARGET: {**terms['energy'], 'gradients': gradients}}


def _kinds(given: Any) -> dict[str, Mapping[str, Any]]:
    """Options of each term of a loss but for its weight.

    :param given: the kind of all terms (``mse``, ``mae``, ``huber``), or options by target, as metatrain takes them.
    :raises ValueError: for another target, or a weight.
    """
    if isinstance(given, str):
        return {name: {'type': given} for name in PROPERTIES}
    for name in given:
        if name != TARGET:
            raise ValueError(unknown_name(name, [TARGET], 'target of `parameters.training.loss`'))
    found = given.get(TARGET, {})
    energy: dict[str, Any] = {'type': found} if isinstance(found, str) else dict(found)
    gradients = energy.pop('gradients', {})
    kinds: dict[str, Any] = {name: energy.pop(name, gradients.get(key, {})) for name, key in GRADIENTS.items()}
    kinds = {name: {'type': kind} if isinstance(kind, str) else kind for name, kind in kinds.items()}
    if any('weight' in kind for kind in (energy, *kinds.values())):
        raise ValueError(
            'the weights in `parameters.training.loss` are set by `weights` of the training: leave them out'
        )
    return {'energy': energy, **kinds}
