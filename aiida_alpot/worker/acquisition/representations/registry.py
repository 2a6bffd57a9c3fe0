"""The registry of representations, and what is asked of one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from aiida_alpot.worker.acquisition.representations.activations import (
    activations,
    activations_per_atom,
    activations_sum,
)
from aiida_alpot.worker.acquisition.representations.force_features import force_gram, force_ntk
from aiida_alpot.worker.acquisition.representations.last_layer import last_layer, last_layer_per_atom
from aiida_alpot.worker.acquisition.representations.morgan import morgan, morgan_tanimoto
from aiida_alpot.worker.acquisition.representations.ntk import ntk, ntk_sketch
from aiida_alpot.worker.acquisition.representations.recording import (
    EMBEDDING_GRADIENT,
    FORCE_DERIVATIVES,
    LAST_LAYER,
    LAST_LAYER_GRADIENT,
    Recording,
)
from aiida_alpot.worker.acquisition.representations.soap import soap, soap_per_atom

if TYPE_CHECKING:
    from aiida_alpot.worker.frames.frame import Frame

_GIVEN = {'recording', 'frames', 'elements_of_model'}
"""Arguments that are not options."""


@dataclass(frozen=True)
class Representation:
    """A way of making rows of numbers, of a pass of a model or of the frames alone: one of the two functions is given.

    A name that ends in ``_per_atom`` gives a row an atom, (N, d), any other a row a frame, (n, d).

    :param of_recording: function of a :class:`Recording` and of options, gives a tensor.
    :param of_frames: function of frames, of the elements of the model and of options, gives an array.
    :param needs: what the pass has to record, of :mod:`~aiida_alpot.worker.acquisition.representations.recording`.
    """

    of_recording: Callable[..., Any] | None = None
    of_frames: Callable[..., np.ndarray] | None = None
    needs: frozenset[str] = frozenset()

    @property
    def function(self) -> Callable[..., Any]:
        """The function that is given."""
        function = self.of_recording or self.of_frames
        if function is None:
            raise ValueError('a representation needs a function, of a recording or of frames')
        return function

    @property
    def options(self) -> tuple[str, ...]:
        """Names of the options of the function."""
        return tuple(name for name in inspect.signature(self.function).parameters if name not in _GIVEN)

    @property
    def summary(self) -> str:
        """First line of what the function says about itself."""
        return (inspect.getdoc(self.function) or '').split('\n', 1)[0]


REPRESENTATIONS: dict[str, Representation] = {
    'ntk': Representation(ntk, needs=frozenset({EMBEDDING_GRADIENT})),
    'ntk_sketch': Representation(ntk_sketch),
    'activations': Representation(activations),
    'activations_sum': Representation(activations_sum),
    'activations_per_atom': Representation(activations_per_atom),
    'last_layer': Representation(last_layer, needs=frozenset({LAST_LAYER})),
    'last_layer_per_atom': Representation(last_layer_per_atom, needs=frozenset({LAST_LAYER})),
    'force_ntk': Representation(force_ntk, needs=frozenset({FORCE_DERIVATIVES})),
    'force_gram': Representation(force_gram, needs=frozenset({LAST_LAYER_GRADIENT})),
    'soap': Representation(of_frames=soap),
    'soap_per_atom': Representation(of_frames=soap_per_atom),
    'morgan': Representation(of_frames=morgan),
    'morgan_tanimoto': Representation(of_frames=morgan_tanimoto),
}
"""Name of a representation -> how it is made."""


@dataclass(frozen=True, eq=False)
class Feature:
    """A representation with the options it is asked for with."""

    name: str
    representation: Representation
    options: Mapping[str, Any] = field(default_factory=dict)

    def of_recording(self, recording: Recording) -> np.ndarray:
        """Rows of a pass, shape (n, d) or (N, d)."""
        assert self.representation.of_recording is not None
        rows: np.ndarray = self.representation.of_recording(recording, **self.options).detach().cpu().numpy()
        return rows

    def of_frames(self, frames: Sequence[Frame], elements: Sequence[str]) -> np.ndarray:
        """Rows of frames, shape (n, d)."""
        assert self.representation.of_frames is not None
        return self.representation.of_frames(frames, elements, **self.options)


def resolve(features: Sequence[str] | Mapping[str, Mapping[str, Any]]) -> tuple[Feature, ...]:
    """Features from their names, or from options by name.

    :raises ValueError: for a name that is unknown or given twice, or an option that does not exist.
    """
    if isinstance(features, str):
        features = (features,)
    named = features if isinstance(features, Mapping) else {name: {} for name in features}
    if len(named) < len(features):
        raise ValueError(f'`features` names one twice: {", ".join(features)}')
    found = []
    for name, options in named.items():
        if name not in REPRESENTATIONS:
            raise ValueError(f'`features` names {name!r}, expected names of {", ".join(REPRESENTATIONS)}')
        representation = REPRESENTATIONS[name]
        unknown = [option for option in options if option not in representation.options]
        if unknown:
            possible = ', '.join(representation.options) or 'none'
            raise ValueError(f'the representation {name!r} has no option {", ".join(unknown)}: it has {possible}')
        found.append(Feature(name, representation, dict(options)))
    return tuple(found)
