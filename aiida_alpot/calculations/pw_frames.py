"""Labelled frames from pw.x calculations that are in the database already, whoever ran them and for what."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
from aiida import orm
from aiida.engine import calcfunction
from aiida_quantumespresso.calculations.functions.create_kpoints_from_distance import create_kpoints_from_distance

from aiida_alpot.calculations.labels import GPA_PER_EV_PER_A3, ISOLATED, has_stress, level_of_theory
from aiida_alpot.data.pes import PESData
from aiida_alpot.data.structures import structure_to_frame
from aiida_alpot.worker.frames import ISOLATED_ATOM, Frame, FrameStore, LevelOfTheory

EVERY_STEP = ('relax', 'md')
"""Types of calculation of which every step is taken."""

FIRST_STEP = ('scf', 'vc-relax', 'vc-md')
"""Types of which only the first step is taken: with a cell that changes, pw.x keeps the plane waves of the first cell,
so that later steps have another cut-off."""

SETTINGS = {
    'FIXED_COORDS': 'atoms were held fixed, and pw.x gives no forces on them',
    'ATOMIC_FORCES': 'external forces acted on the atoms',
    'ENVIRON': 'an environment (Environ) acted on the atoms',
    'ONLY_INITIALIZATION': 'it was only initialised',
}
"""Keys of the input ``settings`` after which the forces are not those of the potential energy surface."""

SAME_POSITION = 1e-4
"""How far the first step of a trajectory may be from the input structure, and its cell from that of the input, A."""


class NotUsable(ValueError):  # noqa: N818
    """A calculation that gives no labels; the message says why, in words that fit every calculation of its kind."""


@dataclass(frozen=True, kw_only=True)
class PwRun:
    """The nodes of one pw.x calculation that decide about its labels.

    :param uuid: of the calculation.
    :param pseudos: by kind.
    :param kpoints_distance: 1/A; the mesh must be what it gives.
    :param theory: parameters that define the level of theory, where the calculation was made by
        :class:`~aiida_alpot.workflows.labelling.AbInitioLabellingWorkChain`, which adds to them for isolated atoms.
    :param frame: what the structure was made of, where that is known.
    :param root: structure that the chain of calculations started from, where that is not ``structure``.
    """

    uuid: str
    structure: orm.StructureData
    parameters: orm.Dict
    kpoints: orm.KpointsData
    pseudos: Mapping[str, orm.Data] = field(default_factory=dict)
    trajectory: orm.TrajectoryData | None = None
    settings: orm.Dict | None = None
    kpoints_distance: float | None = None
    theory: orm.Dict | None = None
    frame: Frame | None = None
    root: orm.StructureData | None = None

    @property
    def cards(self) -> dict[str, dict[str, Any]]:
        """The parameters as pw.x reads them."""
        return normalised(self.parameters.get_dict())

    @property
    def calculation(self) -> str:
        """Type of the calculation."""
        return str(self.cards.get('CONTROL', {}).get('calculation', 'scf'))


@calcfunction
def frames_from_pw(
    runs: orm.List,
    skipped: orm.List,
    allow_mixed_levels: orm.Bool,
    dataset: PESData | None = None,
    **namespaces: Any,
) -> dict[str, orm.Data]:
    """Labelled frames of pw.x calculations, and an account of every calculation.

    An ``scf`` gives one frame; ``relax`` and ``md`` give one a step, all of the lineage of the structure they started
    from; ``vc-relax`` and ``vc-md`` give their first step. A frame that is there already at the same level of theory is
    left out.

    :param runs: for each calculation its ``uuid``, ``kpoints_distance``, and under the names of :class:`PwRun` the keys
        of its nodes in the namespaces.
    :param skipped: calculations that were not looked at, each with ``calculation`` and ``reason``.
    :param dataset: frames to which these are added.
    :param namespaces: ``structures``, ``parameters``, ``kpoints``, ``pseudos``, ``trajectories``, ``settings`` and
        ``sources``, the nodes by key.
    :return: ``report``, and ``frames`` where there are any.
    """
    account = _Account(skipped.get_list(), set() if dataset is None else _known(dataset))
    outputs: dict[str, orm.Data] = {}
    with ExitStack() as stack:
        stores = {key: stack.enter_context(node.open_store()) for key, node in namespaces.get('sources', {}).items()}
        frames = account.frames(bind(run, namespaces, stores) for run in runs.get_list())
        first = next(frames, None)
        if first is not None:
            outputs['frames'] = _extended(dataset, chain([first], frames), allow_mixed_levels.value)
    return {**outputs, 'report': orm.Dict(account.report())}


def _extended(dataset: PESData | None, frames: Iterator[Frame], allow_mixed_levels: bool) -> PESData:
    if dataset is None:
        return PESData(frames=frames, allow_mixed_levels=allow_mixed_levels)
    return dataset.extended(frames, allow_mixed_levels=allow_mixed_levels)


def bind(
    run: Mapping[str, Any], namespaces: Mapping[str, Mapping[str, Any]], stores: Mapping[str, FrameStore]
) -> PwRun:
    """A run with its nodes, from their keys."""

    def node(namespace: str, key: str | None) -> Any:
        return None if key is None else namespaces[namespace][key]

    source = run.get('source')
    return PwRun(
        uuid=run['uuid'],
        structure=node('structures', run['structure']),
        parameters=node('parameters', run['parameters']),
        kpoints=node('kpoints', run['kpoints']),
        pseudos={kind: node('pseudos', key) for kind, key in run['pseudos'].items()},
        trajectory=node('trajectories', run['trajectory']),
        settings=node('settings', run.get('settings')),
        kpoints_distance=run.get('kpoints_distance'),
        theory=node('parameters', run.get('theory')),
        frame=None if source is None else stores[source[0]][source[1]],
        root=node('structures', run.get('root')),
    )


class _Account:
    """What becomes of each calculation."""

    def __init__(self, skipped: Sequence[Mapping[str, str]], known: set[tuple[str, str]]) -> None:
        self.skipped = [dict(entry) for entry in skipped]
        self.known = known
        self.counts = Counter(n_calculations=len(self.skipped))
        self.levels: dict[str, Any] = {}

    def frames(self, runs: Iterator[PwRun]) -> Iterator[Frame]:
        """The frames that are not known yet, counted as they pass."""
        for run in runs:
            self.counts['n_calculations'] += 1
            try:
                level, content = level_of_run(run)
                labelled = list(labelled_frames(run, level))
            except NotUsable as exception:
                self.skipped.append({'calculation': run.uuid, 'reason': str(exception)})
                continue
            self.levels.setdefault(level.base, content)['pseudos'].update(content['pseudos'])
            self.counts['n_used'] += 1
            missing = [frame.stress is None and bool(has_stress(frame.pbc, frame.origin)) for frame in labelled]
            self.counts['n_without_stress'] += sum(missing)
            yield from self._new(labelled)

    def _new(self, frames: Sequence[Frame]) -> Iterator[Frame]:
        for frame in frames:
            key = (frame.frame_id, frame.level_of_theory)
            self.counts['n_duplicates' if key in self.known else 'n_frames'] += 1
            if key not in self.known:
                self.known.add(key)
                yield frame

    def report(self) -> dict[str, Any]:
        counts = ('n_calculations', 'n_used', 'n_frames', 'n_duplicates', 'n_without_stress')
        return {
            **{name: self.counts[name] for name in counts},
            'n_skipped': len(self.skipped),
            'reasons': dict(Counter(entry['reason'] for entry in self.skipped)),
            'skipped': self.skipped,
            'levels_of_theory': self.levels,
        }


def _known(dataset: PESData) -> set[tuple[str, str]]:
    with dataset.open_store() as store:
        columns = [store.column(name).tolist() for name in ('frame_id', 'level_of_theory')]
    return set(zip(*columns, strict=True))


def level_of_run(run: PwRun) -> tuple[LevelOfTheory, dict[str, Any]]:
    """Level of theory of the labels of a calculation, and what went into it.

    :raises NotUsable: where the labels depend on something that a level of theory does not hold, or are none of a
        potential energy surface.
    """
    _check_physics(run)
    _check_kpoints(run)
    assert run.kpoints_distance is not None
    potentials = _potentials(run)
    theory = run.cards if run.theory is None else normalised(run.theory.get_dict())
    level, content = level_of_theory(theory, potentials, run.kpoints_distance)
    isolated = run.theory is not None and run.frame is not None and run.frame.origin == ISOLATED_ATOM
    return level.of(potentials, ISOLATED if isolated else ''), content


def _check_physics(run: PwRun) -> None:
    if run.calculation not in (*EVERY_STEP, *FIRST_STEP):
        raise NotUsable(f'it is of type {run.calculation!r}, which has no forces')
    for key, value in ({} if run.settings is None else run.settings.get_dict()).items():
        if key.upper() in SETTINGS and value:
            raise NotUsable(f'its setting {key.upper()} is in use: {SETTINGS[key.upper()]}')
    if run.cards.get('ELECTRONS', {}).get('scf_must_converge') is False:
        raise NotUsable('it was allowed not to converge (ELECTRONS.scf_must_converge)')
    if getattr(run.structure, 'hubbard', None) is not None and run.structure.hubbard.parameters:
        raise NotUsable('its structure carries Hubbard parameters, which a level of theory does not hold')


def _check_kpoints(run: PwRun) -> None:
    """The mesh must be what the distance gives, as a distance is what a level of theory holds."""
    try:
        mesh, offset = run.kpoints.get_kpoints_mesh()
    except AttributeError as exception:
        raise NotUsable('its k-points are a list, and a level of theory holds a distance of k-points') from exception
    if run.kpoints_distance is None:
        raise NotUsable(
            'its k-point mesh was given without a distance, which the level of theory needs: give `kpoints_distance`'
        )
    # The function below the process function: here is no place to make more nodes.
    make = inspect.unwrap(create_kpoints_from_distance)
    wanted, _ = make(run.structure, orm.Float(run.kpoints_distance), orm.Bool(False)).get_kpoints_mesh()
    if list(mesh) != list(wanted) or any(offset):
        raise NotUsable(f'its k-point mesh is not the one that a distance of {run.kpoints_distance:g} 1/A gives')


def _potentials(run: PwRun) -> dict[str, str]:
    """MD5 of the pseudopotential of each element."""
    potentials: dict[str, str] = {}
    for kind in run.structure.kinds:
        if len(kind.symbols) > 1 or kind.name not in run.pseudos:
            raise NotUsable('a kind of its structure is an alloy or has no pseudopotential')
        md5 = run.pseudos[kind.name].base.attributes.get('md5')
        if potentials.setdefault(kind.symbol, md5) != md5:
            raise NotUsable('it uses two pseudopotentials for one element, which a level of theory does not hold')
    return potentials


def labelled_frames(run: PwRun, level: LevelOfTheory) -> Iterator[Frame]:
    """The frames of a calculation with their labels, see :func:`frames_from_pw`.

    Energy in eV, forces in eV/A, stress in eV/A^3, positive under tension; pw.x has the stress in GPa, positive under
    pressure. The metadata hold ``calculation``, the UUID, and ``step``.

    :raises NotUsable: where the outputs are not of one kind with the input.
    """
    try:
        start = _start(run)
        for step, (positions, labels) in enumerate(_steps(run, start)):
            origin = run.calculation if step else start.origin
            metadata = {**start.metadata, 'calculation': run.uuid, 'step': step}
            yield start.replace(
                positions=positions, **labels, level_of_theory=str(level), origin=origin, metadata=metadata
            )
    except NotUsable:
        raise
    except ValueError as exception:
        raise NotUsable(str(exception)) from exception


def _start(run: PwRun) -> Frame:
    """The frame that a calculation started from, with the lineage and origin that are known of it."""
    frame = structure_to_frame(run.structure)
    if run.frame is not None and run.frame.frame_id == frame.frame_id:
        made_of = run.frame.unlabelled()
        return made_of if made_of.lineage else made_of.replace(lineage=frame.lineage)
    return frame if run.root is None else frame.replace(lineage=structure_to_frame(run.root).lineage)


def _steps(run: PwRun, start: Frame) -> Iterator[tuple[np.ndarray, dict[str, Any]]]:
    """Positions, shape (n, 3), A, and labels of each step that is taken."""
    forces, energies = _array(run, 'forces'), _array(run, 'energy').reshape(-1)
    if forces.ndim != 3 or forces.shape[1:] != (len(start), 3) or len(forces) != len(energies):
        raise NotUsable('its output does not hold one energy and the forces on all atoms for each step')
    trajectory = _positions(run, start, len(forces)) if run.calculation in EVERY_STEP else [start.positions]
    stress = _array(run, 'stress', required=False)
    with_stress = bool(has_stress(start.pbc, start.origin)) and stress.shape == (len(forces), 3, 3)
    for step, positions in enumerate(trajectory):
        labels = {'energy': float(energies[step]), 'forces': forces[step]}
        yield positions, {**labels, 'stress': -stress[step] / GPA_PER_EV_PER_A3 if with_stress else None}


def _array(run: PwRun, name: str, required: bool = True) -> np.ndarray:
    if run.trajectory is None or name not in run.trajectory.get_arraynames():
        if required:
            raise NotUsable(f'its output holds no {name}')
        return np.empty(0)
    return run.trajectory.get_array(name)


def _positions(run: PwRun, start: Frame, n_steps: int) -> Iterator[np.ndarray]:
    """Positions of every step; the first one is the input structure, to the last digit.

    pw.x converts lengths with another Bohr radius than AiiDA; the input cell against that of the trajectory undoes it.
    """
    positions, cells = _array(run, 'positions'), _array(run, 'cells')
    if len(positions) != n_steps or len(cells) != n_steps:
        raise NotUsable('its output does not hold one structure for each step')
    if np.abs(cells - start.cell).max() > SAME_POSITION:
        raise NotUsable('the cell of its steps is not that of its input structure')
    steps = positions @ np.linalg.inv(cells) @ start.cell
    if np.abs(steps[0] - start.positions).max() > SAME_POSITION:
        raise NotUsable('the first step of its trajectory is not its input structure, as it was restarted')
    return chain([start.positions], steps[1:])


def normalised(parameters: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Parameters of pw.x as the plugin takes them: cards in capitals and keys in small letters."""
    return {
        str(card).upper(): {str(key).lower(): value for key, value in keys.items()} if isinstance(keys, Mapping) else {}
        for card, keys in parameters.items()
    }
