"""From the files of a run to a run, or a sentence that says what is wrong with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from aiida_alpot.worker.md.configuration import DriverConfiguration
from aiida_alpot.worker.md.grade import GradeOfFrames
from aiida_alpot.worker.md.interactions import check_styles
from aiida_alpot.worker.md.lammps_library import open_lammps
from aiida_alpot.worker.md.run import Run
from aiida_alpot.worker.md.script import check_commands
from aiida_alpot.worker.potentials import Committee


def prepare_run(
    commands: Sequence[str],
    driver: Path,
    load: Callable[..., Committee],
    log: Path,
    arguments: Sequence[str] = (),
) -> Run:
    """A run of some commands in the working folder.

    :param driver: path of ``driver.json``.
    :param load: :func:`~aiida_alpot.worker.potentials.load_committee`, or what does the same.
    :param log: LAMMPS' log file, which ``arguments``, the others of LAMMPS, do not name.
    :raises ValueError: where the commands or the settings are not good; likewise ``OSError`` and ``RuntimeError``.
    """
    configuration = DriverConfiguration.read(driver)
    check_commands(commands)
    committee = load(configuration.committee, device=configuration.device, dtype=configuration.dtype)
    check_elements(configuration, committee)
    grade = None
    if configuration.active_set is not None:
        grade = GradeOfFrames(committee, configuration.committee, configuration.active_set)
    lammps = open_lammps(['-log', str(log), *arguments])
    try:
        check_styles(commands, lammps.has_style)
    except RuntimeError:
        lammps.close()
        raise
    return Run(lammps, commands, committee, configuration, log, grade)


def check_elements(configuration: DriverConfiguration, committee: Committee) -> None:
    """Refuse types that the potentials do not know."""
    unknown = [symbol for symbol in configuration.elements if symbol not in committee.elements]
    if unknown:
        raise ValueError(
            f'`elements` in driver.json lists {", ".join(unknown)}, but the committee knows '
            f'{", ".join(committee.elements)} only: correct the list, or name another committee'
        )
