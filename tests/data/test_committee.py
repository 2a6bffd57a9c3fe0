import io

import pytest
from aiida import orm
from aiida.common.exceptions import ValidationError

from aiida_alpot.data.committee import CommitteeData
from aiida_alpot.data.potential import PotentialData

pytestmark = pytest.mark.usefixtures('aiida_profile_clean')


def potential(seed, **changes):
    fields = {'trainer': 'mace', 'elements': ['Si'], 'cutoff': 5.0, 'seed': seed, 'dtype': 'float64'}
    return PotentialData(io.BytesIO(b'weights %d' % seed), f'run-{seed}.model', **(fields | changes))


def test_stored_committee_reads_back(tmp_path):
    node = CommitteeData.from_potentials([potential(i).store() for i in range(3)]).store()
    node = orm.load_node(node.pk)
    assert (node.trainer, node.elements, node.cutoff, node.dtype) == ('mace', ['Si'], 5.0, 'float64')
    assert (node.n_members, node.seeds) == (3, [0, 1, 2])
    assert node.member_filenames == ['0.model', '1.model', '2.model']
    paths = node.export(tmp_path / 'new')
    assert [path.read_bytes() for path in paths] == [b'weights 0', b'weights 1', b'weights 2']
    clone = node.clone().store()
    assert clone.base.caching.get_hash() == node.base.caching.get_hash()
    assert [x.read_bytes() for x in clone.export(tmp_path / 'clone')] == [x.read_bytes() for x in paths]


def test_copy_list():
    node = CommitteeData.from_potentials([potential(0), potential(1)])
    assert node.copy_list('committee') == [
        (node.uuid, 'members/0.model', 'committee/0.model'),
        (node.uuid, 'members/1.model', 'committee/1.model'),
    ]


def test_checkpoints_are_kept(tmp_path):
    """A committee is all that a warm start needs; MD and evaluation get the models only."""
    (tmp_path / 'best.ckpt').write_bytes(b'checkpoint')
    members = [potential(0, checkpoint=tmp_path / 'best.ckpt').store(), potential(1).store()]
    node = CommitteeData.from_potentials(members).store()
    assert node.start_list('start') == [
        (node.uuid, 'checkpoints/0.ckpt', 'start/0.ckpt'),
        (node.uuid, 'members/1.model', 'start/1.model'),
    ]
    assert [target for _, _, target in node.copy_list('committee')] == ['committee/0.model', 'committee/1.model']
    assert [path.read_bytes() for path in node.export(tmp_path / 'a', checkpoints=True)] == [
        b'checkpoint',
        b'weights 1',
    ]
    assert node.member_hashes == [member.sha256 for member in members]
    stored = members[0].base.repository.get_object('checkpoint/best.ckpt').key
    assert node.base.repository.get_object('checkpoints/0.ckpt').key == stored


def test_what_is_known_of_all_members_alike():
    known = {'data_hash': 'abc', 'level_of_theory': ['pbe'], 'trainer_version': '1'}
    own = [{'hyper_parameters': {'lr': 0.1, 'seed': i}, 'architecture': 'MACE' if i else 'PET'} for i in range(2)]
    members = [potential(i, **known, **own[i], epoch=i) for i in range(2)]
    node = CommitteeData.from_potentials(members)
    assert (node.data_hash, node.level_of_theory, node.trainer_version) == ('abc', ['pbe'], '1')
    assert node.architecture is None and 'epoch' not in node.base.attributes.all
    assert node.hyper_parameters == {'lr': 0.1}


@pytest.mark.parametrize(
    'changes', [{'elements': ['Si', 'C']}, {'cutoff': 6.0}, {'trainer': 'metatrain'}, {'dtype': 'float32'}]
)
def test_different_members_are_refused(changes):
    with pytest.raises(ValueError, match=f'one {next(iter(changes))}'):
        CommitteeData.from_potentials([potential(0), potential(1, **changes)])


def test_empty_committees_are_refused():
    with pytest.raises(ValueError, match='at least one potential'):
        CommitteeData.from_potentials([])
    with pytest.raises(ValidationError, match='at least one member'):
        CommitteeData().store()


def test_missing_member_is_refused():
    node = CommitteeData.from_potentials([potential(0), potential(1)])
    node.base.repository.delete_object('members/1.model')
    with pytest.raises(ValidationError, match='repository holds'):
        node.store()
