"""Writes down what the committee says about a run, and the frames that are kept."""

from __future__ import annotations

from collections import deque

import numpy as np

from aiida_alpot.worker.md.configuration import DriverConfiguration
from aiida_alpot.worker.md.full_steps import FullSteps
from aiida_alpot.worker.md.monitor import SAFE, UNCERTAIN, Decision, Monitor, Seen
from aiida_alpot.worker.md.trajectory import Trajectory


class Recorder:
    """Gets each step that the committee looked at, and writes rows and frames when all is known of them.

    Temperature and pressure of a step are known when the next one begins; whether a frame is kept as one before a
    crossing is known when the monitor does not remember it any more.

    :param trajectory: ``None`` where nothing is to be written: on MPI ranks other than the first.
    :param first_step: its frame is known already, and only kept where the committee does not know it.
    :ivar noted: the last step that was noted.
    :ivar highest: largest values so far.
    """

    def __init__(
        self,
        configuration: DriverConfiguration,
        monitor: Monitor,
        states: FullSteps,
        trajectory: Trajectory | None,
        first_step: int,
    ) -> None:
        self._configuration = configuration
        self._monitor = monitor
        self._states = states
        self._trajectory = trajectory
        self._first_step = first_step
        self._rotation, self._cell = np.array(configuration.rotation), np.array(configuration.cell)
        self._pending: list[tuple[Seen, str]] = []
        self._rows: deque[Seen] = deque()
        self.noted = -1
        self.highest = {'max_force_deviation': np.nan, 'expected_force_error': np.nan, 'grade': np.nan}

    def look(self, seen: Seen, can_rewind: bool) -> Decision:
        """Take a step, and say what follows from it.

        :param can_rewind: whether the run could go back from here.
        """
        step = seen.snapshot.step
        if step <= self.noted:
            return Decision()  # a second run begins where the first one ended, or a rewind
        self.noted = step
        for name, highest in self.highest.items():
            self.highest[name] = float(np.fmax(highest, getattr(seen.observation, name)))
        decision = self._monitor.judge(seen, can_rewind)
        if decision.verdict != SAFE:
            for earlier in decision.before:
                self._keep(earlier, 'before')
        self._pending.append((seen, self._why(step, decision.verdict)))
        return decision

    def _why(self, step: int, verdict: str) -> str:
        """Why the frame is kept, or ''."""
        if verdict == UNCERTAIN:
            return 'uncertain'
        is_due = step > self._first_step and step % self._configuration.sample_every == 0
        return 'interval' if verdict == SAFE and is_due else ''

    def settle(self) -> None:
        """Write down the steps before, whose temperature and pressure are known by now."""
        for seen, why in self._pending:
            seen.state = self._states.state(seen.snapshot.step)
            if why:
                self._keep(seen, why)
            self._rows.append(seen)
        self._pending.clear()
        self._release()
        if self._trajectory is not None:
            self._trajectory.flush_if_due()

    def close(self) -> None:
        """Write everything."""
        if self._trajectory is not None:
            while self._rows:
                self._note(self._rows.popleft())
            self._trajectory.flush()

    def _release(self) -> None:
        """Write rows of frames whose fate is known."""
        while self._rows and not self._monitor.remembers(self._rows[0]):
            self._note(self._rows.popleft())

    def _keep(self, seen: Seen, why: str) -> None:
        if seen.frame_id or self._trajectory is None:
            return
        values = dict(zip(('temperature', 'pressure'), seen.state, strict=True))
        for name in ('max_force_deviation', 'expected_force_error', 'grade'):
            values[name] = getattr(seen.observation, name)
        if self._monitor.n_rewinds:
            values['n_rewinds'] = self._monitor.n_rewinds
        known = {name: value for name, value in values.items() if np.isfinite(value)}
        metadata = {**self._configuration.metadata, 'step': seen.snapshot.step, 'why': why, **known}
        frame = seen.snapshot.frame(
            self._rotation,
            self._cell,
            lineage=self._configuration.lineage,
            origin=self._configuration.origin,
            metadata=metadata,
        )
        seen.frame_id = self._trajectory.keep(frame)

    def _note(self, seen: Seen) -> None:
        if self._trajectory is None:
            return
        observation = seen.observation
        names = ('potential_energy', 'energy_deviation', 'max_force_deviation', 'mean_force_deviation')
        self._trajectory.note(
            {
                'step': seen.snapshot.step,
                'time_ps': seen.snapshot.time,
                'temperature': seen.state[0],
                'pressure': seen.state[1],
                **{
                    name: getattr(observation, name)
                    for name in (*names, 'expected_force_error', 'grade', 'bias_energy')
                },
                'kept': seen.frame_id.encode(),
            }
        )
