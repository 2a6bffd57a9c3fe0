"""Training of one MACE model by ``mace_run_train``."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import yaml
from aiida import orm
from aiida.common import CalcInfo, CodeInfo
from aiida.common.folders import Folder
from aiida.engine import CalcJob

from aiida_alpot.data.pes import PESData
from aiida_alpot.data.potential import PotentialData
from aiida_alpot.worker.frames import check_one_level, write_extxyz
from aiida_alpot.worker.options import choice, device, number

NAME = 'mace'
ABOVE_ZERO = ('r_max', 'num_channels', 'num_interactions', 'lr', 'batch_size', 'valid_batch_size', 'max_num_epochs')
"""Options of mace_run_train that are numbers above zero; what else it takes, it checks itself when it starts."""

RESERVED = {
    'name': 'it is always the same',
    'seed': 'give the input `seed`',
    'train_file': 'it is made from `dataset`',
    'valid_file': 'it is made from `dataset`',
    'test_file': 'the test set is never shown to a training',
    'energy_key': 'it is made from `dataset`',
    'forces_key': 'it is made from `dataset`',
    'stress_key': 'it is made from `dataset`',
    'E0s': 'it is made from the isolated atoms of `dataset`',
    'work_dir': 'it is the directory of the job',
    'model_dir': 'it is the directory of the job',
    'results_dir': 'it is the directory of the job',
    'checkpoints_dir': 'it is the directory of the job',
    'log_dir': 'it is the directory of the job',
}
"""Options of mace_run_train that the calculation sets, and why the user does not."""


class MaceTrainCalculation(CalcJob):
    """Train one MACE model: on split ``train``, with the epoch chosen on ``validation``; ``test`` stays unseen."""

    LOG = f'logs/{NAME}_run-*.log'
    RESULTS = f'results/{NAME}_run-*_train.txt'
    MODEL = f'{NAME}.model'
    MODEL_STAGE_TWO = f'{NAME}_stagetwo.model'

    @classmethod
    def define(cls, spec: Any) -> None:
        super().define(spec)
        spec.input('dataset', valid_type=PESData, validator=validate_dataset, help='Labelled frames with their splits.')
        spec.input(
            'parameters',
            valid_type=orm.Dict,
            validator=validate_parameters,
            help='Options of mace_run_train by the names it gives them, without files, keys and seed.',
        )
        spec.input('seed', valid_type=orm.Int, help='Seed of initial weights and data order.')
        spec.inputs['metadata']['options']['parser_name'].default = 'alpot.mace_train'
        spec.inputs['metadata']['options']['output_filename'].default = 'mace.out'
        spec.inputs['metadata']['options']['withmpi'].default = False
        spec.inputs['metadata']['options']['resources'].default = lambda: {'num_machines': 1}
        spec.output('potential', valid_type=PotentialData, help='The trained model.')
        spec.output('results', valid_type=orm.Dict, help='Errors of the validation frames by epoch, and the loss.')
        spec.default_output_node = 'results'
        spec.exit_code(301, 'ERROR_NO_RETRIEVED', message='nothing was retrieved from the job')
        spec.exit_code(
            310, 'ERROR_TRAINING_FAILED', message='mace_run_train ended without a model; its last words: {last_words}'
        )
        spec.exit_code(
            311,
            'ERROR_PROPERTY_NOT_TRAINED',
            message='{properties} asked for but not in the loss that mace_run_train used: {loss}',
        )
        spec.exit_code(312, 'ERROR_DIVERGED', message='the loss of the training is not finite: lower `lr`')
        spec.exit_code(313, 'ERROR_NO_RESULTS', message='mace_run_train left no results file to read the errors from')

    def prepare_for_submission(self, folder: Folder) -> CalcInfo:
        """Write the frames as extended XYZ, the isolated-atom energies and the configuration."""
        directory = pathlib.Path(folder.abspath)
        with self.inputs.dataset.open_store() as store:
            splits, origins = store.column('split'), store.column('origin')
            for split, name in (('train', 'train.xyz'), ('validation', 'validation.xyz')):
                chosen = (store[i] for i in range(len(store)) if splits[i] == split and origins[i] != 'isolated_atom')
                write_extxyz(chosen, directory / name)
        config: dict[str, Any] = dict(self.inputs.parameters.get_dict())
        config.update(
            name=NAME,
            seed=self.inputs.seed.value,
            train_file='train.xyz',
            valid_file='validation.xyz',
            energy_key='REF_energy',
            forces_key='REF_forces',
            stress_key='REF_stress',
            E0s='average',
            model_dir='.',
        )
        energies = isolated_atom_energies(self.inputs.dataset)
        if set(energies) == set(self.inputs.dataset.elements):
            from ase.data import atomic_numbers

            (directory / 'E0s.json').write_text(
                json.dumps({str(atomic_numbers[symbol]): energy for symbol, energy in energies.items()})
            )
            config['E0s'] = 'E0s.json'
        (directory / 'config.yaml').write_text(yaml.safe_dump(config))

        code = CodeInfo()
        code.code_uuid = self.inputs.code.uuid
        code.cmdline_params = ['--config', 'config.yaml']
        code.stdout_name = self.options.output_filename
        code.join_files = True
        calcinfo = CalcInfo()
        calcinfo.codes_info = [code]
        calcinfo.provenance_exclude_list = ['train.xyz', 'validation.xyz']
        calcinfo.retrieve_list = [
            self.options.output_filename,
            (self.RESULTS, '.', 2),
            (self.LOG, '.', 2),
        ]
        calcinfo.retrieve_temporary_list = [self.MODEL, self.MODEL_STAGE_TWO]
        return calcinfo


def isolated_atom_energies(dataset: PESData) -> dict[str, float]:
    """Energy of the isolated atom of each element that has one in the data set, eV."""
    energies = {}
    for index in (dataset.column('origin') == 'isolated_atom').nonzero()[0]:
        frame = dataset.frame(int(index))
        if frame.energy is not None:
            energies[frame.formula] = frame.energy
    return energies


def requested_properties(parameters: Mapping[str, Any]) -> list[str]:
    """Properties whose weight in the loss is asked to be above zero."""
    return [name for name in ('energy', 'forces', 'stress') if parameters.get(f'{name}_weight', 0)]


def validate_parameters(node: orm.Dict, _: Any) -> str | None:
    """Refuse options that the calculation sets itself."""
    for key, reason in RESERVED.items():
        if key in node.get_dict():
            return f'option `{key}` of mace_run_train cannot be given: {reason}'
    values = node.get_dict()
    try:
        device('device', values.get('device', 'cpu'))
        choice('default_dtype', values.get('default_dtype', 'float64'), ('float64', 'float32'))
        for key in ABOVE_ZERO:
            if key in values:
                number(key, values[key], 0.0, exclusive=True)
    except ValueError as exception:
        return str(exception).rstrip('.')
    return None


def validate_dataset(node: PESData, _: Any) -> str | None:
    """Refuse a data set from which nothing can be learnt, or nothing consistent."""
    with node.open_store() as store:
        try:
            check_one_level(store.levels_of_theory())
        except ValueError as exception:
            return str(exception)
    splits = node.column('split')
    usable = node.column('has_energy') & node.column('has_forces') & (node.column('origin') != 'isolated_atom')
    for split in ('train', 'validation'):
        if not (usable & (splits == split)).any():
            return f'the data set has no labelled frame in split `{split}`; label more frames or change the fractions'
    return None
