"""``verdi data alpot.pes collect``."""

from __future__ import annotations

from typing import Any

import click

from aiida_alpot.cli.data.common import numbered, with_profile


@click.command('collect')
@click.argument('identifiers', metavar='PROCESS|GROUP...', nargs=-1, required=True)
@click.option(
    '--kpoints-distance',
    type=float,
    help='Distance of k-points in 1/A, for calculations that were given a mesh and no distance; a mesh that is not '
    'what it gives is refused.',
)
@click.option('--level-of-theory', 'level', help='Take only labels of this level of theory (its base).')
@click.option('--allow-mixed-levels', is_flag=True, help='Accept labels of several levels of theory in one data set.')
@click.option('-L', '--label', default='', help='Label of the data set.')
@with_profile
def collect(
    identifiers: tuple[str, ...],
    kpoints_distance: float | None,
    level: str | None,
    allow_mixed_levels: bool,
    label: str,
) -> None:
    """Make a data set of the pw.x calculations that are in the database.

    PROCESS is the PK or UUID of a PwCalculation, or of a work chain that called some; GROUP is the label of a group of
    them. A relaxation gives a frame for each of its steps. What cannot be used is counted, with the reason.

    \b
    Examples:
      verdi data alpot.pes collect silicon/relaxations --label "relaxations"
      verdi data alpot.pes collect 1234 5678 --kpoints-distance 0.2
    """
    from aiida_alpot.campaign.collect import collect_pw

    nodes = [load_process_or_group(identifier) for identifier in identifiers]
    found = collect_pw(
        nodes, kpoints_distance=kpoints_distance, level_of_theory=level, allow_mixed_levels=allow_mixed_levels
    )
    counts = found.counts
    click.echo(
        f'{numbered(counts["n_calculations"], "calculation")}, {counts["n_used"]} used; '
        f'{numbered(counts["n_frames"], "frame")}, '
        f'{counts["n_duplicates"]} that were there already left out, {counts["n_without_stress"]} without stress.'
    )
    for reason, count in found.reasons.items():
        click.echo(f'  skipped {count}: {reason}')
    click.echo(f'Reports: {", ".join(str(report.pk) for report in found.reports)}.')
    if found.dataset is None:
        raise ValueError('no calculation gives a frame')
    found.dataset.label = label
    click.echo(f'Data set {found.dataset.pk} ({found.dataset.uuid}).')


def load_process_or_group(identifier: str) -> Any:
    """A process by PK or UUID, or a group by its label.

    :raises ValueError: where there is neither, or both.
    """
    from aiida import orm
    from aiida.common.exceptions import MultipleObjectsError, NotExistent

    groups = orm.QueryBuilder().append(orm.Group, filters={'label': identifier}).all(flat=True)
    try:
        node = orm.load_node(identifier)
    except (NotExistent, ValueError):
        node = None
    except MultipleObjectsError as exception:
        raise ValueError(f'several nodes have a UUID that starts with {identifier!r}: give more of it') from exception
    found = [*groups, *([] if node is None else [node])]
    if not found:
        raise ValueError(
            f'there is no process with the PK or UUID {identifier!r} and no group of this label: `verdi process list '
            '-a` and `verdi group list -A` show what there is'
        )
    if len(found) > 1:
        raise ValueError(f'{identifier!r} fits {len(found)} groups and processes: give the UUID of one')
    if node is not None and not isinstance(node, orm.ProcessNode):
        raise ValueError(f'node {identifier} is a {type(node).__name__}, not a process')
    return found[0]
