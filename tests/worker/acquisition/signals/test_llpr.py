"""The last-layer prediction rigidity: by hand, and of a model that metatrain has trained."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.lj import LennardJones
from ase.io import write

from aiida_alpot.worker.acquisition.conformance import check_signal
from aiida_alpot.worker.acquisition.evaluate import main
from aiida_alpot.worker.acquisition.signals import SIGNALS, make_signal
from aiida_alpot.worker.frames import write_shard
from aiida_alpot.worker.frames.frame import Frame
from aiida_alpot.worker.potentials import Committee, load_committee
from aiida_alpot.worker.potentials.predictions import Predictions

FINE = 1e-4
"""Regularisation of the model that is trained here."""


def stated(energy: np.ndarray, sigma: np.ndarray | None, sizes: tuple[int, ...]) -> Predictions:
    n_members, n = energy.shape
    return Predictions(
        energy,
        np.zeros((n_members, sum(sizes), 3)),
        np.zeros((n_members, n, 3, 3)),
        np.concatenate([[0], np.cumsum(sizes)]),
        energy_uncertainty=sigma,
    )


class TestByHand:
    def test_one_member(self):
        found = make_signal('llpr', {})(stated(np.zeros((1, 2)), np.array([[0.6, 0.6]]), (3, 1)))
        assert found.energy.tolist() == pytest.approx([0.2, 0.6])
        assert found.force.shape == (4,) and found.max_force.shape == (2,)
        assert all(np.isnan(values).all() for values in (found.force, found.max_force, found.mean_force, found.stress))

    def test_two_members_and_what_is_between_them(self):
        """Variances 9 and 16, energies 2 apart from their mean: 12.5 within, 4 between."""
        predictions = stated(np.array([[1.0], [5.0]]), np.array([[3.0], [4.0]]), (2,))
        assert make_signal('llpr', {})(predictions).energy == pytest.approx([np.sqrt(12.5) / 2])
        assert make_signal('llpr', {'between_members': True})(predictions).energy == pytest.approx([np.sqrt(16.5) / 2])

    def test_the_total_variance_is_that_of_the_mixture(self):
        """Of numbers drawn from the members' normal distributions, a member at random each time."""
        rng = np.random.default_rng(0)
        energy, sigma = rng.normal(size=(4, 3)), rng.uniform(0.2, 1.0, size=(4, 3))
        found = make_signal('llpr', {'between_members': True})(stated(energy, sigma, (1, 1, 1))).energy
        members = rng.integers(4, size=200_000)
        drawn = energy[members] + sigma[members] * rng.normal(size=(200_000, 3))
        np.testing.assert_allclose(found, drawn.std(axis=0), rtol=0.01)

    def test_members_may_come_in_any_order(self):
        rng = np.random.default_rng(1)
        energy, sigma, order = rng.normal(size=(3, 4)), rng.uniform(size=(3, 4)), [2, 0, 1]
        for options in ({}, {'between_members': True}):
            signal = make_signal('llpr', options)
            one, two = (signal(stated(energy[o], sigma[o], (1, 2, 3, 4))).energy for o in (slice(None), order))
            np.testing.assert_allclose(one, two, rtol=1e-13)

    @pytest.mark.filterwarnings('error')
    @pytest.mark.parametrize('bad', [np.nan, np.inf])
    @pytest.mark.parametrize('options', [{}, {'between_members': True}])
    def test_what_is_not_finite_is_confined_to_its_frame(self, bad: float, options: dict):
        energy = np.ones((2, 3))
        energy[1, 1] = bad
        found = make_signal('llpr', options)(stated(energy, np.ones((2, 3)), (1, 1, 1))).energy
        assert np.isfinite(found).tolist() == [True, False, True]

    def test_no_frames(self):
        found = make_signal('llpr', {})(stated(np.zeros((2, 0)), None, ()))
        assert all(len(values) == 0 for values in vars(found).values())


