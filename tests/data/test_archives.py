"""Data sets in AiiDA archives."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiida import orm
from aiida.tools.archive import create_archive

from aiida_alpot.calculations.functions import merge_datasets
from aiida_alpot.data.archives import PROVENANCE, export_archive, import_archive, open_archive
from aiida_alpot.data.pes import PESData, shard_path
from aiida_alpot.worker.frames import Frame

pytestmark = pytest.mark.usefixtures('aiida_profile_clean')


@pytest.fixture
def merged(make_frame: Callable[..., Frame]) -> PESData:
    """A data set made by a calculation function of two others."""
    parts = {f'part_{i}': PESData(frames=[make_frame(10 * i + k) for k in range(5)]) for i in range(2)}
    return merge_datasets(**parts)


def content(node: PESData) -> list[bytes]:
    """The bytes of every shard."""
    return [node.base.repository.get_object_content(shard_path(digest), mode='rb') for digest in node.shards]


def test_round_trip_keeps_bytes_hash_and_creator(
    merged: PESData, tmp_path: Path, aiida_profile_clean: Any, assert_same_frame: Callable[[Frame, Frame], None]
) -> None:
    """What comes back into an empty profile is the same to the last byte, with all that it was made of."""
    uuid, hashed, wanted, frames = merged.uuid, merged.base.caching.get_hash(), content(merged), list(merged)
    path = export_archive([merged], tmp_path / 'sets.aiida')
    aiida_profile_clean.reset_storage()
    nodes, n_new = import_archive(path)
    assert n_new == len(nodes) == 3
    back = orm.load_node(uuid)
    assert nodes[-1].uuid == uuid
    assert content(back) == wanted
    assert back.base.caching.compute_hash() == hashed
    assert back.creator.process_label == 'merge_datasets'
    assert [link.node.n_frames for link in back.creator.base.links.get_incoming(node_class=PESData).all()] == [5, 5]
    for found, frame in zip(back, frames, strict=True):
        assert_same_frame(found, frame)
    assert import_archive(path)[1] == 0
    assert orm.QueryBuilder().append(PESData).count() == 3


def test_read_in_place(
    merged: PESData, tmp_path: Path, aiida_profile_clean: Any, assert_same_frame: Callable[[Frame, Frame], None]
) -> None:
    """Nothing is imported, and single frames and columns read as from the profile."""
    frames, wanted = list(merged), content(merged)
    export_archive([merged], tmp_path / 'sets.aiida', provenance='none')
    aiida_profile_clean.reset_storage()
    with open_archive(tmp_path / 'sets.aiida') as nodes:
        (node,) = nodes
        assert node.n_frames == 10 and content(node) == wanted
        assert_same_frame(node.frame(7), frames[7])
        assert node.column('energy').tolist() == [frame.energy for frame in frames]
    assert orm.QueryBuilder().append(PESData).count() == 0


@pytest.mark.parametrize(('provenance', 'n_nodes'), [('full', 5), ('data', 5), ('none', 1)])
def test_provenance(merged: PESData, tmp_path: Path, provenance: str, n_nodes: int, aiida_profile_clean: Any) -> None:
    """The node alone, or with the calculation, its two data sets and the code of the function."""
    uuid = merged.uuid
    path = export_archive([merged], tmp_path / 'sets.aiida', provenance=provenance)
    aiida_profile_clean.reset_storage()
    import_archive(path)
    assert (orm.load_node(uuid).creator is None) == (provenance == 'none')
    n_data = 3 if n_nodes > 1 else 1
    assert orm.QueryBuilder().append(PESData).count() == n_data
    assert set(PROVENANCE) == {'full', 'data', 'none'}


def test_without_work_chains(merged: PESData, tmp_path: Path, aiida_profile_clean: Any) -> None:
    """`data` leaves out the work chain that called the calculation function, `full` takes it along."""
    from aiida.common.links import LinkType

    chain = orm.WorkChainNode().store()
    part = PESData(frames=[merged.frame(0)]).store()
    calculation = orm.CalcFunctionNode()
    calculation.base.links.add_incoming(part, LinkType.INPUT_CALC, 'part')
    calculation.base.links.add_incoming(chain, LinkType.CALL_CALC, 'call')
    calculation.store()
    made = PESData(frames=[merged.frame(1)])
    made.base.links.add_incoming(calculation, LinkType.CREATE, 'result')
    made.store()
    for node in (calculation, chain):
        node.seal()
    paths = {rule: export_archive([made], tmp_path / f'{rule}.aiida', provenance=rule) for rule in ('full', 'data')}
    aiida_profile_clean.reset_storage()
    import_archive(paths['data'])
    assert orm.QueryBuilder().append(orm.WorkChainNode).count() == 0
    assert orm.QueryBuilder().append(orm.CalcFunctionNode).count() == 1
    import_archive(paths['full'])
    assert orm.QueryBuilder().append(orm.WorkChainNode).count() == 1


class TestRefused:
    """Each in a sentence."""

    def test_no_archive(self, tmp_path: Path) -> None:
        """Text, a foreign zip file, nothing."""
        (tmp_path / 'text.aiida').write_text('no archive')
        with zipfile.ZipFile(tmp_path / 'foreign.aiida', 'w') as archive:
            archive.writestr('a', 'b')
        for name in ('text.aiida', 'foreign.aiida', 'gone.aiida'):
            with pytest.raises(ValueError, match='cannot be read as an AiiDA archive'), open_archive(tmp_path / name):
                pass
            with pytest.raises(ValueError, match='cannot be read as an AiiDA archive'):
                import_archive(tmp_path / name)

    def test_another_version(self, merged: PESData, tmp_path: Path) -> None:
        """With the command that helps."""
        path = export_archive([merged], tmp_path / 'new.aiida')
        old = tmp_path / 'old.aiida'
        with zipfile.ZipFile(path) as source, zipfile.ZipFile(old, 'w') as target:
            for name in source.namelist():
                data = source.read(name)
                if name == 'metadata.json':
                    data = json.dumps({**json.loads(data), 'export_version': 'main_0000a'}).encode()
                target.writestr(name, data)
        with pytest.raises(ValueError, match='verdi archive migrate'), open_archive(old):
            pass

    def test_without_data_sets(self, tmp_path: Path) -> None:
        """An archive of something else."""
        create_archive([orm.Int(1).store()], filename=tmp_path / 'other.aiida')
        with pytest.raises(ValueError, match='holds no data set'):
            import_archive(tmp_path / 'other.aiida')

    def test_export(self, merged: PESData, tmp_path: Path, make_frame: Callable[..., Frame]) -> None:
        """A file that exists, unstored nodes, an unknown rule."""
        path = export_archive([merged], tmp_path / 'sets.aiida')
        with pytest.raises(ValueError, match='exists already'):
            export_archive([merged], path)
        export_archive([merged], path, overwrite=True)
        with pytest.raises(ValueError, match='store it first'):
            export_archive([PESData(frames=[make_frame(0)])], tmp_path / 'a.aiida')
        with pytest.raises(ValueError, match='expected one of full, data, none'):
            export_archive([merged], tmp_path / 'a.aiida', provenance='some')
