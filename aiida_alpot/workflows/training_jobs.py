"""The jobs of a training: what each trains, and what goes on with one that was interrupted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from aiida import orm

from aiida_alpot.calculations.train import TrainCalculation

MAX_IDLE = 2
"""Jobs in a row that may be killed without an epoch more than before, until no other follows."""


def first_jobs(n_members: int, packed: bool) -> list[dict[str, Any]]:
    """All members in one job, or each in a job of its own."""
    members = list(range(n_members))
    groups = [members] if packed else [[member] for member in members]
    return [{'members': group, 'parent': None, 'part': 0, 'idle': 0, 'epochs': 0} for group in groups]


def was_interrupted(child: orm.ProcessNode) -> bool:
    """Whether another job can go on with this one."""
    codes = TrainCalculation.exit_codes
    resumable = (
        codes.ERROR_STOPPED.status,
        codes.ERROR_INTERRUPTED.status,
        codes.ERROR_SCHEDULER_OUT_OF_WALLTIME.status,
        codes.ERROR_SCHEDULER_NODE_FAILURE.status,
    )
    return bool(child.is_finished and child.exit_status in resumable and 'remote_folder' in child.outputs)


def epochs_of(child: orm.ProcessNode) -> int:
    """Epochs of all members of a job together, those of the jobs before included, as far as they are known."""
    if 'results' not in child.outputs:
        return 0
    return sum(of.get('n_epochs') or 0 for of in child.outputs.results['members'].values())


def following_job(job: Mapping[str, Any], child: orm.ProcessNode) -> dict[str, Any] | None:
    """The job that goes on with one that was interrupted, or nothing where there is no need or no use.

    A job that stopped by itself without an epoch more than the one before would not come further a second time. One
    that was killed so is given another chance.
    """
    if not was_interrupted(child):
        return None
    epochs = epochs_of(child)
    idle = 0 if epochs > job['epochs'] else job['idle'] + 1
    if idle >= MAX_IDLE or (idle and child.exit_status == TrainCalculation.exit_codes.ERROR_STOPPED.status):
        return None
    return {**job, 'parent': child.pk, 'part': job['part'] + 1, 'idle': idle, 'epochs': max(epochs, job['epochs'])}


def outputs_of_members(jobs: Sequence[Mapping[str, Any]], children: Sequence[Any], name: str) -> dict[str, Any]:
    """What jobs gave of each member, by ``member_<index>``; of several jobs of a member the last that gave it counts.

    :param name: of the namespace of outputs.
    """
    found: dict[str, Any] = {}
    for job, child in zip(jobs, children, strict=True):
        if name in child.outputs:
            names = [f'member_{index}' for index in job['members']]
            found |= {member: child.outputs[name][member] for member in names if member in child.outputs[name]}
    return dict(sorted(found.items(), key=lambda item: int(item[0].rpartition('_')[2])))


def warnings_of(children: Iterable[Any]) -> list[str]:
    """What the jobs warned of, each sentence once."""
    told = [child.outputs.results.get_dict().get('warnings', []) for child in children if 'results' in child.outputs]
    return list(dict.fromkeys(sentence for sentences in told for sentence in sentences))
