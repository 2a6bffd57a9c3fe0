"""Runs of the driver as its own process, as a CalcJob starts it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.build import bulk

import aiida_alpot
from aiida_alpot.worker.frames import FrameStore
from aiida_alpot.worker.frames.frame import Frame
from aiida_alpot.worker.md.lammps_input import write_lammps_input
from aiida_alpot.worker.md.settings import MDSettings
from aiida_alpot.worker.md.trajectory import read_watch

MISBEHAVING = '''
import os

import numpy as np
from ase.calculators.lj import LennardJones

class Misbehaving(LennardJones):
    """Argon until the tenth evaluation."""
    def __init__(self, how, **parameters):
        super().__init__(**parameters)
        self.how, self.calls = how, 0

    def calculate(self, *arguments, **options):
        super().calculate(*arguments, **options)
        self.calls += 1
        if self.calls == 11:
            if self.how == 'raise' or (self.how == 'one rank' and os.environ.get('PMI_RANK') == '1'):
                raise RuntimeError('a fault of the device, say')
            if self.how == 'nan':
                self.results['forces'] = self.results['forces'] * np.nan
            if self.how == 'kick':
                self.results['forces'] = self.results['forces'] + np.arange(self.atoms.positions.size).reshape(-1, 3)
'''

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
    def watch(self) -> dict[str, np.ndarray]:
        """The table of what the committee said."""
        return read_watch(self.folder / 'watch.h5')

    @property
    def kept(self) -> dict[str, np.ndarray]:
        """The rows of the table whose frames are kept."""
        watch = self.watch
        return {name: column[watch['kept'] != ''] for name, column in watch.items()}

    @property
    def frames(self) -> list[Frame]:
        """The kept frames, in order of their steps."""
        store = FrameStore(sorted((self.folder / 'frames').glob('*.h5')))
        return sorted(store, key=lambda frame: frame.metadata['step'])

    @property
    def thermo(self) -> np.ndarray:
        """The rows of LAMMPS' log that start with a step, columns as written by `lammps_script`."""
        rows = [line.split() for line in (self.folder / 'log.lammps').read_text().splitlines()]
        return np.array([[float(word) for word in row] for row in rows if len(row) == 12 and row[0].isdigit()])


@pytest.fixture
def launch() -> Callable[..., subprocess.Popen]:
    """Start the driver in a folder, without a path of the loader: it must find MPI by itself."""

    def start(folder: Path, *arguments: str, before: Sequence[str] = ()) -> subprocess.Popen:
        inherited = {name: value for name, value in os.environ.items() if name != 'LD_LIBRARY_PATH'}
        path = os.pathsep.join(filter(None, [PACKAGE_ROOT, inherited.get('PYTHONPATH', '')]))
        return subprocess.Popen(
            [*before, sys.executable, '-m', 'aiida_alpot.worker.md.driver', *(arguments or ('-in', 'in.lammps'))],
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

    def run(folder: Path, *arguments: str, before: Sequence[str] = ()) -> Outcome:
        process = launch(folder, *arguments, before=before)
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


@pytest.fixture
def prepare(argon: Frame, tmp_path: Path, lj_files: Callable[..., list[Path]]) -> Callable[..., Path]:
    """Write the input of a short run of argon."""

    def write(folder=None, frame=argon, committee=None, driver=None, **settings):
        """:param driver: entries of driver.json."""
        folder = folder or tmp_path
        options = {
            'temperature': 40.0,
            'timestep': 2.0,
            'n_steps': 20,
            'sample_every': 5,
            'committee_every': 2,
            **settings,
        }
        restart_file = options.pop('restart_file', '')
        paths = [str(path) for path in committee or lj_files()]
        written = write_lammps_input(
            frame, MDSettings(**options), committee=paths, metadata={'round': 1}, restart_file=restart_file
        )
        written = replace(written, driver={**written.driver, **(driver or {})})
        written.write(folder)
        return folder

    return write


@pytest.fixture
def misbehaving(tmp_path: Path) -> Callable[[str], list[Path]]:
    """A calculator that fails at its eleventh call."""

    def make(how):
        (tmp_path / 'misbehaving.py').write_text(MISBEHAVING)
        path = tmp_path / f'{how.replace(" ", "_")}.json'
        parameters = {'how': how, 'epsilon': 0.0104, 'sigma': 3.4, 'rc': 7.0}
        description = {
            'calculator': 'misbehaving.Misbehaving',
            'parameters': parameters,
            'elements': ['Ar'],
            'cutoff': 7.0,
        }
        path.write_text(json.dumps(description))
        return [path]

    return make
