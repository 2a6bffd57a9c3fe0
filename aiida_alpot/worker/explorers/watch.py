"""What stands between an explorer and the committee: forces, bounds, candidates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.constraints import FixAtoms
from ase.stress import full_3x3_to_voigt_6_stress, voigt_6_to_full_3x3_stress

from aiida_alpot.worker.explorers.base import EXPLODED, HALTED, NOT_FINITE, POTENTIAL_ERROR, EndedError
from aiida_alpot.worker.explorers.journal import Journal, key_of
from aiida_alpot.worker.explorers.limits import Limits
from aiida_alpot.worker.explorers.stream import FrameStream
from aiida_alpot.worker.explorers.uncertainty import COLUMNS, HALT, Uncertainty, statements
from aiida_alpot.worker.frames.frame import Frame
from aiida_alpot.worker.frames.shard import dump_metadata
from aiida_alpot.worker.potentials import Committee
from aiida_alpot.worker.potentials.calculator import CommitteeCalculator, bare_frame, driving_results

FIXED = 'fixed'
"""Boolean array of a start frame: atoms that do not move."""

BATCH_SIZE = 16


class Watch:
    """Gives forces to an explorer, takes its candidates, and stops it where a bound is crossed.

    The driving member alone gives the forces. Candidates wait until there are ``batch_size`` of them; all members then
    evaluate them in one pass. So a bound on the uncertainty is noticed up to ``batch_size`` candidates late; those that
    came after the one that crossed it are dropped.

    :param committee: all members.
    :param driving_member: the one that gives forces.
    :param stream: where the kept frames go.
    :param limits: see :class:`Limits`.
    :param uncertainty: bounds, see :class:`Uncertainty`; ``None``: none.
    :param batch_size: candidates evaluated in one pass, at least 1.
    :param origin: of the frames.
    :param lineage: of the frames.
    :param metadata: of the frames, under what is found here.
    :param journal: records of an earlier start of the same run.
    :param check_stop: called before each evaluation; raises :class:`EndedError` where the run is to stop.
    :ivar n_evaluations: structures that the driving member evaluated, records of earlier starts included.
    """

    def __init__(
        self,
        committee: Committee,
        driving_member: int,
        stream: FrameStream,
        *,
        limits: Limits | None = None,
        uncertainty: Uncertainty | None = None,
        batch_size: int = BATCH_SIZE,
        origin: str = 'exploration',
        lineage: str = '',
        metadata: Mapping[str, Any] | None = None,
        journal: Journal | None = None,
        check_stop: Callable[[], None] = lambda: None,
    ) -> None:
        self._committee, self._member, self._stream = committee, driving_member, stream
        self._limits = limits or Limits()
        self._uncertainty, self._batch_size = uncertainty, batch_size
        self._origin, self._run_lineage, self._metadata = origin, lineage, dict(metadata or {})
        self._journal = journal or Journal(None)
        self._check_stop = check_stop
        self._lineage = lineage
        self._first: float | None = None
        self._waiting: list[Frame] = []
        self._seen: set[str] = set()
        self.calculator: Calculator = WatchedCalculator(self)
        self.n_evaluations = self.n_repeated = self.n_candidates = self.n_junk = self.n_uncertain = 0
        self.highest_expected_force_error: float | None = None

    # -- forces ------------------------------------------------------------------------------------------------

    def atoms(self, frame: Frame) -> Atoms:
        """A start structure with its calculator; atoms of its user array ``fixed`` do not move."""
        atoms = frame.unlabelled().to_atoms()
        atoms.calc = self.calculator
        if FIXED in frame.arrays and np.any(frame.arrays[FIXED]):
            atoms.set_constraint(FixAtoms(mask=np.asarray(frame.arrays[FIXED], dtype=bool)))
        return atoms

    def evaluate(self, structures: Sequence[Atoms]) -> list[dict[str, Any]]:
        """ASE's ``results`` of structures by the driving member: one pass for all that are not recorded.

        :raises EndedError: for a bound, an error of the potential, or because the run is to stop.
        """
        self._check_stop()
        self._stream.write_if_due()
        for atoms in structures:
            if not (np.isfinite(atoms.positions).all() and np.isfinite(atoms.cell.array).all()):
                raise EndedError(NOT_FINITE, 'positions or cell are not finite any more: take shorter steps')
        keys = [self._key('driving', [atoms]) for atoms in structures]
        records = [self._journal.get(key) for key in keys]
        missing = [i for i, record in enumerate(records) if record is None]
        if missing:
            predictions = self._ask([_frame(structures[i]) for i in missing], [self._member])
            for index, i in enumerate(missing):
                records[i] = _record(driving_results(predictions, 0, index))
            self._journal.put((keys[i], records[i]) for i in missing)  # type: ignore[misc]
        self.n_evaluations += len(structures)
        self.n_repeated += len(structures) - len(missing)
        found = [_results(record) for record in records if record is not None]
        for results in found:
            self._check(results)
        return found

    def _check(self, results: Mapping[str, Any]) -> None:
        energy = results['energy'] / len(results['forces'])
        self._limits.check(energy, results['forces'], self._first)
        if self._first is None:
            self._first = energy

    def _ask(self, frames: Sequence[Frame], members: Sequence[int] | None) -> Any:
        try:
            return self._committee.evaluate(frames, members)
        except Exception as error:  # a potential can raise anything
            raise EndedError(POTENTIAL_ERROR, f'the potential failed: {type(error).__name__}: {error}') from error

    def _key(self, kind: str, structures: Sequence[Atoms | Frame]) -> bytes:
        arrays = [np.array([self._member])]
        for one in structures:
            cell = one.cell.array if isinstance(one, Atoms) else one.cell
            arrays += [np.asarray(one.numbers, dtype=np.int64), one.positions, cell, np.asarray(one.pbc)]
        return key_of(kind, arrays)

    # -- candidates --------------------------------------------------------------------------------------------

    def path(self, name: str = '') -> None:
        """Begin a path that has nothing to do with the ones before: what waits is evaluated, bounds refer to its start.

        :param name: added to the lineage of its frames, where they do not descend from the start structures.
        :raises EndedError: for what waited.
        """
        self.assess()
        self._first = None
        self._lineage = f'{self._run_lineage}:{name}' if name else self._run_lineage

    def keep(self, atoms: Atoms, why: str, **facts: Any) -> None:
        """Take a candidate; one that the run has had already is left out.

        :param why: one word or two: ``interval``, ``final``, ``minimum``, ...
        :param facts: for its metadata, JSON-serialisable.
        :raises EndedError: where the uncertainty of a candidate crosses a bound.
        :raises ValueError: for facts without a JSON form.
        """
        frame = _frame(atoms)
        if atoms.constraints:
            fixed = np.zeros(len(atoms), dtype=bool)
            for constraint in atoms.constraints:
                fixed[constraint.get_indices()] = True
            frame = frame.replace(arrays={FIXED: fixed})
        if frame.frame_id in self._seen:
            return
        self._seen.add(frame.frame_id)
        self.n_candidates += 1
        metadata = {**self._metadata, **facts, 'why': why}
        dump_metadata(metadata)  # here, where the explorer can still be told
        self._waiting.append(frame.replace(origin=self._origin, lineage=self._lineage, metadata=metadata))
        if len(self._waiting) >= self._batch_size:
            self.assess()

    def assess(self) -> None:
        """Evaluate the candidates that wait, and keep them.

        :raises EndedError: where the uncertainty of one crosses a bound; those after it are dropped.
        """
        waiting, self._waiting = self._waiting, []
        if waiting:
            self._take(waiting, self._statements(waiting), self._stream.add)

    def provisional(self) -> list[Frame]:
        """The candidates that wait, with what all members say, for a run that is interrupted here."""
        waiting, self._waiting = self._waiting, []
        kept: list[Frame] = []
        try:
            if waiting:
                self._take(waiting, statements(self._ask(waiting, None), self._member), kept.append)
        except EndedError:
            pass  # the next start comes to the same end
        return kept

    def _statements(self, frames: Sequence[Frame]) -> np.ndarray:
        key = self._key('committee', frames)
        record = self._journal.get(key)
        if record is None:
            record = statements(self._ask(frames, None), self._member)
            self._journal.put([(key, record)])
        return record.reshape(len(frames), len(COLUMNS))

    def _take(self, frames: Sequence[Frame], table: np.ndarray, add: Callable[[Frame], None]) -> None:
        for frame, row in zip(frames, table, strict=True):
            said = {name: float(value) for name, value in zip(COLUMNS, row, strict=True) if np.isfinite(value)}
            if self._committee.n_members > 1:
                said.update(self._judge(row))
            add(frame.replace(metadata={**frame.metadata, **said}))
            if said.get('uncertain') and self._uncertainty is not None and self._uncertainty.on_crossing == HALT:
                raise EndedError(
                    HALTED,
                    f'the expected force error of {said["expected_force_error"]:.4g} eV/A is above `lower`, '
                    f'{self._uncertainty.lower:g} eV/A: this frame is the last one',
                )

    def _judge(self, row: np.ndarray) -> dict[str, Any]:
        """Expected force error of a candidate and what follows from it.

        :raises EndedError: for junk.
        """
        bounds, deviation = self._uncertainty, float(row[COLUMNS.index('max_force_deviation')])
        expected = deviation if bounds is None else bounds.expected_error(deviation, self._origin)
        if not np.isfinite(expected):
            self.n_junk += 1
            raise EndedError(NOT_FINITE, 'a member predicts a candidate with energies or forces that are not finite')
        self.highest_expected_force_error = max(self.highest_expected_force_error or 0.0, expected)
        if bounds is None:
            return {'expected_force_error': expected}
        if bounds.upper is not None and expected > bounds.upper:
            self.n_junk += 1
            raise EndedError(
                HALTED,
                f'the expected force error of {expected:.4g} eV/A is above `upper`, {bounds.upper:g} eV/A: the frame '
                'is junk and not kept',
            )
        uncertain = expected > bounds.lower
        self.n_uncertain += uncertain
        return {'expected_force_error': expected, 'uncertain': uncertain}


class WatchedCalculator(Calculator):
    """The driving member as ASE's optimisers and dynamics want it."""

    implemented_properties = CommitteeCalculator.implemented_properties

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self._watch = watch

    def calculate(
        self, atoms: Atoms | None = None, properties: Any = ('energy',), system_changes: Any = all_changes
    ) -> None:
        """Evaluate the structure; called by ASE.

        :raises EndedError: as :meth:`Watch.evaluate`.
        """
        super().calculate(atoms, properties, system_changes)
        self.results = self._watch.evaluate([self.atoms])[0]
        if 'stress' in properties and 'stress' not in self.results:
            raise PropertyNotImplementedError('there is no stress: the structure has no periodic axis')


def _frame(atoms: Atoms) -> Frame:
    try:
        return bare_frame(atoms)
    except ValueError as error:  # a cell that collapsed, lengths that grew without bound
        raise EndedError(EXPLODED, f'the structure is none any more: {error}') from error


def _record(results: Mapping[str, Any]) -> np.ndarray:
    """Results as numbers in a row: energy, stress (NaN where there is none), forces."""
    stress = voigt_6_to_full_3x3_stress(results['stress']) if 'stress' in results else np.full((3, 3), np.nan)
    return np.concatenate([[results['energy']], stress.ravel(), results['forces'].ravel()])


def _results(record: np.ndarray) -> dict[str, Any]:
    energy, stress = float(record[0]), record[1:10].reshape(3, 3)
    results = {'energy': energy, 'free_energy': energy, 'forces': record[10:].reshape(-1, 3).copy()}
    if np.isfinite(stress).all():
        results['stress'] = full_3x3_to_voigt_6_stress(stress)
    return results
