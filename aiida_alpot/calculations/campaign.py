"""Steps between the stages of a campaign that make data: each a calcfunction, so that all data have a creator."""

from __future__ import annotations

from typing import Any

import numpy as np
from aiida import orm
from aiida.engine import calcfunction

from aiida_alpot.data.pes import PESData
from aiida_alpot.worker.acquisition.gate import too_close
from aiida_alpot.worker.frames import Frame


@calcfunction
def choose_test_frames(frames: PESData, n_frames: orm.Int, min_distance: orm.Float) -> dict[str, PESData]:
    """Frames of trajectories that become the test set: evenly spaced along each trajectory, and physical.

    :param frames: frames of trajectories, the lineage of each being its trajectory.
    :param n_frames: how many in all, as evenly over the trajectories as they divide.
    :param min_distance: smallest distance between atoms as a fraction of the sum of their covalent radii.
    :returns: ``test``, without labels and with split ``test``; nothing where no frame is physical.
    """
    lineages = frames.column('lineage')
    chosen: list[int] = []
    for number, lineage in enumerate(trajectories := sorted(set(lineages.tolist()))):
        share = len(range(number, n_frames.value, len(trajectories)))
        physical = [
            int(i)
            for i in np.flatnonzero(lineages == lineage)
            if not too_close(frames.frame(int(i)), min_distance.value)
        ]
        chosen += [physical[i] for i in evenly_spaced(len(physical), share)]
    test: list[Frame] = [frames.frame(index).replace(split='test') for index in sorted(chosen)]
    return {'test': PESData(frames=test)} if test else {}


def evenly_spaced(n: int, k: int) -> list[int]:
    """At most ``k`` of the indices 0 to n - 1, evenly spaced, the last one included."""
    k = min(n, k)
    return [(i + 1) * n // k - 1 for i in range(k)]


@calcfunction
def summarise_campaign(ended_by: orm.Str, **namespaces: Any) -> orm.Dict:
    """Why a campaign ended and, for each round, labels, selection, errors and calibration.

    :param namespaces: ``rounds``, by ``round_<n>`` the nodes ``dataset``, ``metrics``, ``calibration``, ``selection``;
        and ``labelling``, the reports of the labelling chains.
    """
    rounds = []
    for key in sorted(namespaces['rounds'], key=lambda name: int(name.rpartition('_')[2])):
        nodes = namespaces['rounds'][key]
        selection = nodes['selection'].get_dict()
        rounds.append(
            {
                'round': int(key.rpartition('_')[2]),
                'n_labelled': int(nodes['dataset'].n_labelled),
                'counts': selection['counts'],
                'thresholds': selection['thresholds'],
                'metrics': nodes['metrics'].get_dict(),
                'calibration': nodes['calibration'].get_dict(),
            }
        )
    reports = [report.get_dict() for report in namespaces.get('labelling', {}).values()]
    counted = ('requested', 'labelled', 'reused', 'failed')
    labels = {key: sum(report.get(f'n_{key}', 0) for report in reports) for key in counted}
    failures = [failure for report in reports for failure in report['failures']]
    return orm.Dict({'ended_by': ended_by.value, 'rounds': rounds, 'labels': labels, 'failures': failures})
