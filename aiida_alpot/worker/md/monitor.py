"""What the committee says about the steps of a run, and what follows from it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from aiida_alpot.worker.acquisition.calibration import Calibration
from aiida_alpot.worker.acquisition.signals.committee import deviations
from aiida_alpot.worker.md.lammps_atoms import Snapshot
from aiida_alpot.worker.md.uncertainty import UncertaintySettings
from aiida_alpot.worker.potentials import Predictions

SAFE, UNCERTAIN, JUNK = 'safe', 'uncertain', 'junk'
GO_ON, HALT, REWIND = 'go on', 'halt', 'rewind'


@dataclass(frozen=True, eq=False)
class Observation:
    """What the committee says about one structure; what is not known is nan.

    :param potential_energy: of the driving member without a bias, eV.
    :param energy_deviation: eV/atom.
    :param max_force_deviation: eV/A.
    :param mean_force_deviation: eV/A.
    :param expected_force_error: what the calibration expects of the atom with the largest force deviation, eV/A.
    :param grade: largest extrapolation grade of an atom.
    :param bias_energy: eV.
    :param force_deviation: of each atom, shape (N,), eV/A; ``None`` where the committee has one member.
    """

    potential_energy: float
    energy_deviation: float = np.nan
    max_force_deviation: float = np.nan
    mean_force_deviation: float = np.nan
    expected_force_error: float = np.nan
    grade: float = np.nan
    bias_energy: float = 0.0
    force_deviation: np.ndarray | None = None

    @property
    def vector(self) -> tuple[float, ...]:
        """``f_ID[1]``, ``f_ID[2]``, ... of the fix."""
        return (
            self.max_force_deviation,
            self.mean_force_deviation,
            self.energy_deviation,
            self.expected_force_error,
            self.grade,
            self.bias_energy,
        )


def observe(
    predictions: Predictions,
    driving: int,
    calibration: Calibration | None = None,
    group: str | None = None,
    **known: Any,
) -> Observation:
    """Deviations of one frame, and the error to expect.

    :param driving: row of the member that drives.
    :param calibration: of the forces; without one the expected error is the deviation.
    :param group: of the calibration: the origin of the frames.
    :param known: other fields of the observation.
    """
    energy = float(predictions.energy[driving, 0])
    if len(predictions.energy) < 2:
        return Observation(energy, **known)
    found = deviations(predictions)
    largest = float(found.max_force[0])
    expected = largest
    if calibration is not None:
        expected = float(calibration.expected_error(np.array([largest]), group)[0])
    return Observation(
        energy,
        energy_deviation=float(found.energy[0]),
        max_force_deviation=largest,
        mean_force_deviation=float(found.mean_force[0]),
        expected_force_error=expected,
        force_deviation=found.force,
        **known,
    )


@dataclass(eq=False)
class Seen:
    """A step that the committee looked at.

    :param state: temperature (K) and pressure (GPa), nan until they are known.
    :param frame_id: of the frame if it is kept, or ''.
    """

    snapshot: Snapshot
    observation: Observation
    state: tuple[float, float] = (np.nan, np.nan)
    frame_id: str = ''


@dataclass(frozen=True, eq=False)
class Decision:
    """What follows from a step.

    :param verdict: ``safe``, ``uncertain`` or ``junk``.
    :param action: ``go on``, ``halt`` or ``rewind``.
    :param before: steps before it that are to be kept too.
    :param reason: why the run does not go on, in a sentence; or ''.
    """

    verdict: str = SAFE
    action: str = GO_ON
    before: tuple[Seen, ...] = ()
    reason: str = ''


@dataclass
class Monitor:
    """Judges the steps of a run by bounds of the uncertainty.

    :param settings: the bounds; ``None``: all steps are safe.
    :param committee_every: the committee looks at every so many steps.
    :ivar n_junk: frames beyond an upper bound.
    :ivar n_rewinds: times that the run went back.
    :ivar last_safe: the last step below all bounds, which a rewind goes back to.
    """

    settings: UncertaintySettings | None
    committee_every: int
    n_junk: int = 0
    n_rewinds: int = 0
    last_safe: Seen | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self._before: deque[Seen] = deque(maxlen=self.settings.keep_before if self.settings else 0)

    def judge(self, seen: Seen, can_rewind: bool = True) -> Decision:
        """What follows from a step; each is to be shown once, in order.

        :param can_rewind: whether the run could go back from here.
        """
        if self.settings is None:
            return Decision()
        verdict, why = self._verdict(seen.observation)
        if verdict == SAFE:
            self._remember(seen)
            return Decision()
        before = tuple(self._before)
        self._before.clear()
        self.n_junk += verdict == JUNK
        action, addition = self._action(verdict, can_rewind)
        reason = '' if action == GO_ON else f'at step {seen.snapshot.step} {why}{addition}'
        return Decision(verdict, action, before, reason)

    def remembers(self, seen: Seen) -> bool:
        """Whether the step may still be kept, as one before a crossing."""
        return any(earlier is seen for earlier in self._before)

    def _verdict(self, observation: Observation) -> tuple[str, str]:
        """The verdict, and what lies beyond which bound."""
        settings = self.settings
        assert settings is not None
        measures = (
            ('the expected force error is {:.4g} eV/A', observation.expected_force_error, 'lower', 'upper'),
            ('the extrapolation grade is {:.4g}', observation.grade, 'grade_lower', 'grade_upper'),
        )
        crossed = ''
        for text, value, lower, upper in measures:
            low, high = getattr(settings, lower), getattr(settings, upper)
            if low is None:
                continue
            if np.isnan(value):
                return JUNK, f'{text.format(value)}: a prediction is not finite'
            if high is not None and value > high:
                return JUNK, f'{text.format(value)}, above `{upper}`, {high:g}'
            if value > low and not crossed:
                crossed = f'{text.format(value)}, above `{lower}`, {low:g}'
        return (UNCERTAIN, crossed) if crossed else (SAFE, '')

    def _action(self, verdict: str, can_rewind: bool) -> tuple[str, str]:
        """What the run does, and why not what was asked for."""
        settings = self.settings
        assert settings is not None
        if settings.on_crossing == 'rewind':
            if not can_rewind:
                return HALT, '; from here the run cannot go back'
            if self.last_safe is None:
                return HALT, '; there is no step below the bounds to go back to'
            if self.n_rewinds >= settings.max_rewinds:
                return HALT, f' after {self.n_rewinds} rewinds, which is `max_rewinds`'
            self.n_rewinds += 1
            return REWIND, ''
        return (HALT, '') if verdict == JUNK or settings.on_crossing == 'halt' else (GO_ON, '')

    def _remember(self, seen: Seen) -> None:
        assert self.settings is not None
        self.last_safe = seen
        if seen.snapshot.step % (self.settings.before_every or self.committee_every) == 0:
            self._before.append(seen)
