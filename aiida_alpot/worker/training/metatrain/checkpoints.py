"""Checkpoints of metatrain: what they say, and a training that goes on from one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ase.data import chemical_symbols

from aiida_alpot.worker.training.metatrain.architectures import CUTOFFS, import_architecture, look_up
from aiida_alpot.worker.training.metatrain.options import TARGET, Architecture
from aiida_alpot.worker.training.metatrain.outputs import is_whole
from aiida_alpot.worker.training.trainer import CorruptCheckpoint

RESET = ('optimizer_state_dict', 'scheduler_state_dict', 'epoch', 'best_epoch', 'best_metric')
"""What a checkpoint says of the training that has made it."""


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What metatrain has saved.

    **Trust**: it is a pickle. Read only what you or your collaborators made.

    :raises CorruptCheckpoint: where it cannot be read.
    :raises ValueError: for a file that is none.
    """
    import torch

    if path.suffix == '.pt':
        raise ValueError(f'{path} is a model for use, which cannot be trained further: give its checkpoint (.ckpt)')
    if not is_whole(path):
        raise CorruptCheckpoint(f'{path} cannot be read: it is cut off or no checkpoint. Start without it')
    try:
        found = torch.load(path, map_location='cpu', weights_only=False)
    except Exception as error:
        raise CorruptCheckpoint(f'{path} cannot be read ({error}): start without it') from error
    if not isinstance(found, dict) or 'architecture_name' not in found:
        raise ValueError(f'{path} is no checkpoint of metatrain: give one that `mtt train` has written')
    return found


def check_checkpoint(
    found: dict[str, Any], path: Path, architecture: Architecture, elements: Iterable[str], cutoff: float | None
) -> None:
    """Compare a model that is gone on from with what is asked for, and bring it to the format of this metatrain.

    :param elements: of the data.
    :raises ValueError: for another architecture, other options of the model, or an element that it does not know; for
        one of a version of metatrain that is too different.
    """
    if found['architecture_name'] != architecture.name:
        raise ValueError(
            f'{path} is a model of the architecture {found["architecture_name"]!r}, but `parameters.name` is '
            f'{architecture.name!r}: give the same'
        )
    _upgrade(found, path, architecture)
    model = found['model_data']
    known = [chemical_symbols[number] for number in model['dataset_info'].atomic_types]
    missing = [symbol for symbol in elements if symbol not in known]
    if missing:
        raise ValueError(
            f'{path} knows {" ".join(known)}, but not {" ".join(missing)}, which the data have, and metatrain cannot '
            'add elements to a model: start without it'
        )
    has = look_up(model['model_hypers'], CUTOFFS.get(architecture.name, ()))
    if cutoff is not None and isinstance(has, (int, float)) and has != cutoff:
        raise ValueError(
            f'{path} has a cutoff of {has} A, but `cutoff` is {cutoff}: give `cutoff: {has}`, or null for that of the '
            'model'
        )
    _check_model(model['model_hypers'], path, architecture)


def _upgrade(found: dict[str, Any], path: Path, architecture: Architecture) -> None:
    model = import_architecture(architecture.name).__model__
    version = found.setdefault('model_ckpt_version', 1)
    if version == model.__checkpoint_version__:
        return
    try:
        found |= model.upgrade_checkpoint(found)
    except Exception as error:
        raise ValueError(
            f'{path} was written by another version of metatrain ({version} of its format, here it is '
            f'{model.__checkpoint_version__}) and cannot be converted ({error}): train it anew, or use that version'
        ) from error


def _check_model(has: Mapping[str, Any], path: Path, architecture: Architecture) -> None:
    from metatrain.utils.hypers import get_hypers_diff

    differences = get_hypers_diff(has, architecture.model, default_hypers=architecture.defaults['model'])
    if differences:
        name, (old, new) = next(iter(differences.items()))
        raise ValueError(
            f'{path} was made with `model.{name}` = {old}, but {new} is asked for: give the same, or start without it'
        )


def lora_of(found: Mapping[str, Any]) -> dict[str, Any] | None:
    """How the model was tuned, if by LoRA: its layers are there to stay."""
    config = (found.get('best_model_state_dict') or {}).get('finetune_config') or {}
    return dict(config) if config.get('method') == 'lora' else None


def description_of(found: Mapping[str, Any]) -> str:
    """How the energy is described in a model; metatrain takes it for another target if it differs."""
    target = found['model_data']['dataset_info'].targets.get(TARGET)
    return '' if target is None else str(target.description)


def can_be_reset(found: Mapping[str, Any]) -> bool:
    """Whether :func:`write_start` can be made of a checkpoint."""
    return all(name in found for name in (*RESET, 'model_state_dict', 'best_model_state_dict'))


def write_start(found: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint from which metatrain's restart is a new training of the best model.

    So a model of an architecture goes on for which metatrain has no fine-tuning.
    """
    import torch

    fresh = {**found, **dict.fromkeys(RESET), 'best_model_state_dict': None, 'best_optimizer_state_dict': None}
    fresh['model_state_dict'] = found['best_model_state_dict'] or found['model_state_dict']
    torch.save(fresh, path)
