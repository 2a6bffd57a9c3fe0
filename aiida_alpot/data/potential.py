"""One trained interatomic potential."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import IO, Any

from aiida.orm import SinglefileData

from .model_attributes import ModelAttributes, check_model_attributes, check_seed, sorted_elements


class PotentialData(ModelAttributes, SinglefileData):
    """The file of one trained model and what one must know to use it.

    :param file: absolute path or binary file object of the model.
    :param filename: name in the repository; its suffix says what kind of model it is, e.g. ``.model`` for MACE.
    :param trainer: what trained it, e.g. ``mace``.
    :param elements: chemical symbols it knows.
    :param cutoff: distance up to which an atom sees its neighbours directly, A.
    :param seed: seed of the training.
    :param dtype: ``float64`` or ``float32``.
    """

    def __init__(
        self,
        file: str | Path | IO[bytes] | None = None,
        filename: str | Path | None = None,
        *,
        trainer: str | None = None,
        elements: Sequence[str] | None = None,
        cutoff: float | None = None,
        seed: int | None = None,
        dtype: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(file=file, filename=filename, **kwargs)
        given: dict[str, Any] = {'trainer': trainer, 'seed': seed, 'dtype': dtype}
        if elements is not None:
            given['elements'] = sorted_elements(elements)
        if cutoff is not None:
            given['cutoff'] = float(cutoff)
        self.base.attributes.set_many({key: value for key, value in given.items() if value is not None})

    def _validate(self) -> bool:
        super()._validate()
        check_model_attributes(self.base.attributes.all)
        check_seed(self.base.attributes.get('seed', None))
        return True

    @property
    def seed(self) -> int:
        """Seed of the training."""
        return self.base.attributes.get('seed')

    @property
    def suffix(self) -> str:
        """Suffix of the file, which says what kind of model it is."""
        return PurePath(self.filename).suffix
