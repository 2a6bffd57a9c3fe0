"""``verdi data alpot.pes merge``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from aiida_alpot.cli.data.common import DATASET, numbered, with_profile

if TYPE_CHECKING:
    from aiida_alpot.data.pes import PESData
    from aiida_alpot.worker.frames import FrameStore


@click.command('merge')
@click.argument('datasets', type=DATASET, metavar='DATASET...', nargs=-1, required=True)
@click.option('--allow-mixed-levels', is_flag=True, help='Accept labels of several levels of theory in one data set.')
@click.option('-L', '--label', default='', help='Label of the new data set.')
@with_profile
def merge(datasets: tuple[PESData, ...], allow_mixed_levels: bool, label: str) -> None:
    """Put data sets together, in this order, into a new one that links to them. DATASET is a PK, UUID or label.

    Nothing is copied or rewritten. No frame is left out: those that several data sets have are counted. For a set
    without duplicates and with splits use `extend_dataset`, as a campaign does.

    \b
    Examples:
      verdi data alpot.pes merge 1234 5678 --label "both campaigns"
      verdi data alpot.pes merge 1234 5678 --allow-mixed-levels
    """
    from aiida import orm

    from aiida_alpot.calculations.functions import merge_datasets

    _check(datasets, allow_mixed_levels)
    width = len(str(len(datasets)))
    merged = merge_datasets(
        allow_mixed_levels=orm.Bool(allow_mixed_levels),
        **{f'dataset_{index:0{width}d}': dataset for index, dataset in enumerate(datasets)},
    )
    merged.label = label
    with merged.open_store() as store:
        repeated = count_repeated(store)
    click.echo(f'{numbered(merged.n_frames, "frame")}, {repeated} of them repeated at the same level of theory.')
    click.echo(f'Data set {merged.pk} ({merged.uuid}).')


def _check(datasets: tuple[PESData, ...], allow_mixed_levels: bool) -> None:
    """Refuse what the calculation function would refuse, before it makes a node of its failure."""
    from aiida_alpot.worker.frames import check_one_level

    if len({dataset.uuid for dataset in datasets}) < 2:
        raise ValueError('give at least two different data sets')
    if not allow_mixed_levels:
        levels: set[str] = set()
        for dataset in datasets:
            with dataset.open_store() as store:
                levels.update(store.levels_of_theory())
        try:
            check_one_level(levels)
        except ValueError as exception:
            raise ValueError(f'{exception}; --allow-mixed-levels puts them together nevertheless') from exception


def count_repeated(store: FrameStore) -> int:
    """Number of frames beyond the first of each structure and level of theory."""
    import numpy as np

    from aiida_alpot.worker.frames.carry import first_of_equals

    _, levels = store.categories('level_of_theory')
    return len(store) - len(np.unique(first_of_equals(store.digests(), levels)))
