"""What aiida-alpot writes beside each frame, so that its own files come back exactly and without any declaration.

The record holds the provenance of the frame, under which keys its labels stand, how its user arrays were laid out, and
a check: a hash of structure, labels and level of theory. Other programs pass the record on while they change what it
speaks of, for example when a structure is read, calculated anew and written again. Then the check does not fit, and
the labels are those of a foreign file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..frame import PROPERTIES, PROVENANCE, STRUCTURE, Frame
from ..shard import dump_metadata
from .styles import PER_ATOM

RECORD_KEY = 'alpot'
"""Key of the record: in the comment line of extended XYZ, ``data`` of an ASE database, ``info`` of a trajectory."""

CHECK_DIGITS = 16
_TYPES = {'numbers': '<i4', 'pbc': 'u1'}


@dataclass
class RawFrame:
    """One entry of a file before anybody has said what its numbers mean.

    :param info: values of the frame, by their keys; without the record.
    :param columns: arrays of the atoms, shape (n, ...), by their keys; without species and positions.
    :param record: what aiida-alpot wrote beside it, if it did.
    :param calculator: name and parameters of the ASE calculator that the file names, if it does.
    :param where: which entry of which file, for messages.
    """

    numbers: np.ndarray
    positions: np.ndarray
    cell: np.ndarray
    pbc: np.ndarray
    info: dict[str, Any]
    columns: dict[str, np.ndarray]
    where: str
    record: Mapping[str, Any] | None = None
    calculator: tuple[str | None, Mapping[str, Any]] = (None, {})

    def value(self, name: str, key: str) -> Any:
        """What stands under a key, first where a property of this name belongs; ``None`` where there is nothing."""
        first, second = (self.columns, self.info) if name in PER_ATOM else (self.info, self.columns)
        return first.get(key, second.get(key))

    def keys(self) -> list[str]:
        """All keys."""
        return [*self.info, *self.columns]


def make_record(frame: Frame, **layout: Any) -> dict[str, Any]:
    """Record of a frame.

    :param layout: what the format adds, for :func:`read_record`.
    """
    record: dict[str, Any] = {name: getattr(frame, name) for name in PROVENANCE if getattr(frame, name)}
    if frame.metadata:
        record['metadata'] = json.loads(dump_metadata(frame.metadata))
    return {**record, **{name: value for name, value in layout.items() if value}, 'check': check_of(frame)}


def check_of(frame: Frame) -> str:
    """Hash of structure, labels and level of theory, to the last bit but the sign of zeros."""
    digest = hashlib.sha256(frame.level_of_theory.encode())
    for name in (*STRUCTURE, *PROPERTIES):
        value = getattr(frame, name)
        if value is not None:
            digest.update(name.encode())
            # Some formats do not keep the sign of a zero.
            digest.update((np.asarray(value).astype(_TYPES.get(name, '<f8')) + 0).tobytes())
    return digest.hexdigest()[:CHECK_DIGITS]


def read_record(raw: RawFrame, values: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Frame | None:
    """The frame as it was written; ``None`` where there is no record, or where it does not fit what is there.

    :param values: the labels, by property.
    :param arrays: the user arrays.
    """
    if not raw.record:
        return None
    try:
        provenance = {name: raw.record[name] for name in PROVENANCE if name in raw.record}
        structure = {name: getattr(raw, name) for name in STRUCTURE}
        frame = Frame(**structure, **values, **provenance, arrays=arrays)
    except (TypeError, ValueError):
        # What makes no frame is not as it was written: the labels are looked at as those of a foreign file.
        return None
    return frame if check_of(frame) == raw.record.get('check') else None
