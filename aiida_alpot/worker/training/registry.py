"""The trainers there are: ours, and those of installed packages by the entry point ``alpot.trainers``."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

from aiida_alpot.worker.registry import find
from aiida_alpot.worker.training.settings import TrainingSettings
from aiida_alpot.worker.training.trainer import Trainer

GROUP = 'alpot.trainers'
OWN: Mapping[str, str] = {
    'mace': 'aiida_alpot.worker.training.mace:MaceTrainer',
    'metatrain': 'aiida_alpot.worker.training.metatrain:MetatrainTrainer',
}


def trainer_class(name: object) -> type[Trainer]:
    """The trainer of this name.

    :raises ValueError: for a name that nobody offers, naming the nearest.
    """
    found = find(OWN, GROUP, name, 'trainer')
    if isinstance(found, str):
        module, _, attribute = found.partition(':')
        found = getattr(importlib.import_module(module), attribute)
    return found


def make_trainer(settings: TrainingSettings) -> Trainer:
    """The trainer that these settings ask for.

    :raises ValueError: for a name that nobody offers.
    """
    return trainer_class(settings.trainer)(settings)
