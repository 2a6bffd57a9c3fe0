import hashlib
import io

import pytest
from aiida import orm
from aiida.common.exceptions import ValidationError

from aiida_alpot.data import potential
from aiida_alpot.data.potential import PotentialData

pytestmark = pytest.mark.usefixtures('aiida_profile_clean')
FIELDS = {'trainer': 'mace', 'elements': ['Si', 'C'], 'cutoff': 5, 'seed': 3, 'dtype': 'float64'}


def make(**changes):
    return PotentialData(io.BytesIO(b'weights'), 'alpot.model', **(FIELDS | changes))


def test_stored_potential_reads_back():
    node = orm.load_node(make().store().pk)
    assert isinstance(node, PotentialData)
    assert (node.trainer, node.elements, node.cutoff, node.seed, node.dtype) == ('mace', ['C', 'Si'], 5.0, 3, 'float64')
    assert node.suffix == '.model'
    assert node.get_content(mode='rb') == b'weights'


def test_path_is_accepted(tmp_path):
    path = tmp_path / 'a.model'
    path.write_bytes(b'weights')
    assert PotentialData(str(path), **FIELDS).store().filename == 'a.model'


KNOWN = {
    'trainer_version': '0.3.16',
    'architecture': 'MACE',
    'hyper_parameters': {'num_channels': 8},
    'data_hash': 'abc',
    'level_of_theory': ['pbe'],
    'reference_energies': {'Si': -100.0},
    'started_from': 'def',
    'epoch': 7,
    'loss': {'name': 'universal', 'weights': {'energy': 1.0}},
}


def test_what_is_known_of_the_training_is_queryable():
    node = make(**KNOWN).store()
    assert (node.trainer_version, node.architecture, node.data_hash) == ('0.3.16', 'MACE', 'abc')
    assert node.hyper_parameters == {'num_channels': 8} and node.reference_energies == {'Si': -100.0}
    assert (node.level_of_theory, node.started_from) == (['pbe'], 'def')
    filters = {'attributes.level_of_theory': {'contains': ['pbe']}, 'attributes.hyper_parameters.num_channels': 8}
    assert orm.QueryBuilder().append(PotentialData, filters=filters).one()[0].pk == node.pk
    bare = make().store()
    assert (bare.trainer_version, bare.architecture, bare.data_hash, bare.started_from) == (None,) * 4
    assert (bare.hyper_parameters, bare.reference_energies, bare.level_of_theory) == ({}, {}, [])


def test_checkpoint_lies_beside_the_model(tmp_path):
    (tmp_path / 'best.ckpt').write_bytes(b'checkpoint')
    node = orm.load_node(make(checkpoint=tmp_path / 'best.ckpt').store().pk)
    assert node.get_content() == b'weights' and node.filename == 'alpot.model'
    with node.open(node.checkpoint_path) as stream:
        assert stream.read() == b'checkpoint'
    assert node.start_entry('start') == (node.uuid, 'checkpoint/best.ckpt', 'start/best.ckpt')
    assert make().start_entry('start')[1:] == ('alpot.model', 'start/alpot.model')
    assert make().checkpoint_path is None
    with node.as_path() as path:
        assert path.read_bytes() == b'weights'


def test_equal_objects_are_stored_once(tmp_path):
    """However many nodes hold them: a large checkpoint in a potential and in its committee."""
    (tmp_path / 'best.ckpt').write_bytes(b'checkpoint')
    first, second = (make(checkpoint=tmp_path / 'best.ckpt', seed=seed).store() for seed in (1, 2))
    keys = [{node.base.repository.get_object(name).key for name in ('alpot.model', 'checkpoint/best.ckpt')}
            for node in (first, second)]  # fmt: skip
    assert keys[0] == keys[1]
    assert first.sha256 == second.sha256 == hashlib.sha256(b'weights').hexdigest()


def test_an_altered_node_is_refused():
    node = make()
    node.base.repository.put_object_from_bytes(b'others', 'alpot.model')
    with pytest.raises(ValidationError, match='not the one that was given'):
        node.store()
    node = make()
    node.base.repository.put_object_from_bytes(b'more', 'notes.txt')
    with pytest.raises(ValidationError, match='expected one model'):
        node.store()
    with pytest.raises(ValueError, match='`filename` is missing'):
        PotentialData(io.BytesIO(b'weights'), **FIELDS)
    with pytest.raises(ValidationError, match='expected one model'):
        PotentialData(**FIELDS).store()


class TestFromFile:
    """Models of others; those of real programs are read in the tests of `describe`."""

    def test_nothing_is_loaded_where_all_is_given(self, tmp_path):
        path = tmp_path / 'foreign.bin'
        path.write_bytes(b'weights')
        known = {'trainer': 'mine', 'elements': ['Si'], 'cutoff': 5.0, 'dtype': 'float32'}
        node = PotentialData.from_file(path, **known).store()
        assert (node.trainer, node.seed, node.filename) == ('mine', None, 'foreign.bin')

    def test_what_the_file_says_holds_unless_told_otherwise(self, tmp_path, monkeypatch):
        path = tmp_path / 'foreign.model'
        path.write_bytes(b'weights')
        said = {'trainer': 'mace', 'elements': ['Si', 'C'], 'cutoff': 6.0, 'dtype': 'float32', 'architecture': 'MACE'}
        monkeypatch.setattr(potential, 'describe', lambda found: said if found == path else {})
        node = PotentialData.from_file(path, level_of_theory=['pbe'], dtype='float64')
        assert (node.elements, node.cutoff, node.dtype, node.architecture) == (['C', 'Si'], 6.0, 'float64', 'MACE')

    @pytest.mark.parametrize(
        ('name', 'sentence'),
        [
            ('gone.model', 'there is no file'),
            ('model.txt', "unknown suffix of a model: '.txt'"),
        ],
    )
    def test_refusals(self, tmp_path, name, sentence):
        (tmp_path / 'model.txt').write_bytes(b'weights')
        with pytest.raises(ValueError, match=sentence):
            PotentialData.from_file(tmp_path / name)


def test_equal_content_has_equal_hash():
    assert make().store().base.caching.get_hash() == make().store().base.caching.get_hash()
    assert make().store().base.caching.get_hash() != make(seed=4).store().base.caching.get_hash()


@pytest.mark.parametrize(
    'changes',
    [
        {'trainer': None},
        {'trainer': ''},
        {'elements': []},
        {'elements': None},
        {'cutoff': -1.0},
        {'cutoff': float('nan')},
        {'cutoff': None},
        {'seed': -1},
        {'seed': 1.5},
        {'dtype': 'float16'},
        {'dtype': None},
    ],
)
def test_bad_attributes_are_refused(changes):
    with pytest.raises(ValidationError, match=next(iter(changes))):
        make(**changes).store()


def test_unknown_elements_are_refused():
    with pytest.raises(ValueError, match='no chemical symbols'):
        make(elements=['Si', 'Xx'])