def test_potentials_that_state_nothing(lj_files: Callable):
    signal, committee = make_signal('llpr', {}), load_committee(lj_files())
    frames = [Frame.from_atoms(bulk('Ar', a=5.3))]
    sentence = r'do not state how uncertain their energies are.*`llpr` of metatrain'
    with pytest.raises(ValueError, match=sentence):
        signal.check(committee)
    with pytest.raises(ValueError, match=sentence):
        signal.fit(committee, frames)
    with pytest.raises(ValueError, match=sentence):
        signal(committee.evaluate(frames))


def test_settings_that_cannot_be():
    assert SIGNALS['llpr'].min_members == 1 and not SIGNALS['llpr'].gives_forces
    with pytest.raises(ValueError, match='`between_members` is 1'):
        make_signal('llpr', {'between_members': 1})
    with pytest.raises(ValueError, match="Did you mean 'between_members'"):
        make_signal('llpr', {'between_member': True})


def test_conforms(mace_files: Callable):
    """With a MACE model whose rigidity is computed here, from its last-layer features."""
    rng = np.random.default_rng(2)
    atoms = [bulk('SiC', 'zincblende', a=4.3 + 0.1 * rng.normal(), cubic=True) for _ in range(10)]
    for structure in atoms:
        structure.positions += 0.1 * rng.normal(size=structure.positions.shape)
    frames = [Frame.from_atoms(structure) for structure in atoms]
    committee = load_committee(mace_files(['C', 'Si'])[:1])
    rows = committee.evaluate(frames[:6], features=['last_layer']).features['last_layer'] / 8
    inverse = np.linalg.inv(rows.T @ rows + FINE * np.eye(rows.shape[1]))
    check_signal(lambda: make_signal('llpr', {}), Stating(committee, inverse), frames[6:], frames[:6])


class Stating:
    """A committee of one that states its rigidity."""

    n_members = 1
    states_uncertainty = True

    def __init__(self, committee: Committee, inverse: np.ndarray) -> None:
        self.committee, self.inverse = committee, inverse

    def evaluate(self, frames: list[Frame], features: object = ()) -> Predictions:
        predictions = self.committee.evaluate(frames, features=['last_layer'])
        rows = predictions.features['last_layer']
        variance = np.einsum('ni,ij,nj->n', rows, self.inverse, rows)
        return replace(predictions, energy_uncertainty=np.sqrt(variance)[None])


# A model that metatrain trains.


def argon(n: int, seed: int) -> list[Atoms]:
    rng = np.random.default_rng(seed)
    structures = []
    for _ in range(n):
        atoms = bulk('Ar', a=5.3 * (1 + 0.02 * rng.normal()), cubic=bool(rng.integers(2)))
        atoms.positions += 0.15 * rng.normal(size=atoms.positions.shape)
        atoms.calc = LennardJones(epsilon=0.0104, sigma=3.4, rc=7.0, ro=5.0, smooth=True)
        structures.append(atoms)
    return structures


def train(directory: Path, name: str, architecture: dict) -> Path:
    """Train with metatrain; the settings are JSON, which is YAML."""
    target = {'energy': {'quantity': 'energy', 'key': 'energy', 'unit': 'eV', 'forces': False, 'stress': False}}
    sets = {
        f'{which}_set': {'systems': {'read_from': f'{which}.xyz', 'length_unit': 'angstrom'}, 'targets': target}
        for which in ('training', 'validation')
    }
    options = {'seed': 1, 'device': 'cpu', 'base_precision': 64, 'architecture': architecture, **sets}
    (directory / f'{name}.yaml').write_text(json.dumps(options))
    command = [sys.executable, '-m', 'metatrain', 'train', f'{name}.yaml', '-o', f'{name}.pt']
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return directory / f'{name}.pt'


