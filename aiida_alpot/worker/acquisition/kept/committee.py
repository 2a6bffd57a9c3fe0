"""A committee that remembers what it said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from aiida_alpot.worker.acquisition.deadline import Deadline
from aiida_alpot.worker.acquisition.kept.identity import frame_keys
from aiida_alpot.worker.acquisition.kept.progress import Progress
from aiida_alpot.worker.acquisition.kept.question import Question, feature_table, is_per_atom, members_table
from aiida_alpot.worker.acquisition.kept.store import Store
from aiida_alpot.worker.acquisition.kept.table import Table, in_order
from aiida_alpot.worker.acquisition.representations import Feature
from aiida_alpot.worker.frames.frame import Frame
from aiida_alpot.worker.potentials.committee import Committee, Features
from aiida_alpot.worker.potentials.neighbours import Neighbourhood
from aiida_alpot.worker.potentials.predictions import Predictions


class KeptCommittee(Committee):
    """A committee that evaluates only those frames that its store does not know, and gives the others from there.

    Energies and forces of the members, and each representation, are parts of their own: another selector or signal
    asks the models only for what is new. What is given is what was once calculated, to the last bit.

    :param committee: is asked where nothing is known.
    :param store: of this committee, as :func:`committee_digest` tells committees apart.
    :param per_atom: keep features of atoms, too. They are large: d numbers an atom.
    :param warm_up: before the first evaluation of a kind evaluate one frame, and forget it. TorchScript calculates in
        another order when a model runs for the first time: without it the last bits of the first batch would differ
        from those of the same batch in a process that has evaluated others before.
    :param deadline: may stop the evaluation before each chunk.
    :param progress: counts what was evaluated.
    """

    def __init__(
        self,
        committee: Committee,
        store: Store,
        *,
        per_atom: bool = True,
        warm_up: bool = False,
        deadline: Deadline | None = None,
        progress: Progress | None = None,
    ) -> None:
        super().__init__(
            committee.elements, committee.cutoff, committee.n_members, committee.batch_size, committee.memory
        )
        self.asked = committee
        self.store = store
        self._per_atom = per_atom
        self._cold = warm_up
        self._warm: set[tuple[str, ...]] = set()
        self._deadline = deadline
        self._progress = progress

    def __getattr__(self, name: str) -> Any:
        """Whatever else the committee has."""
        if name == 'asked':  # while it is copied or unpickled
            raise AttributeError(name)
        return getattr(self.asked, name)

    def possible_features(self) -> tuple[str, ...]:
        """Those of the committee."""
        return self.asked.possible_features()

    def evaluate(
        self, frames: Sequence[Frame], members: Sequence[int] | None = None, features: Features = ()
    ) -> Predictions:
        """As :meth:`Committee.evaluate`; the frames of one call are kept together.

        :raises OutOfTime: as the deadline says.
        """
        if not len(frames):
            return _ask(self.asked, frames, members, features)
        question = Question.of(frames, members, features, self.n_members)
        keys = frame_keys(frames)
        known = {part: self.store.get(part, keys) for part in question.parts}
        n_unknown = int((~np.all([mask for mask, _ in known.values()], axis=0)).sum())
        findings: list[Finding] = []
        with self._deadline.chunk() if self._deadline and n_unknown else nullcontext():
            if n_unknown:
                findings = self._find_out(question, {part: ~mask for part, (mask, _) in known.items()})
                self._keep(keys, question, findings)
            if self._progress is not None:
                self._progress.count(n_unknown, len(frames) - n_unknown)
        return question.answer({part: _assembled(part, *known[part], findings) for part in question.parts})

    def _find_out(self, question: Question, lacking: Mapping[str, np.ndarray]) -> list[Finding]:
        """Ask the committee for what is unknown: all about some frames, only representations of others."""
        silent = lacking[question.members_part]
        partly = ~silent & np.any(list(lacking.values()), axis=0)
        findings = []
        if silent.any():
            findings.append(self._ask_all(question, np.flatnonzero(silent), lacking))
        if partly.any():
            findings.append(self._ask_features(question, np.flatnonzero(partly), lacking))
        return findings

    def _ask_all(self, question: Question, rows: np.ndarray, lacking: Mapping[str, np.ndarray]) -> Finding:
        frames, wanted = question.about(rows, lacking)
        predictions = self._ask(frames, question.members, _named(wanted))
        parts = {question.part_of(f): feature_table(f.name, predictions.features[f.name], frames) for f in wanted}
        return Finding(rows, {question.members_part: members_table(predictions), **parts})

    def _ask_features(self, question: Question, rows: np.ndarray, lacking: Mapping[str, np.ndarray]) -> Finding:
        """Representations of frames whose energies and forces are known; those of frames alone need no model."""
        frames, wanted = question.about(rows, lacking)
        of_model = [feature for feature in wanted if feature.representation.of_recording is not None]
        found = {f.name: f.of_frames(frames, self.elements) for f in wanted if f not in of_model}
        if of_model:
            found |= self._ask(frames, [question.first], _named(of_model)).features
        return Finding(rows, {question.part_of(f): feature_table(f.name, found[f.name], frames) for f in wanted})

    def _ask(self, frames: Sequence[Frame], members: Sequence[int] | None, features: Features) -> Predictions:
        kind = (str(members), *features)
        if self._cold and kind not in self._warm:
            _ask(self.asked, frames[:1], members, features)
            self._warm.add(kind)
        return _ask(self.asked, frames, members, features)

    def _keep(self, keys: np.ndarray, question: Question, findings: Sequence[Finding]) -> None:
        left_out = [] if self._per_atom else [question.part_of(f) for f in question.features if is_per_atom(f.name)]
        for finding in findings:
            kept = {part: table for part, table in finding.parts.items() if part not in left_out}
            self.store.add(keys[finding.rows], kept)

    def _evaluate_batch(
        self, batch: Sequence[Neighbourhood], members: tuple[int, ...], features: Sequence[Feature]
    ) -> Predictions:
        return self.asked._evaluate_batch(batch, members, features)


@dataclass(frozen=True, eq=False)
class Finding:
    """What was found out about some of the frames.

    :param rows: which frames, shape (k,).
    :param parts: tables of these frames, by part of the store.
    """

    rows: np.ndarray
    parts: dict[str, Table]


def _ask(
    committee: Committee, frames: Sequence[Frame], members: Sequence[int] | None, features: Features
) -> Predictions:
    return committee.evaluate(frames, **_given(members=members, features=features))


def _given(**arguments: Any) -> dict[str, Any]:
    """The arguments that say something."""
    return {name: value for name, value in arguments.items() if value is not None and value != ()}


def _named(features: Sequence[Feature]) -> Features:
    return {feature.name: feature.options for feature in features} if features else ()


def _assembled(part: str, known: np.ndarray, table: Table | None, findings: Sequence[Finding]) -> Table:
    """A part of all frames, from the store and from what was found out."""
    new = [finding for finding in findings if part in finding.parts]
    tables, places = [finding.parts[part] for finding in new], [finding.rows for finding in new]
    if table is not None:
        rows = np.flatnonzero(known)
        still = ~np.isin(rows, np.concatenate(places)) if places else np.ones(len(rows), dtype=bool)
        tables.append(table.take(np.flatnonzero(still)))
        places.append(rows[still])
    return in_order(tables, places)
