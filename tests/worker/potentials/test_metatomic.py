"""Metatomic models: a small Lennard-Jones one is exported and compared with ASE's."""

import json
import sys
import zipfile
from typing import Dict, List, Optional  # noqa: UP035 -- TorchScript reads these

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.lj import LennardJones

from aiida_alpot.worker.frames.frame import Frame
from aiida_alpot.worker.potentials import load_committee

torch = pytest.importorskip('torch')
pytest.importorskip('metatomic.torch', reason='metatomic-torch is not installed: pip install metatomic-torch')

from metatensor.torch import Labels, TensorBlock, TensorMap  # noqa: E402
from metatomic.torch import (  # noqa: E402
    AtomisticModel,
    ModelCapabilities,
    ModelMetadata,
    ModelOutput,
    NeighborListOptions,
    System,
)

from aiida_alpot.worker.potentials.metatomic import import_extensions  # noqa: E402

SIGMA, CUTOFF = 3.4, 7.0
FEATURES = 'mtt::aux::energy_last_layer_features'


class PairPotential(torch.nn.Module):
    """Lennard-Jones as ASE has it; the features are the sums of both powers, of which its energy is a combination."""

    def __init__(self, epsilon: float, full: bool) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.full = full
        self.options = NeighborListOptions(cutoff=7.0, full_list=full, strict=True)

    def requested_neighbor_lists(self) -> List[NeighborListOptions]:  # noqa: UP006
        return [self.options]

    def forward(
        self,
        systems: List[System],  # noqa: UP006
        outputs: Dict[str, ModelOutput],  # noqa: UP006
        selected_atoms: Optional[Labels] = None,  # noqa: UP045
    ) -> Dict[str, TensorMap]:  # noqa: UP006
        energies: List[torch.Tensor] = []  # noqa: UP006
        rows: List[torch.Tensor] = []  # noqa: UP006
        samples: List[torch.Tensor] = []  # noqa: UP006
        for index, system in enumerate(systems):
            block = system.get_neighbor_list(self.options)
            vectors = block.values.reshape(-1, 3)
            six = (3.4**2 / (vectors * vectors).sum(1)) ** 3
            shift = (3.4 / 7.0) ** 12 - (3.4 / 7.0) ** 6
            weight = 0.5 if self.full else 1.0
            energies.append(weight * 4.0 * self.epsilon * (six * six - six - shift).sum())
            features = torch.zeros((len(system), 2), dtype=vectors.dtype)
            pairs = torch.stack([six * six, six], dim=1)
            features = features.index_add(0, block.samples.column('first_atom').to(torch.int64), pairs)
            rows.append(features)
            atoms = torch.arange(len(system), dtype=torch.int32)
            samples.append(torch.stack([torch.full_like(atoms, index), atoms], dim=1))
        results: Dict[str, TensorMap] = {}  # noqa: UP006
        key = Labels(['_'], torch.tensor([[0]]))
        total = torch.stack(energies).reshape(-1, 1)
        frames = Labels(['system'], torch.arange(len(systems)).reshape(-1, 1))
        one = Labels(['energy'], torch.tensor([[0]]))
        if 'energy' in outputs:
            results['energy'] = TensorMap(key, [TensorBlock(total, frames, [], one)])
        if 'energy_uncertainty' in outputs:
            results['energy_uncertainty'] = TensorMap(key, [TensorBlock(total.abs() * 0.1, frames, [], one)])
        name = 'mtt::aux::energy_last_layer_features'
        if name in outputs:
            two = Labels(['feature'], torch.arange(2).reshape(-1, 1))
            if outputs[name].sample_kind == 'atom':
                # Backwards: the order of the samples is the model's affair.
                places = Labels(['system', 'atom'], torch.cat(samples).flip(0))
                results[name] = TensorMap(key, [TensorBlock(torch.cat(rows).flip(0), places, [], two)])
            else:
                sums = torch.stack([r.sum(0) for r in rows])
                results[name] = TensorMap(key, [TensorBlock(sums, frames, [], two)])
        return results


