"""What is asked of a training, in terms that are the same for every trainer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aiida_alpot.worker.options import boolean, build, choice, device, integer, number

PROPERTIES = ('energy', 'forces', 'stress')
RESAMPLING = ('none', 'bootstrap', 'subsample')
FINE_TUNING = ('naive', 'replay')


@dataclass(frozen=True)
class Weights:
    """Weight of each property in the loss, as the trainer defines it; 0: not trained on."""

    energy: float = 1.0
    forces: float = 10.0
    stress: float = 100.0

    def __post_init__(self) -> None:
        for name in PROPERTIES:
            number(f'weights.{name}', getattr(self, name), 0.0)
        if not self.properties:
            raise ValueError('`weights` are all 0, so nothing would be learnt: give one of them a number above 0')

    @property
    def properties(self) -> tuple[str, ...]:
        """Names of the properties that are to be learnt."""
        return tuple(name for name in PROPERTIES if getattr(self, name) > 0)


@dataclass(frozen=True)
class Resampling:
    """Which of the training frames a member sees.

    :param kind: ``none``: all of them; ``bootstrap``: as many as there are, drawn with replacement (Breiman, Machine
        Learning 24, 123 (1996)); ``subsample``: a share, drawn without.
    :param fraction: share of the frames that is drawn.
    """

    kind: str = 'none'
    fraction: float = 1.0

    def __post_init__(self) -> None:
        choice('resampling.kind', self.kind, RESAMPLING)
        number('resampling.fraction', self.fraction, 0.0, 1.0, exclusive=True)
        if self.kind == 'subsample' and self.fraction == 1.0:
            raise ValueError('`resampling.fraction` is 1.0, with which `subsample` leaves nothing out: give less')


@dataclass(frozen=True)
class WarmStart:
    """How members go on from those of an earlier round.

    :param epochs: epochs of a member that has an earlier one to go on from; ``None``: a quarter of those from scratch.
    :param learning_rate_factor: what the learning rate is multiplied by at the start; it is annealed from there.
    """

    epochs: int | None = None
    learning_rate_factor: float = 0.5

    def __post_init__(self) -> None:
        if self.epochs is not None:
            integer('warm_start.epochs', self.epochs, 1)
        number('warm_start.learning_rate_factor', self.learning_rate_factor, 0.0, 1.0, exclusive=True)


@dataclass(frozen=True)
class FineTuning:
    """How a foundation model is tuned.

    :param method: ``naive``: on the data set alone; ``replay``: with frames of what the model was trained on, through a
        head of their own.
    :param freeze: number of layers, from the input, that stay as they are; ``None``: none.
    :param lora_rank: rank of the low-rank updates that are trained in place of the weights (LoRA, Hu et al.,
        arXiv:2106.09685); ``None``: the weights themselves.
    """

    method: str = 'naive'
    freeze: int | None = None
    lora_rank: int | None = None

    def __post_init__(self) -> None:
        choice('fine_tuning.method', self.method, FINE_TUNING)
        for name in ('freeze', 'lora_rank'):
            if getattr(self, name) is not None:
                integer(f'fine_tuning.{name}', getattr(self, name), 1)


@dataclass(frozen=True)
class TrainingSettings:
    """What is asked of a training.

    :param trainer: name in the registry of trainers.
    :param cutoff: distance up to which an atom sees its neighbours directly, A; ``None``: that of the model that is
        gone on from.
    :param epochs: passes over the training frames.
    :param learning_rate: ``None``: what the trainer takes by default.
    :param parameters: what else the trainer is told, by the names that it gives its options.
    :param parallel: members that are trained side by side in a job; ``None``: as many as there are cores, or as fit
        into the memory of the accelerators.
    :param verify_backend: whether a faster backend (cuequivariance) is compared with the usual one after training.
    """

    trainer: str
    weights: Weights = field(default_factory=Weights)
    cutoff: float | None = 5.0
    epochs: int = 300
    batch_size: int = 10
    learning_rate: float | None = None
    dtype: str = 'float64'
    device: str = 'cpu'
    resampling: Resampling = field(default_factory=Resampling)
    parallel: int | None = None
    warm_start: WarmStart = field(default_factory=WarmStart)
    fine_tuning: FineTuning = field(default_factory=FineTuning)
    verify_backend: bool = True
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.cutoff is not None:
            number('cutoff', self.cutoff, 0.0, exclusive=True)
        if self.learning_rate is not None:
            number('learning_rate', self.learning_rate, 0.0, exclusive=True)
        if self.parallel is not None:
            integer('parallel', self.parallel, 1)
        integer('epochs', self.epochs, 1)
        integer('batch_size', self.batch_size, 1)
        choice('dtype', self.dtype, ('float64', 'float32'))
        device('device', self.device)
        boolean('verify_backend', self.verify_backend)
        if not isinstance(self.parameters, Mapping):
            raise ValueError(f'`parameters` is {self.parameters!r}, expected options of the trainer by name')

    @property
    def properties(self) -> tuple[str, ...]:
        """Names of the properties that are to be learnt."""
        return self.weights.properties


PARTS: dict[str, type[Any]] = {
    'weights': Weights,
    'resampling': Resampling,
    'warm_start': WarmStart,
    'fine_tuning': FineTuning,
}


def parse_settings(given: Mapping[str, Any]) -> TrainingSettings:
    """Settings from plain values, e.g. of a JSON file.

    :raises ValueError: for an unknown name, naming the nearest, or for a value that cannot be.
    """
    values = dict(given)
    for name, part in PARTS.items():
        if name in values:
            if not isinstance(values[name], Mapping):
                raise ValueError(f'`{name}` is {values[name]!r}, expected a mapping')
            values[name] = build(part, values[name], f'option of `{name}`')
    return build(TrainingSettings, values, 'option of the training')
