import io

import pytest
from aiida import orm
from aiida.common.exceptions import ValidationError

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
        {'seed': None},
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
