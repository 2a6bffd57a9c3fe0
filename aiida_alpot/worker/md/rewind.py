"""Set a LAMMPS run back to a structure that it came through."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from typing import Any

import numpy as np

from aiida_alpot.worker.md.lammps_atoms import Snapshot
from aiida_alpot.worker.seeds import derive_seed

LABEL = 'rewind'


def rewind(
    lammps: Any, snapshot: Snapshot, temperature: float, seed: int, number: int, fixes: Iterable[str] = ()
) -> None:
    """Positions and cell as they were, and new velocities.

    The step counter goes on. Atoms keep their species, which Monte Carlo moves may have exchanged since: that is set
    back too. Image flags stay, so that a molecule or a trajectory that is unwrapped with them may jump by a lattice
    vector. Nose-Hoover thermostats and barostats are defined anew, at rest: what they had stored belonged to the
    motion that is undone.

    :param temperature: of the new velocities, K.
    :param seed: of the run.
    :param number: of the rewind, from 1: each has velocities of its own.
    :param fixes: commands that define Nose-Hoover thermostats and barostats.
    """
    _set_box(lammps, snapshot)
    values = np.ascontiguousarray(snapshot.positions, dtype=np.float64).reshape(-1)
    lammps.scatter_atoms('x', 1, 3, (ctypes.c_double * len(values))(*values))
    kinds = (ctypes.c_int * len(snapshot.types))(*snapshot.types.tolist())
    lammps.scatter_atoms('type', 0, 1, kinds)
    for command in fixes:
        lammps.command(command)
    rotation = 'no' if snapshot.pbc.any() else 'yes'
    lammps.command(
        f'velocity all create {temperature!r} {max(1, derive_seed(seed, LABEL, number))} mom yes rot {rotation} '
        'dist gaussian loop all'
    )


def _set_box(lammps: Any, snapshot: Snapshot) -> None:
    """The box of a snapshot along periodic axes; along the others it follows the atoms by itself."""
    cell, low, pbc = snapshot.cell, snapshot.low, snapshot.pbc
    words = [
        f'{name} final {float(low[axis])!r} {float(low[axis] + cell[axis, axis])!r}'
        for axis, name in enumerate('xyz')
        if pbc[axis]
    ]
    if lammps.extract_setting('triclinic'):
        tilts = (('xy', 1, 0), ('xz', 2, 0), ('yz', 2, 1))
        words += [f'{name} final {float(cell[i, j])!r}' for name, i, j in tilts if pbc[i] and pbc[j]]
    if words:
        lammps.command(f'change_box all {" ".join(words)} units box')