@pytest.fixture(scope='module')
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Files of a tiny PET model of argon, with its rigidity and without."""
    pytest.importorskip('metatrain', reason='the optional dependency metatrain is not installed')
    directory = tmp_path_factory.mktemp('llpr')
    for name, n, seed in (('training', 40, 0), ('validation', 12, 1)):
        structures = argon(n, seed)
        for atoms in structures:
            atoms.info['energy'] = atoms.get_potential_energy()
            atoms.calc = None
        write(directory / f'{name}.xyz', structures)
    sizes = dict.fromkeys(('d_pet', 'd_head', 'd_node', 'd_feedforward'), 4)
    model = {'cutoff': 4.5, 'num_heads': 1, 'num_attention_layers': 1, 'num_gnn_layers': 1, **sizes}
    plain = train(directory, 'plain', {'name': 'pet', 'model': model, 'training': {'batch_size': 20, 'num_epochs': 2}})
    rigidity = {'batch_size': 6, 'model_checkpoint': 'plain.ckpt', 'regularizer': FINE}
    return train(directory, 'rigid', {'name': 'llpr', 'training': rigidity}), plain


@pytest.mark.slow
class TestOfMetatrain:
    def test_follows_the_definition(self, trained: tuple[Path, Path]):
        committee = load_committee([trained[0]])
        train_rows = self.rows(committee, argon(40, 0))
        test = [Frame.from_atoms(atoms) for atoms in argon(8, 5)]
        predictions = committee.evaluate(test, features=['last_layer'])
        buffers = {name.rpartition('.')[2]: value.numpy() for name, value in self.buffers(committee)}
        information = train_rows.T @ train_rows
        np.testing.assert_allclose(buffers['covariance_energy_uncertainty'], information, rtol=1e-9, atol=1e-12)
        rows = predictions.features['last_layer']
        inverse = np.linalg.inv(information + FINE * np.eye(len(information)))
        sigma = np.sqrt(np.einsum('ni,ij,nj->n', rows, inverse, rows))
        expected = buffers['multiplier_energy_uncertainty'][0] * sigma / [len(frame) for frame in test]
        np.testing.assert_allclose(make_signal('llpr', {})(predictions).energy, expected, rtol=1e-6)

    def test_per_atom_whatever_the_size(self, trained: tuple[Path, Path]):
        committee, signal = load_committee([trained[0]]), make_signal('llpr', {})
        one = Frame.from_atoms(argon(1, 7)[0])
        many = Frame.from_atoms(one.to_atoms().repeat((2, 2, 1)))
        signal.fit(committee, [])
        found = signal(committee.evaluate([one, many])).energy
        assert found[1] == pytest.approx(found[0], rel=1e-6) and found[0] > 0

    @staticmethod
    def rows(committee: Committee, structures: list[Atoms]) -> np.ndarray:
        frames = [Frame.from_atoms(atoms) for atoms in structures]
        rows = committee.evaluate(frames, features=['last_layer']).features['last_layer']
        return rows / np.array([len(frame) for frame in frames])[:, None]

    @staticmethod
    def buffers(committee: Committee):
        return committee._members[0]._model.named_buffers()  # type: ignore[attr-defined]

    def test_by_name_in_the_settings(self, trained: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.chdir(tmp_path)
        splits = ['train', 'validation', 'validation', 'test']
        labelled = [
            Frame.from_atoms(atoms, split=splits[i % 4], energy=atoms.get_potential_energy())
            for i, atoms in enumerate(argon(40, 2))
        ]
        labelled = [frame.replace(level_of_theory='LJ') for frame in labelled]
        config = {
            'committee': [str(trained[0])],
            'dataset': [str(write_shard(labelled, tmp_path / 'dataset'))],
            'pool': [str(write_shard([Frame.from_atoms(atoms) for atoms in argon(20, 3)], tmp_path / 'pool'))],
            'tolerance': {'forces': 1.0, 'energy': 1e-9},
            'gate': {'min_distance': 0.1, 'max_force': 1e9},
            'signal': {'name': 'llpr', 'between_members': True},
            'max_select': 5,
        }
        Path('config.json').write_text(json.dumps(config))
        assert main(['config.json']) == 0
        found = json.loads(Path('evaluation.json').read_text())
        assert len(found['selection']) == 5 and found['calibration']['energy']['n_frames'] == 20
        assert all('expected energy error' in pick['reason'] for pick in found['selection'])
        assert all(pick['max_force_deviation'] is None for pick in found['selection'])

    def test_a_plain_model_is_refused(self, trained: tuple[Path, Path]):
        with pytest.raises(ValueError, match='do not state how uncertain'):
            make_signal('llpr', {}).check(load_committee([trained[1]]))
        with pytest.raises(ValueError, match='every member one'):
            make_signal('llpr', {}).check(load_committee(list(trained)))