def export(path, epsilon=0.0104, full=True, outputs=('energy', 'energy_uncertainty', FEATURES), types=(18,)):
    known = {
        'energy': ModelOutput(unit='eV', sample_kind='system'),
        'energy_uncertainty': ModelOutput(unit='eV', sample_kind='system'),
        FEATURES: ModelOutput(sample_kind='system'),
    }
    capabilities = ModelCapabilities(
        outputs={name: known[name] for name in outputs},
        atomic_types=list(types),
        interaction_range=7.0,
        length_unit='angstrom',
        supported_devices=['cpu'],
        dtype='float64',
    )
    AtomisticModel(PairPotential(epsilon, full).eval(), ModelMetadata(), capabilities).save(str(path))
    return path


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """One member with the full list of neighbours, one with each pair once."""
    directory = tmp_path_factory.mktemp('metatomic')
    return [export(directory / 'full.pt'), export(directory / 'half.pt', 0.02, full=False)]


def structures():
    crystal = bulk('Ar', 'fcc', 5.3, cubic=True)
    slab = crystal.copy()
    slab.pbc = (True, True, False)
    small = bulk('Ar', 'fcc', 5.1)
    small.set_cell(small.cell.array[[1, 0, 2]] + [[0.1, 0, 0], [0, 0.3, 0], [0, 0, 0]], scale_atoms=True)
    dimer = Atoms('Ar2', [[0, 0, 0], [3.6, 0.3, 0.2]])
    made = [crystal, slab, small, dimer]
    for seed, atoms in enumerate(made):
        atoms.rattle(0.05, seed=seed)
    return [*made, Atoms('Ar')]


def test_agrees_with_the_same_potential_of_ase(files):
    frames = [Frame.from_atoms(atoms) for atoms in structures()]
    committee = load_committee(files)
    predictions = committee.evaluate(frames)
    assert (committee.elements, committee.cutoff, committee.n_members) == (('Ar',), CUTOFF, 2)
    for member, epsilon in enumerate((0.0104, 0.02)):
        for index, atoms in enumerate(structures()):
            atoms.calc = LennardJones(epsilon=epsilon, sigma=SIGMA, rc=CUTOFF)
            here = slice(*predictions.offsets[index : index + 2])
            assert predictions.energy[member, index] == pytest.approx(atoms.get_potential_energy(), abs=1e-12)
            np.testing.assert_allclose(predictions.forces[member, here], atoms.get_forces(), atol=1e-12)
            if atoms.pbc.any():
                stress = atoms.get_stress(voigt=False)
                np.testing.assert_allclose(predictions.stress[member, index], stress, atol=1e-12)
                volume = atoms.get_volume()
                np.testing.assert_allclose(predictions.virial[member, index], -stress * volume, atol=1e-10)
    assert np.isnan(predictions.stress[:, 3:]).all()


def test_states_the_uncertainty_where_all_members_do(files, tmp_path):
    frames = [Frame.from_atoms(atoms) for atoms in structures()]
    committee = load_committee(files, batch_size=2)
    predictions = committee.evaluate(frames)
    assert committee.states_uncertainty
    np.testing.assert_allclose(predictions.energy_uncertainty, 0.1 * np.abs(predictions.energy))
    silent = export(tmp_path / 'silent.pt', outputs=('energy',))
    mixed = load_committee([files[0], silent])
    assert mixed.evaluate(frames).energy_uncertainty is None and not mixed.states_uncertainty


def test_last_layer_features(files):
    frames = [Frame.from_atoms(atoms) for atoms in structures()]
    predictions = load_committee(files).evaluate(frames, features=['last_layer', 'last_layer_per_atom'])
    rows, atoms = predictions.features['last_layer'], predictions.features['last_layer_per_atom']
    assert rows.shape == (5, 2) and atoms.shape == (predictions.offsets[-1], 2)
    np.testing.assert_allclose(np.add.reduceat(atoms, predictions.offsets[:-1]), rows, rtol=1e-12)
    lonely = predictions.offsets[3]  # the two atoms of the dimer see the same
    np.testing.assert_allclose(atoms[lonely], atoms[lonely + 1])
    assert not np.allclose(atoms[0], atoms[1])


