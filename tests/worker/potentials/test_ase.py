"""Committees of ASE calculators."""

import json

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.lj import LennardJones

from aiida_alpot.worker.frames.frame import Frame
from aiida_alpot.worker.potentials import load_committee


def test_agrees_with_the_calculator(lj_files):
    paths = lj_files(2)
    crystal = bulk('Ar', 'fcc', 5.3, cubic=True)
    crystal.rattle(0.1, seed=1)
    cluster = crystal.copy()
    cluster.pbc = False
    committee = load_committee(paths)
    predictions = committee.evaluate([Frame.from_atoms(crystal), Frame.from_atoms(cluster)], members=[1, 0])
    for row, path in ((0, paths[1]), (1, paths[0])):
        crystal.calc = LennardJones(**json.loads(path.read_text())['parameters'])
        assert predictions.energy[row, 0] == pytest.approx(crystal.get_potential_energy(), abs=1e-12)
        np.testing.assert_allclose(predictions.forces[row, :4], crystal.get_forces(), atol=1e-12)
        np.testing.assert_allclose(predictions.stress[row, 0], crystal.get_stress(voigt=False), atol=1e-12)
        np.testing.assert_allclose(
            predictions.virial[row, 0], -crystal.get_stress(voigt=False) * crystal.get_volume(), atol=1e-10
        )
    assert np.isnan(predictions.stress[:, 1]).all()
    assert (committee.elements, committee.cutoff) == (('Ar',), 7.0)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'calculator': 'ase.calculators.lj.Lenard'}, 'cannot be imported'),
        ({'calculator': 'LennardJones'}, 'cannot be imported'),
        ({'elements': ['Xx']}, '`elements`'),
        ({'elements': []}, '`elements`'),
        ({'cutoff': -1.0}, '`cutoff`'),
        ({'colour': 'red'}, 'must be a JSON object with the keys'),
    ],
)
def test_bad_descriptions_are_refused(tmp_path, change, message):
    description = {'calculator': 'ase.calculators.lj.LennardJones', 'parameters': {}, 'elements': ['Ar'], 'cutoff': 6.0}
    (tmp_path / 'member.json').write_text(json.dumps({**description, **change}))
    with pytest.raises(ValueError, match=message):
        load_committee([tmp_path / 'member.json'])


@pytest.mark.parametrize('change', [{'elements': ['Ar', 'Ne']}, {'cutoff': 6.5}])
def test_members_must_go_together(tmp_path, change):
    description = {'calculator': 'ase.calculators.lj.LennardJones', 'elements': ['Ar'], 'cutoff': 6.0}
    (tmp_path / 'a.json').write_text(json.dumps(description))
    (tmp_path / 'b.json').write_text(json.dumps({**description, **change}))
    with pytest.raises(ValueError, match=f'agree on their {next(iter(change))}'):
        load_committee([tmp_path / 'a.json', tmp_path / 'b.json'])
