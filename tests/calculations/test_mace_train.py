"""What mace_run_train is given."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from aiida import orm
from aiida.common.folders import SandboxFolder

from aiida_alpot.calculations.mace_train import (
    RESERVED,
    MaceTrainCalculation,
    isolated_atom_energies,
    requested_properties,
    validate_dataset,
    validate_parameters,
)
from aiida_alpot.data.pes import PESData
from aiida_alpot.worker.frames import Frame, read_extxyz

PARAMETERS = {'r_max': 5.0, 'energy_weight': 1.0, 'forces_weight': 10.0, 'device': 'cpu'}


def isolated(symbol: int, energy: float) -> Frame:
    """An isolated atom in the middle of nothing."""
    return Frame(
        [symbol],
        [[5, 5, 5]],
        10 * np.eye(3),
        [False] * 3,
        energy=energy,
        forces=np.zeros((1, 3)),
        origin='isolated_atom',
        split='train',
        level_of_theory='pbe',
    )


@pytest.fixture
def make_dataset(make_frame: Callable[..., Frame], aiida_profile: Any) -> Callable[..., PESData]:
    """Factory of data sets with frames in all splits."""

    def make(atoms: dict[int, float]) -> PESData:
        splits = ['train', 'validation', 'test', 'train', 'test', 'train']
        frames = [make_frame(i, numbers=[6, 14, 14, 6], split=split) for i, split in enumerate(splits)]
        return PESData(frames=[*frames, *(isolated(number, energy) for number, energy in atoms.items())])

    return make


@pytest.fixture
def prepare(campaign_codes: dict[str, str], instantiate: Callable) -> Callable[..., Any]:
    """Prepare a training in a folder."""

    @contextmanager
    def make(dataset: PESData, **parameters: Any) -> Iterator[tuple[Path, Any]]:
        process = instantiate(
            MaceTrainCalculation,
            code=orm.load_code(campaign_codes['mace_train']),
            dataset=dataset,
            parameters=orm.Dict({**PARAMETERS, **parameters}),
            seed=orm.Int(42),
        )
        with SandboxFolder() as folder:
            yield Path(folder.abspath), process.prepare_for_submission(folder)

    return make


def test_configuration(prepare: Callable, make_dataset: Callable[..., PESData]) -> None:
    """The user's options, and all that the calculation answers for."""
    with prepare(make_dataset({6: -150.0, 14: -100.0}), num_channels=16) as (folder, info):
        config = yaml.safe_load((folder / 'config.yaml').read_text())
        assert config == {
            **PARAMETERS,
            'num_channels': 16,
            'name': 'mace',
            'seed': 42,
            'train_file': 'train.xyz',
            'valid_file': 'validation.xyz',
            'energy_key': 'REF_energy',
            'forces_key': 'REF_forces',
            'stress_key': 'REF_stress',
            'E0s': 'E0s.json',
            'model_dir': '.',
        }
        assert json.loads((folder / 'E0s.json').read_text()) == {'6': -150.0, '14': -100.0}
    (code,) = info.codes_info
    assert code.cmdline_params == ['--config', 'config.yaml'] and code.join_files
    assert 'mace.model' in info.retrieve_temporary_list and 'mace.out' in info.retrieve_list
    assert set(info.provenance_exclude_list) == {'train.xyz', 'validation.xyz'}


def test_files_hold_their_split(
    prepare: Callable, make_dataset: Callable[..., PESData], assert_same_frame: Callable
) -> None:
    """Training and validation, to the last bit; test frames are nowhere, isolated atoms only as energies."""
    dataset = make_dataset({6: -150.0, 14: -100.0})
    with prepare(dataset) as (folder, _):
        assert {path.name for path in folder.iterdir()} == {'config.yaml', 'train.xyz', 'validation.xyz', 'E0s.json'}
        frames = list(dataset)
        for name, indices in (('train', [0, 3, 5]), ('validation', [1])):
            written = list(read_extxyz(folder / f'{name}.xyz'))
            assert len(written) == len(indices)
            for frame, index in zip(written, indices, strict=True):
                assert_same_frame(frame, frames[index])
        text = ''.join(path.read_text() for path in folder.iterdir())
        assert frames[2].lineage not in text and frames[4].lineage not in text


@pytest.mark.parametrize('atoms', [{}, {14: -100.0}])
def test_without_all_isolated_atoms_energies_are_averaged(
    prepare: Callable, make_dataset: Callable[..., PESData], atoms: dict[int, float]
) -> None:
    """Half a zero of energy is none."""
    with prepare(make_dataset(atoms)) as (folder, _):
        assert yaml.safe_load((folder / 'config.yaml').read_text())['E0s'] == 'average'
        assert not (folder / 'E0s.json').exists()


def test_isolated_atom_energies(make_dataset: Callable[..., PESData]) -> None:
    """By element; other frames of one atom do not count."""
    assert isolated_atom_energies(make_dataset({6: -150.0, 14: -100.0})) == {'C': -150.0, 'Si': -100.0}
    assert isolated_atom_energies(make_dataset({})) == {}


@pytest.mark.usefixtures('aiida_profile')
class TestValidation:
    """Refused by the ports, so also without a protocol."""

    @pytest.mark.parametrize('name', RESERVED)
    def test_reserved_options(self, name: str) -> None:
        """With the reason."""
        problem = str(validate_parameters(orm.Dict({name: 1}), None))
        assert problem == f'option `{name}` of mace_run_train cannot be given: {RESERVED[name]}'
        assert validate_parameters(orm.Dict(PARAMETERS), None) is None

    def test_builder_refuses(self, campaign_codes: dict[str, str]) -> None:
        """When the value is set."""
        builder = MaceTrainCalculation.get_builder()
        with pytest.raises(ValueError, match='option `train_file` of mace_run_train cannot be given'):
            builder.parameters = orm.Dict({'train_file': 'x'})

    @pytest.mark.parametrize('split', ['train', 'validation'])
    def test_missing_split(self, make_frame: Callable[..., Frame], split: str) -> None:
        """Isolated atoms and frames without forces are nothing to learn forces from."""
        other = {'train': 'validation', 'validation': 'train'}[split]
        unusable = make_frame(1, split=split, forces=None)
        dataset = PESData(frames=[make_frame(0, split=other), unusable, isolated(14, -1.0)])
        assert f'no labelled frame in split `{split}`' in str(validate_dataset(dataset, None))
        complete = PESData(frames=[make_frame(0, split='train'), make_frame(1, split='validation')])
        assert validate_dataset(complete, None) is None


def test_requested_properties() -> None:
    """Those with a weight above zero."""
    assert requested_properties({'energy_weight': 1.0, 'forces_weight': 0.0, 'stress_weight': 5}) == [
        'energy',
        'stress',
    ]
    assert requested_properties({}) == []
