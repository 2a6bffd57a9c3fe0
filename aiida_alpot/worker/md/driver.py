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

from aiida_alpot.worker.md.preparation import prepare_run
from aiida_alpot.worker.md.script import script_commands
from aiida_alpot.worker.md.several import run_folders
from aiida_alpot.worker.potentials import load_committee
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
        commands = list(script_commands(arguments.script.read_text()))
        run = prepare_run(commands, arguments.driver, load_committee, arguments.log, rest)
    except (OSError, ValueError, RuntimeError) as error:
        print(f'alpot-md: {error}', file=sys.stderr)
        return BAD_INPUT
    summary = run.execute()
    run.end_mpi()
    if summary['exit_code']:
        print(f'alpot-md: {summary["message"]}', file=sys.stderr)
    return int(summary['exit_code'])


if __name__ == '__main__':
    sys.exit(main())
