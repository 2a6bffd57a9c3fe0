"""``alpot-md -in FILE``: LAMMPS, driven by a committee of potentials.

The script is executed as LAMMPS would execute it, command by command, save that commands which jump in the file are
refused. When it defines its ``fix ID all external pf/callback 1 1``, the committee named in ``driver.json`` takes it
over. Frames, and a table of what the committee says, are written while the run goes on. Whatever happens, what was
sampled so far is kept, and ``md.json`` says why the run ended:

===================  =========  ====================================================================
reason               exit code  meaning
===================  =========  ====================================================================
``completed``        0          all steps were done
``walltime``         0          LAMMPS' own timer ended the run before that
``halted``           0          the committee did not know enough, or a ``fix halt`` of the script ended the run
``terminated``       15         a signal (SIGTERM, SIGINT) ended the run after a full step
``potential_error``  20         the evaluation of the potential raised an exception
``not_finite``       21         positions, energy or forces were not finite
``temperature``      22         the temperature exceeded its bound
``lost_atoms``       23         LAMMPS lost atoms
``lammps_error``     24         LAMMPS stopped with another error
===================  =========  ====================================================================

Bad input (exit code 2) is refused before anything runs, with a sentence on the standard error and no ``md.json``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from aiida_alpot.worker.md.configuration import DriverConfiguration
from aiida_alpot.worker.md.grade import GradeOfFrames
from aiida_alpot.worker.md.lammps_library import open_lammps
from aiida_alpot.worker.md.run import Run
from aiida_alpot.worker.md.script import check_commands, script_commands
from aiida_alpot.worker.md.several import run_folders
from aiida_alpot.worker.potentials import Committee, load_committee
from aiida_alpot.worker.potentials.memory import keep_freed_memory

BAD_INPUT = 2


def main(argv: Sequence[str] | None = None) -> int:
    """The console program; what it does not know of the command line goes to LAMMPS.

    :return: exit code.
    """
    assert __doc__ is not None
    parser = argparse.ArgumentParser(prog='alpot-md', description=__doc__.split('\n\n')[0], allow_abbrev=False)
    parser.add_argument(
        '-in', '-i', dest='script', required=True, type=Path, metavar='FILE', help="LAMMPS' input script"
    )
    parser.add_argument('-driver', type=Path, default=Path('driver.json'), metavar='FILE', help='default: driver.json')
    parser.add_argument('-log', type=Path, default=Path('log.lammps'), metavar='FILE', help='default: log.lammps')
    parser.add_argument('-folders', nargs='+', type=Path, metavar='FOLDER', help='several runs, one a folder')
    arguments, rest = parser.parse_known_args(argv)
    keep_freed_memory()
    if arguments.folders:
        files = {'script': arguments.script, 'driver': arguments.driver, 'log': arguments.log}
        return run_folders(arguments.folders, **files, arguments=rest)
    try:
        configuration = DriverConfiguration.read(arguments.driver)
        commands = list(script_commands(arguments.script.read_text()))
        check_commands(commands)
        committee = load_committee(configuration.committee, device=configuration.device, dtype=configuration.dtype)
        check_elements(configuration, committee)
        grade = load_grade(configuration, committee)
        lammps = open_lammps(['-log', str(arguments.log), *rest])
    except (OSError, ValueError, RuntimeError) as error:
        print(f'alpot-md: {error}', file=sys.stderr)
        return BAD_INPUT
    summary = Run(lammps, commands, committee, configuration, arguments.log, grade).execute()
    if summary['exit_code']:
        print(f'alpot-md: {summary["message"]}', file=sys.stderr)
    return int(summary['exit_code'])


def check_elements(configuration: DriverConfiguration, committee: Committee) -> None:
    """Refuse types that the potentials do not know."""
    unknown = [symbol for symbol in configuration.elements if symbol not in committee.elements]
    if unknown:
        raise ValueError(
            f'`elements` in driver.json lists {", ".join(unknown)}, but the committee knows '
            f'{", ".join(committee.elements)} only: correct the list, or name another committee'
        )


def load_grade(configuration: DriverConfiguration, committee: Committee) -> GradeOfFrames | None:
    """The extrapolation grade that is asked for."""
    if configuration.active_set is None:
        return None
    return GradeOfFrames(committee, configuration.committee, configuration.active_set)


if __name__ == '__main__':
    sys.exit(main())
