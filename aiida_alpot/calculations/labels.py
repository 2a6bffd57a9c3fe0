"""Labels of frames: those that the database has already, and those that pw.x is to give."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from itertools import pairwise
from typing import Any

import numpy as np
from aiida import orm
from aiida.engine import calcfunction
from ase.data import chemical_symbols

from aiida_alpot.data.ledger import KnownLabels, find_labels
from aiida_alpot.data.pes import PESData
from aiida_alpot.data.structures import frame_to_structure
from aiida_alpot.worker.frames import ISOLATED_ATOM, Frame, FrameStore, LevelOfTheory
from aiida_alpot.worker.frames.carry import carry_labels, first_of_equals
from aiida_alpot.worker.frames.level_of_theory import fingerprint

GPA_PER_EV_PER_A3 = 160.21766208
"""1 eV/A^3 in GPa."""

THEORY_SYSTEM_KEYS_LEFT_OUT = ('starting_magnetization', 'nat', 'ntyp', 'ibrav', 'nbnd')
"""Keys of the SYSTEM card that start or size a calculation and do not define its level of theory."""

THEORY_CONTROL_KEYS = ('tefield', 'dipfield', 'lelfield', 'gate', 'lfcp', 'lfcpopt', 'lfcpdyn', 'trism', 'tqmmm')
"""Keys of the CONTROL card that add a field, a charged gate or a solvent, which do."""

ISOLATED = 'isolated'
"""Treatment of isolated atoms, which are calculated spin-polarised, as it stands in their level of theory."""


@calcfunction
def extract_structures(frames: PESData, indices: orm.List) -> dict[str, orm.StructureData]:
    """Structures of some frames, as outputs ``frame_<index>``."""
    return {f'frame_{index}': frame_to_structure(frames.frame(index)) for index in indices.get_list()}


def level_of_theory(
    parameters: Mapping[str, Any], pseudos: Mapping[str, str], kpoints_distance: float
) -> tuple[LevelOfTheory, dict[str, Any]]:
    """Level of theory of pw.x labels, of everything that changes them; and what went into it.

    :param parameters: pw.x cards, in any case; of these count SYSTEM (cut-offs, smearing, spin, functional, dispersion)
        and what CONTROL and ELECTRONS say of fields and solvents. ``24`` and ``24.0`` are the same.
    :param pseudos: MD5 of the pseudopotential of each element.
    :param kpoints_distance: largest distance of k-points, 1/A.
    :return: the level of a campaign with these elements, of which each frame gets its part by
        :meth:`LevelOfTheory.of`, and the content.
    """
    cards = {
        str(card).lower(): {str(key).lower(): _same(value) for key, value in keys.items()}
        for card, keys in parameters.items()
        if isinstance(keys, Mapping)
    }
    system = {k: v for k, v in cards.get('system', {}).items() if k not in THEORY_SYSTEM_KEYS_LEFT_OUT}
    fields = {k: v for k, v in cards.get('control', {}).items() if k in THEORY_CONTROL_KEYS and v}
    fields |= {k: v for k, v in cards.get('electrons', {}).items() if k.startswith('efield') and fields}
    settings = {'code': 'quantumespresso.pw', 'system': system, 'kpoints_distance': _same(kpoints_distance)}
    if fields:
        settings['fields'] = fields
    level = LevelOfTheory(fingerprint('pw', settings), pseudos)
    return level, {**settings, 'pseudos': dict(sorted(pseudos.items()))}


def _same(value: Any) -> Any:
    """A value of a card as all ways to write it."""
    if isinstance(value, Mapping):
        return {str(key): _same(item) for key, item in value.items()}
    if isinstance(value, str):
        return value.strip().lower()
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def frame_levels(store: FrameStore, level: LevelOfTheory) -> list[str]:
    """Level of theory of each frame, as a text: that of the pseudopotentials of its elements and of its treatment.

    :param level: level of theory for all elements.
    """
    numbers, isolated = store.column('numbers'), (store.column('origin') == ISOLATED_ATOM).tolist()
    texts: dict[tuple[frozenset[int], bool], str] = {}
    levels = []
    for (start, stop), alone in zip(pairwise(store.offsets.tolist()), isolated, strict=True):
        key = frozenset(numbers[start:stop].tolist()), alone
        if key not in texts:
            texts[key] = str(level.of([chemical_symbols[z] for z in key[0]], ISOLATED if alone else ''))
        levels.append(texts[key])
    return levels


def has_stress(pbc: np.ndarray, origin: np.ndarray | str) -> np.ndarray:
    """Whether frames are labelled with a stress: where they are periodic along all axes, and no isolated atoms.

    :param pbc: shape (..., 3); of ``origin`` the shape is (...).
    """
    return np.all(pbc, axis=-1) & (np.asarray(origin) != ISOLATED_ATOM)


# What is known.


def ask_ledger(frames: PESData, level: LevelOfTheory) -> KnownLabels:
    """The labels of frames that data sets of the profile hold: energy, forces, and stress where pw.x would give it.

    :param level: level of theory for all elements of the frames.
    """
    with frames.open_store() as store:
        always = np.ones(len(store), dtype=np.bool_)
        stress = has_stress(store.column('pbc'), store.column('origin'))
        needed = {'energy': always, 'forces': always, 'stress': stress}
        return find_labels(store.digests(), frame_levels(store, level), needed)


@calcfunction
def reuse_labels(frames: PESData, picks: orm.Dict, **sources: PESData) -> PESData:
    """Frames with the labels that other data sets have of the same structures.

    Each frame stays as it is, with its order of the atoms, lineage, origin, split and metadata; only its labels and
    their level of theory are those of the other data set.

    :param picks: what to take, as :meth:`KnownLabels.picks` gives it.
    :param sources: the data sets, by the keys of ``picks``.
    :returns: the frames in the order of the picks, see :func:`picked_frames`.
    :raises ValueError: where a pick is not the same structure.
    """
    return PESData(frames=_carried(frames, picks.get_dict(), sources))


def picked_frames(picks: Mapping[str, Any]) -> list[int]:
    """The indices of the frames that were picked, in the order in which :func:`reuse_labels` gives them."""
    return [index for key in _by_number(picks) for index in picks[key]['frames']]


def _by_number(picks: Mapping[str, Any]) -> list[str]:
    return sorted(picks, key=lambda key: int(key.rpartition('_')[2]))


def _carried(frames: PESData, picks: Mapping[str, Any], sources: Mapping[str, PESData]) -> Iterator[Frame]:
    with frames.open_store() as asked:
        for key in _by_number(picks):
            with sources[key].open_store() as known:
                for index, place in zip(picks[key]['frames'], picks[key]['indices'], strict=True):
                    yield carry_labels(known[place], asked[index])


# What is not.


def frames_to_calculate(frames: PESData, level: LevelOfTheory, reused: list[int]) -> list[int]:
    """Indices of the frames that need a calculation: of those that are the same structure the first one.

    :param reused: indices of the frames that have their label already.
    """
    with frames.open_store() as store:
        first = first_of_equals(store.digests(), frame_levels(store, level))
    return sorted(set(first.tolist()) - set(reused))


@calcfunction
def collect_labels(
    frames: PESData,
    parameters: orm.Dict,
    kpoints_distance: orm.Float,
    failures: orm.List,
    reused: PESData | None = None,
    picks: orm.Dict | None = None,
    **namespaces: Any,
) -> dict[str, orm.Data]:
    """Labelled frames from the outputs of pw.x and from the ledger, and an account of every frame that was asked for.

    :param frames: what was to be labelled.
    :param failures: for each calculation that failed the index of its frame, the process, its exit status and message.
    :param reused: output of :func:`reuse_labels`.
    :param picks: input of :func:`reuse_labels`.
    :param namespaces: ``pseudos``, the pseudopotential of each element, and ``trajectories``, the output of pw.x for
        each ``frame_<index>`` that has one.
    """
    pseudos, trajectories = namespaces['pseudos'], namespaces.get('trajectories', {})
    potentials = {element: pseudo.md5 for element, pseudo in pseudos.items()}
    level, content = level_of_theory(parameters.get_dict(), potentials, kpoints_distance.value)
    taken = {} if picks is None else picks.get_dict()
    with ExitStack() as stack:
        collection = _Collection(
            store=stack.enter_context(frames.open_store()),
            level=level,
            trajectories=trajectories,
            reused=None if reused is None else stack.enter_context(reused.open_store()),
            picked=picked_frames(taken),
        )
        failed = collection.failed(failures.get_list())
        account = {
            'n_requested': len(frames),
            'n_labelled': len(frames) - len(failed),
            'n_reused': len(collection.places),
            'n_calculated': len(trajectories),
            'n_failed': len(failed),
            'failures': failed,
            'reused_from': {pick['uuid']: len(pick['frames']) for pick in taken.values()},
            'level_of_theory': level.base,
            'level_of_theory_content': content,
        }
        outputs: dict[str, orm.Data] = {'report': orm.Dict(account)}
        if len(failed) < len(frames):
            outputs['labelled'] = PESData(frames=collection.labelled())
    return outputs


class _Collection:
    """The frames of one labelling, and where the label of each comes from.

    :param picked: indices of the frames that are in ``reused``, in its order.
    """

    def __init__(
        self,
        store: FrameStore,
        level: LevelOfTheory,
        trajectories: Mapping[str, orm.TrajectoryData],
        reused: FrameStore | None,
        picked: list[int],
    ) -> None:
        self.store, self.trajectories, self.reused = store, trajectories, reused
        self.levels = frame_levels(store, level)
        self.first = first_of_equals(store.digests(), self.levels).tolist()
        self.places = {index: place for place, index in enumerate(picked)}

    def failed(self, failures: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The failures by frame: one calculation stands for all frames that are the same structure."""
        by_first = {failure['index']: failure for failure in failures}
        return [
            {**by_first[first], 'index': index, 'frame_id': self.store[index].frame_id}
            for index, first in enumerate(self.first)
            if first in by_first
        ]

    def labelled(self) -> Iterator[Frame]:
        """The frames that have a label, in their order."""
        for index, frame in enumerate(self.store):
            first = self.first[index]
            trajectory = self.trajectories.get(f'frame_{first}')
            if self.reused is not None and index in self.places:
                yield self.reused[self.places[index]]
            elif trajectory is not None:
                labelled = label_frame(self.store[first], trajectory, self.levels[first])
                yield labelled if first == index else carry_labels(labelled, frame)


def label_frame(frame: Frame, trajectory: orm.TrajectoryData, level: str) -> Frame:
    """The frame with the labels of a static pw.x calculation, in place of its own.

    pw.x reports stress in GPa and positive under pressure; ours is in eV/A^3 and positive under tension, as ASE's.

    :param level: level of theory of this frame.
    :raises ValueError: where the calculation was not one static step on the atoms of this frame.
    """
    forces = trajectory.get_array('forces')
    if forces.shape != (1, len(frame), 3):
        raise ValueError(f'expected the forces of one step on {len(frame)} atoms, found shape {forces.shape}')
    stress = None
    if has_stress(frame.pbc, frame.origin):
        stress = -trajectory.get_array('stress')[-1] / GPA_PER_EV_PER_A3
    return frame.unlabelled().replace(
        energy=float(np.asarray(trajectory.get_array('energy')).reshape(-1)[-1]),
        forces=forces[-1],
        stress=stress,
        level_of_theory=level,
    )
