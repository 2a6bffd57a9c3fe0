"""What every signal offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from aiida_alpot.worker.acquisition.signals.committee import Deviations

if TYPE_CHECKING:
    from aiida_alpot.worker.frames.frame import Frame
    from aiida_alpot.worker.potentials.committee import Committee
    from aiida_alpot.worker.potentials.predictions import Predictions


class Signal(ABC):
    """What says that a frame is not known yet; its options are its fields, so a subclass is a dataclass.

    A signal is made, fitted once to what is labelled, and then called on the predictions of one chunk of frames after
    the other. It is no error by itself: a calibration learns from held-out frames what error follows from it.
    """

    min_members: ClassVar[int] = 1
    """Members that a committee needs for it."""
    gives_forces: ClassVar[bool] = True
    """Whether it says something about forces. Where it does not, only a tolerance of the energy can be exceeded."""

    @property
    def features(self) -> Mapping[str, Mapping[str, Any]]:
        """Representations that the predictions have to hold, and the options of each."""
        return {}

    def check(self, committee: Committee) -> None:
        """Refuse potentials that it cannot be made of, before anything is evaluated.

        :raises ValueError: saying which potentials it needs.
        """
        return None

    def fit(self, committee: Committee, frames: Iterable[Frame]) -> None:
        """Learn what is known.

        :param frames: all labelled frames, streamed.
        :raises ValueError: where nothing can be learnt from them.
        """
        return None

    @abstractmethod
    def __call__(self, predictions: Predictions) -> Deviations:
        """The signal for the frames of some predictions; NaN where a prediction is not finite."""

    def report(self) -> dict[str, Any]:
        """What was learnt, as plain numbers and texts."""
        return {}
