"""Why a run ends: the reasons that programs read, and their exit codes."""

from __future__ import annotations

EXIT_CODES = {
    'completed': 0,
    'walltime': 0,
    'halted': 0,
    'terminated': 15,
    'potential_error': 20,
    'not_finite': 21,
    'temperature': 22,
    'lost_atoms': 23,
    'lammps_error': 24,
}


class RunError(Exception):
    """The run must stop: a reason that programs read, and a sentence for people."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
