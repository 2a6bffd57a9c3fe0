"""Start structures: taken in any form, refused in a sentence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from aiida import orm
from aiida.common.links import validate_link_label
from ase import Atoms
from ase.build import bulk, molecule

from aiida_alpot.workflows.structures import checked_structures, validate_structures

pytestmark = pytest.mark.usefixtures('aiida_profile')


def silicon(lattice: float = 5.43) -> Atoms:
    """Diamond, two atoms."""
    return bulk('Si', a=lattice)


@pytest.mark.parametrize('given', [silicon(), [silicon()], (silicon(),), {'structure_0': silicon()}])
def test_forms(given: Any) -> None:
    """One structure, a sequence and a mapping come to the same."""
    checked = checked_structures(given)
    assert list(checked) == ['structure_0']
    assert isinstance(checked['structure_0'], orm.StructureData)
    assert np.allclose(checked['structure_0'].get_ase().positions, silicon().positions, rtol=0, atol=1e-12)


def test_structure_data_is_taken_as_it_is() -> None:
    """A stored node stays that node: it is the root of the provenance."""
    node = orm.StructureData(ase=silicon()).store()
    assert checked_structures(node)['structure_0'].uuid == node.uuid
    assert checked_structures({'a': node})['a'].uuid == node.uuid


@pytest.mark.parametrize('nothing', [[], {}, (), None])
def test_empty_is_refused(nothing: Any) -> None:
    """Nothing to start from."""
    with pytest.raises(ValueError, match=r'`structures`: the list is empty; give at least one'):
        checked_structures(nothing)


@pytest.mark.parametrize(
    ('structure', 'sentence'),
    [
        (Atoms('Si2', [[0, 0, 0], [0, 0, 0.01]], cell=[5, 5, 5], pbc=True), 'atoms 0 and 1 are 0.010 A apart; remove'),
        (Atoms('Si2', [[0, 0, 0.1], [0, 0, 4.95]], cell=[5, 5, 5], pbc=True), 'atoms 0 and 1 are 0.150 A apart'),
        (Atoms('SiGe', [[1, 1, 1], [1, 1, 1]], cell=[5, 5, 5]), 'atoms 0 and 1 are 0.000 A apart'),
        (Atoms(cell=[5, 5, 5]), 'has no atoms'),
        (molecule('H2O'), 'has no three-dimensional cell, which pw.x needs; give it one, with vacuum'),
        (Atoms('X', cell=[5, 5, 5]), 'atomic numbers must lie in 1..118'),
        (Atoms('Si', [[np.nan, 0, 0]], cell=[5, 5, 5]), '`positions` holds values that are not finite'),
        (3, 'must be a StructureData or ASE Atoms, found int'),
    ],
)
def test_senseless_structures_are_refused(structure: Any, sentence: str) -> None:
    """The name of the structure, what is wrong, and the remedy."""
    with pytest.raises(ValueError) as error:
        checked_structures({'good': silicon(), 'bad': structure})
    assert str(error.value).startswith('`structures.bad`: ') and sentence in str(error.value)


def test_partial_occupation_is_refused() -> None:
    """A site that is half silicon, half germanium."""
    structure = orm.StructureData(cell=5 * np.eye(3))
    structure.append_atom(position=(0, 0, 0), symbols=['Si', 'Ge'], weights=[0.5, 0.5])
    with pytest.raises(ValueError, match=r'`structures.alloy`: has partially occupied sites; give an ordered'):
        checked_structures({'alloy': structure})


def test_contact_across_a_boundary_needs_periodicity() -> None:
    """Without periodicity the same two atoms are far apart."""
    apart = Atoms('Si2', [[0, 0, 0.1], [0, 0, 4.95]], cell=[5, 5, 5], pbc=False)
    assert list(checked_structures(apart)) == ['structure_0']


def test_names_become_link_labels() -> None:
    """Whatever people call their structures, AiiDA takes the names, and no structure is lost."""
    names = ['a-b', 'a b', 'a_b', 'a__b', '2H-MoS2', 'Größe', '_x_', '!', 3]
    checked = checked_structures({name: silicon(5.4 + 0.01 * i) for i, name in enumerate(names)})
    assert list(checked)[:5] == ['a_b', 'a_b_2', 'a_b_3', 'a_b_4', 'structure_2H_MoS2']
    assert len(checked) == len(names)
    for label, (i, _) in zip(checked, enumerate(names), strict=True):
        validate_link_label(label)
        assert checked[label].get_ase().cell.volume == pytest.approx((5.4 + 0.01 * i) ** 3 / 4, rel=1e-9)


def test_validator_of_the_namespace() -> None:
    """The same check guards a work chain that is built by hand."""
    close = orm.StructureData(ase=Atoms('Si2', [[0, 0, 0], [0, 0, 0.01]], cell=[5, 5, 5], pbc=True))
    assert validate_structures({'a': orm.StructureData(ase=silicon())}, None) is None
    assert '`b` atoms 0 and 1 are 0.010 A apart' in str(validate_structures({'b': close}, None))
    assert validate_structures({}, None) is None
