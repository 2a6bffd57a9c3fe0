import subprocess
import sys
from pathlib import Path

import pytest
from aiida import orm
from aiida.common.exceptions import ValidationError
from aiida.manage import get_manager
from aiida.manage.caching import enable_caching

from aiida_alpot.calculations.functions import extend_dataset, merge_datasets, upgrade_dataset
from aiida_alpot.data.pes import PESData
from aiida_alpot.worker.frames import SCHEMA_VERSION, FrameStore, ShardError, write_shard

FROZEN = Path(__file__).parents[1] / 'worker' / 'frames' / 'frozen' / 'schema_1.h5'

pytestmark = pytest.mark.usefixtures('aiida_profile_clean')


@pytest.fixture
def frames(make_frame):
    return [make_frame(i, n_atoms=1 + i % 5, split='train' if i % 2 else 'test') for i in range(12)]


@pytest.fixture
def check_frames(assert_same_frame):
    def check(node, frames):
        assert len(node) == len(frames)
        for back, frame in zip(node, frames, strict=True):
            assert_same_frame(back, frame)
        assert_same_frame(node.frame(len(frames) - 1), frames[-1])
        assert node.column('lineage').tolist() == [frame.lineage for frame in frames]

    return check


def repository_bytes():
    container = get_manager().get_profile_storage().get_repository()._container
    with container:
        return sum(container.get_object_meta(key)['size'] for key in container.list_all_objects())


def pack(compress):
    with get_manager().get_profile_storage().get_repository()._container as container:
        container.pack_all_loose(compress=compress)
        container.clean_storage()


def test_reads_back_before_and_after_storing(frames, check_frames):
    node = PESData(frames=iter(frames))
    check_frames(node, frames)
    node.store()
    check_frames(node, frames)
    check_frames(orm.load_node(node.pk), frames)


@pytest.mark.parametrize('compress', [False, True])
def test_packed_repositories_are_read(frames, check_frames, compress):
    node = PESData.merge([PESData(frames=frames[:7]), PESData(frames=frames[7:])]).store()
    pack(compress)
    check_frames(orm.load_node(node.pk), frames)


def test_attributes(frames):
    node = PESData(frames=frames).store()
    assert node.n_frames == 12
    assert node.n_atoms == sum(map(len, frames))
    assert node.elements == ['C', 'Si', 'Ti']
    assert node.splits == {'train': 6, 'test': 6}
    assert node.origins == {'rattle': 12}
    assert node.levels_of_theory == {'pbe': 12}
    assert node.n_labelled == 12
    assert node.schema_version == SCHEMA_VERSION
    assert sum(node.chemical_systems.values()) == 12
    with node.open_store() as store:
        assert node.summary == store.summary()
    query = orm.QueryBuilder().append(PESData, filters={'attributes.elements': {'contains': ['Ti']}})
    assert query.one()[0].uuid == node.uuid


def test_equal_content_has_equal_hashes_and_is_cached(frames, check_frames):
    """Defect 15: a peer's file name held the UUID, so cached nodes came back empty and hashes differed."""
    first, equal = PESData(frames=frames).store(), PESData(frames=frames).store()
    assert first.uuid != equal.uuid
    assert first.base.caching.get_hash() == equal.base.caching.get_hash()
    assert PESData(frames=frames[:-1]).store().base.caching.get_hash() != first.base.caching.get_hash()
    more = PESData(frames=frames[:3]).store()
    calculated = merge_datasets(a=first, b=more)
    with enable_caching():
        cached = merge_datasets(a=equal, b=more)
    assert cached.creator.base.caching.is_created_from_cache
    assert cached.uuid != calculated.uuid
    check_frames(orm.load_node(cached.pk), frames + frames[:3])


def test_clones_read_back_whole(frames, check_frames):
    node = PESData(frames=frames)
    check_frames(node.clone(), frames)
    check_frames(node.store().clone().store(), frames)


def test_merge_copies_bytes_and_stores_only_what_is_new(make_frame, check_frames):
    old = [make_frame(i, n_atoms=50) for i in range(200)]
    new = [make_frame(1000, n_atoms=5)]
    large = PESData(frames=old).store()
    before = repository_bytes()
    small = PESData(frames=new).store()
    merged = PESData.merge([large, small, large]).store()
    assert merged.shards == [*large.shards, *small.shards]
    added = repository_bytes() - before
    assert added == small.base.repository.get_object_size(f'shards/{small.shards[0]}.h5')
    check_frames(merged, old + new)
    assert PESData.merge([small, large]).content_hash != merged.content_hash


