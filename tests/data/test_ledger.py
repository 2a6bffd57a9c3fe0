"""The label ledger over the data sets of a profile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiida import orm
from aiida.manage import get_manager
from aiida.tools.archive import create_archive, import_archive

from aiida_alpot.data import ledger
from aiida_alpot.data.ledger import KnownLabels, find_labels
from aiida_alpot.data.pes import PESData
from aiida_alpot.worker.frames import Frame
from aiida_alpot.worker.frames.scan import LabelSearch

pytestmark = pytest.mark.usefixtures('aiida_profile_clean')


def ask(frames: Sequence[Frame], level: str = 'pbe', needed: Sequence[str] = ('energy', 'forces')) -> KnownLabels:
    """Ask for labels of frames."""
    digests = np.frombuffer(b''.join(bytes.fromhex(frame.frame_id) for frame in frames), dtype=np.uint8)
    mask = np.ones(len(frames), dtype=bool)
    return find_labels(digests.reshape(-1, 32), [level] * len(frames), dict.fromkeys(needed, mask))


def answers(known: KnownLabels) -> list[tuple[int, str, int]]:
    """Question, UUID of the data set and index in it."""
    uuids = [known.sources[number] for number in known.source.tolist()]
    return list(zip(known.questions.tolist(), uuids, known.index.tolist(), strict=True))


@pytest.fixture
def make(make_frame: Callable[..., Frame]) -> Callable[..., list[Frame]]:
    """Factory of frames by their seeds."""
    return lambda *seeds, **fields: [make_frame(seed, **fields) for seed in seeds]


def test_found_and_not_found(make: Callable[..., list[Frame]]) -> None:
    """By question: the data set, and the index of the frame in it."""
    first, second = (PESData(frames=make(*seeds)).store() for seeds in ((0, 1, 2), (10, 11)))
    known = ask(make(11, 5, 1, 1, 0, labelled=False))
    assert answers(known) == [(0, second.uuid, 1), (2, first.uuid, 1), (3, first.uuid, 1), (4, first.uuid, 0)]
    assert known.sources == (first.uuid, second.uuid) and known.problems == () and len(known) == 4
    assert known.picks() == {
        'source_0': {'uuid': first.uuid, 'frames': [2, 3, 4], 'indices': [1, 1, 0]},
        'source_1': {'uuid': second.uuid, 'frames': [0], 'indices': [1]},
    }


def test_oldest_data_set_and_lowest_index(make: Callable[..., list[Frame]]) -> None:
    """A shard that many list is taken from the oldest of them; the index counts all shards of that data set."""
    parts = [PESData(frames=make(*seeds)) for seeds in ((0, 1, 2), (3, 4), (1, 5))]
    merged = [PESData.merge(parts[:2]).store(), PESData.merge(parts[1:]).store(), PESData.merge(parts).store()]
    for seeds in ((0, 1, 2), (3, 4), (1, 5)):
        PESData(frames=make(*seeds)).store()
    known = ask(make(4, 5, 1))
    assert answers(known) == [(0, merged[0].uuid, 4), (1, merged[1].uuid, 3), (2, merged[0].uuid, 1)]


def test_age_is_that_of_the_database(make: Callable[..., list[Frame]]) -> None:
    """Not the order of storing, which an import changes."""
    newer, older = (PESData(frames=make(0, seed)).store() for seed in (1, 2))
    older.backend_entity.model.ctime = newer.ctime.replace(year=2001)
    older.backend_entity.model.save()
    assert ask(make(0)).sources == (older.uuid,)


def test_a_shard_is_read_once(make: Callable[..., list[Frame]], monkeypatch: pytest.MonkeyPatch) -> None:
    """However many data sets list it."""
    scanned: list[int] = []
    scan = LabelSearch.scan
    monkeypatch.setattr(
        LabelSearch, 'scan', lambda self, source, rank: scanned.append(rank) or scan(self, source, rank)
    )
    parts = [PESData(frames=make(seed)).store() for seed in range(4)]
    for stop in (2, 3, 4):
        PESData.merge(parts[:stop]).store()
    assert len(ask(make(3, 99))) == 1
    assert sorted(scanned) == [0, 1, 2, 3]


def test_search_ends_when_all_is_known(make: Callable[..., list[Frame]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Later batches of shards are not opened."""
    monkeypatch.setattr(ledger, 'BATCH', 2)
    for seed in range(6):
        PESData(frames=make(seed)).store()
    scanned: list[int] = []
    scan = LabelSearch.scan
    monkeypatch.setattr(
        LabelSearch, 'scan', lambda self, source, rank: scanned.append(rank) or scan(self, source, rank)
    )
    assert len(ask(make(1))) == 1
    assert sorted(scanned) == [0, 1]


@pytest.mark.parametrize('level', ['VASP PBE 520 eV', 'Dr. O\'Hara\'s "best" a.b.c', 'pw-0011[Si:aa,+isolated]', 'ä%_'])
def test_levels(make: Callable[..., list[Frame]], level: str) -> None:
    """The very same text, whatever it holds; a base alone opens no data set of another one."""
    frames = make(0, level_of_theory=level)
    node = PESData(frames=frames).store()
    assert answers(ask(frames, level)) == [(0, node.uuid, 0)]
    for other in (f'{level.partition("[")[0]}[C:ff]', 'pbe', 'V'):
        assert len(ask(frames, other)) == 0


