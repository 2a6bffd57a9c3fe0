"""The options of ``mace_run_train`` that a user gives, checked before anything is started."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Mapping
from typing import Any

from aiida_alpot.worker.options import choice, integer, number
from aiida_alpot.worker.training.mace import schema
from aiida_alpot.worker.training.settings import PROPERTIES, TrainingSettings

OF_TRAINING = {
    'r_max': 'cutoff',
    'max_num_epochs': 'epochs',
    'batch_size': 'batch_size',
    'lr': 'learning_rate',
    'default_dtype': 'dtype',
    'device': 'device',
    'energy_weight': 'weights.energy',
    'forces_weight': 'weights.forces',
    'stress_weight': 'weights.stress',
    'freeze': 'fine_tuning.freeze',
    'lora': 'fine_tuning.lora_rank',
    'lora_rank': 'fine_tuning.lora_rank',
    'multiheads_finetuning': 'fine_tuning.method',
    'foundation_model': 'foundation',
    'pt_train_file': 'replay',
    'pt_valid_file': 'replay',
}
"""Options that are keys of ``training``."""

OF_JOB = {
    'name': 'it is always the same',
    'seed': 'each member has its own, derived from that of the campaign',
    'E0s': 'they are made from the isolated atoms of the data set',
    'heads': 'the head is that of the data set',
    'atomic_numbers': 'they are those of the data set',
    'valid_fraction': 'the splits are those of the data set',
    'keep_isolated_atoms': 'isolated atoms of the data set set the reference energies',
    'statistics_file': 'statistics are made from the data set',
    'embedding_specs': 'frames carry no charge, spin or temperature',
    'les_arguments': 'models with charges cannot be used by this package',
    'restart_latest': 'an interrupted training always goes on',
    'save_all_checkpoints': 'the last and the best are kept',
    'keep_checkpoints': 'the last and the best are kept',
    'save_cpu': 'models are always stored for the CPU',
    'compute_stress': 'it is set where `weights.stress` is above 0',
    'compute_forces': 'it is set always',
    'error_table': 'it follows from the weights',
    'force_mh_ft_lr': '`learning_rate` is always kept to',
    'dry_run': 'nothing would be trained',
    'distributed': 'each member runs on one device; members run side by side',
    'launcher': 'each member runs on one device',
    'only_cueq': 'the model could not be read without cuequivariance: give `enable_cueq`',
    'foundation_filter_elements': 'all weights of the model that is gone on from are taken over',
    'foundation_model_readout': 'all weights of the model that is gone on from are taken over',
    'foundation_model_kwargs': 'give the file of the model as `foundation` of `training`',
    'config_type_weights': 'frames carry no `config_type`',
    'virials_weight': 'labels are stresses',
    'swa_virials_weight': 'labels are stresses',
}
"""Options that the job answers for, and why."""

PATTERNS = {
    r'.*_file': 'files are made from the data set',
    r'.*_dir|multi_processed_test': 'the files of a member are in its folder',
    r'.*_key': 'labels are written under the names that MACE expects',
    r'wandb.*|plot.*': 'the learning curves are stored with the training',
    r'.*dipole.*|.*polarizab.*': 'labels are energies, forces and stresses',
    r'pseudolabel.*|num_samples_pt|subselect_pt|filter_type_pt|(dis)?allow_random_padding_pt': (
        'the frames of `replay` are taken as they are'
    ),
}
"""The same, by pattern of the name."""

MODELS = ('MACE', 'ScaleShiftMACE')
"""Models that :mod:`aiida_alpot.worker.potentials` evaluates."""

SCHEDULERS = ('ReduceLROnPlateau', 'ExponentialLR')
OF_SCHEDULE = ('scheduler', 'lr_factor', 'scheduler_patience', 'lr_scheduler_gamma')
ABOVE_ZERO = (
    *('num_channels', 'num_interactions', 'correlation', 'num_radial_basis', 'num_cutoff_basis', 'valid_batch_size'),
    *('eval_interval', 'patience', 'swa_lr', 'lr_factor', 'lr_scheduler_gamma', 'huber_delta', 'lora_alpha'),
)
NOT_NEGATIVE = ('max_L', 'max_ell', 'weight_decay', 'num_workers', 'scheduler_patience', 'weight_pt_head')
IRREPS = r'\s*\d+x\d+[eo]\s*(\+\s*\d+x\d+[eo]\s*)*'
LAST_LAYER = 6
"""MACE counts from the input: 1 to 4 embedding, 5 interactions, 6 products; with 7, the readouts, nothing is left."""

UNIVERSAL, WITHOUT_STRESS = 'universal', 'weighted'
"""Loss that is taken with and without stress."""

UNWEIGHTED = {'huber': PROPERTIES, 'l1l2energyforces': ('forces',)}
"""Losses that compare these properties in all frames, also where a frame has no label and zeros stand in for it."""


def refusal(name: str) -> str | None:
    """Why an option cannot be given, or ``None``."""
    if name in OF_TRAINING:
        return f'give `{OF_TRAINING[name]}` of `training`'
    if name in OF_JOB:
        return OF_JOB[name]
    return next((reason for pattern, reason in PATTERNS.items() if re.fullmatch(pattern, name)), None)


def is_hyper_parameter(name: str) -> bool:
    """Whether an option, by the name that MACE uses itself, says something about the model or how it is trained."""
    known = name in {action.dest for action in schema.actions().values()}
    return known and (name in (*OF_TRAINING, 'seed') or refusal(name) is None) and not name.startswith('pt_')


def read_options(settings: TrainingSettings) -> dict[str, Any]:
    """The options that are given, by the names that MACE uses itself, and as MACE understands them.

    :raises ValueError: for one that is unknown, set elsewhere, or has a value that cannot be.
    """
    options: dict[str, Any] = {}
    for given, value in settings.parameters.items():
        if value is None and given in schema.actions() and given != 'clip_grad':
            continue
        of_mace = schema.actions()[given].dest if given in schema.actions() else given
        reason = refusal(given) or refusal(of_mace)
        if reason and given in schema.actions():
            raise ValueError(f'option `{given}` of mace_run_train cannot be given: {reason}')
        name, understood = schema.read(given, value)
        if name in options:
            raise ValueError(f'option `{given}` of mace_run_train is given twice, also as `{name}`: give one of them')
        options[name] = understood
    for name in ABOVE_ZERO:
        if name in options:
            number(name, options[name], 0.0, exclusive=True)
    for name in NOT_NEGATIVE:
        if name in options:
            number(name, options[name], 0.0)
    _check_architecture(options)
    _check_schedule(options, settings.epochs)
    _check_loss(options, settings)
    if settings.fine_tuning.freeze is not None:
        integer('fine_tuning.freeze', settings.fine_tuning.freeze, 1, LAST_LAYER)
    if settings.fine_tuning.lora_rank is not None and options.get('enable_cueq'):
        raise ValueError(
            'with `enable_cueq` MACE loses what LoRA has learnt: give `fine_tuning.lora_rank` or `enable_cueq`'
        )
    return options


def _check_architecture(options: Mapping[str, Any]) -> None:
    if 'model' in options:
        choice('model', options['model'], MODELS)
    for name in ('hidden_irreps', 'MLP_irreps', 'edge_irreps'):
        if name in options and not re.fullmatch(IRREPS, options[name]):
            raise ValueError(f'`{name}` is {options[name]!r}, expected irreps such as 32x0e + 32x1o')
    if 'hidden_irreps' not in options:
        return
    also = [name for name in ('num_channels', 'max_L') if name in options]
    if also:
        raise ValueError(f'`hidden_irreps` and `{also[0]}` say the same and MACE takes one of them: give one')
    if len(set(re.findall(r'(\d+)x', options['hidden_irreps']))) > 1:
        raise ValueError(
            f'`hidden_irreps` is {options["hidden_irreps"]!r}, but MACE needs as many channels of each kind: give '
            '`num_channels` and `max_L`'
        )


def _check_schedule(options: Mapping[str, Any], epochs: int) -> None:
    if 'scheduler' in options:
        choice('scheduler', options['scheduler'], SCHEDULERS)
    if options.get('start_swa') is not None:
        integer('start_swa', options['start_swa'], 1)
        if options['start_swa'] >= epochs:
            raise ValueError(
                f'`start_swa` is {options["start_swa"]}, but there are {epochs} epochs: MACE would leave stage two out'
            )
    for name in ('lr_params_factors', 'radial_MLP'):
        if name in options:
            try:
                ast.literal_eval(options[name])
            except (ValueError, SyntaxError) as error:
                raise ValueError(f'`{name}` is {options[name]!r}, which is no list or mapping: correct it') from error


def loss_of(options: Mapping[str, Any], settings: TrainingSettings) -> str:
    """Name of the loss: that which is given, else one that has what is to be learnt."""
    universal = settings.weights.stress > 0 or settings.fine_tuning.method == 'replay'
    return str(options.get('loss', UNIVERSAL if universal else WITHOUT_STRESS))


def stage_two(options: Mapping[str, Any]) -> bool:
    """Whether MACE changes the weights of the loss towards the end."""
    return bool(options.get('swa')) or options.get('start_swa') is not None


def _check_loss(options: Mapping[str, Any], settings: TrainingSettings) -> None:
    """Refuse a loss without a property that is to be learnt, or with others, or with weights of its own."""
    loss = loss_of(options, settings)
    if settings.fine_tuning.method == 'replay' and loss != UNIVERSAL:
        raise ValueError(f'`loss` is {loss!r}, but MACE replays with the loss {UNIVERSAL!r} only: leave it out')
    stages = {'': schema.loss_weights('get_loss_fn')}
    if stage_two(options):
        stages[' of stage two'] = schema.loss_weights('get_swa')
    for stage, table in stages.items():
        if not table:
            continue  # this version of MACE is not understood; what was in the loss is read after the training
        weights = table.get(loss, table.get(schema.OTHERWISE, {}))
        missing = [name for name in settings.properties if name not in weights]
        fixed = [name for name, value in weights.items() if not isinstance(value, str)]
        if missing or fixed or set(weights) - set(PROPERTIES):
            what = (
                f'does not contain the {", ".join(missing)}, which `weights` ask for'
                if missing
                else f'has weights of its own for {", ".join(fixed)}'
                if fixed
                else f'is made of {", ".join(weights)}'
            )
            raise ValueError(
                f'the loss {loss!r}{stage} of MACE {what}: give `loss` as one of '
                f'{", ".join(_fitting(settings, stages))}'
            )
    for name in settings.properties if stage_two(options) else ():
        if options.get(f'swa_{name}_weight', 1.0) <= 0:
            raise ValueError(f'`swa_{name}_weight` is 0, so the {name} would be unlearnt in stage two: give more')


def _fitting(settings: TrainingSettings, stages: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[str]:
    """Losses that contain, in all stages, what is to be learnt, and nothing else that has to be labelled."""
    names = [name for name in schema.actions()['loss'].choices or () if name in stages['']]
    fitting = []
    for name in names:
        weights = [table.get(name, table.get(schema.OTHERWISE, {})) for table in stages.values() if table]
        if all(set(settings.properties) <= set(w) <= set(PROPERTIES) for w in weights):
            fitting.append(name)
    return fitting


def check_labels(loss: str, settings: TrainingSettings, n_labelled: Mapping[str, int], n_train: int) -> None:
    """Refuse a loss that would learn zeros where frames have no label.

    :raises ValueError: for such a loss.
    """
    for name in set(UNWEIGHTED.get(loss, ())) & set(settings.properties):
        lacking = n_train - n_labelled.get(name, n_train)
        if lacking:
            raise ValueError(
                f'{lacking} of {n_train} training frames have no {name}, and the loss {loss!r} of MACE would learn '
                f'zeros for them: give `loss: {UNIVERSAL}`'
            )


def annealing(epochs: int, to: float) -> dict[str, Any]:
    """Options for a learning rate that falls exponentially to a share of what it is at the start."""
    return {'scheduler': 'ExponentialLR', 'lr_scheduler_gamma': math.exp(math.log(to) / epochs)}
