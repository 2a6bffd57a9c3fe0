"""Check of the options of a training where its trainer is installed, without loading what is heavy into this process.

``python -m aiida_alpot.worker.training.check`` reads the settings as JSON from its standard input and writes
``{"refused": sentence}``, or ``{}``, as the last line of its standard output.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

from aiida_alpot.worker.training.registry import make_trainer, trainer_class
from aiida_alpot.worker.training.settings import parse_settings
from aiida_alpot.worker.training.trainer import Trainer

MODULE = 'aiida_alpot.worker.training.check'
MAX_SECONDS = 120.0
"""A check that takes longer has failed: importing torch takes some seconds, from a busy network disk a minute."""


class TrainerNotInstalled(ValueError):  # noqa: N818 -- what is the case, as its neighbour TrainingFailed
    """The package of the trainer is not installed here, so its options cannot be compared with what it takes."""


def check_installed(trainer: type[Trainer]) -> None:
    """Refuse a trainer whose package is not installed.

    :raises TrainerNotInstalled: saying what to install.
    """
    if find_spec(trainer.requires) is None:
        raise TrainerNotInstalled(
            f'the trainer {trainer.name!r} needs the Python package `{trainer.requires}`, which is not installed in '
            f'{sys.prefix}: install it there (for a trainer of ours by `pip install aiida-alpot[{trainer.name}]`), or '
            'give a code whose environment has it'
        )


def check_options(settings: Mapping[str, Any]) -> None:
    """Compare options of a training with what the trainer itself says that it takes.

    A trainer that has to import torch for this is asked in a process of its own. Answers are kept.

    :param settings: plain values, by the names in :class:`~.settings.TrainingSettings`.
    :raises TrainerNotInstalled: where the trainer is not installed here; all that does not need it was checked.
    :raises ValueError: for an option that is refused; the sentence says why.
    """
    text = json.dumps(settings, sort_keys=True, default=dict)
    parsed = parse_settings(json.loads(text))
    trainer = trainer_class(parsed.trainer)
    check_installed(trainer)
    refused = _refused_here(text) if trainer.checks_without_import else _refused_elsewhere(text)
    if refused:
        raise ValueError(refused)


def _refused_here(text: str) -> str:
    try:
        make_trainer(parse_settings(json.loads(text))).check_options()
    except ValueError as error:
        return str(error) or repr(error)
    return ''


@lru_cache(maxsize=256)
def _refused_elsewhere(text: str) -> str:
    """The sentence with which the options are refused, or ''."""
    command = [sys.executable, '-W', 'ignore', '-m', MODULE]
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=MAX_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise ValueError(f'the options could not be checked within {MAX_SECONDS:.0f} s: try again') from error
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        words = done.stderr.strip().splitlines() or [f'exit code {done.returncode}']
        raise ValueError(f'the options could not be checked, the trainer failed to load: {words[-1]}')
    return str(json.loads(lines[-1]).get('refused', ''))


def main() -> None:
    """Check the settings on the standard input."""
    with redirect_stdout(sys.stderr):  # packages greet when they are imported
        refused = _refused_here(sys.stdin.read())
    print(json.dumps({'refused': refused} if refused else {}))


if __name__ == '__main__':
    main()