def test_needs(make: Callable[..., list[Frame]]) -> None:
    """A label without what is needed does not do, one in a newer data set that has it does."""
    PESData(frames=make(0, 1, stress=None)).store()
    whole = PESData(frames=make(0)).store()
    assert answers(ask(make(0, 1), needed=('energy', 'stress'))) == [(0, whole.uuid, 0)]
    assert len(ask(make(0, 1), needed=('charges',))) == 0


class TestLeftOut:
    """Data sets whose labels are not to be used."""

    def test_its_labels_and_their_copies(self, make: Callable[..., list[Frame]]) -> None:
        """Neither its shards where another lists them, nor copies in other shards; what was labelled anew is taken."""
        wrong, good = make(0, 1, 2), make(3)
        bad = PESData(frames=wrong).store()
        PESData.merge([bad, PESData(frames=good)]).store()
        copies = PESData(frames=[frame.replace(split='train') for frame in wrong]).store()
        anew = PESData(frames=[wrong[1].replace(energy=-7.0)]).store()
        assert len(ask([*wrong, *good])) == 4
        bad.base.extras.set('alpot_ledger', False)
        assert answers(ask([*wrong, *good]))[0] == (1, anew.uuid, 0)
        assert ask([*wrong, *good]).questions.tolist() == [1, 3]
        bad.base.extras.set('alpot_ledger', True)
        copies.base.extras.set('alpot_ledger', False)
        assert ask([*wrong, *good]).questions.tolist() == [1, 3]
        copies.base.extras.delete('alpot_ledger')
        assert len(ask([*wrong, *good])) == 4

    def test_index_in_a_data_set_that_shares_a_shard(self, make: Callable[..., list[Frame]]) -> None:
        """The frames of a shard that is left out count for those behind it."""
        bad, good = PESData(frames=make(0, 1)).store(), PESData(frames=make(2, 3))
        both = PESData.merge([bad, good]).store()
        bad.base.extras.set('alpot_ledger', False)
        assert answers(ask(make(1, 3))) == [(1, both.uuid, 3)]


@pytest.mark.parametrize('compress', [False, True])
def test_packed_repository(make: Callable[..., list[Frame]], compress: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """`verdi storage maintain` changes where the bytes are; large objects are then not read as a whole."""
    nodes = [PESData(frames=make(*seeds)).store() for seeds in ((0, 1), (2, 3))]
    storage = get_manager().get_profile_storage()
    storage.get_repository().maintain(live=False, compress=compress)
    for small in (2**22, 100):
        monkeypatch.setattr(ledger, 'SMALL', small)
        assert answers(ask(make(3, 0))) == [(0, nodes[1].uuid, 1), (1, nodes[0].uuid, 0)]


def test_imported_archive(make: Callable[..., list[Frame]], tmp_path: Path, aiida_profile: Any) -> None:
    """What another project bought is known once it is imported."""
    node = PESData(frames=make(0, 1)).store()
    uuid = node.uuid
    create_archive([node], filename=tmp_path / 'project.aiida', test_run=False)
    aiida_profile.reset_storage()
    assert len(ask(make(1))) == 0
    import_archive(tmp_path / 'project.aiida')
    assert answers(ask(make(1))) == [(0, uuid, 1)]


def test_unreadable_shards_are_told(make: Callable[..., list[Frame]]) -> None:
    """A shard that is gone or damaged does not stop the search; an index behind it is not guessed."""
    lost, damaged, fine = (PESData(frames=make(seed)) for seed in (0, 1, 2))
    behind = PESData.merge([lost, PESData(frames=make(3))]).store()
    damaged.store()
    fine.store()
    repository = get_manager().get_profile_storage().get_repository()
    repository.delete_objects([behind.shards[0]])
    with repository._container as container:
        path = Path(container.get_folder()) / 'loose' / damaged.shards[0][:2] / damaged.shards[0][2:]
    path.chmod(0o644)
    path.write_bytes(b'not HDF5')
    known = ask(make(0, 1, 2, 3))
    assert answers(known) == [(2, fine.uuid, 0)]
    assert sorted('missing from the repository' in problem for problem in known.problems) == [False, True]
    assert any('cannot be read' in problem and damaged.shards[0][:12] in problem for problem in known.problems)


def test_empty_ledger_and_no_questions(make: Callable[..., list[Frame]]) -> None:
    """Nothing known, nothing asked, nothing labelled."""
    assert len(ask(make(0))) == 0
    PESData(frames=make(0, labelled=False)).store()
    assert len(ask(make(0))) == 0
    none = find_labels(np.empty((0, 32), dtype=np.uint8), [], {})
    assert len(none) == 0 and none.picks() == {}


def test_nodes_are_not_loaded(make: Callable[..., list[Frame]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Only attributes are queried: loading a node costs more than searching its shard."""
    node = PESData(frames=make(0)).store()
    frames = make(0)

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError('a node was loaded')

    monkeypatch.setattr(orm, 'load_node', refuse)
    monkeypatch.setattr(PESData, 'open_store', refuse)
    assert ask(frames).sources == (node.uuid,)


def test_a_repository_that_cannot_be_searched_is_said(monkeypatch):
    """Not every storage of AiiDA keeps objects under their hash; labels are then bought, and the report says why."""
    backend = type(get_manager().get_profile_storage().get_repository())
    monkeypatch.setattr(backend, 'key_format', 'uuid4')
    known = find_labels(np.zeros((1, 32), dtype=np.uint8), ['pbe'], {'energy': np.ones(1, dtype=bool)})
    assert len(known) == 0
    assert 'only sha256 can be searched' in known.problems[0]
