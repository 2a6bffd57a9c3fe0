"""A disk that fills up while a data set is stored: an error, no node, nothing half-written, and a second try works."""

import resource
from contextlib import contextmanager
from pathlib import Path

import pytest
from aiida import orm
from aiida.manage import get_manager

from aiida_alpot.data.pes import PESData
from aiida_alpot.worker.frames import write_shard

pytestmark = pytest.mark.usefixtures('aiida_profile_clean')


@contextmanager
def files_end_at(n_bytes):
    """Let no file of this process grow beyond a size: writing further is an ``OSError``, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def frames(make_frame):
    """Frames whose shard is some megabytes: the data base of the profile itself is smaller."""
    frame = make_frame(0, n_atoms=1000)
    return [frame.replace(energy=float(i)) for i in range(60)]


def repository_files():
    container = Path(get_manager().get_profile().storage_config['filepath']) / 'container'
    return sorted(path for path in container.rglob('*') if path.is_file())


def check_nothing_left(before, n_nodes):
    assert orm.QueryBuilder().append(PESData).count() == n_nodes
    assert repository_files() == before


@pytest.mark.parametrize('make', ['frames', 'shards', 'merge'])
def test_no_node_and_no_object_are_left(tmp_path, frames, make_frame, make):
    other = PESData(frames=[make_frame(1)]).store()
    node = {
        'frames': lambda: PESData(frames=frames),
        'shards': lambda: PESData.from_shards([write_shard(frames, tmp_path)]),
        'merge': lambda: PESData.merge([other, PESData(frames=frames)]),
    }[make]()
    before = repository_files()
    with files_end_at(1_500_000), pytest.raises(OSError, match=r'too large|No space'):
        node.store()
    assert not node.is_stored
    check_nothing_left(before, n_nodes=1)
    node.store()
    assert len(orm.load_node(node.pk).frame(len(node) - 1)) == 1000
    assert node.column('energy').tolist()[-60:] == list(range(60))


def test_no_room_for_the_new_shard_of_an_extended_set(frames, make_frame):
    node = PESData(frames=[make_frame(1)]).store()
    before = repository_files()
    with files_end_at(1_500_000), pytest.raises(OSError, match=r'too large|No space'):
        node.extended(frames)
    check_nothing_left(before, n_nodes=1)
    assert len(node.extended(frames).store()) == 61


def test_no_room_for_the_shard_of_new_frames(frames, tmp_path, monkeypatch):
    monkeypatch.setattr('tempfile.tempdir', str(tmp_path))
    before = repository_files()
    with files_end_at(1_500_000), pytest.raises(OSError, match=r'too large|No space'):
        PESData(frames=frames)
    assert not list(tmp_path.iterdir())
    check_nothing_left(before, n_nodes=0)
