"""Ours: shards of frames, and the data nodes of AiiDA that list them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from ase import Atoms

from aiida_alpot.worker.frames import Frame, FrameStore, batches, hash_file, write_shard

from .contents import ATOMS, BATCH
from .measuring import Clock
from .peers import Batches, Container

if TYPE_CHECKING:
    from aiida_alpot.data.pes import PESData

PROFILE = 'benchmark'
LABEL = 'the large data set'
PARTS_BLOCK = 100


def to_frames(source: Iterable[Atoms]) -> Iterator[Frame]:
    """Frames of structures as a campaign has them: with trajectory, origin, level of theory and, as metadata, step."""
    for index, atoms in enumerate(source):
        yield Frame.from_atoms(
            atoms,
            labels=True,
            lineage=f'trajectory-{index // 100}',
            origin='md',
            level_of_theory='PBE 520 eV',
            metadata={'step': index},
        )


class FrameShards(Container):
    """A folder with one shard, and a data node of the same frames."""

    name = 'aiida-alpot'
    how_to_merge = 'store a node that lists one shard more'

    def write(self, source: Iterable[Atoms]) -> None:
        write_shard(to_frames(source), self.path)

    def _open(self) -> FrameStore:
        return FrameStore(sorted(self.path.glob('*.h5')))

    def arrays(self) -> Batches:
        with self._open() as store:
            yield from arrays_of(store)

    def atoms(self) -> Iterator[Atoms]:
        with self._open() as store:
            yield from store.iter_atoms()

    def pick(self, indices: Sequence[int]) -> Iterator[Atoms]:
        with self._open() as store:
            yield from (store.atoms(index) for index in indices)

    def merge(self, source: Iterable[Atoms]) -> int:
        """Store a node with the frames of the large one and more; the bytes that the repository grows by."""
        before = repository_bytes()
        load_large().extended(to_frames(source)).store()
        return repository_bytes() - before

    def store(self, source: Iterable[Atoms]) -> None:
        """Write the frames into a node and store it."""
        from aiida_alpot.data.pes import PESData

        PESData(frames=to_frames(source), label=LABEL).store()

    def arrays_of_node(self) -> Batches:
        """Everything in the large node, as :meth:`arrays` gives it."""
        with load_large().open_store() as store:
            yield from arrays_of(store)

    def pack(self) -> None:
        """What ``verdi storage maintain`` does: move the objects of the repository into packs."""
        from aiida.manage import get_manager

        get_manager().get_profile_storage().maintain()


#: What is measured in a profile of AiiDA, in this order.
STORE_OPERATIONS = ('store', 'merge', 'arrays, packed')


def arrays_of(store: FrameStore) -> Batches:
    """Everything in a store, as arrays of at most :data:`BATCH` frames."""
    for batch in batches(store, max_atoms=BATCH * ATOMS):
        yield {
            'numbers': batch.numbers,
            'positions': batch.positions,
            'cell': batch.cell,
            'pbc': batch.pbc,
            'offsets': batch.offsets,
            **batch.labels,
        }


def open_profile() -> None:
    """Load the profile of the AiiDA folder in force, made where there is none: SQLite and files, no broker."""
    from aiida_alpot.campaign.environment import prepare_profile

    prepare_profile(PROFILE, broker=False)


def close_profile() -> None:
    """Close the data base."""
    from aiida.manage import get_manager

    get_manager().reset_profile()


def load_large() -> PESData:
    """The first node of all frames."""
    from aiida import orm

    from aiida_alpot.data.pes import PESData

    query = orm.QueryBuilder().append(PESData, filters={'label': LABEL}).order_by({PESData: {'id': 'asc'}})
    return query.first(flat=True)


def write_parts(source: Iterable[Atoms], directory: Path) -> dict[str, float]:
    """CPU microseconds a frame of the parts of a write: medians over blocks of a hundred frames.

    :return: ``Frame.from_atoms`` (copies and checks), ``frame_id``, ``hash of the file``, and ``columns`` for the rest.
    """
    structures = list(source)
    made, identified, written, hashed = [], [], [], []
    for start in range(0, len(structures), PARTS_BLOCK):
        with Clock() as clock:
            frames = list(to_frames(structures[start : start + PARTS_BLOCK]))
        made.append(clock.cpu / len(frames))
        with Clock() as clock:
            _ = [frame.frame_id for frame in frames]
        identified.append(clock.cpu / len(frames))
    for _ in range(3):
        with Clock() as clock:
            shard = write_shard(to_frames(structures), directory)
        written.append(clock.cpu / len(structures))
        with Clock() as clock:
            hash_file(shard)
        hashed.append(clock.cpu / len(structures))
    parts = {'Frame.from_atoms': made, 'frame_id': identified, 'hash of the file': hashed}
    times = {name: 1e6 * median(values) for name, values in parts.items()}
    return {**times, 'columns': 1e6 * median(written) - sum(times.values())}


def repository_bytes() -> int:
    """Size of the files of the profile's repository."""
    from aiida.manage import get_manager

    profile = get_manager().get_profile()
    folder = Path(profile.storage_config['filepath'])
    return sum(path.stat().st_size for path in (folder / 'container').rglob('*') if path.is_file())
