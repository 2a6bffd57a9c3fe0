"""How far an evaluation is, in a file that exists as long as it is not done."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

PROGRESS = 'progress.json'


@dataclass
class Progress:
    """Counts of what a committee was asked.

    :param path: the file.
    :param evaluated: frames that were evaluated. A frame that is asked for in several passes counts in each.
    :param kept: frames about which all was known.
    """

    path: Path
    evaluated: int = 0
    kept: int = 0

    def count(self, evaluated: int, kept: int) -> None:
        """Add to the counts; the file tells when something was evaluated."""
        self.evaluated += evaluated
        self.kept += kept
        if evaluated:
            self.write()

    def write(self, stopped: str | None = None) -> None:
        """Write the file.

        :param stopped: why the evaluation stopped before it was done.
        """
        counts = {'evaluated': self.evaluated, 'kept': self.kept}
        partial = self.path.with_name(f'.{self.path.name}.partial')
        partial.write_text(json.dumps({**counts, **({'stopped': stopped} if stopped else {})}) + '\n', encoding='utf-8')
        os.replace(partial, self.path)

    def done(self) -> None:
        """Remove the file."""
        self.path.unlink(missing_ok=True)
