"""Data sets in AiiDA archives (``core.sqlite_zip``): read in place, taken over with their provenance, and handed on."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from aiida import orm
from aiida.common.exceptions import CorruptStorage, IncompatibleStorageSchema, UnreachableStorage
from aiida.storage.sqlite_zip.backend import SqliteZipBackend
from aiida.tools.archive import create_archive
from aiida.tools.archive import import_archive as import_everything
from aiida.tools.archive.exceptions import ArchiveImportError

from aiida_alpot.data.pes import PESData

SUFFIX = '.aiida'

PROVENANCE: Mapping[str, Mapping[str, bool]] = {
    'full': {},
    'data': {'call_calc_backward': False, 'call_work_backward': False},
    'none': {'create_backward': False},
}
"""How much of the graph goes with a data set: with ``full`` the calculations and data it descends from and the work
chains that called them, with all that these made; with ``data`` without the work chains; with ``none`` the node alone.
The values are what they change in AiiDA's rules."""


@contextmanager
def open_archive(path: Path | str) -> Iterator[list[PESData]]:
    """The data sets of an archive, oldest first, read where they are: nothing is imported and no profile is needed.

    They read as any other node as long as the context is open. An object of an archive is compressed: what is read of a
    data set is unpacked to a temporary file first.

    :raises ValueError: where the file is no archive, or one of another version of AiiDA.
    """
    with _understood(path):
        backend = SqliteZipBackend(SqliteZipBackend.create_profile(Path(path)))
    with closing(backend):
        with _understood(path):
            query = orm.QueryBuilder(backend=backend).append(PESData, tag='node').order_by({'node': {'ctime': 'asc'}})
            nodes = query.all(flat=True)
        yield nodes


def import_archive(path: Path | str) -> tuple[list[PESData], int]:
    """Import an archive into the loaded profile: its data sets with everything that the archive holds of their past.

    Nodes that the profile has already, by their UUID, stay as they are.

    :return: the data sets of the archive as they are in the profile now, oldest first, and how many of them are new.
    :raises ValueError: where the file is no archive, one of another version of AiiDA, or one without data sets.
    """
    with open_archive(path) as archived:
        uuids = [node.uuid for node in archived]
    if not uuids:
        raise ValueError(f'{path} holds no data set (PESData): use `verdi archive import` for what else is in it')
    known = orm.QueryBuilder().append(PESData, filters={'uuid': {'in': uuids}}).count()
    with _understood(path):
        import_everything(path, create_group=False)
    return [orm.load_node(uuid) for uuid in uuids], len(uuids) - known


def export_archive(
    nodes: Sequence[PESData], path: Path | str, *, provenance: str = 'full', overwrite: bool = False
) -> Path:
    """Write data sets into a new archive.

    :param provenance: a key of :data:`PROVENANCE`.
    :param overwrite: replace a file of this name.
    :raises ValueError: for no nodes, nodes that are not stored, an unknown ``provenance``, and a file that exists.
    """
    if provenance not in PROVENANCE:
        raise ValueError(f'`provenance` is {provenance!r}, expected one of {", ".join(PROVENANCE)}')
    if not nodes or any(not node.is_stored for node in nodes):
        raise ValueError('only stored data sets can go into an archive: give at least one, and store it first')
    path = Path(path)
    if path.exists() and (not overwrite or not path.is_file()):
        raise ValueError(f'{path} exists already: give another name, or ask to overwrite it')
    return create_archive(list(nodes), filename=path, overwrite=overwrite, **PROVENANCE[provenance])


@contextmanager
def _understood(path: Path | str) -> Iterator[None]:
    """Turn what AiiDA raises about an archive into a sentence."""
    try:
        yield
    except IncompatibleStorageSchema as exception:
        raise ValueError(
            f'{path} is an archive of another version of AiiDA ({exception}): bring it to this one with '
            f'`verdi archive migrate {path} NEW_FILE`'
        ) from exception
    except (CorruptStorage, UnreachableStorage, zipfile.BadZipFile, OSError) as exception:
        raise ValueError(f'{path} cannot be read as an AiiDA archive: {exception}') from exception
    except ArchiveImportError as exception:
        raise ValueError(f'{path} cannot be imported: {exception}') from exception