def test_merging_stored_sets_touches_no_stored_byte(frames, check_frames, monkeypatch):
    """Neither copied nor hashed again, however large: the repository keeps them under their hash already."""
    sources = [PESData(frames=frames[:7]).store(), PESData(frames=frames[7:]).store()]
    written = []
    container = type(get_manager().get_profile_storage().get_repository()._container)
    for name in ('add_streamed_object', 'add_object'):
        monkeypatch.setattr(container, name, lambda *_, **__: written.append(1))
    monkeypatch.setattr('aiida_alpot.data.objects.hash_stream', lambda *_: written.append(1))
    merged = PESData.merge(sources).store()
    assert not written
    check_frames(orm.load_node(merged.pk), frames)
    check_frames(orm.load_node(sources[0].pk), frames[:7])


def test_a_round_stores_its_new_frames_only(make_frame):
    """What `extend_dataset` adds to the repository does not depend on what is there already."""
    fractions, seed = orm.Dict({'train': 0.8, 'validation': 0.2}), orm.Int(1)
    added = []
    for n_old in (20, 400):
        old = extend_dataset(PESData(frames=[make_frame(i, n_atoms=30) for i in range(n_old)]), fractions, seed)
        new = PESData(frames=[make_frame(1000 + n_old + i, n_atoms=30) for i in range(5)]).store()
        before = repository_bytes()
        extended = extend_dataset(new, fractions, seed, dataset=old)
        assert len(extended) == n_old + 5
        assert extended.shards[:-1] == old.shards
        added.append(repository_bytes() - before)
    path = f'shards/{extended.shards[-1]}.h5'
    assert added == [extended.base.repository.get_object_size(path)] * 2


def test_merge_of_what_is_not_stored(frames, check_frames):
    stored, fresh = PESData(frames=frames[:5]).store(), PESData(frames=frames[5:])
    check_frames(PESData.merge([stored, fresh]).store(), frames)


def test_select_takes_frames_in_the_order_asked_for(frames, check_frames):
    node = PESData.merge([PESData(frames=frames[:5]), PESData(frames=frames[5:])]).store()
    check_frames(node.select([7, 0, 11, 5]).store(), [frames[i] for i in (7, 0, 11, 5)])


def test_where_the_content_comes_from_does_not_change_the_hash(frames):
    plain, told = PESData(frames=frames), PESData(frames=frames, source={'uri': 'file:///tmp/x.xyz'})
    assert plain.store().base.caching.get_hash() == told.store().base.caching.get_hash()
    assert orm.load_node(told.pk).source == {'uri': 'file:///tmp/x.xyz'}


def test_upgrade_writes_the_schema_of_today(assert_same_frame):
    old = PESData.from_shards([FROZEN]).store()
    new = upgrade_dataset(old)
    assert new.creator.inputs.dataset.uuid == old.uuid
    assert new.shards != old.shards
    for back, frame in zip(new, old, strict=True):
        assert_same_frame(back, frame)
    assert upgrade_dataset(new).shards == new.shards
    with old.open_store() as before, new.open_store() as after:
        assert isinstance(after, FrameStore)
        assert before.column('frame_id').tolist() == after.column('frame_id').tolist()


def test_extended_adds_one_shard(frames, check_frames):
    node = PESData(frames=frames[:9]).store()
    extended = node.extended(frames[9:]).store()
    assert extended.shards[0] == node.shards[0]
    assert len(extended.shards) == 2
    check_frames(extended, frames)


def test_from_shards(tmp_path, frames, check_frames):
    paths = [write_shard(frames[:5], tmp_path), write_shard(frames[5:], tmp_path)]
    renamed = tmp_path / 'mine.h5'
    renamed.write_bytes(paths[1].read_bytes())
    check_frames(PESData.from_shards([paths[0], renamed, paths[1]]).store(), frames)


def test_copy_list_puts_every_shard_in_place(frames):
    node = PESData.merge([PESData(frames=frames[:5]), PESData(frames=frames[5:])])
    for (uuid, source, target), digest in zip(node.copy_list('pool'), node.shards, strict=True):
        assert uuid == node.uuid
        assert target == f'pool/{digest}.h5'
        assert node.base.repository.get_object_size(source) > 0


