"""What describes a trained model, and the checks on it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from aiida.common.exceptions import ValidationError
from ase.data import atomic_numbers

DTYPES = ('float32', 'float64')
OF_TRAINING = (
    'trainer_version',
    'architecture',
    'hyper_parameters',
    'data_hash',
    'level_of_theory',
    'reference_energies',
)
"""What may be known of a training that the members of a committee have in common."""
OF_MEMBER = ('started_from', 'epoch', 'loss')
"""What may be known of one model."""


def sorted_elements(elements: Sequence[str]) -> list[str]:
    """Chemical symbols by atomic number, without duplicates.

    :raises ValueError: for what is no element.
    """
    unknown = [symbol for symbol in elements if not atomic_numbers.get(symbol)]
    if unknown:
        raise ValueError(f'{unknown} are no chemical symbols')
    return sorted(set(elements), key=lambda symbol: atomic_numbers[symbol])


def check_model_attributes(attributes: dict[str, Any]) -> None:
    """Check ``trainer``, ``elements``, ``cutoff`` (A) and ``dtype``.

    :raises ValidationError: naming the attribute and what it should be.
    """
    trainer, elements = attributes.get('trainer'), attributes.get('elements')
    cutoff, dtype = attributes.get('cutoff'), attributes.get('dtype')
    if not isinstance(trainer, str) or not trainer:
        raise ValidationError(f'`trainer` must name what trained the model, found {trainer!r}')
    if not elements or any(not atomic_numbers.get(symbol) for symbol in elements):
        raise ValidationError(f'`elements` must be a list of chemical symbols, found {elements!r}')
    if not isinstance(cutoff, float) or not math.isfinite(cutoff) or cutoff <= 0:
        raise ValidationError(f'`cutoff` must be a positive length in Angstrom, found {cutoff!r}')
    if dtype not in DTYPES:
        raise ValidationError(f'`dtype` must be one of {", ".join(DTYPES)}, found {dtype!r}')


def check_seed(seed: Any) -> None:
    """Check the seed of a training; ``None`` where it is not known, as of a model that was brought in.

    :raises ValidationError: where it is no whole number from 0 upwards.
    """
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int) or seed < 0):
        raise ValidationError(f'`seed` must be a whole number from 0 upwards, found {seed!r}')


class ModelAttributes:
    """The attributes that one model and a committee of like models have in common; mixed into their nodes."""

    base: Any

    @property
    def trainer(self) -> str:
        """What trained the model."""
        return self.base.attributes.get('trainer')

    @property
    def elements(self) -> list[str]:
        """Chemical symbols, by atomic number."""
        return self.base.attributes.get('elements')

    @property
    def cutoff(self) -> float:
        """Distance up to which an atom sees its neighbours directly, A."""
        return self.base.attributes.get('cutoff')

    @property
    def dtype(self) -> str:
        """Floating-point type of the weights."""
        return self.base.attributes.get('dtype')

    @property
    def trainer_version(self) -> str | None:
        """Version of what trained the model, where it is known."""
        return self.base.attributes.get('trainer_version', None)

    @property
    def architecture(self) -> str | None:
        """Kind of model, as the trainer names it, where it is known."""
        return self.base.attributes.get('architecture', None)

    @property
    def hyper_parameters(self) -> dict[str, Any]:
        """All options of the training, by the names that the trainer gives them; empty where they are not known."""
        return self.base.attributes.get('hyper_parameters', {})

    @property
    def data_hash(self) -> str | None:
        """``content_hash`` of the data set that was trained on, where it is known."""
        return self.base.attributes.get('data_hash', None)

    @property
    def level_of_theory(self) -> list[str]:
        """Bases of the levels of theory of the labels that were trained on; empty where they are not known."""
        return self.base.attributes.get('level_of_theory', [])

    @property
    def reference_energies(self) -> dict[str, float]:
        """Energy of the isolated atom of each element, or what stood in for it, eV; empty where it is not known."""
        return self.base.attributes.get('reference_energies', {})
