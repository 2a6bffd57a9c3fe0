"""Temperature and pressure at full steps, as LAMMPS notes them."""

from __future__ import annotations

from typing import Any

import numpy as np

_GPA_PER_BAR = 1.0e-4


class FullSteps:
    """The thermodynamic state at the end of the last step that is a multiple of an interval.

    The callback of ``fix external`` sees velocities at half steps, so LAMMPS itself has to say what holds at the full
    ones; it says so when the next step begins.

    :param intervals: steps.
    """

    def __init__(self, lammps: Any, intervals: list[int]) -> None:
        self._lammps = lammps
        self._ids = [f'alpot_state_{index}' for index in range(len(intervals))]
        lammps.command('variable alpot_step equal step+1')  # zero stands for nothing noted yet
        for name, every in zip(self._ids, intervals, strict=True):
            lammps.command(f'fix {name} all ave/time {every} 1 {every} v_alpot_step c_thermo_temp c_thermo_press')

    @classmethod
    def at(cls, lammps: Any, *intervals: int) -> FullSteps:
        """Intervals without those that are multiples of others."""
        needed = sorted(set(intervals))
        return cls(lammps, [every for every in needed if not any(every % i == 0 for i in needed if i < every)])

    def state(self, step: int) -> tuple[float, float]:
        """Temperature (K) and pressure (GPa) at a step; nan where LAMMPS has not noted them."""
        for name in self._ids:
            noted, temperature, pressure = (self._lammps.extract_fix(name, 0, 1, index) for index in range(3))
            if noted == step + 1:
                return float(temperature), float(pressure) * _GPA_PER_BAR
        return np.nan, np.nan
