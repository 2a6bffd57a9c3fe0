"""What an exploration gives: the frames of all trajectories that are worth keeping, and an account of them."""

from __future__ import annotations

from collections import Counter
from typing import Any

from aiida import orm
from aiida.engine import calcfunction

from aiida_alpot.data.pes import PESData
from aiida_alpot.worker.frames.thin import Thinned, ThinSettings, thin

COUNTS = ('n_sampled', 'n_repeated', 'n_known', 'n_correlated', 'n_kept', 'n_uncertain')


@calcfunction
def collect_frames(account: orm.Dict, keep: orm.Dict, structures: PESData, **sampled: PESData) -> dict[str, orm.Data]:
    """Frames of all trajectories, each structure once and none that is known, and the account with their numbers.

    :param account: of the exploration; ``trajectories`` lists them, each with its ``lineage``.
    :param keep: fields of :class:`~aiida_alpot.worker.frames.thin.ThinSettings`.
    :param structures: frames that are known already.
    :param sampled: frames of the jobs.
    :returns: ``report``, and ``frames`` where there are any.
    """
    report = account.get_dict()
    if not sampled:
        return {'report': orm.Dict(with_counts(report, None))}
    merged = PESData.merge([sampled[key] for key in sorted(sampled)])
    with merged.open_store() as store, structures.open_store() as known:
        thinned = thin(store, ThinSettings(**keep.get_dict()), known.contains)
    outputs: dict[str, orm.Data] = {'report': orm.Dict(with_counts(report, thinned))}
    if len(thinned.kept):
        everything = len(thinned.kept) == len(merged)
        outputs['frames'] = merged if everything else merged.select(thinned.kept.tolist())
    return outputs


def with_counts(report: dict[str, Any], thinned: Thinned | None) -> dict[str, Any]:
    """The account with the numbers of frames, of each trajectory and of all."""
    rows = {row['lineage']: {**row, **dict.fromkeys(COUNTS, 0)} for row in report['trajectories']}
    for lineage, counts in ({} if thinned is None else thinned.counts).items():
        # The structures of a search are lineages of their own, behind that of the search.
        row = rows.get(lineage) or rows[lineage.rpartition(':')[0]]
        row.update({name: row[name] + counts[name] for name in COUNTS})
    table = list(rows.values())
    return {
        **report,
        'n_trajectories': len(table),
        'reasons': dict(Counter(row['reason'] for row in table)),
        'counts': {name: sum(row[name] for row in table) for name in COUNTS},
        'trajectories': table,
    }
