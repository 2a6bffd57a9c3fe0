"""``python -m aiida_alpot.worker.training.metatrain.process train options.yaml ...``: metatrain, made safe to kill.

It is ``mtt`` with three differences. Checkpoints appear whole, or not at all, and only the newest are kept, since
metatrain keeps all and each is six times the model. The tasks of a SLURM job are not taken for ranks of one training.
What went wrong is printed, not only written to a file.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aiida_alpot.worker.training.metatrain.architectures import alone
from aiida_alpot.worker.training.metatrain.outputs import attempts

KEPT = 2
"""Checkpoints of an attempt that are kept; the older one serves should a disk fail under the newer."""


def train(arguments: Sequence[str], architecture: Any, threads: int = 1) -> int:
    """Run metatrain with the arguments of ``mtt train``.

    :param architecture: its module; checkpoints are written by the trainer in it.
    :return: exit code.
    """
    import torch
    from metatrain.__main__ import main

    torch.set_num_threads(threads)
    # One for each frame, and what it assumes is how ours are written.
    warnings.filterwarnings('ignore', message='Found 9-long numerical vector')
    warnings.filterwarnings('ignore', category=DeprecationWarning, message='`torch.jit')
    sys.argv = ['mtt', 'train', *arguments]
    for handler in list(logging.getLogger().handlers):  # with any there, metatrain would set up none of its own
        logging.getLogger().removeHandler(handler)
    try:
        with alone(), _whole_checkpoints(architecture.__trainer__):
            main()
    except SystemExit as error:
        if error.code:
            _print_error()
        return error.code if isinstance(error.code, int) else int(bool(error.code))
    return 0


@contextmanager
def _whole_checkpoints(trainer: Any) -> Iterator[None]:
    original = trainer.save_checkpoint

    def save(self: Any, model: Any, path: Any) -> None:
        partial = Path(path).with_name('partial.ckpt')
        original(self, model, partial)
        if partial.exists():
            os.replace(partial, path)
            _prune(Path(path).parent)

    trainer.save_checkpoint = save
    try:
        yield
    finally:
        trainer.save_checkpoint = original


def _prune(folder: Path) -> None:
    """Remove all but the newest checkpoints of an attempt."""
    found = {path: re.fullmatch(r'model_(\d+)\.ckpt', path.name) for path in folder.iterdir()}
    numbered = sorted((int(match[1]), path) for path, match in found.items() if match)
    for _, path in numbered[:-KEPT]:
        path.unlink()


def _print_error() -> None:
    """metatrain prints one line of an error and hides the rest in a file."""
    for folder in attempts(Path.cwd())[-1:]:
        if (folder / 'error.log').is_file():
            print((folder / 'error.log').read_text(), flush=True)


def main() -> int:
    """The same from the command line: the name of the architecture, then the arguments of ``mtt train``."""
    from aiida_alpot.worker.training.metatrain.architectures import import_architecture

    name, threads, *arguments = sys.argv[1:]
    return train(arguments, import_architecture(name), int(threads))


if __name__ == '__main__':
    sys.exit(main())
