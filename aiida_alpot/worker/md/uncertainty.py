"""Bounds of the uncertainty of a run, and what happens beyond them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aiida_alpot.worker.acquisition.calibration import FittedCalibration, GroupedCalibration, from_dict
from aiida_alpot.worker.options import build, choice, integer

ON_CROSSING = ('collect', 'halt', 'rewind')


@dataclass(frozen=True)
class UncertaintySettings:
    """Where the committee is asked whether it still knows.

    The measure is the largest *expected* force error of an atom: the largest force deviation, mapped by a calibration;
    without one it is the deviation itself. Beyond a lower bound a frame is worth a label and is kept whatever its step;
    beyond an upper bound it is junk: it is counted and not kept, and the run does not go on from it.

    :param lower: of the expected force error, eV/A; ``None`` where only the grade is bounded.
    :param upper: likewise; ``None`` for no junk.
    :param calibration: of the forces, as :meth:`.calibration.Calibration.as_dict` gives it; it may be one by origin.
    :param on_crossing: of the lower bound: ``collect`` frames and go on, ``halt`` the run, or ``rewind`` it to the last
        frame below all bounds, with new velocities. Beyond the upper bound a run that only collects is halted.
    :param keep_before: so many frames before the crossing of a bound are kept as well.
    :param before_every: these are so many steps apart; ``None``: those that the committee looked at.
    :param max_rewinds: after so many the run is halted.
    :param grade_lower: as ``lower``, of the largest extrapolation grade of an atom.
    :param grade_upper: as ``upper``.
    :raises ValueError: for values out of range.
    """

    lower: float | None = None
    upper: float | None = None
    calibration: Mapping[str, Any] | None = None
    on_crossing: str = 'collect'
    keep_before: int = 0
    before_every: int | None = None
    max_rewinds: int = 5
    grade_lower: float | None = None
    grade_upper: float | None = None

    def __post_init__(self) -> None:
        choice('on_crossing', self.on_crossing, ON_CROSSING)
        integer('keep_before', self.keep_before, 0)
        integer('max_rewinds', self.max_rewinds, 0)
        if self.before_every is not None:
            integer('before_every', self.before_every, 1)
        if self.lower is None and self.grade_lower is None:
            raise ValueError('`uncertainty` needs a bound: give `lower` (eV/A), or `grade_lower` with an active set')
        for lower, upper in (('lower', 'upper'), ('grade_lower', 'grade_upper')):
            self._check_pair(lower, upper)
        if self.calibration is not None:
            from_dict(self.calibration)

    def _check_pair(self, lower: str, upper: str) -> None:
        low, high = getattr(self, lower), getattr(self, upper)
        for name, value in ((lower, low), (upper, high)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not value > 0):
                raise ValueError(f'`{name}` of `uncertainty` is {value!r}: give a number above zero, or null')
        if high is not None and (low is None or not high > low):
            raise ValueError(f'`{upper}` of `uncertainty` is {high}: give more than `{lower}`, {low}')

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> UncertaintySettings:
        """Bounds of ``driver.json``.

        :raises ValueError: for unknown keys, or values out of range.
        """
        return build(cls, values, 'field of `uncertainty`:')

    @property
    def fitted(self) -> FittedCalibration | GroupedCalibration | None:
        """The calibration."""
        return None if self.calibration is None else from_dict(self.calibration)
