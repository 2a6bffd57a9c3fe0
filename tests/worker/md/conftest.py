"""Runs of the driver as its own process, as a CalcJob starts it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.build import bulk

import aiida_alpot
from aiida_alpot.worker.frames.frame import Frame

PACKAGE_ROOT = str(Path(aiida_alpot.__file__).parents[1])


@dataclass
class Outcome:
    folder: Path
    returncode: int
    stdout: str
    stderr: str

    @property
    def summary(self) -> dict[str, Any]:
        return json.loads((self.folder / 'md.json').read_text())

    @property
    def deviations(self) -> dict[str, np.ndarray]:
        with np.load(self.folder / 'deviations.npz') as arrays:
            return dict(arrays)

    @property
    def thermo(self) -> np.ndarray:
        """The rows of LAMMPS' log that start with a step, columns as written by `lammps_script`."""
        rows = [line.split() for line in (self.folder / 'log.lammps').read_text().splitlines()]
        return np.array([[float(word) for word in row] for row in rows if len(row) == 9 and row[0].isdigit()])


@pytest.fixture
def launch() -> Callable[..., subprocess.Popen]:
    """Start the driver in a folder, without a path of the loader: it must find MPI by itself."""

    def start(folder: Path, *arguments: str) -> subprocess.Popen:
        inherited = {name: value for name, value in os.environ.items() if name != 'LD_LIBRARY_PATH'}
        path = os.pathsep.join(filter(None, [PACKAGE_ROOT, inherited.get('PYTHONPATH', '')]))
        return subprocess.Popen(
            [sys.executable, '-m', 'aiida_alpot.worker.md.driver', *(arguments or ('-in', 'in.lammps'))],
            cwd=folder,
            env={**inherited, 'PYTHONPATH': path, 'OMP_NUM_THREADS': '1'},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


@pytest.fixture
def drive(launch: Callable[..., subprocess.Popen]) -> Callable[..., Outcome]:
    """Run the driver in a folder to its end."""

    def run(folder: Path, *arguments: str) -> Outcome:
        process = launch(folder, *arguments)
        stdout, stderr = process.communicate(timeout=120)
        return Outcome(folder, process.returncode, stdout, stderr)

    return run


@pytest.fixture
def argon() -> Frame:
    """32 atoms of fcc argon, slightly displaced, in an orientation that LAMMPS does not allow."""
    atoms = bulk('Ar', 'fcc', 5.35, cubic=True).repeat(2)
    atoms.rattle(0.05, seed=7)
    atoms.rotate(35.0, (1.0, 2.0, 0.5), rotate_cell=True)
    return Frame.from_atoms(atoms)
