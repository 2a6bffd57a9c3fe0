"""Calibrations of their own for groups of frames: of one origin, or of one cluster."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from aiida_alpot.worker.acquisition.calibration.fitted import MIN_FRAMES, Calibration, FittedCalibration


@dataclass(frozen=True)
class GroupedCalibration:
    """One calibration of all frames, and one of each group that has enough of them.

    :param overall: of all frames; it stands in for groups that are unknown or too small.
    :param groups: by the label of the group.
    :param left: labels of the groups that are too small, and why.
    """

    overall: Calibration
    groups: Mapping[str, Calibration]
    left: Mapping[str, str]

    @property
    def trustworthy(self) -> bool:
        """Whether all of them may be relied on; those that may not already are the safer rule."""
        return self.overall.trustworthy and all(fit.trustworthy for fit in self.groups.values())

    @property
    def reason(self) -> str:
        """Why not, in a sentence; or ''."""
        reasons = [self.overall.reason, *(f'{label}: {fit.reason}' for label, fit in self.groups.items() if fit.reason)]
        return '; '.join(reason for reason in reasons if reason)

    def of(self, group: str | None) -> Calibration:
        """The calibration that holds for a group."""
        return self.overall if group is None else self.groups.get(str(group), self.overall)

    def expected_error(self, deviation: np.ndarray, group: np.ndarray | str | None = None) -> np.ndarray:
        """Error to expect at a deviation, in the unit of the deviation, any shape; NaN for NaN.

        :param group: label of the group of each deviation, same shape, or of all; ``None``: the calibration of all
            frames.
        :raises ValueError: for labels of another shape.
        """
        d = np.asarray(deviation, dtype=np.float64)
        if group is None or isinstance(group, str):
            return self.of(group).expected_error(d)
        labels = np.asarray(group)
        if labels.shape != d.shape:
            raise ValueError(
                f'deviations have shape {d.shape}, groups {labels.shape}: expected the group of each deviation'
            )
        expected = np.array(self.overall.expected_error(d))
        for label in np.unique(labels):
            rows = labels == label
            expected[rows] = self.of(str(label)).expected_error(d[rows])
        return expected

    def threshold(self, tolerance: float, group: str | None = None) -> float:
        """Deviation above which the expected error of a frame of the group exceeds the tolerance."""
        return self.of(group).threshold(tolerance)

    def as_dict(self) -> dict[str, Any]:
        """All there is to know of it: that of all frames, with ``groups`` and ``left`` besides."""
        return {
            **self.overall.as_dict(),
            'groups': {label: fit.as_dict() for label, fit in self.groups.items()},
            'left': dict(self.left),
        }

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> GroupedCalibration:
        """The calibration of ``as_dict``, also after JSON."""
        overall = {key: value for key, value in stored.items() if key not in ('groups', 'left')}
        groups = {label: FittedCalibration.from_dict(fit) for label, fit in stored['groups'].items()}
        return cls(FittedCalibration.from_dict(overall), groups, dict(stored['left']))


def grouped(
    fit: Callable[..., Calibration],
    deviation: np.ndarray,
    error: np.ndarray,
    frame: np.ndarray,
    group: np.ndarray,
    min_frames: int = MIN_FRAMES,
    **options: Any,
) -> GroupedCalibration:
    """A calibration of all frames, and one of each group with at least ``min_frames`` of them.

    A group that is large enough has its own, even one that is not trusted: its safer rule knows how wrong the group is.
    A group that is too small has that of all frames. The guarantee of a conformal kind then holds within each group
    that has its own (Mondrian conformal prediction; Vovk, Gammerman, Shafer).

    :param fit: one of :data:`CALIBRATIONS`; ``options`` are passed on.
    :param deviation: shape (n,); likewise ``error`` and ``frame``.
    :param group: label of the group of each frame or atom, such as its origin or its cluster, shape (n,).
    :raises ValueError: as the kind, and for another number of labels.
    """
    d, e, frames, labels = (np.asarray(column) for column in (deviation, error, frame, group))
    if labels.shape != d.shape:
        raise ValueError(
            f'deviations have shape {d.shape}, groups {labels.shape}: expected the group of each deviation'
        )
    overall = fit(d, e, frames, min_frames, **options)
    groups: dict[str, Calibration] = {}
    left: dict[str, str] = {}
    for label in np.unique(labels):
        rows = labels == label
        n_frames = len(np.unique(frames[rows & np.isfinite(d) & np.isfinite(e)]))
        if n_frames < min_frames:
            left[str(label)] = f'{n_frames} held-out frames, at least {min_frames} are needed: that of all frames holds'
        else:
            groups[str(label)] = fit(d[rows], e[rows], frames[rows], min_frames, **options)
    return GroupedCalibration(overall, groups, left)
