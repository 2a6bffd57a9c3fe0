"""What all generators share: the frames they return, and how the registry describes them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from aiida_alpot.worker.frames.frame import Frame

Lineage = Literal['source', 'frame', 'step', 'own']


@dataclass(frozen=True)
class Generator:
    """A registered generator.

    :param name: its name in a plan, and the ``origin`` of its frames.
    :param parameters: frozen dataclass of its parameters; every field has a default and is validated.
    :param function: ``function(frame, parameters, seed)`` -> frames made from this one; pure.
    :param unsuitable: ``unsuitable(frame, parameters)`` -> why nothing can be made from this frame, or ''.
    :param lineage: where the lineage of a frame comes from that is made of an undistorted one: that of its source
        (``source``), one of its own for each frame (``frame``) or for all that come from one source (``step``), or what
        the generator itself has set (``own``). What is made of a distorted frame always keeps that frame's lineage,
        except under ``own``.
    :param default_on: steps whose frames it acts on, the first of these that the plan has.
    """

    name: str
    parameters: type
    function: Callable[[Frame, Any, int], list[Frame]]
    unsuitable: Callable[[Frame, Any], str]
    lineage: Lineage
    default_on: tuple[str, ...]


def derive(
    frame: Frame,
    origin: str,
    *,
    numbers: np.ndarray | None = None,
    positions: np.ndarray | None = None,
    cell: np.ndarray | None = None,
    **how: Any,
) -> Frame:
    """Frame made from another: without its labels and split, with its lineage and a record of what was done.

    :param how: what was done, JSON-serialisable; kept in ``metadata['generated']``, a list of one entry a generator.
    """
    done = [*frame.metadata.get('generated', []), {'generator': origin, **how}]
    return Frame(
        frame.numbers if numbers is None else numbers,
        frame.positions if positions is None else positions,
        frame.cell if cell is None else cell,
        frame.pbc,
        lineage=frame.lineage,
        origin=origin,
        metadata={**frame.metadata, 'generated': done},
    )