def test_features_that_it_cannot_give(files, tmp_path):
    with pytest.raises(ValueError, match='cannot give the features ntk: they give last_layer, last_layer_per_atom'):
        load_committee(files).evaluate([], features=['ntk'])
    with pytest.raises(ValueError, match='cannot give the features last_layer: they give none'):
        load_committee([export(tmp_path / 'plain.pt', outputs=('energy',))]).evaluate([], features=['last_layer'])


def test_members_must_go_together(files, tmp_path):
    with pytest.raises(ValueError, match='different numbers'):
        load_committee([files[0], export(tmp_path / 'other.pt', types=(10, 18))])


def test_a_model_without_energy_is_refused(tmp_path):
    with pytest.raises(ValueError, match='gives energy_uncertainty and no energy'):
        load_committee([export(tmp_path / 'none.pt', outputs=('energy_uncertainty',))])


def test_a_file_of_something_else(tmp_path):
    (tmp_path / 'other.pt').write_bytes(b'nothing')
    with pytest.raises(ValueError, match=r'other.pt is no metatomic model .*mtt export'):
        load_committee([tmp_path / 'other.pt'])


@pytest.mark.parametrize('index', range(5))
def test_a_structure_that_moves_is_as_a_frame(files, index):
    """With a neighbour list that is kept while atoms walk, are wrapped, and the cell is strained."""
    committee, rng = load_committee(files), np.random.default_rng(index)
    atoms, follower = structures()[index], load_committee(files).follow()
    positions, cell = atoms.positions, atoms.cell.array
    for _ in range(8):
        found = follower.evaluate(atoms.numbers, positions, cell, atoms.pbc, [1, 0])
        expected = committee.evaluate([Frame(atoms.numbers, positions, cell, atoms.pbc)], [1, 0])
        for field in ('energy', 'forces', 'virial', 'stress', 'energy_uncertainty'):
            np.testing.assert_allclose(getattr(found, field), getattr(expected, field), atol=1e-10, err_msg=field)
        strain = np.eye(3) + 0.001 * rng.normal(size=(3, 3))
        positions = (positions + 0.02 * rng.normal(size=positions.shape)) @ strain
        positions, cell = (
            positions + (rng.integers(-1, 2, size=positions.shape) * atoms.pbc) @ cell @ strain,
            cell @ strain,
        )
    assert follower.n_searches <= 3


def test_what_a_model_computes_with_is_named_where_it_is_not_installed(tmp_path):
    path = tmp_path / 'model.pt'
    wanted = [{'name': 'nowhere_torch', 'path': 'nowhere/torch/torch-2.9/lib/libnowhere_torch.so'}]
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('model/extra/extensions', json.dumps(wanted))
    with pytest.raises(ValueError, match='computes with nowhere_torch, which is not installed here'):
        load_committee([path])


def test_what_a_model_computes_with_is_imported(tmp_path, monkeypatch):
    """From the path of its library: `one/deep/torch-2.9/lib/libone.so` is of the package `one.deep`."""
    for name in ('one', 'one/deep'):
        (tmp_path / name).mkdir()
        (tmp_path / name / '__init__.py').write_text('')
    monkeypatch.syspath_prepend(str(tmp_path))
    path = tmp_path / 'model.pt'
    with zipfile.ZipFile(path, 'w') as archive:
        wanted = [{'name': 'one', 'path': 'one/deep/torch-2.9/lib/libone.so'}]
        archive.writestr('model/extra/extensions', json.dumps(wanted))
    assert import_extensions(path) == []
    assert 'one.deep' in sys.modules
