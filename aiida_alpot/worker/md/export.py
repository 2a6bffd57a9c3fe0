"""A folder with which anybody runs a committee in LAMMPS, without AiiDA."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from ase.data import atomic_numbers

from aiida_alpot.worker.frames.frame import Frame
from aiida_alpot.worker.md.lammps_input import (
    DATA_FILE,
    DRIVER_FILE,
    SCRIPT_FILE,
    MDSettings,
    lammps_script,
    write_lammps_input,
)

_README = """# An interatomic potential for {elements}, ready for LAMMPS

A committee of {n_members} potentials for LAMMPS, exported by aiida-alpot.

    pip install "aiida-alpot[mace]"     # brings LAMMPS and its MPI library
    alpot-md -in {script}

- `{script}`: an ordinary LAMMPS script; change temperature, ensemble and number of steps as you like. The line
  `fix alpot all external pf/callback 1 1` is where the potential comes in.
- `{data}`: {structure}
- `{driver}`: which elements the types are, which member drives, how often all members are evaluated, how often a
  frame is kept.
- `committee/`: the potentials. They are loaded by Python, which can run any code they contain: trust their source.

`f_alpot[1]`, `f_alpot[2]` and `f_alpot[3]` are the largest and the mean deviation of the committee's forces (eV/A)
and that of its energies (eV/atom): where they are large, do not trust the run. Results: `log.lammps`, `frames/*.h5`
(the kept frames), `deviations.npz` and `md.json` (why the run ended). From Python:
`aiida_alpot.worker.potentials.load_committee([...])`.
"""


def export_lammps(
    directory: Path | str,
    committee: Sequence[Path | str],
    elements: Sequence[str],
    *,
    frame: Frame | None = None,
    settings: MDSettings | None = None,
    device: str = 'cpu',
) -> Path:
    """Write a folder to run with ``alpot-md -in in.lammps``.

    :param directory: made if it does not exist; must be empty.
    :param committee: files of the members; they are copied.
    :param elements: that the committee knows; types are numbered by atomic number.
    :param frame: start structure; without one the user supplies ``data.lammps``, and the script takes it for periodic.
    :param settings: conditions of the run that the script describes.
    :return: path of the script.
    :raises FileExistsError: where the folder holds something already.
    """
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise FileExistsError(f'{folder} is not empty: name a new folder')
    members = _copy_members(folder, [Path(path) for path in committee])
    settings = settings or MDSettings()
    types = sorted(elements, key=lambda symbol: atomic_numbers[symbol])
    if frame is None:
        driver = {'elements': types, 'committee': members, 'device': device}
        (folder / DRIVER_FILE).write_text(json.dumps(driver, indent=2) + '\n')
        (folder / SCRIPT_FILE).write_text(lammps_script(settings, types, np.ones(3, dtype=bool)))
        structure = f'to be supplied by you, atom style atomic, types 1 to {len(types)} = {" ".join(types)}.'
    else:
        written = write_lammps_input(frame, settings, committee=members, elements=types, device=device)
        # How long the run is, the script alone says: people change it there.
        driver = {key: value for key, value in written.driver.items() if key != 'n_steps'}
        replace(written, driver=driver).write(folder)
        structure = f'the start structure, {frame.formula}; types 1 to {len(types)} are {" ".join(types)}.'
    names = {'script': SCRIPT_FILE, 'driver': DRIVER_FILE, 'data': DATA_FILE, 'structure': structure}
    (folder / 'README.md').write_text(_README.format(elements=' '.join(types), n_members=len(members), **names))
    return folder / SCRIPT_FILE


def _copy_members(folder: Path, paths: Sequence[Path]) -> list[str]:
    """Copy the potentials into ``committee/``, numbered in their order; paths relative to the folder."""
    (folder / 'committee').mkdir()
    names = [f'committee/member_{index}{path.suffix}' for index, path in enumerate(paths)]
    for path, name in zip(paths, names, strict=True):
        shutil.copyfile(path, folder / name)
    return names
