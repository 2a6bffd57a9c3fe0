"""Models and data that a training starts from, named by a user: as a file, a node, or what identifies one."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from aiida import orm
from aiida.common import exceptions

from aiida_alpot.data.pes import PESData
from aiida_alpot.data.potential import PotentialData
from aiida_alpot.worker.frames import hash_file
from aiida_alpot.worker.frames.formats import read_frames

Kind = TypeVar('Kind', PotentialData, PESData)


def load_foundation(value: Any, field: str) -> PotentialData | None:
    """The model that is to be tuned.

    :param value: a node, its PK, UUID or label, or the path of a file; a file that the database has already is taken
        from there.
    :param field: of the campaign, for the error.
    :raises ValueError: for what is none of these.
    """
    if not _is_file(value):
        return _load_node(value, PotentialData, field, '`verdi data alpot.potential import FILE`')
    query = orm.QueryBuilder().append(PotentialData, filters={'attributes.sha256': hash_file(value)})
    known = query.order_by({PotentialData: 'id'}).first(flat=True)
    try:
        return known or PotentialData.from_file(value)
    except ValueError as exception:
        raise ValueError(f'`{field}`: {exception}.') from exception


def load_replay(value: Any, field: str) -> PESData | None:
    """The frames that a foundation model was trained on; as :func:`load_foundation`."""
    if not _is_file(value):
        return _load_node(value, PESData, field, '`verdi data alpot.pes import FILE`')
    try:
        return PESData(frames=read_frames(value))
    except ValueError as exception:
        raise ValueError(f'`{field}`: {exception}. `verdi data alpot.pes import` takes such files.') from exception


def _is_file(value: Any) -> bool:
    return isinstance(value, (str, Path)) and Path(value).is_file()


def _load_node(value: Any, kind: type[Kind], field: str, remedy: str) -> Kind | None:
    if value is None or isinstance(value, kind):
        return value
    try:
        node = value if isinstance(value, orm.Node) else orm.load_node(value)
    except (exceptions.NotExistent, exceptions.MultipleObjectsError, TypeError, ValueError) as exception:
        raise ValueError(
            f'`{field}`: {value!r} is neither a file nor the PK, UUID or label of a node: correct it, or bring the '
            f'file in by {remedy}.'
        ) from exception
    if not isinstance(node, kind):
        raise ValueError(f'`{field}`: node {node.pk} is a {type(node).__name__}, expected a {kind.__name__}.')
    return node
