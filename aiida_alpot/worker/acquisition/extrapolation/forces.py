"""Atoms with forces far beyond those of the others."""

from __future__ import annotations

import numpy as np

from aiida_alpot.worker.acquisition.calibration.thresholds import adaptive


def usual_forces(forces: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Which atoms are used to choose active sets, shape (N,).

    The W study (Shuang et al., Mach. Learn.: Sci. Technol. 7, 025002), eq 13: atoms whose force exceeds
    Q3 + 1.5 IQR of all force magnitudes are left out, because a few extreme environments would stretch the active set
    so far that everything else lies within it. The quartiles are those of the atom's own species: light and heavy atoms
    feel different forces, and no species loses more than a quarter of its atoms.

    :param forces: labels, shape (N, 3), eV/A. An atom whose force is not finite is left out.
    :param numbers: atomic numbers, shape (N,).
    :raises ValueError: for shapes that do not go together.
    """
    if forces.shape != (len(numbers), 3):
        raise ValueError(f'`forces` has shape {forces.shape}, expected ({len(numbers)}, 3): one vector for each atom')
    size = np.linalg.norm(np.asarray(forces, dtype=np.float64), axis=1)
    usual = np.zeros(len(numbers), dtype=bool)
    for number in np.unique(numbers):
        own = (numbers == number) & np.isfinite(size)
        if own.any():
            usual |= own & (size <= adaptive(size[own]))
    return usual
