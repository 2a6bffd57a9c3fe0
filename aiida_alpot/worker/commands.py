"""The console programs that a CalcJob starts on a compute node.

They only hand over to the modules that do the work, and import those when called: ``--help`` of one program does not
wait for torch.
"""

from __future__ import annotations

import sys


def md() -> None:
    """``alpot-md -in SCRIPT [-driver FILE]``: molecular dynamics in LAMMPS with the committee inside."""
    from aiida_alpot.worker.md.driver import main

    sys.exit(main(sys.argv[1:]))


def evaluate() -> None:
    """``alpot-evaluate CONFIG.json``: score a pool with a committee, calibrate the scores and select."""
    from aiida_alpot.worker.acquisition.evaluate import main

    sys.exit(main(sys.argv[1:]))


def explore() -> None:
    """``alpot-explore JOB.json``: relaxations, random and basin searches and nudged elastic bands with a committee."""
    from aiida_alpot.worker.explorers.program import main

    sys.exit(main(sys.argv[1:]))


def train() -> None:
    """``alpot-train TRAIN.json``: train the members of a committee side by side."""
    from aiida_alpot.worker.training.program import main

    sys.exit(main(sys.argv[1:]))
