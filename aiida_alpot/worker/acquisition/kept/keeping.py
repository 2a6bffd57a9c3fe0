"""What an evaluation keeps, and where."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiida_alpot.worker.acquisition.deadline import Deadline
from aiida_alpot.worker.acquisition.kept.committee import KeptCommittee
from aiida_alpot.worker.acquisition.kept.identity import committee_digest, dataset_digest
from aiida_alpot.worker.acquisition.kept.progress import PROGRESS, Progress
from aiida_alpot.worker.acquisition.kept.question import is_per_atom
from aiida_alpot.worker.acquisition.kept.signal import KeptSignal
from aiida_alpot.worker.acquisition.kept.store import Store
from aiida_alpot.worker.frames.frame import Frame
from aiida_alpot.worker.potentials.committee import Committee

FOLDER = 'predictions'
"""Folder in the working directory; in it, one folder a committee."""


@dataclass(frozen=True, eq=False)
class Keeping:
    """A store of what a committee says, and how far the evaluation is."""

    store: Store
    progress: Progress
    deadline: Deadline | None = None

    @classmethod
    def of_files(
        cls,
        members: Sequence[Path | str],
        dtype: str,
        directory: Path,
        earlier: Sequence[Path | str] = (),
        deadline: Deadline | None = None,
    ) -> Keeping:
        """The store in a working directory.

        :param members: files of the potentials.
        :param earlier: working directories of evaluations whose predictions by the same committee are taken over. Where
            there is none, a sentence goes to standard error.
        """
        digest = committee_digest(members, dtype)
        store = Store(directory / FOLDER / digest)
        for other in earlier:
            if not (Path(other) / FOLDER).is_dir():
                store.complain(f'{other} holds no folder `{FOLDER}` with predictions: all frames are evaluated anew')
            store.adopt(Path(other) / FOLDER / digest)
        return cls(store, Progress(directory / PROGRESS), deadline)

    def committee(self, committee: Committee, *, per_atom: bool = True) -> KeptCommittee:
        """The committee, so that it remembers."""
        return KeptCommittee(
            committee, self.store, per_atom=per_atom, warm_up=True, deadline=self.deadline, progress=self.progress
        )

    def signal(
        self, name: str, options: Mapping[str, Any], features: Iterable[str], dataset: Iterable[Frame]
    ) -> KeptSignal | None:
        """Where the values of a signal are kept; only for one of features of atoms, which themselves are not."""
        if not any(is_per_atom(feature) for feature in features):
            return None
        return KeptSignal(self.store, name, dict(options), dataset_digest(dataset))
