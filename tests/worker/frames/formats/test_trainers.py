"""The readers of the trainers themselves find in our files what we wrote."""

import logging

import numpy as np
import pytest

from aiida_alpot.worker.frames import Frame, write_extxyz


def isolated(number, energy):
    return Frame([number], [[0, 0, 0]], np.zeros((3, 3)), [False] * 3, energy=energy, origin='isolated_atom')


@pytest.fixture
def frames(full_frame):
    return [full_frame(0), full_frame(1, n_atoms=1), full_frame(2, n_atoms=7)]


def test_mace(tmp_path, frames):
    pytest.importorskip('mace', reason='the optional dependency mace-torch is not installed')
    from mace.data.utils import KeySpecification, load_from_xyz, update_keyspec_from_kwargs
    from mace.tools import DefaultKeys

    bare = frames[0].replace(forces=None, stress=None, charges=None, dipole=None)
    write_extxyz([isolated(6, -1.5), isolated(14, -2.5), *frames, bare], tmp_path / 'train.xyz')
    keys = update_keyspec_from_kwargs(KeySpecification(), {**DefaultKeys.keydict(), 'dipole_key': 'REF_dipole'})
    energies, found = load_from_xyz(str(tmp_path / 'train.xyz'), keys, extract_atomic_energies=True)
    assert energies == {6: -1.5, 14: -2.5}
    for config, frame in zip(found, [*frames, bare], strict=True):
        assert np.array_equal(config.atomic_numbers, frame.numbers) and np.array_equal(
            config.positions, frame.positions
        )
        assert np.array_equal(config.cell, frame.cell) and config.pbc == (True, True, True)
        assert config.properties['energy'] == frame.energy and config.property_weights['energy'] == 1.0
        for name, shape in (('forces', (-1, 3)), ('stress', (3, 3)), ('charges', (-1,)), ('dipole', (3,))):
            value = getattr(frame, name)
            assert config.property_weights[name] == (0.0 if value is None else 1.0)
            assert value is None or np.array_equal(np.reshape(config.properties[name], shape), value), name


def test_mace_makes_tensors_of_them(tmp_path, frames):
    pytest.importorskip('mace', reason='the optional dependency mace-torch is not installed')
    import torch
    from mace.data import AtomicData, KeySpecification, load_from_xyz
    from mace.tools import AtomicNumberTable
    from mace.tools.torch_tools import default_dtype

    write_extxyz(frames, tmp_path / 'train.xyz')
    _, found = load_from_xyz(str(tmp_path / 'train.xyz'), KeySpecification.from_defaults())
    with default_dtype('float64'):
        for config, frame in zip(found, frames, strict=True):
            data = AtomicData.from_config(config, AtomicNumberTable([6, 14, 22]), cutoff=3.0)
            assert torch.equal(data.stress[0], torch.tensor(frame.stress))
            assert torch.equal(data.forces, torch.tensor(frame.forces)) and data.energy.item() == frame.energy
            assert data.stress_weight.item() == 1.0 and torch.equal(data.charges, torch.tensor(frame.charges))


def metatrain_targets(path, **extra):
    """Targets of an energy with forces and stress, as metatrain expands `energy: {key: energy}`."""
    from metatrain.utils.data import read_targets
    from metatrain.utils.omegaconf import expand_dataset_config
    from omegaconf import OmegaConf

    targets = {'energy': {'quantity': 'energy', 'unit': 'eV', 'key': 'energy'}, **extra}
    (config,) = expand_dataset_config(OmegaConf.create({'systems': str(path), 'targets': targets}))
    return read_targets(config['targets'])


def test_metatrain(tmp_path, frames, caplog):
    pytest.importorskip('metatrain', reason='the optional dependency metatrain is not installed')
    from metatrain.utils.data import read_systems

    path = tmp_path / 'train.xyz'
    partial = frames[0].replace(forces=None, stress=None)
    written = [isolated(14, -2.5), *frames, partial]
    write_extxyz(iter(written), path, style='metatrain')
    for system, frame in zip(read_systems(str(path)), written, strict=True):
        assert np.array_equal(system.positions.numpy(), frame.positions)
        assert np.array_equal(system.types.numpy(), frame.numbers) and np.array_equal(system.cell.numpy(), frame.cell)
    with caplog.at_level(logging.WARNING):
        targets, info = metatrain_targets(path)
    assert set(info['energy'].gradients) == {'positions', 'strain'}
    assert not [record for record in caplog.records if 'No forces' in record.message or 'No stress' in record.message]
    for tensor, frame in zip(targets['energy'], written, strict=True):
        block = tensor.block()
        forces = -block.gradient('positions').values.numpy()[..., 0]
        strain = block.gradient('strain').values.numpy()[0, ..., 0]
        assert block.values.item() == frame.energy
        if frame.forces is None:
            assert np.isnan(forces).all() and np.isnan(strain).all()
        else:
            assert np.array_equal(forces, frame.forces)
            assert strain == pytest.approx(frame.stress * frame.volume, rel=1e-12)


def test_metatrain_reads_generic_targets(tmp_path, full_frame):
    pytest.importorskip('metatrain', reason='the optional dependency metatrain is not installed')
    frames = [full_frame(seed) for seed in range(3)]
    path = tmp_path / 'train.xyz'
    write_extxyz(frames, path, style='metatrain')
    charges = {'quantity': '', 'unit': '', 'key': 'mtt_charges', 'sample_kind': 'atom', 'type': 'scalar'}
    dipole = {'quantity': '', 'unit': '', 'key': 'mtt_dipole', 'type': {'cartesian': {'rank': 1}}}
    targets, _ = metatrain_targets(path, **{'mtt::charges': charges, 'mtt::dipole': dipole})
    for i, frame in enumerate(frames):
        assert np.array_equal(targets['mtt::charges'][i].block().values.numpy()[:, 0], frame.charges)
        assert np.array_equal(targets['mtt::dipole'][i].block().values.numpy().ravel(), frame.dipole)
