"""From frames to the structures that pw.x labels, and from its outputs back to labelled frames."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from aiida import orm
from aiida.engine import calcfunction

from aiida_alpot.data.pes import PESData
from aiida_alpot.data.structures import frame_to_structure
from aiida_alpot.worker.frames.frame import Frame

GPA_PER_EV_PER_A3 = 160.21766208
"""1 eV/A^3 in GPa."""

THEORY_SYSTEM_KEYS_LEFT_OUT = ('starting_magnetization', 'tot_magnetization', 'nat', 'ntyp', 'ibrav', 'nbnd')
"""Keys of the SYSTEM card that start or size a calculation and do not define its level of theory."""


@calcfunction
def extract_structures(frames: PESData, indices: orm.List) -> dict[str, orm.StructureData]:
    """Structures of some frames, as outputs ``frame_<index>``."""
    return {f'frame_{index}': frame_to_structure(frames.frame(index)) for index in indices.get_list()}


def level_of_theory(
    parameters: Mapping[str, Any], pseudos: Mapping[str, str], kpoints_distance: float
) -> tuple[str, dict[str, Any]]:
    """Fingerprint of everything that changes a pw.x label, and what went into it.

    :param parameters: pw.x cards; of these SYSTEM (cut-offs, smearing, spin, functional, dispersion) counts.
    :param pseudos: MD5 of the pseudopotential of each element.
    :param kpoints_distance: largest distance of k-points, 1/A.
    """
    system = {
        key.lower(): value
        for key, value in parameters.get('SYSTEM', {}).items()
        if key.lower() not in THEORY_SYSTEM_KEYS_LEFT_OUT
    }
    content = {
        'code': 'quantumespresso.pw',
        'system': system,
        'pseudos': dict(sorted(pseudos.items())),
        'kpoints_distance': kpoints_distance,
    }
    text = json.dumps(content, sort_keys=True, separators=(',', ':'))
    return hashlib.sha256(text.encode()).hexdigest(), content


@calcfunction
def collect_labels(
    frames: PESData,
    parameters: orm.Dict,
    kpoints_distance: orm.Float,
    failures: orm.List,
    **namespaces: Any,
) -> dict[str, orm.Data]:
    """Labelled frames from the outputs of pw.x, and an account of every frame that was asked for.

    :param frames: what was to be labelled.
    :param failures: for each frame without label its index, the process, its exit status and message.
    :param namespaces: ``pseudos``, the pseudopotential of each element, and ``trajectories``, the output of pw.x for
        each ``frame_<index>`` that has one.
    """
    pseudos, trajectories = namespaces['pseudos'], namespaces.get('trajectories', {})
    fingerprint, content = level_of_theory(
        parameters.get_dict(), {element: pseudo.md5 for element, pseudo in pseudos.items()}, kpoints_distance.value
    )
    account = {
        'n_requested': len(frames),
        'n_labelled': len(trajectories),
        'n_failed': len(failures.get_list()),
        'failures': [
            {**failure, 'frame_id': frames.frame(failure['index']).frame_id} for failure in failures.get_list()
        ],
        'level_of_theory': fingerprint,
        'level_of_theory_content': content,
    }
    outputs: dict[str, orm.Data] = {'report': orm.Dict(account)}
    if trajectories:
        outputs['labelled'] = PESData(frames=_labelled_frames(frames, trajectories, fingerprint))
    return outputs


def _labelled_frames(
    frames: PESData, trajectories: Mapping[str, orm.TrajectoryData], fingerprint: str
) -> Iterator[Frame]:
    """The frames that have an output, in their order, with labels."""
    for index, frame in enumerate(frames):
        trajectory = trajectories.get(f'frame_{index}')
        if trajectory is not None:
            yield label_frame(frame, trajectory, fingerprint)


def label_frame(frame: Frame, trajectory: orm.TrajectoryData, fingerprint: str) -> Frame:
    """The frame with the labels of a static pw.x calculation.

    pw.x reports stress in GPa and positive under pressure; ours is in eV/A^3 and positive under tension, as ASE's.

    :raises ValueError: where the calculation was not one static step on the atoms of this frame.
    """
    forces = trajectory.get_array('forces')
    if forces.shape != (1, len(frame), 3):
        raise ValueError(f'expected the forces of one step on {len(frame)} atoms, found shape {forces.shape}')
    stress = -trajectory.get_array('stress')[-1] / GPA_PER_EV_PER_A3 if frame.pbc.all() else None
    return frame.replace(
        energy=float(np.asarray(trajectory.get_array('energy')).reshape(-1)[-1]),
        forces=forces[-1],
        stress=stress,
        level_of_theory=fingerprint,
    )