def test_archive_round_trip_is_byte_equal_and_readable_in_place(tmp_path, frames, check_frames, aiida_profile_clean):
    from aiida.storage.sqlite_zip.backend import SqliteZipBackend
    from aiida.tools.archive import create_archive, import_archive

    node = PESData(frames=frames).store()
    uuid, hashed, shards = node.uuid, node.base.caching.get_hash(), node.shards
    create_archive([node], filename=tmp_path / 'set.aiida')
    archived = orm.QueryBuilder(backend=SqliteZipBackend(SqliteZipBackend.create_profile(tmp_path / 'set.aiida')))
    check_frames(archived.append(PESData).one()[0], frames)
    aiida_profile_clean.reset_storage()
    import_archive(tmp_path / 'set.aiida')
    back = orm.load_node(uuid)
    assert (back.base.caching.compute_hash(), back.shards) == (hashed, shards)
    back.clone()._validate()
    check_frames(back, frames)


class TestRefused:
    def test_empty(self):
        with pytest.raises(ValueError, match='at least one frame'):
            PESData(frames=[])
        with pytest.raises(ValueError, match='at least one shard'):
            PESData.from_shards([])
        with pytest.raises(ValidationError, match='at least one frame'):
            PESData().store()

    def test_error_while_writing_stores_nothing(self, make_frame):
        """Defect 20: a peer printed the error and stored an empty node."""

        def source():
            yield make_frame(0)
            raise RuntimeError('the source broke')

        with pytest.raises(RuntimeError, match='the source broke'):
            PESData(frames=source()).store()
        assert orm.QueryBuilder().append(PESData).count() == 0

    def test_shard_that_does_not_match_its_name(self, tmp_path, frames):
        path = write_shard(frames, tmp_path)
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(ShardError, match='promises'):
            PESData.from_shards([path])

    def test_foreign_file(self, tmp_path):
        (tmp_path / 'foreign.h5').write_text('no HDF5')
        with pytest.raises(ShardError, match='no HDF5'):
            PESData.from_shards([tmp_path / 'foreign.h5'])

    @pytest.mark.parametrize(
        ('tamper', 'message'),
        [
            (lambda node, path: node.base.repository.put_object_from_bytes(b'garbage', path), 'promises'),
            (lambda node, path: node.base.repository.delete_object(path), 'repository holds'),
            (lambda node, _: node.base.repository.put_object_from_bytes(b'', 'shards/more.h5'), 'repository holds'),
            (lambda node, _: node.base.attributes.set('content_hash', 'x'), 'altered'),
            (lambda node, _: node.base.attributes.delete('n_atoms'), 'incomplete'),
        ],
    )
    def test_altered_nodes_are_not_stored(self, frames, tamper, message):
        node = PESData(frames=frames)
        tamper(node, f'shards/{node.shards[0]}.h5')
        with pytest.raises(ValidationError, match=message):
            node.store()
        assert orm.QueryBuilder().append(PESData).count() == 0

    def test_two_levels_of_theory(self, make_frame):
        frames = [make_frame(0), make_frame(1, level_of_theory='lda')]
        with pytest.raises(ValueError, match='2 levels of theory'):
            PESData(frames=frames)
        with pytest.raises(ValueError, match='2 levels of theory'):
            PESData.merge([PESData(frames=frames[:1]), PESData(frames=frames[1:])])
        assert PESData(frames=frames, allow_mixed_levels=True).levels_of_theory == {'pbe': 1, 'lda': 1}

    def test_unlabelled_frames_have_no_level(self, make_frame):
        assert len(PESData(frames=[make_frame(0), make_frame(1, labelled=False)])) == 2


def test_importable_without_a_profile(tmp_path):
    """Defect 22, and the wall: importing the data classes loads no profile, no torch and no mace."""
    script = (
        'import sys, aiida_alpot.data.pes, aiida_alpot.data.committee, aiida_alpot.calculations.functions\n'
        'from aiida.manage import get_manager\n'
        'assert get_manager().get_profile() is None\n'
        'assert not {"torch", "mace", "e3nn"} & set(sys.modules)'
    )
    subprocess.run(
        [sys.executable, '-c', script], check=True, env={'AIIDA_PATH': str(tmp_path), 'PATH': '/usr/bin:/bin'}
    )
